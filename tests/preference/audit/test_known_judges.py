"""What is known of a judge without measuring it: a reward model sees no picture, and the reference does not err."""

from __future__ import annotations

from dataclasses import replace

from polite_flamingo.candidates import Rating
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.blind import blind
from polite_flamingo.preference.audit.evidence import Collected, Evidence, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.margins import attributes
from polite_flamingo.preference.audit.people import Labels
from polite_flamingo.sample import Sample
from tests.support.rated_answers import rated


def gathered(*samples: Sample, judge: str = "rule", reference: str = "rule") -> Evidence:
    settings = AuditSettings(judge=judge, reference=reference, resampling=Resampling(draws=20))
    collected = Collected(settings=settings)
    for sample in samples:
        collected.add(sample, "shard")
    return gather(collected, Labels())


def rewarded(pictures: int) -> Sample:
    """Two answers, rated by the rule and by a reward model."""
    sample = rated("a/b/0", {"two": (4, 4, 4, 1, 1), "three": (0, 0, 4, 1, 1)}, pictures=pictures)
    rewards = [Rating(judge="reward", values={"reward": value}) for value in (1.5, -0.5)]
    both = zip(sample.candidates, rewards, strict=True)
    return replace(sample, candidates=tuple(replace(one, ratings=(*one.ratings, more)) for one, more in both))


def test_a_reward_model_fails_on_pictures_and_nothing_has_to_be_rated_again_to_know_it() -> None:
    found = blind(gathered(rewarded(pictures=1), judge="reward"))
    assert found.verdict == "fail" and not found.missing
    assert blind(gathered(rewarded(pictures=0), judge="reward")).verdict == "not_measured"
    assert blind(gathered(rewarded(pictures=1), judge="rule")).verdict == "not_measured"


def test_attributes_of_the_reference_only_warn() -> None:
    samples = [
        rated(f"a/b/{n}", {"two": (4, 4, 4, 1, 1), "three": (n % 3, n % 3, n % 2, 1, 2)}) for n in range(40)
    ]  # fmt: skip
    assert attributes(gathered(*samples)).verdict == "warn"
    assert attributes(gathered(*samples, reference="another")).verdict == "fail"
