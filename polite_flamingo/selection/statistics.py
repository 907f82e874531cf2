"""Statistics of a selection that can be merged: counts, histograms, and a few samples to look at.

There is one `Statistics` per shard; `merge` adds another. Its size depends on the number of datasets, reasons and
thresholds, not on the number of rows, and the order of merging does not matter: sums are of whole ten-thousandths
(scores have four decimals), and samples are chosen by rank, with ties broken by a digest of the key.

It holds no texts and no images: a sample to look at is a shard and a key (`report/gallery.py` fetches it).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.thresholds import CHECKS, REJECTIONS, TURN_FAILED, UNSCORED, Check
from polite_flamingo.sample import Quarantined
from polite_flamingo.selection.histograms import Curve, Histogram, Mean, histogram_of
from polite_flamingo.world import mostly_foreign

MAX_PICKS = 4
"""Most samples per slot of the gallery."""

REWARD_STEP = 0.1
REWARDS = ("reward_raw", "reward", "reward_raw_kept", "reward_kept")
"""The mean rewards of a dataset: of annotations and of rewritten texts, each of all samples and of the kept ones."""

KEPT = "kept"
WITH_CONVERSATION = "with_conversation"
"""The reason of a turn that passes, in a conversation that is rejected or cut before it."""

UNKNOWN = "(unknown)"
"""The dataset of rows without a readable key."""


@dataclass(kw_only=True)
class DatasetCounts:
    """Counts of one dataset: `rows == kept + rejected + quarantined`.

    `foreign` counts the kept and rejected samples with words that the models never saw (`world.py`). `conversations`
    counts those of several turns, and `turns` their turns: `KEPT`, or why not. `not_scored` counts texts by
    "FILTER: why it did not score them".
    """

    tasks: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    paragraphs_removed: int = 0
    foreign: int = 0
    conversations: int = 0
    turns: Counter[str] = field(default_factory=Counter)
    not_scored: Counter[str] = field(default_factory=Counter)
    reward_raw: Mean = field(default_factory=Mean)
    reward: Mean = field(default_factory=Mean)
    reward_raw_kept: Mean = field(default_factory=Mean)
    reward_kept: Mean = field(default_factory=Mean)

    @property
    def rows(self) -> int:
        """All rows that were read."""
        return self.kept + self.rejected.total() + self.quarantined.total()

    def merge(self, other: DatasetCounts) -> None:
        """Add the other's rows."""
        self.tasks.update(other.tasks)
        self.kept += other.kept
        self.rejected.update(other.rejected)
        self.quarantined.update(other.quarantined)
        self.paragraphs_removed += other.paragraphs_removed
        self.foreign += other.foreign
        self.conversations += other.conversations
        self.turns.update(other.turns)
        self.not_scored.update(other.not_scored)
        for name in REWARDS:
            getattr(self, name).merge(getattr(other, name))


@dataclass(frozen=True, kw_only=True, order=True)
class Pick:
    """A sample to look at, sorted by rank. `tie` is a digest of the key, which breaks ties at random."""

    rank: float
    tie: str
    key: str
    shard: str


def pick(key: str, shard: str, rank: float = 0.0) -> Pick:
    """Make a pick. Without a rank, picks are a random choice that depends only on the keys."""
    return Pick(rank=rank, tie=_tie(key), key=key, shard=shard)


def _curves() -> dict[str, Curve]:
    def empty(check: Check) -> Histogram:
        return Histogram(step=check.step, upper=check.comparison in ("above", "at_most"))

    return {check.name: Curve(scores=empty(check), deciding=empty(check)) for check in CHECKS}


