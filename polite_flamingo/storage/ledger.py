"""The output of a job: its files, which shards are finished, which rows were quarantined.

    OUT/scored/NAME.ATTEMPT.tar       every sample of input shard NAME, rewritten and scored (OUT/pairs for distort,
                                      OUT/samples for sample, OUT/rated for rate)
    OUT/quarantine/NAME.ATTEMPT.jsonl rows that could not be read or processed, with reasons; absent if there are none
    OUT/keys/NAME.ATTEMPT.keys        digests of the samples' keys (`duplicates.py`)
    OUT/near/NAME.ATTEMPT.npz         signatures of texts and pictures (`near_duplicates/`), of a build
    OUT/manifests/NAME.json           created last; names the files above with their sizes and digests
    OUT/pf1m, OUT/parquet             kept samples, by `select`

A shard is finished when its manifest is there, and nothing is read that no manifest names. ATTEMPT is random, and a
manifest is only ever created. So of two workers that finish the same shard (a retry after a lost reply, a machine that
was believed dead) one wins, whole, and files of the other are never seen; `select` deletes them. Nothing is renamed,
which a bucket could not do.

There is one manifest per shard and no list of all keys, so the ledger works for any number of rows. Every worker must
reach the output: a bucket, a shared file system, or for one machine its disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.attempts import new_attempt, shard_of
from polite_flamingo.storage.discovery import OUTPUT_FOLDERS
from polite_flamingo.storage.disk import is_temporary, sweep_temporary
from polite_flamingo.storage.duplicates import encode_keys
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard, write_shard

Kind = Literal["samples", "quarantine", "keys", "near"]
"""What a finished shard's manifest names: its samples, its quarantined rows, the digests of its keys, signatures."""

SUFFIXES: Mapping[Kind, str] = {"samples": ".tar", "quarantine": ".jsonl", "keys": ".keys", "near": ".npz"}


