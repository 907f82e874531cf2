"""The output folder of a job: its paths, which shards are finished, which rows were quarantined.

    OUT/scored/NAME.tar       every sample of input shard NAME, rewritten, with all scores (OUT/pairs for distort)
    OUT/quarantine/NAME.jsonl rows that could not be read or processed, with reasons; absent if there are none
    OUT/manifests/NAME.json   written last: if it is there, the other two are complete
    OUT/pf1m, OUT/parquet     kept samples, by `select`

There is one manifest per shard and no list of all keys, so the ledger works for any number of rows. Every worker must
see the folder (a local disk for one machine, a shared file system for several).
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.discovery import OUTPUT_FOLDERS, input_files
from polite_flamingo.storage.disk import is_temporary, sweep_temporary
from polite_flamingo.storage.duplicates import write_keys
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.storage.tar_members import printable


class _Inside:
    """The path of something in an output folder, as an attribute of `OutputLayout`."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, layout: OutputLayout, owner: type[OutputLayout]) -> Path:
        return layout.root / self._name


@dataclass(frozen=True, kw_only=True)
class OutputLayout:
    """The paths of an output folder. NAME is an input shard's name (`shard_names`).

    Attributes:
        root: the folder.
        samples: name of the subfolder with processed samples: "scored", or "pairs" for a distortion.
    """

    root: Path
    samples: str = "scored"

    config = _Inside("config.yaml")
    """The resolved configuration of the last build."""
    run = _Inside("run.json")
    """How the output was made: command, models, versions."""
    stats = _Inside("stats.json")
    """The figures of the run."""
    ray_stats = _Inside("ray_data_stats.txt")
    """What Ray Data measured in the last run."""
    report = _Inside("report.html")
    """The page of a selection."""
    preview = _Inside("preview.html")
    """The page of a distortion."""
    card = _Inside("README.md")
    """The dataset card."""
    captions = _Inside("captions")
    """A distortion's index of COCO's captions and boxes."""
    replay = _Inside("replay")
    """Rows that `replay` took out of quarantine, and where they came from."""
    engine = _Inside("engine")
    """The speed of each rewriting worker and where its time went (`engine/metrics.py`), one file per process."""
    scratch = _Inside("scratch")
    """Temporary files of a selection."""
    journal = _Inside("journal")
    """The rows that workers are running (`faults/journal.py`); empty between jobs."""
    parts = _Inside("parts")
    """Pieces of shards that reached the writer in more than one block; empty between jobs."""

    def absolute(self) -> OutputLayout:
        """Return the same folder with an absolute path, for workers with another working directory."""
        return dataclasses.replace(self, root=self.root.resolve())

    def scored(self, name: str) -> Path:
        """Return the path of a shard's processed samples, with all scores."""
        return self.root / self.samples / f"{name}.tar"

    def manifest(self, name: str) -> Path:
        """Return the path of a finished shard's manifest."""
        return self.root / "manifests" / f"{name}.json"

    def quarantine(self, name: str) -> Path:
        """Return the path of a shard's quarantined rows; there is no file if nothing failed."""
        return self.root / "quarantine" / f"{name}.jsonl"

    def parquet(self, name: str) -> Path:
        """Return the path of a shard's kept samples as Parquet; there is no file if none was kept."""
        return self.root / "parquet" / f"{name}.parquet"

    def verdicts(self, name: str) -> Path:
        """Return the path of the verdicts of every check on each sample of a shard."""
        return self.root / "verdicts" / f"{name}.jsonl"

    def keys(self, name: str) -> Path:
        """Return the path of the digests of a shard's keys, which find duplicates across shards (`duplicates.py`)."""
        return self.root / "keys" / f"{name}.keys"

    def clear_parts(self) -> None:
        """Delete pieces of unfinished shards."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def finished(self) -> list[str]:
        """Return the names of the shards that have a manifest, sorted."""
        return sorted(names_in(self.root / "manifests", ".json"))

    def sweep(self) -> None:
        """Remove temporary files of killed writers. Images are left to the selection, which writes them again."""
        for folder in OUTPUT_FOLDERS:
            if folder != "images":
                sweep_temporary(self.root / folder)
        for path in self.root.glob("*.tmp-*"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One finished shard: `rows_in == scored + quarantined`.

    Attributes:
        shard: path of the input shard.
        config_hash: digest of the models, prompts and generation settings that made it (see `BuildConfig`).
        seconds: time spent on the shard, by stage.
        stats: anything worth summing over shards, JSON types only.
        input: the input shard as it was read; None in manifests of earlier versions.
    """

    shard: str
    rows_in: int
    scored: int
    quarantined: int
    config_hash: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    input: InputFile | None = None

    def __post_init__(self) -> None:
        assert self.rows_in == self.scored + self.quarantined, self