@dataclass(kw_only=True)
class Statistics:
    """Everything that the report shows, apart from texts and images of samples.

    Attributes:
        datasets: counts by dataset.
        curves: what-if curves by check.
        reward_raw: rewards of the annotations.
        reward: rewards of the rewritten texts.
        reward_kept: rewards of the kept texts.
        picks: the gallery's samples by slot, see `select_shard.py`.
        quarantine: a few quarantined rows per reason.
    """

    datasets: dict[str, DatasetCounts] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=_curves)
    reward_raw: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    reward: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    reward_kept: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    picks: dict[str, list[Pick]] = field(default_factory=dict)
    quarantine: dict[str, list[Quarantined]] = field(default_factory=dict)

    def dataset(self, name: str) -> DatasetCounts:
        """Return the counts of a dataset, created on first use."""
        return self.datasets.setdefault(name, DatasetCounts())

    def total(self) -> DatasetCounts:
        """Add up all datasets."""
        total = DatasetCounts()
        for counts in self.datasets.values():
            total.merge(counts)
        return total

    def of_another_world(self) -> dict[str, tuple[int, int]]:
        """Return the datasets from a world that the models do not know -> (foreign rows, readable rows)."""
        return mostly_foreign(
            {name: (counts.foreign, counts.kept + counts.rejected.total()) for name, counts in self.datasets.items()}
        )

    def count_quarantined(self, rows: Iterable[Quarantined]) -> None:
        """Count the records of a shard's quarantine file."""
        for row in rows:
            self.dataset(dataset_of(row)).quarantined[row.reason] += 1
            found = self.quarantine.setdefault(row.reason, [])
            found.append(row)
            found.sort(key=_quarantine_rank)
            del found[MAX_PICKS:]

    def offer(self, slot: str, candidate: Pick) -> None:
        """Keep the candidate if it is among the best of its slot."""
        found = self.picks.setdefault(slot, [])
        if len(found) < MAX_PICKS or candidate < found[-1]:
            found.append(candidate)
            found.sort()
            del found[MAX_PICKS:]

    def merge(self, other: Statistics) -> None:
        """Add the other's rows; the order of merging does not matter."""
        for name, counts in other.datasets.items():
            self.dataset(name).merge(counts)
        for name, curve in other.curves.items():
            self.curves[name].merge(curve)
        for name in ("reward_raw", "reward", "reward_kept"):
            getattr(self, name).merge(getattr(other, name))
        for slot, found in other.picks.items():
            self.picks[slot] = sorted([*self.picks.get(slot, []), *found])[:MAX_PICKS]
        for reason, rows in other.quarantine.items():
            both = [*self.quarantine.get(reason, []), *rows]
            self.quarantine[reason] = sorted(both, key=_quarantine_rank)[:MAX_PICKS]

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, equal for equal statistics; `from_json` is the inverse."""
        return dict(_plain(self))

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Statistics:
        """Read what `to_json` wrote."""
        return Statistics(
            datasets={name: _dataset(counts) for name, counts in record["datasets"].items()},
            curves={
                name: Curve(
                    **{**curve, "scores": histogram_of(curve["scores"]), "deciding": histogram_of(curve["deciding"])}
                )
                for name, curve in record["curves"].items()
            },
            **{name: histogram_of(record[name]) for name in ("reward_raw", "reward", "reward_kept")},
            picks={slot: [Pick(**found) for found in picks] for slot, picks in record["picks"].items()},
            quarantine={reason: [Quarantined(**row) for row in rows] for reason, rows in record["quarantine"].items()},
        )


def rejections(counts: DatasetCounts) -> Iterator[tuple[str, int]]:
    """Yield the reasons that occurred, in the order of the filters."""
    return ((reason, counts.rejected[reason]) for reason in REJECTIONS if counts.rejected[reason])


def stage_of(reason: str) -> str:
    """Return the stage at which a reason rejects: a filter, "duplicates", `UNSCORED` or `TURN_FAILED`."""
    stages = {check.reason: check.filter for check in CHECKS}
    return {**stages, "duplicate_key": "duplicates", UNSCORED: UNSCORED, TURN_FAILED: TURN_FAILED}[reason]


def dataset_of(row: Quarantined) -> str:
    """Return the dataset of a quarantined row by its key; an unreadable shard has none."""
    dataset, slash, _ = row.key.partition("/")
    return dataset if slash and dataset else UNKNOWN


def _quarantine_rank(row: Quarantined) -> tuple[str, str, int, str]:
    return _tie(f"{row.shard}#{row.index}#{row.key}"), row.shard, row.index, row.key


def _tie(name: str) -> str:
    """Return a digest that puts names into a random but fixed order."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float) or value is None:
        return value
    return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}


def _dataset(record: Mapping[str, Any]) -> DatasetCounts:
    counters = {
        name: Counter(record.get(name, {})) for name in ("tasks", "rejected", "quarantined", "turns", "not_scored")
    }
    return DatasetCounts(**{**record, **counters, **{name: Mean(**record[name]) for name in REWARDS}})
