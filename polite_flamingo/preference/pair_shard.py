"""One shard of rated answers -> its part of every set, a line for each prompt without a pair, and counts that add up.

prompts = pairs + left out by the fraction + too close + failed, each once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.images.decoding import inspect
from polite_flamingo.preference.pairing import TOO_CLOSE, NoPair, Pair, PairingConfig, pair_of, scored
from polite_flamingo.preference.sets import (
    SETS,
    SetsConfig,
    pair_sample,
    rejection_sample,
    sft_sample,
    steerlm_samples,
)
from polite_flamingo.sample import BadSample, Quarantined, Sample

LEFT_OUT = "left_out"
"""The reason of a pair that the fraction leaves out."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Keys of the prompts whose pairs are written, and of those that are flipped; None: all, and none."""

    written: Collection[str] | None = None
    flipped: Collection[str] = ()


@dataclass(kw_only=True)
class Counts:
    """What became of the prompts.

    Attributes:
        prompts: rows of the input.
        pairs: pairs written.
        flipped: of these, those whose sides are swapped.
        unpaired: reason -> number of prompts without a pair; LEFT_OUT, of `TOO_CLOSE`, or a failure.
        samples: set -> samples written.
        absent: set -> reason -> number of prompts that have no sample in it.
        longer: pairs whose chosen side has more words; an equal number counts half.
        words: words of all chosen sides and of all rejected ones.
        scores: sum of the scores of all chosen sides and of all rejected ones.
    """

    prompts: int = 0
    pairs: int = 0
    flipped: int = 0
    unpaired: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    absent: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in SETS[1:]})
    longer: float = 0.0
    words: list[int] = field(default_factory=lambda: [0, 0])
    scores: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, for stats.json. Means are None without pairs."""
        close = {reason: self.unpaired[reason] for reason in TOO_CLOSE if self.unpaired[reason]}
        other = (*TOO_CLOSE, LEFT_OUT)
        failed = {reason: count for reason, count in self.unpaired.most_common() if reason not in other}
        sides = ("chosen", "rejected")
        return {
            "prompts": self.prompts,
            "pairs": self.pairs,
            LEFT_OUT: self.unpaired[LEFT_OUT],
            "too_close": sum(close.values()),
            "failed": sum(failed.values()),
            "reasons": {**close, **failed},
            "flipped": self.flipped,
            "sets": {name: self.samples[name] for name in SETS},
            "absent": {name: dict(reasons.most_common()) for name, reasons in self.absent.items()},
            "mean_score": {side: self._mean(total) for side, total in zip(sides, self.scores, strict=True)},
            "mean_words": {side: self._mean(total) for side, total in zip(sides, self.words, strict=True)},
            "chosen_longer": self._mean(self.longer),
        }

    def _mean(self, total: float) -> float | None:
        return round(total / self.pairs, 4) if self.pairs else None

    def note_pair(self, pair: Pair, *, flipped: bool) -> None:
        """Count a pair that is written."""
        sides = (pair.rejected, pair.chosen) if flipped else (pair.chosen, pair.rejected)
        words = [len(side.candidate.text.split()) for side in sides]
        self.pairs += 1
        self.flipped += flipped
        self.longer += 0.5 if words[0] == words[1] else float(words[0] > words[1])
        self.words = [total + count for total, count in zip(self.words, words, strict=True)]
        self.scores = [total + side.score for total, side in zip(self.scores, sides, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """A prompt without a pair, as a line of OUT/unpaired."""

    key: str
    reason: str
    detail: str


class Pairing:
    """Turns rows into sets, shard by shard; a key that came before is a failure.

    Attributes:
        counts: of all shards so far.
    """

    def __init__(self, config: PairingConfig, sets: SetsConfig, choices: Choices | None = None):
        self.config, self.sets, self.choices = config, sets, choices or Choices()
        self.counts = Counts()
        self._seen: set[str] = set()

    def paired_keys(self, rows: Iterable[Sample | Quarantined]) -> list[str]:
        """Return the keys of the prompts that give a pair. To be called for all shards, or `add` for all."""
        found = [row for row in map(self._checked, rows) if isinstance(row, Sample)]
        return [row.key for row in found if isinstance(pair_of(row, self.config, self.sets.leave_out), Pair)]

    def add(self, rows: Sequence[Sample | Quarantined]) -> tuple[dict[str, list[Sample]], list[Unpaired]]:
        """Count the rows of a shard; return set -> samples, and the prompts without a pair."""
        made: dict[str, list[Sample]] = {name: [] for name in SETS}
        unpaired = []
        for row in rows:
            checked = self._checked(row)
            if isinstance(checked, NoPair):
                outcome: Sample | NoPair = checked
                for reasons in self.counts.absent.values():
                    reasons[checked.reason] += 1
            else:
                outcome = self._paired(checked)
                self._add_others(made, checked)
            self.counts.prompts += 1
            if isinstance(outcome, Sample):
                made["pairs"].append(outcome)
            else:
                self.counts.unpaired[outcome.reason] += 1
                unpaired.append(Unpaired(key=row.key, reason=outcome.reason, detail=outcome.detail))
        self.counts.samples.update({name: len(samples) for name, samples in made.items()})
        return made, unpaired

    def _checked(self, row: Sample | Quarantined) -> Sample | NoPair:
        """Return a row if it can be in any set. Of pictures only the headers are read."""
        if isinstance(row, Quarantined):
            return NoPair(reason=row.reason, detail=row.detail)
        if row.key in self._seen:
            return NoPair(reason="duplicate_key", detail="an earlier shard has this key; the first is kept")
        self._seen.add(row.key)
        try:
            for image in row.images:
                inspect(image.data)
        except BadSample as bad:
            return NoPair(reason=bad.reason, detail=bad.detail)
        return row

    def _paired(self, sample: Sample) -> Sample | NoPair:
        pair = pair_of(sample, self.config, self.sets.leave_out)
        if isinstance(pair, NoPair):
            return pair
        if self.choices.written is not None and sample.key not in self.choices.written:
            return NoPair(reason=LEFT_OUT, detail=f"of the pairs, {self.config.fraction:g} are written")
        flipped = sample.key in self.choices.flipped
        self.counts.note_pair(pair, flipped=flipped)
        return pair_sample(sample, pair, self.config, flipped=flipped)

    def _add_others(self, made: dict[str, list[Sample]], sample: Sample) -> None:
        """Add a prompt to the sets beside the pairs."""
        answers = scored(sample, self.config, self.sets.leave_out)
        steered = [*steerlm_samples(sample, answers)]
        made["steerlm"] += steered
        if not steered:
            self.counts.absent["steerlm"]["not_rated"] += 1
        for name, found in (
            ("rejection", rejection_sample(sample, answers, self.sets, self.config)),
            ("sft", sft_sample(sample, self.sets)),
        ):
            if isinstance(found, str):
                self.counts.absent[name][found] += 1
            else:
                made[name].append(found)