class _Inside:
    """The place of something in an output folder, as an attribute of `OutputLayout`."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, layout: OutputLayout, owner: type[OutputLayout]) -> Location:
        return layout.root / self._name


@dataclass(frozen=True, kw_only=True, init=False)
class OutputLayout:
    """The places in an output folder. NAME is an input shard's name (`discovery.shard_names`).

    Attributes:
        root: the folder.
        samples: name of the subfolder with processed samples: "scored", "pairs" of a distortion, "samples" of sampled
            answers, or "rated".
    """

    root: Location
    samples: str = "scored"

    def __init__(self, *, root: str | Path | Location, samples: str = "scored"):
        """Args: root: the folder, as a path or an address such as s3://bucket/out."""
        object.__setattr__(self, "root", location(root))
        object.__setattr__(self, "samples", samples)

    config = _Inside("config.yaml")
    """The resolved configuration of the last build."""
    run = _Inside("run.json")
    """How the output was made: command, models, versions."""
    stats = _Inside("stats.json")
    """The figures of the run."""
    agreement = _Inside("agreement.json")
    """How far the judge agrees with NLI and with people (`evaluation/agreement.py`), if that was measured."""
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
    """Temporary files of a selection, on a disk."""
    journal = _Inside("journal")
    """The rows that workers are running (`faults/journal.py`); empty between jobs."""
    answers = _Inside("answers")
    """What endpoints answered for shards that are not finished (`endpoints/answer_store.py`)."""
    index = _Inside("index")
    """What finished shards were made of (`input_index.py`)."""
    parts = _Inside("parts")
    """Pieces of shards that reached the writer in more than one block; empty between jobs."""

    def absolute(self) -> OutputLayout:
        """Return the same folder with an absolute path, for workers with another working directory."""
        return OutputLayout(root=self.root.absolute(), samples=self.samples)

    def manifest(self, name: str) -> Location:
        """Return the place of a finished shard's manifest."""
        return self.root / "manifests" / f"{name}.json"

    def parquet(self, name: str) -> Location:
        """Return the place of a shard's kept samples as Parquet; there is no file if none was kept."""
        return self.root / "parquet" / f"{name}.parquet"

    def verdicts(self, name: str) -> Location:
        """Return the place of the verdicts of every check on each sample of a shard."""
        return self.root / "verdicts" / f"{name}.jsonl"

    def folder(self, kind: Kind) -> str:
        """Return the name of the subfolder with the files of a kind."""
        return self.samples if kind == "samples" else kind

    def clear_parts(self) -> None:
        """Delete pieces of unfinished shards."""
        self.parts.delete_tree()

    def finished(self, at_most: int | None = None) -> list[str]:
        """Return the names of the shards that have a manifest, sorted. Args: at_most: number of names that will do."""
        return sorted((self.root / "manifests").names(".json", at_most))

    def with_files(self, kind: Kind) -> set[str]:
        """Return the names of shards that may have a file of a kind, finished or not, from one listing."""
        names = (self.root / self.folder(kind)).names(SUFFIXES[kind])
        return {*names, *(shard_of(name) for name in names)}

    def sweep(self) -> None:
        """Remove temporary files of killed writers. Images are left to the selection, which writes them again."""
        if self.root.local is None:
            return  # a bucket has none
        for folder in OUTPUT_FOLDERS:
            if folder != "images":
                sweep_temporary(self.root.local / folder)
        for path in self.root.local.glob("*.tmp-*"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)

    def sweep_attempts(self, finished: Mapping[str, Sequence[str]]) -> int:
        """Delete the files of attempts that lost, and return their number.

        Only those of finished shards: whoever is still at work on another shard may be about to publish it. A finished
        shard's manifest is changed first, so that a job that slept while it changed that shard will not publish them.

        Args:
            finished: name of every finished shard -> paths that its manifest names; none in those of earlier versions.
        """
        used = {path for paths in finished.values() for path in paths}
        old = {name for name, paths in finished.items() if not paths}
        stale = defaultdict[str, set[str]](set)
        for kind, suffix in SUFFIXES.items():
            for name in (self.root / self.folder(kind)).names(suffix):
                shard, path = shard_of(name), f"{self.folder(kind)}/{name}{suffix}"
                if path not in used and shard in finished and name not in old:
                    stale[shard].add(path)
        unused: list[str] = []
        for shard, paths in stale.items():
            manifest = change_manifest(self, shard, lambda manifest: manifest)
            unused += paths - {file.path for file in manifest.files.values()}
        self.root.store.delete((self.root / path).key for path in unused)
        return len(unused)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file that a manifest names: its path below the output folder (or OUT/checkpoints), its size and its digest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One finished shard: `rows_in == scored + quarantined`.

    Attributes:
        shard: path or address of the input shard.
        config_hash: digest of the models, prompts and generation settings that made it (see `BuildConfig`).
        seconds: time spent on the shard, by stage.
        usage: what the models consumed for the shard (`usage.Usage`); empty in manifests of earlier versions.
        stats: anything worth summing over shards, JSON types only.
        input: the input shard as it was read; None in manifests of earlier versions.
        files: kind -> file; empty in manifests of earlier versions, whose files have the shard's name.
        changes: how often the manifest was replaced.
    """

    shard: str
    rows_in: int
    scored: int
    quarantined: int
    config_hash: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    input: InputFile | None = None
    files: Mapping[Kind, StoredFile] = field(default_factory=dict)
    changes: int = 0

    def __post_init__(self) -> None:
        assert self.rows_in == self.scored + self.quarantined, self

    def to_json(self) -> str:
        """Return the text of the manifest; `read_manifest` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


