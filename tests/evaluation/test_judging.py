"""Every number equals the reference's; the models are tiny and real, the world is a handful of samples."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.judging import (
    NO_RESPONSE,
    RAW,
    REWRITTEN,
    Judged,
    Judges,
    entailed,
    first_turn,
    joined,
    judge,
)
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.metrics import METRICS, TASK_METRICS
from polite_flamingo.evaluation.results import summarise
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import TASKS, BadSample, Image, Sample, Turn
from tests.support.reference import golden

PICTURE = Image(extension="png", data=b"never decoded here")


def row(key: str, task: str, question: str, truth: str, *, images: int = 1, rewritten: str | None = None) -> Sample:
    return Sample(
        key=key, dataset=f"the {task} set", task=task, images=(PICTURE,) * images, rewritten=rewritten,
        turns=(Turn(instruction="<image>" * images + question, response=truth),),
    )  # fmt: skip


SAMPLES = [
    row("c", "captioning", "What do you see?", "a red circle, a blue square", rewritten="There is a red circle."),
    row("v", "vqa", "What colour is the circle?", "Answer: red"),
    row("d", "change_captioning", "What has changed?", "the circle is gone", images=2),
    row("n", "vqa", "Do both show a circle?", "Answer: no", images=2),
    row("t", "text", "Say hello.", "Hello there, how are you?", images=0),
]


class Fake:
    """Numbers that say which texts they are of; counts the calls and the distinct pairs."""

    def __init__(self, number: Any):
        self.number, self.calls = number, []

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        self.calls.append(list(pairs))
        return [self.number(first, second) for first, second in pairs]


def fakes(reward: Any = lambda question, answer: len(answer) / 10) -> Any:
    return SimpleNamespace(
        nli=Fake(lambda premise, hypothesis: [0.0, float("red" in premise), 0.5]),
        sts=Fake(lambda truth, answer: 0.25),
        reward=Fake(reward),
    )


def test_the_verdict_is_the_reference_s() -> None:
    reference = golden("metrics_golden.json")
    assert reference["thresholds"]["nli_eval_success_label"] == "entailment"
    assert len(reference["nli_decisions"]) >= 3
    for case in reference["nli_decisions"]:
        assert entailed(case["logits"]) == float(case["label"] == "entailment"), case


def test_neutral_is_wrong_and_no_number_is_no_verdict() -> None:
    assert entailed([0.0, 1.0, 2.0]) == 0.0 and entailed([0.0, 2.0, 1.0]) == 1.0
    assert entailed([1.0, 1.0, 0.0]) == 0.0, "the first of equals is the label"
    assert math.isnan(entailed([0.0, math.nan, 1.0]))


def test_rouge_l_equals_the_reference_s_through_the_whole_way() -> None:
    cases = golden("metrics_golden.json")["rouge"]
    samples = [row(str(number), "captioning", "?", case["original"]) for number, case in enumerate(cases)]
    answers = {str(number): case["output"] for number, case in enumerate(cases)}
    judged = judge(samples, {"model": answers}, fakes())
    assert judged.scores["model"]["rouge_l"] == [case["rougeL_stem"] for case in cases]


def test_the_nli_pair_is_worded_as_the_reference_words_it() -> None:
    for case in golden("metrics_golden.json")["nli_prompts"]:
        judges = fakes()
        judge([row("q", "vqa", case["question"], case["original"])], {"model": {"q": case["output"]}}, judges)
        assert (case["premise"], case["hypothesis"]) in judges.nli.calls[0]


def test_each_task_has_its_metrics_and_every_answer_its_reward() -> None:
    assert set(TASK_METRICS) == set(TASKS)
    judged = judge(SAMPLES, {"model": {sample.key: "It is red." for sample in SAMPLES}}, fakes())
    found = {
        key: {metric for metric in METRICS if judged.scores["model"][metric][place] is not None}
        for place, key in enumerate(judged.keys)
    }
    assert found == {
        "c": {"reward", "rouge_l"},
        "v": {"reward", "accuracy"},
        "d": {"reward", "sts", "rouge_l"},
        "n": {"reward", "accuracy", "sts", "rouge_l"},  # as [PF] scores NLVR2
        "t": {"reward", "accuracy", "rouge_l"},
    }
    assert judged.tasks == [sample.task for sample in SAMPLES]
    assert judge(SAMPLES, {}, fakes(), by="dataset").tasks[0] == "the captioning set"


def test_annotations_are_always_contestants() -> None:
    judged = judge(SAMPLES, {"model": {}}, fakes())
    assert judged.contestants == (RAW, REWRITTEN, "model")
    assert judged.scores[RAW]["rouge_l"][0] == 1.0 and judged.scores[RAW]["exact"] == [1.0] * 5
    assert judged.missing == {RAW: {}, REWRITTEN: {NO_RESPONSE: 4}, "model": {NO_RESPONSE: 5}}
    assert judge(SAMPLES[1:], {}, fakes()).contestants == (RAW,)
    with pytest.raises(ValueError, match="cannot be named 'raw annotation'"):
        judge(SAMPLES, {RAW: {}}, fakes())


def test_empty_is_an_answer_missing_and_failed_are_none() -> None:
    answers = {"c": "", "v": "  ", "d": BadSample("corrupt_image", "no JPEG"), "n": "half \ud800 a pair"}
    judged = judge(SAMPLES, {"model": answers}, fakes())
    scores = judged.scores["model"]
    assert scores["words"] == [0.0, 0.0, None, None, None]
    assert scores["rouge_l"][0] == 0.0 and scores["accuracy"][1] == 0.0 and scores["reward"][:2] == [0.0, 0.2]
    assert judged.missing["model"] == {"bad_field": 1, "corrupt_image": 1, NO_RESPONSE: 1}
    assert scores["reward"][2:] == [None] * 3


def test_a_number_that_is_not_finite_is_counted_and_spoils_nothing_else() -> None:
    judges = fakes(lambda question, answer: math.nan if "red" in answer else 1.0)
    judged = judge(SAMPLES[:2], {"model": {"c": "red", "v": "blue"}}, judges)
    assert judged.scores["model"]["reward"] == [None, 1.0]
    assert judged.unscored["model"] == {"reward": 1}
    json.dumps(judged.to_json(), allow_nan=False)


def test_each_model_is_asked_once_with_everything() -> None:
    judges = fakes()
    judge(SAMPLES, {name: {sample.key: "the same" for sample in SAMPLES} for name in "abc"}, judges)
    assert [len(judges.nli.calls), len(judges.sts.calls), len(judges.reward.calls)] == [1, 1, 1]


def test_scores_do_not_depend_on_who_else_takes_part() -> None:
    """With the zoo's models: one call for all, or one for each contestant and sample, the same numbers."""
    judges = Judges(ScoringConfig(threads=1))
    answers = {
        "one": {sample.key: f"There is a red circle. {sample.key}" for sample in SAMPLES},
        "two": {"c": "", "v": "red", "d": "the circle is gone", "n": "no", "t": "Hello"},
    }
    together = judge(SAMPLES, answers, judges)
    for name, given in answers.items():
        for place, sample in enumerate(SAMPLES):
            alone = judge([sample], {name: given}, judges).scores[name]
            for metric in METRICS:
                assert alone[metric][0] == pytest.approx(together.scores[name][metric][place], abs=2e-4)
    assert together.scores["two"]["sts"][2] == 1.0
    assert {together.scores[name]["accuracy"][1] for name in answers} <= {0.0, 1.0}


