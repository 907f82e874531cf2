"""The scorer: computes all scores of rewritten samples in batches.

Which filters score a task is in `thresholds.FILTERS_OF_TASK`; `thresholds.apply_thresholds` decides what the scores
mean. The text is scored as rewritten, before any paragraph is removed. Nothing here rejects a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.filters.judge import AXES, Judge
from polite_flamingo.filters.languages import LISTED, Languages
from polite_flamingo.filters.models import MODELS, ScoringConfig, load_models, scores_of
from polite_flamingo.filters.nli import premise_and_hypothesis
from polite_flamingo.filters.paragraphs import paragraphs
from polite_flamingo.filters.rules import rules
from polite_flamingo.filters.thresholds import FILTERS_OF_TASK, NOT_SCORED
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.text_files import is_writable
from polite_flamingo.usage import Usage

__all__ = ["Scorer", "ScoringConfig"]

SCORES_OF = {
    "reward": ("reward_raw", "reward"),
    "sts": ("sts",),
    "nli": ("nli",),
    "clipscore": ("clip_paragraphs",),
    "judge": tuple(f"judge_{axis}" for axis in AXES),
}
"""Filter -> its keys in `Sample.scores`; all None where the filter does not score a sample."""

NO_MODEL = "no model"
"""Why a filter whose model is null does not score."""


class Scorer:
    """Loads the models once. Scores do not depend on which samples share a call.

    Args:
        config: the models.
        compare: false if the texts are the annotations themselves (`rewriters/none.py`): STS and NLI are not loaded,
            and `same_text` is None, by which verdicts know that nothing is compared (`thresholds.is_raw`).
    """

    def __init__(self, config: ScoringConfig, *, compare: bool = True):
        self._clip, self._reward = load_models(config, ("clip", "reward"))
        self._judge = Judge(config.judge) if config.judge else None
        self._languages = Languages(config.languages)
        self._sts: Any = None
        self._nli: Any = None
        if compare:
            self._sts, self._nli = load_models(config, ("sts", "nli"))
        self._compare = compare
        self._left_out = {LISTED[name] for name in MODELS if getattr(config, name) is None}

    def score(
        self, samples: Sequence[Sample], usage: Usage | None = None, answers: AnswerStore | None = None
    ) -> list[dict[str, Any] | BadSample]:
        """Return each sample's scores, in order (keys: docs/architecture.md), or the `BadSample` that says why not.

        Numbers are rounded to four decimals, like the published data; `None` stands for a number that is not finite. A
        broken image, a missing text or a text that a server refuses fails only its own sample.

        Args:
            samples: rewritten.
            usage: what servers say the scores cost is added to it.
            answers: the judge's of earlier attempts; new ones are added.

        Raises:
            EndpointDown: a server is down.
        """
        used = Usage() if usage is None else usage
        rows = [_ScoringRow(sample=sample, failure=_refusal(sample, self._left_out)) for sample in samples]
        good = [row for row in rows if row.failure is None]
        self._add_rules(good)
        filters = (
            ("reward", self._add_rewards),
            ("sts", self._add_sts),
            ("nli", self._add_nli),
            ("clipscore", self._add_clipscores),
            ("judge", partial(self._add_marks, answers=answers)),
        )
        for name, add in filters:
            if readable := [row for row in good if row.failure is None and self._reads(name, row)]:
                add(readable, used)
        return [row.failure or row.scores for row in rows]

    def _reads(self, name: str, row: _ScoringRow) -> bool:
        """Whether a filter applies to a row and has a model that knows its language; if only that fails, note it."""
        compared = self._compare or name not in ("sts", "nli")
        if name not in (*FILTERS_OF_TASK[row.sample.task], "reward", "judge") or not compared:
            return False
        said = [row.sample.response, row.text]
        texts = {"clipscore": [row.text], "sts": said}.get(name, [*said, row.sample.question])
        why = NO_MODEL if name in self._left_out else self._languages.strange_to(name, texts)
        if why:
            row.skip(name, why, SCORES_OF[name])
        return not why

    def _add_rules(self, rows: list[_ScoringRow]) -> None:
        for row in rows:
            row.scores.update(rules(original=row.sample.response, rewritten=row.text))
            if not self._compare:
                row.scores["same_text"] = None

    def _add_rewards(self, rows: list[_ScoringRow], usage: Usage) -> None:
        pairs = [(row.sample.question, answer) for row in rows for answer in (row.sample.response, row.text)]
        rewards = scores_of(self._reward, pairs, usage)
        for row, reward_raw, reward in zip(rows, rewards[::2], rewards[1::2], strict=True):
            row.add("reward_raw", reward_raw, _stored)
            row.add("reward", reward, _stored)

    def _add_sts(self, rows: list[_ScoringRow], usage: Usage) -> None:
        cosines = scores_of(self._sts, [(row.sample.response, row.text) for row in rows], usage)
        for row, cosine in zip(rows, cosines, strict=True):
            row.add("sts", cosine, _stored)

    def _add_nli(self, rows: list[_ScoringRow], usage: Usage) -> None:
        pairs = [
            premise_and_hypothesis(question=row.sample.question, output=row.text, original=row.sample.response)
            for row in rows
        ]
        for row, logits in zip(rows, scores_of(self._nli, pairs, usage), strict=True):
            row.add("nli", logits, _all_stored)

    def _add_clipscores(self, rows: list[_ScoringRow], usage: Usage) -> None:
        texts = [(row.sample.images[0].data, paragraphs(row.text)) for row in rows]
        for row, values in zip(rows, scores_of(self._clip, texts, usage), strict=True):
            row.add("clip_paragraphs", values, _all_stored)

    def _add_marks(self, rows: list[_ScoringRow], usage: Usage, answers: AnswerStore | None) -> None:
        if self._judge is None:
            return
        for row, found in zip(rows, self._judge.score([row.sample for row in rows], usage, answers), strict=True):
            if isinstance(found, str):
                row.skip("judge", found, SCORES_OF["judge"])
            else:
                row.scores.update({f"judge_{axis}": mark for axis, mark in found.items()})


@dataclass
class _ScoringRow:
    """A sample and the scores it has so far."""

    sample: Sample
    failure: BadSample | None
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.sample.rewritten or ""

    def skip(self, filter_name: str, why: str, scores: Sequence[str]) -> None:
        """Note why a filter does not score the sample."""
        self.scores.setdefault(NOT_SCORED, {})[filter_name] = why
        self.scores.update(dict.fromkeys(scores))

    def add(self, name: str, found: Any, stored: Callable[[Any], Any]) -> None:
        """Store a score; a `BadSample` in its place fails the sample, and the first one counts."""
        if isinstance(found, BadSample):
            self.failure = self.failure or BadSample(found.reason, f"{self.sample.key}: {name}: {found.detail}")
        else:
            self.scores[name] = stored(found)


def _refusal(sample: Sample, left_out: Set[str]) -> BadSample | None:
    """Return why a sample cannot be scored, as far as can be known without a model; None if it can.

    Args:
        sample: rewritten.
        left_out: filters without a model.
    """
    if sample.task not in FILTERS_OF_TASK:
        return BadSample("unsupported", f"{sample.key}: no filter supports task {sample.task!r}")
    if sample.rewritten is None:
        return BadSample("scoring_failed", f"{sample.key}: no rewritten text to score")
    if not is_writable(f"{sample.instruction}{sample.response}{sample.rewritten}"):
        return BadSample("bad_field", f"{sample.key}: a lone surrogate in the text, which no tokenizer reads")
    if "clipscore" in {*FILTERS_OF_TASK[sample.task]} - left_out and not sample.images:
        return BadSample("missing_image", f"{sample.key}: a caption cannot be scored without its image")
    return None


def _stored(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _all_stored(values: Sequence[float]) -> list[float | None]:
    return [_stored(value) for value in values]
