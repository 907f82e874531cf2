"""Ratings are matched into readings, and what cannot be matched is counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from polite_flamingo.candidates import Candidate, Rating
from polite_flamingo.preference import pairing
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.people import Labels
from polite_flamingo.preference.audit.readings import Prompt, asked_digest, digest, prompt_of
from polite_flamingo.preference.pairing import PairingConfig
from polite_flamingo.sample import Sample
from tests.support import planted_judges as planted
from tests.support.rated_answers import rated, rating

WEIGHTS = (1.0, 1.0, 1.0, 0.0, 0.0)


def prompt(*ratings: tuple[Rating, ...]) -> Prompt:
    sample = rated("a/b/0", {"two": (), "three": (), "four": ()})
    candidates = zip(sample.candidates, ratings, strict=False)
    return prompt_of(
        dataclasses.replace(sample, candidates=tuple(dataclasses.replace(one, ratings=r) for one, r in candidates)),
        "shard", WEIGHTS,
    )  # fmt: skip


def test_each_request_becomes_a_reading() -> None:
    sample, qualities = planted.prompts(1)[0]
    found = prompt_of(planted.rate(sample, qualities, planted.exact, orders=4, samples=2, blind=1), "s", WEIGHTS)
    together = [one for one in found.read_by("judge") if not one.alone]
    assert len(together) == 8 and len(found.read_by("judge", blind=True)) == 1
    assert [len(one.scores) for one in found.read_by("judge") if one.alone] == [4]
    assert all(sorted(one.places.values()) == [0, 1, 2, 3] for one in together)
    assert len({tuple(sorted(one.places.items())) for one in together}) == 4, "four orders, two samples of each"
    assert found.scores("judge") == {n: sum(planted.TRUTH[one][:3]) for n, one in enumerate(qualities)}


def test_ratings_of_an_unclear_order_are_left_out_and_counted() -> None:
    clash = prompt((rating(4, 4, 4, shown=2, place=0),), (rating(1, 1, 1, shown=2, place=0),))
    assert clash.readings == () and clash.unmatched == 2


@pytest.mark.parametrize(
    "broken", [{"helpfulness": 4.0}, {"helpfulness": 4, "correctness": float("nan"), "coherence": 1}]
)
def test_a_rating_that_gives_no_score_is_left_out_and_counted(broken: dict[str, Any]) -> None:
    found = prompt((rating(4, 4, 4, place=0, shown=2),), (Rating(judge="rule", values=broken, place=1, shown=2),))
    assert found.scores("rule") == {0: 12.0} and found.unmatched == 1


def test_answers_score_as_pair_scores_them_by_whole_ratings_or_by_expected_ones() -> None:
    sharper = dataclasses.replace(rating(4, 4, 4), expected={"helpfulness": 3.5})
    assert prompt((sharper,), (rating(4, 4, 4),)).scores("rule") == {0: 12.0, 1: 12.0}
    sample = rated("a/b/0", {"two": (), "three": ()})
    candidates = zip(sample.candidates, (sharper, rating(4, 4, 4)), strict=True)
    sample = dataclasses.replace(
        sample, candidates=tuple(dataclasses.replace(one, ratings=(given,)) for one, given in candidates)
    )
    for expected in (False, True):
        found = pairing.scored(sample, PairingConfig(expected=expected))
        read = prompt_of(sample, "shard", expected=expected).scores("rule")
        assert read == {number: one.score for number, one in enumerate(found)}
    assert read == {0: 11.5, 1: 12.0}


def test_a_judge_of_one_number_gives_its_number() -> None:
    assert prompt((Rating(judge="reward", values={"reward": -0.3}),)).scores("reward") == {0: -0.3}


def test_digests_ignore_white_space_and_see_pictures() -> None:
    sample = rated("a/b/0", {"two": ()})
    assert digest("a  b\n") == digest("a b") != digest("ab")
    asked = asked_digest("<image>How many?", sample.images)
    assert asked == asked_digest("<image> how  MANY?", sample.images) != asked_digest("How many?", ())


def gathered(samples: list[Sample], **settings: Any) -> Any:
    chosen = AuditSettings(**settings)
    collected = Collected(settings=chosen)
    for sample in samples:
        collected.add(sample, "shard")
    return gather(collected, Labels())


def test_the_judge_is_the_one_that_pairs_name_or_the_only_one_besides_the_reference() -> None:
    answers = {"two": (4, 4, 4, 1, 1), "three": (1, 0, 4, 1, 1)}
    both = rated("a/b/0", answers, judge="gpt")
    rule = rated("a/b/0", answers)
    pairs = zip(both.candidates, rule.candidates, strict=True)
    both = dataclasses.replace(both, candidates=tuple(
        Candidate(text=one.text, number=one.number, ratings=(*one.ratings, *other.ratings)) for one, other in pairs
    ))  # fmt: skip
    assert (gathered([both]).judge, gathered([both]).reference) == ("gpt", "rule")
    assert (gathered([rule]).judge, gathered([rule]).reference) == ("rule", "")
    with pytest.raises(ValueError, match=r"several judges rated \(gpt, rule\); name the one"):
        gathered([both], reference="nobody")
    with pytest.raises(ValueError, match=r"'gpt5' rated nothing here; the judges are gpt, rule"):
        gathered([both], judge="gpt5")
    made = dataclasses.replace(both, rewritten="two", rejected="three", provenance={"pair": {"judge": "rule"}})
    assert gathered([both, made]).judge == "rule", "which made the pairs"


def test_pairs_find_the_answers_they_were_made_of() -> None:
    sample = rated("a/b/0", {"two": (4, 4, 4, 1, 1), "three": (1, 0, 4, 1, 1)})
    bare = dataclasses.replace(sample, candidates=(), rewritten="two ", rejected="three")
    [pair] = gathered([sample, bare]).pairs
    assert pair.answers == (0, 1) and pair.margin("rule") == 7
    [other] = gathered([sample, dataclasses.replace(bare, key="a/b/0/pair1", rewritten="five")]).pairs
    assert other.prompt is not None and other.answers is None and other.margin("rule") is None


def test_without_anything_to_audit_it_says_so() -> None:
    with pytest.raises(ValueError, match="no sample has rated answers or a rejected one"):
        gathered([dataclasses.replace(rated("a/b/0", {}), candidates=())])