def test_of_a_conversation_the_first_turn_is_judged_with_its_own_images() -> None:
    talk = Sample(
        key="talk", dataset="llava", task="dialogue", images=(PICTURE, PICTURE),
        turns=(
            Turn(instruction="<image>What is it?", response="A circle."),
            Turn(instruction="And <image> this?", response="A square."),
        ),
    )  # fmt: skip
    cut = first_turn(talk)
    assert cut.validate().turns == talk.turns[:1] and len(cut.images) == 1
    judged = judge([talk], {}, fakes())
    assert judged.scores[RAW]["sts"] == [None], "the first turn shows one image"


def test_an_annotation_that_is_not_to_be_learned_is_no_truth_for_anybody() -> None:
    talk = dataclasses.replace(SAMPLES[4], turns=(
        dataclasses.replace(SAMPLES[4].turns[0], learned=False), Turn(instruction="And?", response="Hi."),
    )).validate()  # fmt: skip
    judged = judge([talk, SAMPLES[1]], {"a": {"t": "Hello", "v": "red"}}, fakes())
    assert judged.missing == {RAW: {"excluded": 1}, "a": {"excluded": 1}}
    assert judged.scores["a"]["reward"][0] is None and judged.scores["a"]["reward"][1] is not None


def test_parts_join_to_the_whole() -> None:
    answers = {"model": {"c": "red", "v": "", "t": BadSample("unsupported", "")}}
    whole = judge(SAMPLES, answers, fakes())
    parts = [judge(SAMPLES[:2], answers, fakes()), judge(SAMPLES[2:], answers, fakes())]
    assert REWRITTEN not in parts[1].contestants
    assert joined(parts) == whole
    assert joined(Judged.from_json(json.loads(json.dumps(part.to_json()))) for part in parts) == whole
    assert joined(parts, contestants=("model", RAW)).contestants == ("model", RAW, REWRITTEN)
    assert joined([]).keys == []


