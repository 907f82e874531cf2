"""A filter whose model does not know a text's language says so, and nothing is kept in silence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from polite_flamingo.filters.languages import Languages, language_of
from polite_flamingo.filters.models import ScoringConfig
from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds, not_scored
from polite_flamingo.sample import Sample
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics
from tests.filters.test_scorer import sample


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("It is a red circle on a table.", "en"),
        ("这是红色的。", "zh"),
        ("红色的圆在桌子上", "zh"),
        ("赤いです", "ja"),
        ("มันเป็นสีแดง", "th"),
        ("Der Hund läuft am Strand entlang.", "de"),
        ("red", "und"),
        ("Answer: 2", "und"),
        ("dog: [0.052, 0.551, 0.357, 0.880]", "und"),
        ("", "und"),
    ],
)
def test_a_language_is_found_or_left_open(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_model_that_is_not_listed_knows_all_and_an_unsure_text_is_scored() -> None:
    known = Languages({"nli": ["en", "de"], "clip": ["en"], "sts": []})
    assert known.strange_to("nli", ["It is a red circle.", "这是红色的。"]) == "language zh"
    assert known.strange_to("nli", ["red", "Der Hund läuft am Strand entlang."]) == ""
    assert known.strange_to("clipscore", ["Der Hund läuft am Strand entlang."]) == "language de"
    assert known.strange_to("sts", ["这是红色的。"]) == known.strange_to("reward", ["这是红色的。"]) == ""
    with pytest.raises(ValueError, match="clipscore is no model"):
        ScoringConfig(languages={"clipscore": ("en",)})
    for code in ("English", "EN", "zh-CN", ""):
        with pytest.raises(ValueError, match="is no code of ISO 639"):
            ScoringConfig(languages={"nli": ("en", code)})


class Model:
    """Scores that pass; notes what it was given."""

    def __init__(self, score: Any):
        self.given: list[Any] = []
        self.one = score

    def score(self, rows: Any) -> list[Any]:
        self.given += rows
        return [self.one for _ in rows]


def scored(monkeypatch: pytest.MonkeyPatch, samples: list[Sample], **languages: tuple[str, ...]) -> list[Sample]:
    models = {"sts": Model(0.9), "nli": Model([0.0, 3.0, 1.0]), "clip": Model([30.0]), "reward": Model(1.5)}
    monkeypatch.setattr(
        "polite_flamingo.filters.scorer.load_models", lambda config, names: [models[name] for name in names]
    )
    found = Scorer(ScoringConfig(languages=languages)).score(samples)
    assert all(isinstance(one, dict) for one in found)
    assert not any("这" in str(row) for name in languages for row in models[name].given)
    return [dataclasses.replace(one, scores=scores) for one, scores in zip(samples, found, strict=True)]  # type: ignore[arg-type]


def test_a_strange_language_is_not_scored_not_rejected_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    chinese, english = "这是一个红色的圆。", "It is a large red circle."
    samples = [sample("vqa", 0, english), sample("vqa", 1, chinese), sample("captioning", 2, chinese)]
    found = scored(monkeypatch, samples, nli=("en",), clip=("en",), reward=("en", "de"))
    assert found[0].scores["nli"] is not None and "not_scored" not in found[0].scores
    assert found[1].scores["nli"] is None and found[1].scores["reward"] is None
    assert found[1].scores["not_scored"] == {"reward": "language zh", "nli": "language zh"}
    verdicts = {one.filter: (one.keep, one.reason) for one in apply_thresholds(found[1], Thresholds())}
    assert verdicts["nli_margin"] == verdicts["reward"] == (True, "does not apply: language zh")
    assert found[2].scores["sts"] == 0.9 and found[2].scores["clip_paragraphs"] is None

    selection = select_shard(found, shard="s", thresholds=Thresholds())
    counts = Statistics.from_json(selection.statistics.to_json()).total()
    assert counts.kept == 3
    assert counts.not_scored == {"reward: language zh": 2, "nli: language zh": 1, "clipscore: language zh": 1}
    assert selection.statistics.curves["nli_margin"].unscored == 0
    assert not_scored(counts.not_scored) == (
        "Texts not scored, and judged without that filter: 1 by clipscore (language zh), 1 by nli (language zh), "
        "2 by reward (language zh)."
    )


def test_without_a_list_every_language_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    [one] = scored(monkeypatch, [sample("vqa", 1, "这是一个红色的圆。")])
    assert one.scores["nli"] == [0.0, 3.0, 1.0] and "not_scored" not in one.scores
