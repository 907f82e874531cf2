"""What world a model knows, and whether an input is of another one.

A model folder may hold a `world.json`: the name of the one small world that the model was trained on, and every word it
has met there. The zoo's models know Shapes alone; published weights have no such file and are taken to know the world.

A row is foreign when its instruction or its annotation has a word that the models never met. Single words are not held
against a dataset (one row in eight of the demo says "crimson disc" on purpose, up to one in five of a dataset); a
dataset is of another world when more than half of its rows are foreign: of Shapes at most a fifth are, of every real
dataset that was tried nine tenths or more. Pictures are not looked at: known words about other pictures pass.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, Sample

FILE = "world.json"
ANOTHER = 0.5
"""Share of a dataset's rows from which on (exclusive) it is of another world; see above."""

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class World:
    """The one world that some models of a run know.

    Attributes:
        name: of the world.
        what: what it consists of, in a few words.
        words: that the models have met, in lower case.
        models: the names of those of the run that know no other.
    """

    name: str
    what: str
    words: frozenset[str]
    models: tuple[str, ...] = ()

    def unknown(self, *texts: str) -> set[str]:
        """The words of the texts that the models never met."""
        return words_of(*texts) - self.words

    def is_foreign(self, sample: Sample) -> bool:
        """Whether the sample's instruction or annotation has such a word."""
        return bool(self.unknown(*(text for turn in sample.turns for text in (turn.instruction, turn.response))))

    def warning(self, foreign: Mapping[str, tuple[int, int]], words: Sequence[str] = ()) -> str:
        """What to say of datasets of another world: foreign rows, and of how many, by name; "" of none.

        Args:
            foreign: from `another`.
            words: examples of what was not known.
        """
        if not foreign:
            return ""
        rows = ", ".join(f"{count:,} of {of:,} rows of {name}" for name, (count, of) in sorted(foreign.items()))
        examples = f" ({', '.join(words)} …)" if words else ""
        return (
            f"another world: {', '.join(self.models)} know only {self.name} ({self.what}), and {rows} use words that "
            f"they never met{examples}. What is written about such rows, and how it is judged, means little: wrong "
            "answers may be kept."
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types only; `from_json` is its inverse."""
        return {**dataclasses.asdict(self), "words": sorted(self.words), "models": list(self.models)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> World:
        """Inverse of `to_json`."""
        models = tuple(record.get("models", ()))
        return World(name=record["name"], what=record["what"], words=frozenset(record["words"]), models=models)


def words_of(*texts: str) -> set[str]:
    """The distinct words of texts, in lower case; numbers, signs and image marks are none."""
    return {word for text in texts for word in _WORD.findall(text.replace(IMAGE_MARK, " ").casefold())}


def world_of(names: Iterable[str]) -> World | None:
    """The world that models know, by their names in a profile; None where none of them is confined to one.

    Of models of several worlds the first one's is given, with the models that share it.

    Raises:
        ValueError: a `world.json` does not hold a world.
    """
    from polite_flamingo.hub import resolve  # which imports torch: a selection reads its world from OUT/run.json

    found: World | None = None
    models: list[str] = []
    for name in names:
        path = Path(resolve(name))
        file = (path if path.is_dir() else path.parent) / FILE
        if not file.is_file():
            continue
        try:
            world = World.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} does not hold a world ({error}): name, what, words") from None
        found = found or world
        if world.name == found.name and (folder := _folder_name(name)) not in models:
            models.append(folder)
    return dataclasses.replace(found, models=tuple(models)) if found else None


def another(counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Those datasets that are of another world, of (foreign rows, rows) by dataset."""
    return {name: (foreign, rows) for name, (foreign, rows) in counts.items() if foreign > ANOTHER * rows}


@dataclass(kw_only=True)
class Look:
    """A first look at an input: (foreign rows, rows) by dataset, and the words that were not known."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, world: World, dataset: str, texts: Iterable[str]) -> None:
        """Count one row."""
        unknown = world.unknown(*texts)
        foreign, rows = self.counts.get(dataset, (0, 0))
        self.counts[dataset] = (foreign + bool(unknown), rows + 1)
        self.words.update(unknown)


def look_at(world: World, shards: Mapping[str, Path], most: int = 20, rows: int = 100) -> Look:
    """Look at the texts of the first rows of some shards, of every ingest one (a name's last number is left off).

    What cannot be read is passed over here: whoever reads the shard whole quarantines it with its reason.

    Args:
        world: that the models know.
        shards: by name.
        most: shards to look at.
        rows: of each shard.
    """
    look = Look()
    first: dict[str, Path] = {}
    for name, path in shards.items():
        first.setdefault(re.sub(r"[-_]?\d+$", "", name), path)
    for shard in list(first.values())[:most]:
        for record in _records(shard, rows):
            turns = record.get("turns")
            turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
            texts = [turn[name] for turn in turns for name in ("instruction", "response") if name in turn]
            if texts and all(isinstance(text, str) for text in texts):
                look.add(world, str(record.get("dataset")), texts)
    return look


def _records(shard: Path, rows: int) -> Iterable[dict[str, Any]]:
    try:
        with tarfile.open(shard) as tar:
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


def _folder_name(name: str) -> str:
    """`zoo:flamingo/flamingo.safetensors` and `zoo:flamingo` are one model."""
    return str(Path(name).parent) if Path(name).suffix == ".safetensors" else name
