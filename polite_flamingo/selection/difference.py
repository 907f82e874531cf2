"""Compare two selections of the same scores: samples added and removed, by reason and by dataset.

A selection writes one record per sample (`select_shard.py`: key, dataset, keep, reason). Records are compared shard by
shard, so memory holds only one shard's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = "kept"


@dataclass(kw_only=True)
class Difference:
    """The difference between the previous selection and this one.

    Attributes:
        thresholds: thresholds that changed -> (previous value, new value).
        moves: (previous result, new result) -> number of samples; a result is "kept" or the reason of a rejection.
        came_in: number of samples that are kept now and were not before, by dataset.
        went_out: number of samples that were kept before and are not now, by dataset.
        kept: number of samples kept now, by dataset.
        new: number of samples that only this selection saw (in new or replayed shards).
        gone: number of samples that only the previous selection saw.
        paragraphs: number of paragraphs that CLIPScore removed from kept texts, before and now.
        turns_in: number of turns of conversations that are kept now and were not before, in samples that both saw.
        turns_out: number of turns that were kept before and are not now, likewise.
    """

    thresholds: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    came_in: Counter[str] = field(default_factory=Counter)
    went_out: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    new: int = 0
    gone: int = 0
    paragraphs: tuple[int, int] = (0, 0)
    turns_in: int = 0
    turns_out: int = 0

    def compare(self, before: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> None:
        """Add a shard's records of both selections."""
        known = {record["key"]: record for record in before}
        for record in now:
            dataset, outcome = record["dataset"], _outcome(record)
            self.kept[dataset] += record["keep"]
            old = known.pop(record["key"], None)
            if old is not None:
                turns_before, turns_now = _kept_turns(old), _kept_turns(record)
                self.turns_in += len(turns_now - turns_before)
                self.turns_out += len(turns_before - turns_now)
            if old is None:
                self.new += 1
                self.came_in[dataset] += record["keep"]
            elif _outcome(old) != outcome:
                self.moves[_outcome(old), outcome] += 1
                self.came_in[dataset] += record["keep"]
                self.went_out[dataset] += old["keep"]
        for old in known.values():
            self.gone += 1
            self.went_out[old["dataset"]] += old["keep"]

    def merge(self, other: Difference) -> None:
        """Add what has changed in another shard."""
        for name in ("moves", "came_in", "went_out", "kept"):
            getattr(self, name).update(getattr(other, name))
        for name in ("new", "gone", "turns_in", "turns_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def nothing(self) -> bool:
        """Whether both selections keep the same texts and reject the others for the same reasons."""
        changes = self.moves or self.new or self.gone or self.turns_in or self.turns_out
        return not changes and self.paragraphs[0] == self.paragraphs[1]

    def rows(self) -> list[tuple[str, str]]:
        """Return the difference as (label, value) rows of a table."""
        moved = ", ".join(f"{name} {_value(old)} -> {_value(now)}" for name, (old, now) in self.thresholds.items())
        rows = [("thresholds", moved or "the same")]
        came, went, kept = self.came_in.total(), self.went_out.total(), self.kept.total()
        if self.nothing:
            return [*rows, ("changed", f"nothing: the same {kept:,} samples are kept")]
        rows.append((KEPT, f"{kept - came + went:,} -> {kept:,} ({came:,} came in, {went:,} went out)"))
        rows += [(f"  {old} -> {now}", f"{count:,}") for (old, now), count in self.moves.most_common()]
        if self.new:
            rows.append(("  new samples", f"{self.new:,}"))
        if self.gone:
            rows.append(("  missing samples", f"{self.gone:,}"))
        if self.turns_in or self.turns_out:
            turns = f"{self.turns_in:,} came in, {self.turns_out:,} went out"
            rows.append(("  turns of conversations", turns))
        if self.paragraphs[0] != self.paragraphs[1]:
            rows.append(("  paragraphs removed", f"{self.paragraphs[0]:,} -> {self.paragraphs[1]:,}"))
        for name in sorted(self.came_in.keys() | self.went_out.keys()):
            came, went, kept = self.came_in[name], self.went_out[name], self.kept[name]
            if came or went:
                rows.append((name, f"{kept - came + went:,} -> {kept:,} ({came:,} in, {went:,} out)"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {**vars(self), "moves": {f"{old} -> {now}": count for (old, now), count in self.moves.most_common()}}


def _outcome(record: Mapping[str, Any]) -> str:
    return KEPT if record["keep"] else str(record["reason"])


def _kept_turns(record: Mapping[str, Any]) -> set[int]:
    return {turn["turn"] for turn in record.get("turns", ()) if turn["keep"]}


def _value(value: Any) -> str:
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()
