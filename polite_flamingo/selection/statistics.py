"""The numbers of a selection, which merge: counts, histograms, and the few samples worth looking at.

One `Statistics` a shard; `merge` adds another one in. Its size depends on the number of datasets, reasons and
thresholds, never on the number of rows, and the result does not depend on the order of merging: sums are of whole
ten-thousandths (scores have four decimals), and the samples are chosen by rank, ties broken by a digest of the key.

It holds no texts and no images: a sample to look at is named by its shard and key (`report/gallery.py` fetches them).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.thresholds import CHECKS, REJECTIONS, UNSCORED
from polite_flamingo.sample import Quarantined
from polite_flamingo.selection.histograms import Curve, Histogram, Mean, histogram_of
from polite_flamingo.world import mostly_foreign

PICKS = 4
"""Samples remembered in each slot of the gallery."""

REWARD_STEP = 0.1

UNKNOWN = "(unknown)"
"""The dataset of what has no readable key."""


@dataclass(kw_only=True)
class DatasetCounts:
    """One dataset's row of the funnel: `rows == kept + rejected + quarantined`.

    `foreign` of the kept and rejected have words that the models never met (`world.py`).
    """

    tasks: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    paragraphs_removed: int = 0
    foreign: int = 0
    reward_raw: Mean = field(default_factory=Mean)
    reward: Mean = field(default_factory=Mean)
    reward_raw_kept: Mean = field(default_factory=Mean)
    reward_kept: Mean = field(default_factory=Mean)

    @property
    def rows(self) -> int:
        """Everything that came in."""
        return self.kept + self.rejected.total() + self.quarantined.total()

    def merge(self, other: DatasetCounts) -> None:
        """Add the other's rows."""
        self.tasks.update(other.tasks)
        self.kept += other.kept
        self.rejected.update(other.rejected)
        self.quarantined.update(other.quarantined)
        self.paragraphs_removed += other.paragraphs_removed
        self.foreign += other.foreign
        for name in ("reward_raw", "reward", "reward_raw_kept", "reward_kept"):
            getattr(self, name).merge(getattr(other, name))


@dataclass(frozen=True, kw_only=True, order=True)
class Pick:
    """A sample worth looking at; smaller ones come first. `tie` is a digest of the key and breaks ties at random."""

    rank: float
    tie: str
    key: str
    shard: str


def pick(key: str, shard: str, rank: float = 0.0) -> Pick:
    """Make a pick. Without a rank, picks are a random choice that stays the same for the same keys."""
    return Pick(rank=rank, tie=_tie(key), key=key, shard=shard)


def _curves() -> dict[str, Curve]:
    found = {}
    for check in CHECKS:
        upper = check.sense in ("above", "at_most")
        found[check.filter] = Curve(
            scores=Histogram(step=check.step, upper=upper), deciding=Histogram(step=check.step, upper=upper)
        )
    return found


