"""What a job knows of its shards: where things lie in an output folder, what is done, what was quarantined.

    OUT/scored/NAME.tar       every sample of input shard NAME, rewritten, with all scores
    OUT/quarantine/NAME.jsonl what could not be read or processed, with reasons; absent when nothing was
    OUT/manifests/NAME.json   written last: its presence says that the other two are complete
    OUT/pf1m/NAME.tar         kept samples, by `select`

There is one manifest a shard and nothing that holds all keys, so that the ledger works at any number of rows. The
folder must be one that every worker sees (a local disk for one machine, a shared file system for several).
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.sample import Quarantined
from polite_flamingo.shards import write_atomically


@dataclass(frozen=True, kw_only=True)
class OutputLayout:
    """The paths of an output folder. NAME is an input shard's name (`shard_names`)."""

    root: Path

    def scored(self, name: str) -> Path:
        """Every processed sample of a shard, with all scores."""
        return self.root / "scored" / f"{name}.tar"

    def manifest(self, name: str) -> Path:
        """What a finished shard came to."""
        return self.root / "manifests" / f"{name}.json"

    def quarantine(self, name: str) -> Path:
        """The records of what failed; there is no file where nothing did."""
        return self.root / "quarantine" / f"{name}.jsonl"

    def pf1m(self, name: str) -> Path:
        """The kept samples of a shard."""
        return self.root / "pf1m" / f"{name}.tar"

    @property
    def journal(self) -> Path:
        """What the workers are busy with (`journal.py`); empty between jobs."""
        return self.root / "journal"

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
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    def finished(self) -> list[str]:
        """Names of the shards that have a manifest, sorted."""
        return sorted(path.stem for path in (self.root / "manifests").glob("*.json"))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One finished shard: `rows_in == scored + quarantined`.

    Attributes:
        shard: path of the input shard.
        config_hash: of the models, prompts and generation that made it (see `BuildConfig`).
        seconds: spent on the shard by stage.
        stats: anything worth summing over shards, JSON types only.
        replays: for a shard made by `replay`: the name of the shard whose quarantined rows it took over, else "".
        taken: places (`Quarantined.index`) of those rows in that shard's quarantine file.
    """

    shard: str
    rows_in: int
    scored: int
    quarantined: int
    config_hash: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    replays: str = ""
    taken: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert self.rows_in == self.scored + self.quarantined, self


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a shard, atomically. Everything it speaks of must be on disk before."""
    write_atomically(path, json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def read_manifest(path: Path) -> Manifest:
    """Inverse of `write_manifest`. Raises `ValueError` naming the file when it is not a manifest."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(**{**fields, "taken": tuple(fields["taken"])})
    except (ValueError, TypeError, KeyError) as error:
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


def shard_names(source: str) -> dict[str, Path]:
    """The input shards of a folder, a tar or a glob: name -> path, sorted by name.

    A name is the path below the folder (or below the glob's fixed part) without `.tar`, `/` written as `__`.

    Raises:
        ValueError: there are none, or two get the same name; says what to do.
    """
    path = Path(source)
    if any(character in source for character in "*?["):
        fixed = 0
        while not any(character in path.parts[fixed] for character in "*?["):
            fixed += 1
        root = Path(*path.parts[:fixed])
        found = list(root.glob(str(Path(*path.parts[fixed:]))))
    elif path.is_dir():
        root, found = path, list(path.rglob("*.tar"))
    elif path.exists():
        root, found = path.parent, [path]
    else:
        raise ValueError(f"input {source} does not exist; give a folder of .tar shards, one .tar or a glob in quotes")
    if not found:
        raise ValueError(f"input {source} holds no .tar shard; ingest some first (python -m ray_jobs.ingest --help)")
    names: dict[str, Path] = {}
    for shard in sorted(found):
        name = "__".join(shard.relative_to(root).with_suffix("").parts)
        if name in names:
            raise ValueError(f"shards {names[name]} and {shard} would both be called {name!r}; rename one")
        names[name] = shard
    return dict(sorted(names.items()))


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
