"""What `export` reads: the selection of a build, or shards of pairs and rated answers.

Formats of pairs and ratings read OUT/pairs of `pair`; `ratings` reads all prompts that `pair` read, with a pair or not.
Any other folder of shards is read as it is, such as imported pairs.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

from polite_flamingo.exports.card import contents_of, counts_of
from polite_flamingo.exports.formats import Export, Format
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.preference.formats import card as preference_card
from polite_flamingo.preference.formats.exports import PreferenceFormat
from polite_flamingo.sample import Sample
from polite_flamingo.selection.card import card
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.ledger import OutputLayout, undamaged
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.provenance import Annotations
from polite_flamingo.storage.run_info import read_run, read_stats
from polite_flamingo.storage.shards import read_shard
from polite_flamingo.storage.tar_export import FOLDER

SHARDS_AHEAD = 2
"""Shards that are read, and held, while one is written."""

DATASET_INFO: dict[str, Any] = {
    "file_name": "data",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}
"""The description of `sharegpt` for LLaMA-Factory."""


class ExportInput(ABC):
    """Shards to export, and what is known of them.

    Attributes:
        folder: where they lie.
        remedy: what to do if they are damaged.
    """

    folder: Location
    remedy: str

    @abstractmethod
    def state(self) -> str:
        """Return what tells one state of the input from another."""

    @abstractmethod
    def expected(self) -> int | None:
        """Return the number of samples that their job counted; None if none did."""

    @abstractmethod
    def paths(self) -> Mapping[str, Location]:
        """Return the shards by name, in order."""

    @abstractmethod
    def counts(self, made: Export) -> str:
        """Return one line about a finished export."""

    @abstractmethod
    def describe(self, target: Location, made: Export) -> None:
        """Write the card, and for LLaMA-Factory its description."""

    def shards(self) -> Iterator[Sequence[Sample]]:
        """Yield the samples, shard by shard. Raises `ValueError` for a damaged shard."""
        paths = self.paths()
        for place, rows in zip(paths.values(), in_order(read_shard, paths.values(), SHARDS_AHEAD), strict=True):
            samples = [row for row in rows if isinstance(row, Sample)]
            if len(samples) != len(rows):
                raise ValueError(f"{place} is damaged; {self.remedy}")
            yield samples


class Selection(ExportInput):
    """The kept samples of a build."""

    remedy = "run polite-flamingo select again"

    def __init__(self, out: str, name: Format):
        """Raise `ValueError` if OUT has no finished selection."""
        self._layout, self._name = OutputLayout(root=out), name
        self.folder = self._layout.root / FOLDER
        if not self._layout.stats.exists() or "kept" not in read_stats(self._layout):
            raise ValueError(f"{out} holds no finished selection; run polite-flamingo build or select first")

    def state(self) -> str:
        """Return the digest of the figures."""
        return hashlib.sha256(self._layout.stats.read_bytes()).hexdigest()

    def expected(self) -> int:
        """Return the number of kept samples."""
        return int(read_stats(self._layout)["kept"])

    def paths(self) -> Mapping[str, Location]:
        """Return the tars of the selection."""
        return {name: self.folder / f"{name}.tar" for name in sorted(self.folder.names(".tar"))}

    def counts(self, made: Export) -> str:
        """Return one line of counts."""
        return counts_of(self._name, made)

    def describe(self, target: Location, made: Export) -> None:
        """Write the card, and for LLaMA-Factory its description."""
        layout = self._layout
        stats, run = read_stats(layout), read_run(layout)
        if run is None:
            raise ValueError(f"{layout.run} is missing, which says how the samples were made; run the same build again")
        with undamaged(layout.stats, self.remedy):
            statistics, thresholds = Statistics.from_json(stats["statistics"]), Thresholds(**stats["thresholds"])
            origin = stats["annotations"]
            annotations = Annotations(**{**origin, "names": tuple(origin["names"])})
        (target / "README.md").put(card(statistics, thresholds, run, annotations, contents_of(self._name, made)))
        if self._name == "sharegpt":
            write_dataset_info(target, DATASET_INFO)


class Preferences(ExportInput):
    """Pairs or rated answers."""

    remedy = "run the job that wrote it again"

    def __init__(self, out: str, name: PreferenceFormat):
        """Raise `ValueError` if OUT has no shards, or `pair` has not finished there."""
        self.folder, self._name = location(out), name
        self._stats: dict[str, Any] = {}
        source = out
        if (note := self.folder / "pairing.json").exists():
            stats = self.folder / "stats.json"
            if not stats.exists():
                raise ValueError(f"{out} holds no finished pairs; run polite-flamingo pair again")
            with undamaged(note, "run polite-flamingo pair again"):
                self._stats = json.loads(stats.read_text())
                source = json.loads(note.read_text())["input"] if name == "ratings" else str(self.folder / "pairs")
        self._shards = shard_names(source)

    def state(self) -> str:
        """Return a digest of the shards' names and tags."""
        heads = [(name, place.head()) for name, place in self._shards.items()]
        return hashlib.sha256(json.dumps([(name, head and head.tag) for name, head in heads]).encode()).hexdigest()

    def expected(self) -> int | None:
        """Return the number of pairs."""
        return self._stats["pairs"] if self._stats and self._name != "ratings" else None

    def paths(self) -> Mapping[str, Location]:
        """Return the shards."""
        return self._shards

    def counts(self, made: Export) -> str:
        """Return one line of counts."""
        return preference_card.counts_of(self._name, made)

    def describe(self, target: Location, made: Export) -> None:
        """Write the card, and for LLaMA-Factory its description."""
        (target / "README.md").put(preference_card.card(self._name, made, self._stats))
        if info := preference_card.DATASET_INFO.get(self._name):
            write_dataset_info(target, info)


def write_dataset_info(target: Location, info: Mapping[str, Any]) -> None:
    """Write LLaMA-Factory's description of an export."""
    (target / "dataset_info.json").put(json.dumps({"polite_flamingo": info}, indent=2) + "\n")


def input_of(out: str, name: str) -> ExportInput:
    """Return what a format is made of. Raises `ValueError` if it is not there."""
    if name in get_args(PreferenceFormat):
        return Preferences(out, cast(PreferenceFormat, name))
    return Selection(out, cast(Format, name))