def test_of_an_instruction_with_a_text_that_it_speaks_of_judges_read_the_instruction_alone() -> None:
    sample = row("r", "text", "What colour is the circle?\n\nThere is a red circle.", "Answer: red", images=0)
    judges = fakes()
    judge([dataclasses.replace(sample, meta={"instruction": "What colour is the circle?"})], {}, judges)
    assert judges.reward.calls == [[("What colour is the circle?", "Answer: red")]]
    assert "There is" not in "".join(judges.nli.calls[0][0])


def test_an_empty_answer_is_wrong_and_never_preferred() -> None:
    """A reward model likes a blank: six of six empty answers were once preferred in 83 % of samples."""
    judges = fakes(lambda question, answer: 9.0 if not answer.strip() else 0.0 if "Answer" in answer else 1.0)
    judges.nli = Fake(lambda premise, hypothesis: [0.0, 9.0, 0.0])  # and an NLI model takes one for the right answer
    answers = {
        "silent": {sample.key: "  " for sample in SAMPLES},
        "model": {sample.key: "It is." for sample in SAMPLES},
    }
    found = summarise(judge(SAMPLES, answers, judges), text_only="silent", resampling=Resampling(draws=50))
    for other in (RAW, "model"):
        assert found.wins.rates["silent"][other].value == 0.0 and found.wins.rates[other]["silent"].value == 1.0
    assert found.reward["silent"].value == 0.0 < found.reward["model"].value, "the least that any answer got"
    assert found.mean("silent", "accuracy", "vqa") == 0.0 and found.mean("model", "accuracy", "vqa") == 1.0
    assert found.mean("silent", "sts", "change_captioning") == 0.0
    given = found.answers["silent"]
    assert (given.answered, given.empty) == (5, 5) and given.trouble() == ["5 of 5 answers are empty"]
    assert "**silent: 5 of 5 answers are empty.**" in to_markdown(found)
    assert found.answers["model"].trouble() == [] and found.tax["reward"]["model"].total.value < 0


def test_what_is_cut_withheld_or_full_of_markup_is_counted_and_loses_to_a_whole_answer() -> None:
    answers = {
        "long": {
            "c": Unfinished("a red circle and a great deal more of it, and", "length"),
            "v": Unfinished("red, and more than that it is", "content_filter"),
            "d": "the circle is gone<|im_end|>\n<|im_start|>user\nand what else is there?",
            "n": "I'm sorry, but I can't see the images, as I am only a model of language.",
            "t": "<think>What may they want to hear from me?</think>\nHello",
        },
        "short": {sample.key: "It is." for sample in SAMPLES},
    }
    judged = judge(SAMPLES, answers, fakes())
    assert judged.faults["long"] == {"cut": 1, "filtered": 1, "leaked": 1, "declined": 1}
    assert judged.scores["long"]["whole"] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert judged.scores["long"]["words"][4] == 1.0, "reasoning is no part of the answer"
    found = summarise(judged, resampling=Resampling(draws=50))
    assert found.wins.rates["long"]["short"].value == 0.2, "only the refusal is longer, and whole"
    assert found.answers["long"].trouble() == [
        "1 cut by the limit of tokens", "1 withheld by a filter", "1 with chat markup in them",
        "1 declined",
    ]  # fmt: skip
    assert found.answers[RAW].trouble() == []