@contextmanager
def undamaged(path: Path, remedy: str) -> Iterator[None]:
    """Turn an error of reading a JSON file of ours into a `ValueError` that names the file and says what to do."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}); {remedy}") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a shard, atomically, once everything that it counts is on disk."""
    write_atomically(path, json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def unfinished(layout: OutputLayout, shards: Mapping[str, Path]) -> dict[str, Path]:
    """Return the shards that have no manifest yet."""
    finished = set(layout.finished())
    return {name: path for name, path in shards.items() if name not in finished}


def read_manifest(path: Path) -> Manifest:
    """Read what `write_manifest` wrote. Raises `ValueError` with the file's name if it is not a manifest."""
    with undamaged(path, "delete it to redo its shard"):
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record.get("input")
        return Manifest(**{**record, "input": None if found is None else InputFile(**found)})


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    """Write one JSON line per record, atomically; without rows there is no file."""
    lines = "".join(row.to_json() + "\n" for row in rows)
    if lines:
        write_atomically(path, lines)
    else:
        path.unlink(missing_ok=True)


def read_quarantine(path: Path) -> list[Quarantined]:
    """Return the records of a quarantine file; none if there is no file. Raises `ValueError` if it is damaged."""
    if not path.exists():
        return []
    with undamaged(path, "delete the manifest of its shard and run the same command again"):
        return [Quarantined(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def commit_shard(
    layout: OutputLayout, name: str, rows: Sequence[Sample | Quarantined], manifest: Callable[[int, int], Manifest]
) -> Manifest:
    """Write a finished shard: its samples, its quarantine, and its manifest last.

    Args:
        layout: the output folder.
        name: the shard's name.
        rows: every row of the shard, in order.
        manifest: makes the manifest from the numbers of scored and quarantined rows.
    """
    samples = [row for row in rows if isinstance(row, Sample)]
    quarantined = [row for row in rows if isinstance(row, Quarantined)]
    if samples:
        write_shard(layout.scored(name), samples)
    else:
        layout.scored(name).unlink(missing_ok=True)
    write_quarantine(layout.quarantine(name), quarantined)
    write_keys(layout.keys(name), (sample.key for sample in samples))
    done = manifest(len(samples), len(quarantined))
    write_manifest(layout.manifest(name), done)
    return done


def read_scored(layout: OutputLayout, name: str) -> list[Sample]:
    """Return the samples of a finished shard; none if all its rows were quarantined.

    Raises:
        ValueError: the file does not match its manifest; the message says how to redo it.
    """
    expected = read_manifest(layout.manifest(name)).scored
    rows = read_shard(layout.scored(name)) if expected and layout.scored(name).exists() else []
    samples = [row for row in rows if isinstance(row, Sample)]
    if len(samples) != expected or len(samples) != len(rows):
        raise ValueError(
            f"{layout.scored(name)} has {len(samples)} good samples, but its manifest says {expected}; "
            f"delete {layout.manifest(name)} and run the build again"
        )
    return samples


def names_in(folder: Path, suffix: str) -> list[str]:
    """Return the names in a folder that end in `suffix`, without it; none if there is no folder.

    This lists the folder once: a check for each of a million names takes minutes, on a network file system hours.
    """
    try:
        return [name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)]  # noqa: PTH208
    except FileNotFoundError:
        return []


def shard_names(
    source: str, own: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> dict[str, Path]:
    """Return the input shards of a folder, a tar or a pattern: name -> path, sorted by name.

    A name is the path below the folder (or below the pattern's fixed part) without `.tar`, `/` written as `__`.

    Args:
        source: a folder (links in it are followed), a tar, or a pattern: `*`, `?`, `[`, `{a,b}`, `{00000..00099}`.
        own: the output folder of the job, whose files are not input.
        say: called with one line per kind of file that is passed over.

    Raises:
        ValueError: there are no shards, two get the same name, or a name is not UTF-8; the message says what to do.
    """
    root, found = input_files(source, own)
    passed = list(found.lines())
    if not found.files:
        why = f" ({'; '.join(passed)})" if passed else ""
        raise ValueError(f"input {source} has no .tar shard{why}; ingest some first (polite-flamingo ingest --help)")
    for line in passed:
        say(line)
    names: dict[str, str] = {}
    for shard in sorted(found.files):
        if printable(shard) != shard:
            raise ValueError(f"the name of {printable(str(root / shard))} is not UTF-8: rename it")
        name = os.path.splitext(shard)[0].replace(os.sep, "__")  # noqa: PTH122
        if name in names:
            clash = f"shards {root / names[name]} and {root / shard}"
            raise ValueError(f"{clash} would both be called {name!r}; rename one")
        names[name] = shard
    return {name: root / names[name] for name in sorted(names)}


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Lock the output folder for one job; the lock ends with the process, however that ends.

    Raises:
        ValueError: another job has locked it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another job is writing to {root}; wait for it, or give another --out") from None
        yield
