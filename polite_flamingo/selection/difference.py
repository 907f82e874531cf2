"""What another selection changed: which samples came in and went out, by reason and by dataset.

A selection leaves one record a sample (`selection.py`: key, dataset, keep, reason); two selections of the same scores
are compared shard by shard, so memory holds one shard's records. Differences merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = "kept"


@dataclass(kw_only=True)
class Difference:
    """Between two selections.

    Attributes:
        thresholds: those that moved, with the value before and now.
        moves: samples by what became of them before and now, where that differs: a reason, or "kept".
        came_in: by dataset, kept now and not before; `went_out`: the other way; `kept`: now.
        new: samples that the selection before did not know (of shards that came since, or were replayed).
        gone: samples that only the selection before knew.
        paragraphs: removed from kept texts by CLIPScore, before and now.
    """

    thresholds: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    came_in: Counter[str] = field(default_factory=Counter)
    went_out: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    new: int = 0
    gone: int = 0
    paragraphs: tuple[int, int] = (0, 0)

    def compare(self, before: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> None:
        """Add a shard's records of both selections."""
        known = {record["key"]: record for record in before}
        for record in now:
            dataset, fate = record["dataset"], _fate(record)
            self.kept[dataset] += record["keep"]
            old = known.pop(record["key"], None)
            if old is None:
                self.new += 1
                self.came_in[dataset] += record["keep"]
            elif _fate(old) != fate:
                self.moves[_fate(old), fate] += 1
                self.came_in[dataset] += record["keep"]
                self.went_out[dataset] += old["keep"]
        for old in known.values():
            self.gone += 1
            self.went_out[old["dataset"]] += old["keep"]

    @property
    def nothing(self) -> bool:
        """Whether both keep the same texts and reject the others for the same reasons."""
        return not (self.moves or self.new or self.gone) and self.paragraphs[0] == self.paragraphs[1]

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each thing to tell, for a table."""
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
            rows.append(("  samples that are gone", f"{self.gone:,}"))
        if self.paragraphs[0] != self.paragraphs[1]:
            rows.append(("  paragraphs removed", f"{self.paragraphs[0]:,} -> {self.paragraphs[1]:,}"))
        for name in sorted(self.came_in.keys() | self.went_out.keys()):
            came, went, kept = self.came_in[name], self.went_out[name], self.kept[name]
            if came or went:
                rows.append((name, f"{kept - came + went:,} -> {kept:,} ({came:,} in, {went:,} out)"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {**vars(self), "moves": {f"{old} -> {now}": count for (old, now), count in self.moves.most_common()}}


def _fate(record: Mapping[str, Any]) -> str:
    return KEPT if record["keep"] else str(record["reason"])


def _value(value: Any) -> str:
    return "not asked" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()