@dataclass(kw_only=True)
class Statistics:
    """Everything the report says, apart from the samples' own texts and images.

    Attributes:
        datasets: counts by dataset.
        curves: by check.
        also: how many rejected samples fail each check, whether or not it was the first.
        reward_raw: of the annotations; `reward`: of the rewritten; `reward_kept`: of the kept ones among these.
        picks: the gallery's samples by slot, see `selection.py`.
        quarantine: a few records of each reason.
    """

    datasets: dict[str, DatasetCounts] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=_curves)
    also: Counter[str] = field(default_factory=Counter)
    reward_raw: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    reward: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    reward_kept: Histogram = field(default_factory=lambda: Histogram(step=REWARD_STEP))
    picks: dict[str, list[Pick]] = field(default_factory=dict)
    quarantine: dict[str, list[Quarantined]] = field(default_factory=dict)

    def dataset(self, name: str) -> DatasetCounts:
        """The counts of a dataset, made when first asked for."""
        return self.datasets.setdefault(name, DatasetCounts())

    def total(self) -> DatasetCounts:
        """All datasets together."""
        total = DatasetCounts()
        for counts in self.datasets.values():
            total.merge(counts)
        return total

    def of_another_world(self) -> dict[str, tuple[int, int]]:
        """The datasets whose rows the models cannot know: foreign rows, and rows that have a text to tell by."""
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
            del found[PICKS:]

    def offer(self, slot: str, candidate: Pick) -> None:
        """Remember the candidate if it is among the best of its slot."""
        found = self.picks.setdefault(slot, [])
        if len(found) < PICKS or candidate < found[-1]:
            found.append(candidate)
            found.sort()
            del found[PICKS:]

    def merge(self, other: Statistics) -> None:
        """Add the other's rows; in any order, the sum is the same."""
        for name, counts in other.datasets.items():
            self.dataset(name).merge(counts)
        for name, curve in other.curves.items():
            self.curves[name].merge(curve)
        self.also.update(other.also)
        for name in ("reward_raw", "reward", "reward_kept"):
            getattr(self, name).merge(getattr(other, name))
        for slot, found in other.picks.items():
            self.picks[slot] = sorted([*self.picks.get(slot, []), *found])[:PICKS]
        for reason, rows in other.quarantine.items():
            self.quarantine[reason] = sorted([*self.quarantine.get(reason, []), *rows], key=_quarantine_rank)[:PICKS]

    def to_json(self) -> dict[str, Any]:
        """JSON types only, equal for equal statistics; `from_json` is its inverse."""
        return dict(_plain(self))

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_json`."""
        return Statistics(
            datasets={name: _dataset(counts) for name, counts in record["datasets"].items()},
            curves={
                name: Curve(
                    scores=histogram_of(curve["scores"]),
                    deciding=histogram_of(curve["deciding"]),
                    kept=curve["kept"],
                    unscored=curve["unscored"],
                )
                for name, curve in record["curves"].items()
            },
            also=Counter(record["also"]),
            reward_raw=histogram_of(record["reward_raw"]),
            reward=histogram_of(record["reward"]),
            reward_kept=histogram_of(record["reward_kept"]),
            picks={slot: [Pick(**found) for found in picks] for slot, picks in record["picks"].items()},
            quarantine={reason: [Quarantined(**row) for row in rows] for reason, rows in record["quarantine"].items()},
        )


def rejections(counts: DatasetCounts) -> Iterator[tuple[str, int]]:
    """The reasons that occurred, in the order in which samples are asked."""
    return ((reason, counts.rejected[reason]) for reason in REJECTIONS if counts.rejected[reason])


def stage_of(reason: str) -> str:
    """The stage of the funnel at which a reason takes samples out: duplicates, rules, sts, clipscore, nli, unscored."""
    if reason in ("duplicate_key", UNSCORED):
        return {"duplicate_key": "duplicates", UNSCORED: UNSCORED}[reason]
    return next(check.stage for check in CHECKS if check.reason == reason)


def dataset_of(row: Quarantined) -> str:
    """The dataset a quarantined row belongs to as far as its key tells; a shard that cannot be read has none."""
    dataset, slash, _ = row.key.partition("/")
    return dataset if slash and dataset else UNKNOWN


def _quarantine_rank(row: Quarantined) -> tuple[str, str, int, str]:
    return _tie(f"{row.shard}#{row.index}#{row.key}"), row.shard, row.index, row.key


def _tie(name: str) -> str:
    """Return a digest that puts names in an order which nobody chose."""
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
    return DatasetCounts(
        tasks=Counter(record["tasks"]),
        kept=record["kept"],
        rejected=Counter(record["rejected"]),
        quarantined=Counter(record["quarantined"]),
        paragraphs_removed=record["paragraphs_removed"],
        foreign=record["foreign"],
        **{name: Mean(**record[name]) for name in ("reward_raw", "reward", "reward_raw_kept", "reward_kept")},
    )