@contextmanager
def undamaged(path: Path | Location, remedy: str) -> Iterator[None]:
    """Turn an error of reading a JSON file of ours into a `ValueError` that names the file and says what to do."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}); {remedy}") from None


def read_manifest(place: Location) -> Manifest:
    """Read a manifest. Raises `ValueError` with the file's name if it is not one."""
    with undamaged(place, "delete it to redo its shard"):
        record = json.loads(place.read_text())
        found, files = record.get("input"), record.get("files", {})
        return Manifest(
            **{
                **record,
                "input": None if found is None else InputFile(**found),
                "files": {kind: StoredFile(**file) for kind, file in files.items()},
            }
        )


def change_manifest(layout: OutputLayout, name: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest of a finished shard; return the new one.

    Args:
        layout: the output folder.
        name: the shard's name.
        change: makes the new manifest of the old one. What else it reads of the shard belongs to the old one too: if
            another job changes the shard in the meantime, nothing is replaced.

    Raises:
        ValueError: it is damaged, or another job changed it at the same time.
    """
    place = layout.manifest(name)
    before = place.head()
    if before is None:
        raise FileNotFoundError(str(place))
    old = read_manifest(place)
    changed = dataclasses.replace(change(old), changes=old.changes + 1)
    if place.swap(changed.to_json(), before.tag) is None:
        raise ValueError(f"another job has changed {place}; wait for it, and run the same command again")
    return changed


def write_file(layout: OutputLayout, name: str, attempt: str, kind: Kind, data: bytes) -> StoredFile:
    """Write a file of a shard for its manifest.

    Args:
        layout: the output folder.
        name: the shard's name.
        attempt: see `new_attempt`.
        kind: of the file.
        data: its bytes.
    """
    path = _path(layout, name, attempt, kind)
    (layout.root / path).put(data)
    return StoredFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_quarantine_file(place: Path | Location, rows: Iterable[Quarantined]) -> None:
    """Write one JSON line per record; without rows there is no file."""
    if data := encode_quarantine(rows):
        location(place).put(data)
    else:
        location(place).delete()


def read_quarantine_file(place: Path | Location) -> list[Quarantined]:
    """Return the records of a quarantine file; none if there is no file. Raises `ValueError` if it is damaged."""
    try:
        data = location(place).read_bytes()
    except FileNotFoundError:
        return []
    return decode_quarantine(location(place), data, "restore it, or run the same command with --fresh")


def encode_quarantine(rows: Iterable[Quarantined]) -> bytes:
    """Return one JSON line per record."""
    return "".join(row.to_json() + "\n" for row in rows).encode()


def decode_quarantine(place: Location, data: bytes, remedy: str) -> list[Quarantined]:
    """Return the records of a quarantine file. Raises `ValueError` with its place and the remedy if it is damaged."""
    with undamaged(place, remedy):
        return [Quarantined(**json.loads(line)) for line in data.decode().split("\n") if line]


def commit_shard(
    layout: OutputLayout, name: str, rows: Sequence[Sample | Quarantined], manifest: Callable[[int, int], Manifest],
    near: bytes = b"",
) -> Manifest:  # fmt: skip
    """Publish a finished shard: write its samples, its quarantine and its keys, then create its manifest.

    Args:
        layout: the output folder.
        name: the shard's name.
        rows: every row of the shard, in order.
        manifest: makes the manifest from the numbers of scored and quarantined rows.
        near: the samples' signatures; empty if there is no such file.

    Returns:
        The manifest that is there now: another worker's, if it came first.
    """
    samples = [row for row in rows if isinstance(row, Sample)]
    quarantined = [row for row in rows if isinstance(row, Quarantined)]
    attempt, files = new_attempt(), dict[Kind, StoredFile]()
    if samples:
        path = _path(layout, name, attempt, "samples")
        size, sha256 = write_shard(layout.root / path, samples)
        files["samples"] = StoredFile(path=path, size=size, sha256=sha256)
    if quarantined:
        files["quarantine"] = write_file(layout, name, attempt, "quarantine", encode_quarantine(quarantined))
    files["keys"] = write_file(layout, name, attempt, "keys", encode_keys(sample.key for sample in samples))
    if near:
        files["near"] = write_file(layout, name, attempt, "near", near)
    done = dataclasses.replace(manifest(len(samples), len(quarantined)), files=files)
    if layout.manifest(name).create(done.to_json()):
        return done
    layout.root.store.delete((layout.root / file.path).key for file in files.values())
    return read_manifest(layout.manifest(name))


def file_of(layout: OutputLayout, name: str, manifest: Manifest, kind: Kind) -> Location | None:
    """Return the place of a finished shard's file; None if the shard has none of this kind."""
    if manifest.files:
        return layout.root / manifest.files[kind].path if kind in manifest.files else None
    place = layout.root / layout.folder(kind) / f"{name}{SUFFIXES[kind]}"  # of an earlier version
    return place if place.exists() else None


def named_files(layout: OutputLayout, name: str, manifest: Manifest) -> dict[Kind, StoredFile]:
    """Return the files of a finished shard, also for a manifest of an earlier version."""
    if manifest.files:
        return {**manifest.files}
    files: dict[Kind, StoredFile] = {}
    for kind in SUFFIXES:
        if place := file_of(layout, name, manifest, kind):
            data = place.read_bytes()
            path = f"{layout.folder(kind)}/{place.name}"
            files[kind] = StoredFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return files


def read_scored(layout: OutputLayout, name: str) -> list[Sample]:
    """Return the samples of a finished shard; none if all its rows were quarantined.

    Raises:
        ValueError: the file does not match its manifest; the message says how to redo it.
    """
    manifest = read_manifest(layout.manifest(name))
    place, data = _read(layout, name, manifest, "samples")
    rows = read_shard(place, io.BytesIO(data)) if place is not None and manifest.scored else []
    samples = [row for row in rows if isinstance(row, Sample)]
    if len(samples) != manifest.scored or len(samples) != len(rows):
        where = place or layout.root / layout.samples / f"{name}.tar"
        raise _differs(layout, name, where, f"has {len(samples)} good samples", str(manifest.scored))
    return samples


def read_quarantine(layout: OutputLayout, name: str) -> list[Quarantined]:
    """Return the quarantined rows of a finished shard.

    Raises:
        ValueError: the file does not match its manifest; the message says how to redo it.
    """
    manifest = read_manifest(layout.manifest(name))
    place, data = _read(layout, name, manifest, "quarantine")
    rows = [] if place is None else decode_quarantine(place, data, _redo(layout, name))
    if len(rows) != manifest.quarantined:
        where = place or layout.root / "quarantine" / f"{name}.jsonl"
        raise _differs(layout, name, where, f"has {len(rows)} rows", str(manifest.quarantined))
    return rows


def _read(layout: OutputLayout, name: str, manifest: Manifest, kind: Kind) -> tuple[Location | None, bytes]:
    """Read a file that a manifest names. Raises `ValueError` if it is gone or has other bytes."""
    place = file_of(layout, name, manifest, kind)
    if place is None:
        return None, b""
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{place} is missing, but {layout.manifest(name)} names it; {_redo(layout, name)}") from None
    file = manifest.files.get(kind)
    if file is not None and (file.size, file.sha256) != (len(data), hashlib.sha256(data).hexdigest()):
        raise ValueError(f"{place} is damaged: its job wrote other bytes; {_redo(layout, name)}")
    return place, data


def _differs(layout: OutputLayout, name: str, place: Location, found: str, expected: str) -> ValueError:
    return ValueError(f"{place} {found}, but its manifest says {expected}; {_redo(layout, name)}")


def _redo(layout: OutputLayout, name: str) -> str:
    return f"delete {layout.manifest(name)} and run the build again"


def _path(layout: OutputLayout, name: str, attempt: str, kind: Kind) -> str:
    return f"{layout.folder(kind)}/{name}.{attempt}{SUFFIXES[kind]}"
