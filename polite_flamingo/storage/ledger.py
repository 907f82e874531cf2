"""What a job knows of its shards: where things lie in an output folder, what is done, what was quarantined.

    OUT/scored/NAME.tar       every sample of input shard NAME, rewritten, with all scores (OUT/pairs, of distort)
    OUT/quarantine/NAME.jsonl what could not be read or processed, with reasons; absent when nothing was
    OUT/manifests/NAME.json   written last: its presence says that the other two are complete
    OUT/pf1m, OUT/parquet     kept samples, by `select`

There is one manifest a shard and nothing that holds all keys, so that the ledger works at any number of rows. The
folder must be one that every worker sees (a local disk for one machine, a shared file system for several).
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
from polite_flamingo.storage.duplicates import write_keys
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.shards import is_temporary, read_shard, sweep_temporary, write_atomically, write_shard
from polite_flamingo.storage.tar_members import printable


@dataclass(frozen=True, kw_only=True)
class OutputLayout:
    """The paths of an output folder. NAME is an input shard's name (`shard_names`).

    Attributes:
        root: the folder.
        samples: where the processed samples lie in it: "scored", or "pairs" of a distortion.
    """

    root: Path
    samples: str = "scored"

    def absolute(self) -> OutputLayout:
        """Return the same folder by its whole path, for workers, whose working directory is another."""
        return dataclasses.replace(self, root=self.root.resolve())

    def scored(self, name: str) -> Path:
        """Every processed sample of a shard, with all scores."""
        return self.root / self.samples / f"{name}.tar"

    def manifest(self, name: str) -> Path:
        """What a finished shard came to."""
        return self.root / "manifests" / f"{name}.json"

    def quarantine(self, name: str) -> Path:
        """The records of what failed; there is no file where nothing did."""
        return self.root / "quarantine" / f"{name}.jsonl"

    def parquet(self, name: str) -> Path:
        """The kept samples of a shard, as Parquet; there is no file where none was kept."""
        return self.root / "parquet" / f"{name}.parquet"

    def verdicts(self, name: str) -> Path:
        """What each check said of each sample of a shard."""
        return self.root / "verdicts" / f"{name}.jsonl"

    @property
    def replay(self) -> Path:
        """Rows that `replay` took out of quarantine, and where they came from."""
        return self.root / "replay"

    @property
    def scratch(self) -> Path:
        """Room for a selection in progress."""
        return self.root / "scratch"

    @property
    def journal(self) -> Path:
        """What the workers are busy with (`journal.py`); empty between jobs."""
        return self.root / "journal"

    @property
    def engine(self) -> Path:
        """How fast each rewriting worker was, and where its time went (`flamingo/metrics.py`), a file a process."""
        return self.root / "engine"

    @property
    def parts(self) -> Path:
        """Pieces of shards that came to the writer in more than one block; empty between jobs."""
        return self.root / "parts"

    @property
    def config(self) -> Path:
        """The resolved configuration of the last build."""
        return self.root / "config.yaml"

    @property
    def pf1m_json(self) -> Path:
        """Kept samples as the reference's records."""
        return self.root / "pf1m.json"

    @property
    def llava_json(self) -> Path:
        """Kept samples for LLaVA-style trainers."""
        return self.root / "llava.json"

    @property
    def stats(self) -> Path:
        """The figures of the run."""
        return self.root / "stats.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def preview(self) -> Path:
        """The page of a distortion."""
        return self.root / "preview.html"

    @property
    def captions(self) -> Path:
        """The index of COCO's captions and boxes, of a distortion."""
        return self.root / "captions"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    def keys(self, name: str) -> Path:
        """Digests of a shard's keys, to find duplicates between shards (`duplicates.py`)."""
        return self.root / "keys" / f"{name}.keys"

    @property
    def run(self) -> Path:
        """Where all this comes from: command, models, versions."""
        return self.root / "run.json"

    @property
    def ray_stats(self) -> Path:
        """What Ray Data measured in the last run."""
        return self.root / "ray_data_stats.txt"

    def clear_parts(self) -> None:
        """Delete pieces of shards that were not finished."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def finished(self) -> list[str]:
        """Names of the shards that have a manifest, sorted."""
        return sorted(names_in(self.root / "manifests", ".json"))

    def sweep(self) -> None:
        """Remove what killed writers left here. Images are left to the selection, which writes them and is repeated."""
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
        config_hash: of the models, prompts and generation that made it (see `BuildConfig`).
        seconds: spent on the shard by stage.
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


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a shard, atomically. Everything it speaks of must be on disk before."""
    write_atomically(path, json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def unfinished(layout: OutputLayout, shards: Mapping[str, Path]) -> dict[str, Path]:
    """Those of the shards that have no manifest yet."""
    finished = set(layout.finished())
    return {name: path for name, path in shards.items() if name not in finished}


def read_manifest(path: Path) -> Manifest:
    """Inverse of `write_manifest`. Raises `ValueError` naming the file when it is not a manifest."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record.get("input")
        return Manifest(**{**record, "input": None if found is None else InputFile(**found)})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a manifest ({error}); delete it to have its shard made again") from None


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    """One JSON line a record, atomically; no rows, no file."""
    lines = "".join(row.to_json() + "\n" for row in rows)
    if lines:
        write_atomically(path, lines)
    else:
        path.unlink(missing_ok=True)


def read_quarantine(path: Path) -> list[Quarantined]:
    """The records of a quarantine file; none when there is no file."""
    if not path.exists():
        return []
    return [Quarantined(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def commit_shard(
    layout: OutputLayout, name: str, rows: Sequence[Sample | Quarantined], manifest: Callable[[int, int], Manifest]
) -> Manifest:
    """Put a finished shard on disk: its samples, its quarantine, and last its manifest.

    Args:
        layout: of the output folder.
        name: of the shard.
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
    """The samples of a finished shard; none where all its rows were quarantined.

    Raises:
        ValueError: the file does not hold what the manifest says; the message tells how to make it again.
    """
    expected = read_manifest(layout.manifest(name)).scored
    rows = read_shard(layout.scored(name)) if expected and layout.scored(name).exists() else []
    samples = [row for row in rows if isinstance(row, Sample)]
    if len(samples) != expected or len(samples) != len(rows):
        raise ValueError(
            f"{layout.scored(name)} holds {len(samples)} good samples, its manifest says {expected}; "
            f"delete {layout.manifest(name)} and run the build again"
        )
    return samples


def names_in(folder: Path, suffix: str) -> list[str]:
    """The names, without `suffix`, of what ends in it in a folder; none where there is no folder.

    One listing: asking the file system for each of a million names takes minutes, and hours where it is a network's.
    """
    try:
        return [name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)]  # noqa: PTH208
    except FileNotFoundError:
        return []


