"""Worlds: warn when tiny models, which know only one small world, get input from another.

A model folder may contain a `world.json` with the name of the small world the model was trained on and every word in
it. The zoo's models know only Shapes. Published weights have no such file and are assumed to know everything.

A row is foreign if its instruction or annotation has a word that the models never saw. A few such rows are normal (one
row in eight of the demo says "crimson disc" on purpose, up to one in five of a dataset). A dataset is from another
world if more than half of its rows are foreign: at most a fifth of Shapes are, and at least nine tenths of every real
dataset that was tried. Only words are checked, so known words about other pictures pass.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from polite_flamingo.sample import IMAGE_MARK, Sample

FILE = "world.json"
ANOTHER = 0.5
"""A dataset is from another world if more than this share of its rows is foreign."""
SHARDS_CHECKED = 20
ROWS_CHECKED = 100
"""Rows per shard that `count_foreign_rows` reads."""

Opener = Callable[[], BinaryIO]
"""Opens a tar."""

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class World:
    """The only world that some models of a run know.

    Attributes:
        name: name of the world.
        what: its contents, in a few words.
        words: words known to the models, in lower case.
        models: names of the run's models that know only this world.
    """

    name: str
    what: str
    words: frozenset[str]
    models: tuple[str, ...] = ()

    def unknown(self, *texts: str) -> set[str]:
        """Return the words of the texts that the models never saw."""
        return words_of(*texts) - self.words

    def is_foreign(self, sample: Sample) -> bool:
        """Whether the sample's instruction or annotation has a word that the models never saw."""
        return bool(self.unknown(*(text for turn in sample.turns for text in (turn.instruction, turn.response))))

    def warning(self, foreign: Mapping[str, tuple[int, int]], words: Sequence[str] = ()) -> str:
        """Return a warning about datasets from another world; "" if there are none.

        Args:
            foreign: (foreign rows, rows) by dataset, from `mostly_foreign`.
            words: examples of unknown words.
        """
        if not foreign:
            return ""
        rows = ", ".join(f"{count:,} of {of:,} rows of {name}" for name, (count, of) in sorted(foreign.items()))
        examples = f" ({', '.join(words)} …)" if words else ""
        return (
            f"another world: {', '.join(self.models)} know only {self.name} ({self.what}), and {rows} use words that "
            f"they never saw{examples}. Rewrites and scores of such rows mean little: wrong answers may be kept."
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return {**dataclasses.asdict(self), "words": sorted(self.words), "models": list(self.models)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> World:
        """Read what `to_json` wrote."""
        models = tuple(record.get("models", ()))
        return World(name=record["name"], what=record["what"], words=frozenset(record["words"]), models=models)


def words_of(*texts: str) -> set[str]:
    """Return the distinct words of texts, in lower case, without numbers, signs and image marks."""
    return {word for text in texts for word in _WORD.findall(text.replace(IMAGE_MARK, " ").casefold())}


def mostly_foreign(counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Select the datasets from another world, given (foreign rows, rows) by dataset."""
    return {name: (foreign, rows) for name, (foreign, rows) in counts.items() if foreign > ANOTHER * rows}


@dataclass(kw_only=True)
class ForeignRows:
    """Foreign rows of an input: (foreign rows, rows) by dataset, and the unknown words."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, world: World, dataset: str, texts: Iterable[str]) -> None:
        """Count one row."""
        unknown = world.unknown(*texts)
        foreign, rows = self.counts.get(dataset, (0, 0))
        self.counts[dataset] = (foreign + bool(unknown), rows + 1)
        self.words.update(unknown)


def count_foreign_rows(world: World, shards: Mapping[str, Opener]) -> ForeignRows:
    """Check the texts of the first rows of some shards, one of each series that ingest numbered.

    Unreadable shards and rows are skipped here; the build quarantines them with their reason.

    Args:
        world: the world that the models know.
        shards: name -> what opens it.
    """
    found = ForeignRows()
    first: dict[str, Opener] = {}
    for name, opener in shards.items():
        first.setdefault(re.sub(r"[-_]?\d+$", "", name), opener)
    for opener in list(first.values())[:SHARDS_CHECKED]:
        for record in _records(opener, ROWS_CHECKED):
            turns = record.get("turns")
            turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
            texts = [turn[name] for turn in turns for name in ("instruction", "response") if name in turn]
            if texts and all(isinstance(text, str) for text in texts):
                found.add(world, str(record.get("dataset")), texts)
    return found


def _records(opener: Opener, rows: int) -> Iterable[dict[str, Any]]:
    try:
        with opener() as opened, tarfile.open(fileobj=opened) as tar:
            for member in tar:
                if rows and member.isfile() and member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    record = json.loads(file.read()) if file else None
                    rows -= 1
                    if isinstance(record, dict):
                        yield record
                elif not rows:
                    return
    except (OSError, tarfile.TarError, ValueError, EOFError, RecursionError):
        return
