from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pipeline.scorers import Reference, shapes_samples
from benchmarks.pipeline.scoring import largest_differences
from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.scorer import Scorer, ScoringConfig
from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds
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
        "dialogue": {"nli"},
    }
    samples = [sample(task, number) for number, task in enumerate(TASKS)]
    for one, scores in zip(samples, scorer.score(samples), strict=True):
        assert isinstance(scores, dict)
        assert set(scores) == COMMON | extra.get(one.task, {"sts"})
        verdicts = apply_thresholds(dataclasses.replace(one, scores=scores), Thresholds())
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


def test_the_scores_are_those_of_the_references_functions_one_at_a_time() -> None:
    """With the models of the tiny profile, on long and short texts, several paragraphs and repeated rows."""
    config = ScoringConfig(batch_size=8)
    samples = shapes_samples(24, seed=3)
    odd = ["", ".", "red", "It is 2.5 m. U.S. " * 40, "One.\n\nTwo. Three\n\n \n\nFour", "Ünïcode 🦩 \n"]
    captions = [one for one in samples if one.task == "captioning"]
    samples += [dataclasses.replace(captions[n % len(captions)], rewritten=text) for n, text in enumerate(odd)]
    samples += samples[:6]
    expected, _, _ = Reference(config).run(samples)
    found = Scorer(config).score(samples)
    assert all(isinstance(one, dict) for one in found)
    assert largest_differences(expected, found)["all"] <= 1e-4  # type: ignore[arg-type]


def test_what_several_samples_share_is_run_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions of one picture, answers to one question: as many forward passes as for one sample, and no wider."""
    ran: list[int] = []
    one_of_each = packed_encoder.PackedEncoder.one_token

    def noted(encoder: packed_encoder.PackedEncoder, x_TD: Any, lengths: Any, tokens_B: Any) -> Any:
        ran.append(len(lengths))
        return one_of_each(encoder, x_TD, lengths, tokens_B)

    monkeypatch.setattr(packed_encoder.PackedEncoder, "one_token", noted)
    one = [sample("captioning", 1), sample("vqa", 1)]
    scorer.score(one)
    once = list(ran)
    ran.clear()
    scorer.score([dataclasses.replace(row, key=f"{row.key}-{n}") for n in range(4) for row in one])
    assert ran == once == [2, 1, 1, 4]  # rewards, pairs for NLI, pictures, distinct sentences


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
    assert (
        apply_thresholds(dataclasses.replace(sample("text", 1), scores=scores), Thresholds())[-1].reason == "unscored"
    )


def test_no_samples_no_scores(scorer: Scorer) -> None:
    assert scorer.score([]) == []


def test_an_annotation_that_was_not_rewritten_is_not_compared_with_itself(clip_model: Path, reward_model: Path) -> None:
    """As an audit scores it: no model of meaning is loaded, and no verdict of one is given."""
    config = ScoringConfig(sts="is not", nli="loaded", clip=str(clip_model), reward=str(reward_model), batch_size=4)
    raw = [sample(task, number) for number, task in enumerate(TASKS)]
    raw = [dataclasses.replace(one, rewritten=one.response) for one in raw]
    for one, scores in zip(raw, Scorer(config, compare=False).score(raw), strict=True):
        assert isinstance(scores, dict)
        assert set(scores) == COMMON | ({"clip_paragraphs"} if one.task == "captioning" else set())
        assert scores["same_text"] is None and scores["reward"] == scores["reward_raw"]
        verdicts = apply_thresholds(dataclasses.replace(one, scores=scores), Thresholds(min_words=1, clip_single=True))
        names = {verdict.filter for verdict in verdicts}
        assert not names & {"unchanged", "sts", "nli_margin", "nli_entailment"} and {"min_words", "repetition"} <= names
        assert all(verdict.keep for verdict in verdicts if verdict.filter != "clip")
    missing = dataclasses.replace(raw[0], scores={"reward": 1.0, "reward_raw": 1.0})
    assert {one.reason for one in apply_thresholds(missing, Thresholds())} == {"unscored"}, (
        "what is missing is no audit"
    )