def shard_names(
    source: str, own: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> dict[str, Path]:
    """The input shards of a folder, a tar or a pattern: name -> path, sorted by name.

    A name is the path below the folder (or below the pattern's fixed part) without `.tar`, `/` written as `__`.

    Args:
        source: a folder (links in it are followed), a tar, or a pattern: `*`, `?`, `[`, `{a,b}`, `{00000..00099}`.
        own: the output folder of the job: what it writes is no input.
        say: hears what is passed over, a line a kind with its number.

    Raises:
        ValueError: there are none, two get the same name, or a name is not UTF-8; says what to do.
    """
    root, input_found = input_files(source, own)
    found = input_found.files
    if not found:
        passed = "; ".join(input_found.lines())
        what = f"holds no .tar shard ({passed})" if passed else "holds no .tar shard"
        raise ValueError(f"input {source} {what}; ingest some first (polite-flamingo ingest --help)")
    for line in input_found.lines():
        say(line)
    names: dict[str, str] = {}
    for shard in sorted(found):
        if printable(shard) != shard:
            raise ValueError(f"the name of {printable(str(root / shard))} is not UTF-8: rename it")
        name = os.path.splitext(shard)[0].replace(os.sep, "__")  # noqa: PTH122
        if name in names:
            raise ValueError(
                f"shards {root / names[name]} and {root / shard} would both be called {name!r}; rename one"
            )
        names[name] = shard
    return {name: root / names[name] for name in sorted(names)}


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the output folder for one job; the hold ends with the process, however that ends.

    Raises:
        ValueError: another job holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another job is writing to {root}; wait for it or give another --out") from None
        yield
