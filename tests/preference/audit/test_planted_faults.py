"""The auditor against judges whose faults are known: each is found by its own check, and a clean judge passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.audit import Audit, audit
from polite_flamingo.preference.audit.duplicates import Neighbours
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.people import Labels
from polite_flamingo.preference.pairing import Pair, PairingConfig, first_share, pair_of
from polite_flamingo.preference.sets import pair_sample
from polite_flamingo.sample import Sample
from tests.support import planted_judges as planted

QUICK = AuditSettings(resampling=Resampling(draws=60))
PROMPTS = 120


def pairs_of(samples: Sequence[Sample], flips: float = 0.0) -> list[Sample]:
    """The pairs of the judge called "judge", as `polite-flamingo pair` makes them."""
    config = PairingConfig(judge="judge", flips=flips)
    made = [(one, found) for one in samples if isinstance(found := pair_of(one, config), Pair)]
    flipped = first_share([one.key for one, _ in made], flips, 0, "flips")
    return [pair_sample(one, found, config, flipped=one.key in flipped) for one, found in made]


def audited(samples: Sequence[Sample], pairs: Sequence[Sample] = (), settings: AuditSettings = QUICK) -> Audit:
    collected = Collected(settings=settings)
    for sample in (*samples, *pairs):
        collected.add(sample, "shard")
    return audit(gather(collected, Labels()), Neighbours(), near=False)


def verdicts(result: Audit) -> dict[str, str]:
    return {one.name: one.verdict for one in result.checks}


def figure(result: Audit, check: str, name: str) -> float:
    [found] = [one for one in result.checks if one.name == check]
    [value] = [one.found.value for one in found.measures if one.name == name]
    assert value is not None
    return value


@pytest.mark.parametrize("reference", [True, False])
def test_a_clean_judge_passes_every_check_that_can_be_made(reference: bool) -> None:
    samples = planted.rated(PROMPTS, planted.clean, reference=reference)
    found = verdicts(audited(samples, pairs_of(samples)))
    assert {name: one for name, one in found.items() if one != "pass"} == (
        {"people": "not_measured", "leaks": "not_measured"} | ({} if reference else {"judges": "not_measured"})
    )


def test_a_judge_that_likes_the_first_place_is_caught() -> None:
    result = audited(planted.rated(PROMPTS, planted.likes_the_first, reference=True))
    assert verdicts(result)["position"] == "fail"
    assert figure(result, "position", "ratings at place 1") > 0.25
    assert [one.name for one in result.with_verdict("fail")] == ["position"], "and of nothing else"


@pytest.mark.parametrize("reference", [True, False])
def test_a_judge_that_likes_long_answers_is_caught(reference: bool) -> None:
    samples = planted.rated(PROMPTS, planted.likes_the_long, reference=reference)
    result = audited(samples, pairs_of(samples))
    assert verdicts(result)["length"] == "fail" and verdicts(result)["position"] == "pass"
    assert figure(result, "length", "longer answer is chosen") > 0.8
    assert figure(result, "length", "slope of the outcome on length") > 1


def test_longer_answers_that_are_better_are_no_bias() -> None:
    """With a reference only the excess fails; the same choices without one look like bias."""
    longest_first = [
        planted.rate(planted.rate(sample, order, planted.exact), order, planted.exact, name="rule", orders=0)
        for sample, _ in planted.prompts(PROMPTS)
        if (order := by_length([one.text for one in sample.candidates]))
    ]
    assert verdicts(audited(longest_first))["length"] == "warn"
    alone = audited(longest_first, settings=dataclasses.replace(QUICK, judge="judge", reference="nobody"))
    assert verdicts(alone)["length"] == "fail"


def by_length(texts: Sequence[str]) -> tuple[str, ...]:
    """Qualities such that the longer answer is the better one."""
    best_first = ["right", "vague", "rude", "wrong"]
    ranked = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    return tuple(best_first[ranked.index(place)] for place in range(len(texts)))


def test_a_judge_that_cannot_see_is_caught() -> None:
    result = audited(planted.rated(PROMPTS, planted.cannot_see, reference=True))
    assert verdicts(result)["blind"] == "fail" and verdicts(result)["judges"] == "fail"
    assert figure(result, "blind", "left of the choice without the picture") > 0.9
    assert verdicts(result)["noise"] == "pass", "it is steady in its errors"


def test_flipped_labels_are_caught_by_the_ratings_they_were_made_of() -> None:
    samples = planted.rated(PROMPTS, planted.clean)
    result = audited(samples, pairs_of(samples, flips=0.25))
    assert verdicts(result)["margins"] == "fail"
    assert figure(result, "margins", "rejected answer is rated higher") == pytest.approx(0.25, abs=0.01)
    assert "judge rates the rejected answer" in result.suspicious[0].reasons[0]


def test_flipped_ratings_are_caught_as_noise_and_nothing_else() -> None:
    result = audited(planted.rated(PROMPTS, planted.clean, flips=0.25))
    assert verdicts(result)["noise"] == "fail" and verdicts(result)["position"] == "pass"


def test_a_few_prompts_are_too_few_to_judge() -> None:
    samples = planted.rated(8, planted.likes_the_first)
    result = audited(samples, pairs_of(samples))
    assert result.with_verdict("fail") == [] and verdicts(result)["position"] == "not_measured"
    [position] = [one for one in result.checks if one.name == "position"]
    assert position.measures[0].about.startswith("Only 8: a verdict needs 30.")
