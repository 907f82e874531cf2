"""What becomes a pair to vote on, and that nobody can tell from its place who wrote what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polite_flamingo.candidates import Candidate, Rating
from polite_flamingo.preference.votes.battles import CHOSEN, LABEL, Choice, battles_of
from polite_flamingo.sample import Sample
from tests.support.made_samples import make_sample
from tests.support.voting import answered, battles, conversation, rated, rewritten


def test_a_rewritten_text_meets_its_raw_annotation_with_what_the_machines_think() -> None:
    marks = {"judge_relevance": 5, "judge_correctness": 2, "judge_formatting": 4, "judge_visual_dependency": 1}
    sample = rewritten(3, reward=2.5)
    [battle] = battles_of(replace(sample, scores={**sample.scores, **marks}))
    assert (battle.kind, battle.key, battle.turn) == ("rewriting", "made/train/3", None)
    assert battle.first.text == sample.rewritten and battle.second.text == sample.response
    assert battle.margins == {"reward model": 2.5}
    assert battle.verdicts["NLI"] == 5.0, "it does not contradict the annotation"
    assert battle.verdicts["judge"] < 0, "its lowest mark is 2, and 3 is good"
    assert len(battle.sample.images) == 1


def test_every_turn_of_a_conversation_is_a_battle_with_the_turns_before_it() -> None:
    found = battles_of(conversation(3))
    assert [battle.turn for battle in found] == [0, 1, 2]
    assert [battle.key for battle in found] == ["made/train/9"] * 3
    assert [len(battle.sample.before) for battle in found] == [0, 1, 2]
    assert all(battle.sample.images for battle in found), "later turns ask about the same picture"


def test_a_pair_for_training_is_labelled_and_its_better_side_has_no_fixed_place() -> None:
    pairs = [replace(make_sample(number, 1), rejected=f"wrong {number}") for number in range(40)]
    found = battles(pairs)
    assert len(found) == 40 and {battle.kind for battle in found} == {"pairs"}
    first = [battle.first.name == CHOSEN for battle in found]
    assert 10 < sum(first) < 30
    assert all((battle.margins[LABEL] > 0) == chosen for battle, chosen in zip(found, first, strict=True))


def test_answers_meet_each_other_by_their_judges_mean_scores_and_no_blind_rating_counts() -> None:
    sample = answered(1, {"clever": 12.0, "base": 6.0, "third": 9.0})
    odd = replace(sample.candidates[0], ratings=(*sample.candidates[0].ratings, rated("rule", 0.0, blind=True)))
    found = battles_of(replace(sample, candidates=(odd, *sample.candidates[1:])))
    assert {frozenset((battle.first.name, battle.second.name)) for battle in found} == {
        frozenset(("clever", "base")), frozenset(("clever", "third")), frozenset(("base", "third")),
    }  # fmt: skip
    scores = {"clever": 12.0, "base": 6.0, "third": 9.0}
    for battle in found:
        assert battle.margins["rule"] == pytest.approx(scores[battle.first.name] - scores[battle.second.name])


@pytest.mark.parametrize(
    "sample",
    [
        make_sample(1, 1, rewritten=False),
        replace(make_sample(1, 1), rewritten="  1 he is running the man\n"),
        replace(make_sample(1, 1), rewritten=" "),
        replace(make_sample(1, 1), rejected=make_sample(1, 1).rewritten),
        replace(make_sample(1, 1), rewritten=None, rejected="alone"),
        replace(make_sample(1, 1), candidates=(Candidate(text="one"), Candidate(text="one "))),
    ],
)
def test_where_there_is_nothing_to_choose_from_there_is_no_battle(sample: Sample) -> None:
    assert battles_of(sample) == []


def test_ratings_and_scores_that_are_no_numbers_are_no_opinion() -> None:
    sample = answered(1, {"clever": 12.0, "base": 6.0})
    broken = Rating(judge="rule", values={"helpfulness": "4", "correctness": None, "coherence": True})  # type: ignore[dict-item]
    reward = Rating(judge="reward", values={"reward": float("nan")})
    first = replace(sample.candidates[0], ratings=(broken, reward))
    [battle] = battles_of(replace(sample, candidates=(first, replace(sample.candidates[1], ratings=(broken, reward)))))
    assert battle.margins == {}
    scores = {"reward": "high", "reward_raw": 1.0, "nli": [float("nan"), 0.0, 0.0], "judge_relevance": "5"}
    [battle] = battles_of(replace(rewritten(2), scores=scores))
    assert (battle.margins, battle.verdicts) == ({}, {})


def test_a_battle_has_the_id_of_its_content() -> None:
    one, same = battles_of(rewritten(5)) + battles_of(rewritten(5, reward=-3.0))
    assert one.id == same.id, "what machines think of it is not part of it"
    [other] = battles_of(replace(rewritten(5), rewritten="Another text."))
    [pictured] = battles_of(replace(rewritten(5), images=rewritten(6).images))
    assert len({one.id, other.id, pictured.id}) == 3


def chosen(samples: list[Sample], wanted: int, seed: int = 0) -> list[str]:
    choice = Choice(wanted, seed)
    for sample in samples:
        choice.add(battles_of(sample))
    return [battle.id for battle in choice.chosen()]


def test_the_choice_is_seeded_even_and_grows_without_losing_any() -> None:
    samples = [answered(number, {"a": 1, "b": 2, "c": 3}) for number in range(300)]
    few, more = chosen(samples, 50), chosen(samples, 400)
    assert len(few) == 50 and few == more[:50] and few != chosen(samples, 50, seed=1)
    assert few == chosen(samples[::-1], 50), "whatever the order of the shards"
    by_id = {battle.id: battle for battle in battles(samples)}
    assert len({by_id[one].key for one in few}) == 50, "no sample twice while others were never shown"
    assert len({by_id[one].key for one in more}) == 300
    met = [frozenset((by_id[one].first.name, by_id[one].second.name)) for one in more[:300]]
    assert all(60 < met.count(pair) < 140 for pair in set(met)) and len(set(met)) == 3
