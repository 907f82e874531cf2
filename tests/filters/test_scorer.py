from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

import polite_flamingo.hub  # noqa: F401
from polite_flamingo.filters.judge import Thresholds, judge
from polite_flamingo.filters.scorer import Scorer, ScoringConfig
from polite_flamingo.sample import TASKS, BadSample, Image, Sample, Turn
from tests.filters.test_clipscore import picture


@pytest.fixture(scope="module")
def scorer(nli_model: Path, clip_model: Path, reward_model: Path) -> Scorer:
    return Scorer(ScoringConfig(nli=str(nli_model), clip=str(clip_model), reward=str(reward_model), batch_size=4))


def sample(
    task: str, number: int, rewritten: str | None = "There is a red circle.\n\nIt is large. A dog waits."
) -> Sample:
    count = {"text": 0, "change_captioning": 2}.get(task, 1)
    return Sample(
        key=f"{task}/train/{number}",
        dataset=task,
        task=task,
        turns=(Turn(instruction="<image>" * count + "What is this?", response=f"Answer: red {number}"),),
        images=tuple(Image(extension="png", data=picture(number + i)) for i in range(count)),
        rewritten=rewritten,
    )


COMMON = {"words", "characters", "same_text", "rouge_l", "repetition", "reward_raw", "reward"}


def test_each_task_gets_the_scores_of_its_filters_and_no_others(scorer: Scorer) -> None:
    extra = {
        "captioning": {"sts", "clip_paragraphs"},
        "vqa": {"nli"},
        "vqa_rationale": {"nli"},
        "text": set(),
        "dialogue": set(),
    }
    samples = [sample(task, number) for number, task in enumerate(TASKS)]
    for one, scores in zip(samples, scorer.score(samples), strict=True):
        assert isinstance(scores, dict)
        assert set(scores) == COMMON | extra.get(one.task, {"sts"})
        verdicts = judge(dataclasses.replace(one, scores=scores), Thresholds())
        assert all(verdict.reason != "unscored" for verdict in verdicts)
    captioned = scorer.score([sample("captioning", 1)])[0]
    assert isinstance(captioned, dict) and len(captioned["clip_paragraphs"]) == 2


def test_scores_do_not_depend_on_the_company(scorer: Scorer) -> None:
    texts = ["It is red.", "one two three. " * 30, "A dog.\n\nA bus.\n\nA star.", ""]
    samples = [sample(task, n, texts[n % 4]) for n, task in enumerate(TASKS * 3)]
    together = scorer.score(samples)
    for one, scores in zip(samples, together, strict=True):
        [alone] = scorer.score([one])
        assert isinstance(scores, dict) and isinstance(alone, dict) and set(alone) == set(scores)
        for name, value in scores.items():
            assert alone[name] == pytest.approx(value, abs=1.01e-4), (one.key, name)


def test_numbers_are_json_with_four_decimals(scorer: Scorer) -> None:
    [scores] = scorer.score([sample("vqa", 1)])
    assert isinstance(scores, dict)
    numbers = [scores["reward"], scores["reward_raw"], *scores["nli"]]
    assert all(type(number) is float and round(number, 4) == number for number in numbers)
    assert type(scores["words"]) is int and type(scores["same_text"]) is bool


def test_a_sample_that_cannot_be_scored_fails_alone_and_says_which(scorer: Scorer) -> None:
    samples = [sample("captioning", number) for number in range(4)]
    broken = dataclasses.replace(samples[1], images=(Image(extension="png", data=b"no picture"),))
    samples[1:3] = [broken, sample("vqa", 2, rewritten=None)]
    found = scorer.score(samples)
    assert [type(one) for one in found] == [dict, BadSample, BadSample, dict]
    assert isinstance(found[1], BadSample) and found[1].reason == "corrupt_image" and broken.key in found[1].detail
    assert isinstance(found[2], BadSample) and found[2].reason == "scoring_failed"


def test_half_a_surrogate_pair_would_stop_every_tokenizer(scorer: Scorer) -> None:
    found = scorer.score([sample("vqa", 1, "It is \ud83d red."), sample("vqa", 2)])
    assert isinstance(found[0], BadSample) and found[0].reason == "bad_field"
    assert isinstance(found[1], dict)


def test_a_model_that_gives_no_number_leaves_the_sample_unscored(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer._reward, "score", lambda pairs: [math.nan] * len(pairs))
    [scores] = scorer.score([sample("text", 1)])
    assert isinstance(scores, dict) and scores["reward"] is None
    assert judge(dataclasses.replace(sample("text", 1), scores=scores), Thresholds())[-1].reason == "unscored"


def test_no_samples_no_scores(scorer: Scorer) -> None:
    assert scorer.score([]) == []
