"""A reward model as a judge: one number per answer, from the last question; what is no number fails its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polite_flamingo.preference.judges.reward import RewardJudge
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.testbed.shapes.exam import prompts
from polite_flamingo.usage import Usage
from tests.support.rated_shapes import with_answers


class ByLength:
    """Likes long answers, knows no value for some, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked += pairs
        return [float("nan") if "odd" in answer else float(len(answer)) for _, answer in pairs]


def test_each_answer_gets_its_reward_and_nothing_else() -> None:
    model, samples = ByLength(), with_answers(size=2)
    for sample in RewardJudge(model).rate(samples, Usage()):
        assert isinstance(sample, Sample)
        for one in sample.candidates:
            [rating] = one.ratings
            assert (rating.judge, rating.values) == ("reward", {"reward": float(len(one.text))})
    assert len(model.asked) == 6 and all("<image>" not in question for question, _ in model.asked)


def test_a_conversation_is_rated_by_its_last_question() -> None:
    model, [sample] = ByLength(), prompts("second", 1)
    RewardJudge(model).rate([replace(sample, candidates=with_answers(size=1)[0].candidates[:1])], Usage())
    assert [question for question, _ in model.asked] == [sample.turns[-1].instruction]


def test_no_number_is_no_rating() -> None:
    good, bad = with_answers(size=2)
    odd = replace(bad.candidates[0], text="an odd one")
    found = RewardJudge(ByLength()).rate([good, replace(bad, candidates=(odd, *bad.candidates[1:]))], Usage())
    assert isinstance(found[0], Sample)
    assert isinstance(found[1], BadSample) and found[1].reason == "judging_failed" and "nan" in found[1].detail
