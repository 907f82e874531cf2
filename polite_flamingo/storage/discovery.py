"""Find the input files below a folder, and count the files that are passed over, by kind.

Links are followed, and each folder is visited once, so circular links do no harm. The output of a run is never input:
its folders (`OUTPUT_FOLDERS`) are skipped if its manifests and run.json are beside them. Hidden files, packed tars
and files of other kinds are passed over and counted; the caller prints the counts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from polite_flamingo.storage.tar_members import HEAD_BYTES, is_companion, is_tar, printable
from polite_flamingo.storage.user_paths import expanded, is_pattern
from polite_flamingo.storage.visibility import path_unavailable

OUTPUT_FOLDERS = (
    "scored", "pairs", "captions", "manifests", "quarantine", "keys", "pf1m", "parquet", "verdicts", "exports",
    "images", "journal", "engine", "index", "parts", "replay", "scratch",
)  # fmt: skip
"""The folders that a job writes in its output folder."""

PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lz4")
_RUN_FILES = frozenset({"run.json", "config.yaml", "stats.json"})
_JOBS = "what a job wrote (to read it, name the folder itself)"
_MAX_EXAMPLES = 3
"""Names shown per kind."""


@dataclass(kw_only=True)
class Found:
    """The files found below a folder.

    Attributes:
        files: paths relative to the folder, unordered.
        passed: kind -> number of files passed over.
        examples: kind -> the first few of them.
    """

    files: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, kind: str, path: str) -> None:
        """Count a file that is not taken."""
        self.passed[kind] += 1
        if len(shown := self.examples.setdefault(kind, [])) < _MAX_EXAMPLES:
            shown.append(path)

    def sort_in(self, name: str, suffix: str, path: str) -> None:
        """Take a file or pass it over, depending on its name."""
        if name.startswith("."):
            self.pass_over("hidden files", path)
        elif is_companion(name):
            self.pass_over("not data, by their names", path)
        elif name.lower().endswith(suffix):
            self.files.append(path)
        else:
            self.pass_over(_kind(path), path)

    def add(self, other: Found, folder: str) -> None:
        """Add the files found below `folder`."""
        self.files += [os.path.join(folder, file) for file in other.files]  # noqa: PTH118
        for kind, times in other.passed.items():
            for path in other.examples[kind]:
                self.pass_over(kind, os.path.join(folder, path))  # noqa: PTH118
            self.passed[kind] += times - len(other.examples[kind])

    def lines(self) -> Iterator[str]:
        """Yield one line per kind of file that was passed over."""
        for kind, times in self.passed.items():
            shown = self.examples[kind]
            more = f" and {times - len(shown):,} more" if times > len(shown) else ""
            yield f"passed over, {kind}: {printable(', '.join(shown))}{more}"


def files_below(folder: Path, suffix: str = ".tar", *, own: Path | None = None, ingested: bool = True) -> Found:
    """Find the files below a folder whose names end in `suffix`, whatever their case.

    Paths are plain strings: making a million `Path` objects takes ten times as long.

    Args:
        folder: where to look; links are followed.
        suffix: in lower case.
        own: the caller's output folder, from which nothing is taken; if it is `folder` itself, only what jobs write
            there is left out.
        ingested: whether to take shards that an ingest wrote.

    Raises:
        PathUnavailable: a folder cannot be listed. Skipping it would lose its files silently.
    """
    found = Found()
    start = len(os.path.join(folder, ""))  # noqa: PTH118
    mine = _identity(own) if own is not None else None
    seen = {_identity(folder)}
    for where, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        inside = os.path.join(where, "")[start:]  # noqa: PTH118
        output = ("manifests" in folders and not _RUN_FILES.isdisjoint(files)) or (mine and _identity(where) == mine)
        results = _ingested(os.path.join(where, "ingest")) if "ingest" in folders else {}  # noqa: PTH118
        deeper = []
        for name in sorted(folders):
            identity = _identity(os.path.join(where, name))  # noqa: PTH118
            if name.lower().endswith(suffix):
                found.files.append(inside + name)  # its reader reports that it is not a file
            if (output and name in OUTPUT_FOLDERS) or (mine and identity == mine):
                found.pass_over(_JOBS, inside + name)
            elif results and name in ("ingest", "quarantine"):
                pass  # an ingest's own records
            elif name.startswith(".") or is_companion(name):
                found.pass_over("hidden folders", inside + name)
            elif identity in seen:
                found.pass_over("links to folders that are already read", inside + name)
            else:
                seen.add(identity)
                deeper.append(name)
        folders[:] = deeper
        shards = {shard for result in results.values() for shard in result} if not ingested else set()
        for name in files:
            if name in shards:
                found.pass_over("shards that an ingest wrote", inside + name)
            elif not output or name.lower().endswith(suffix):
                found.sort_in(name, suffix, inside + name)
    return found


def own_output(folder: Path | str) -> set[str]:
    """Return the names in a folder that an ingest (finished or not) or another job of this project wrote there."""
    written: set[str] = set()
    ingests = Path(folder, "ingest")
    if ingests.is_dir():
        results = _ingested(str(ingests))
        if results or any(ingests.glob("*/.lock")):
            written |= {"ingest", "quarantine"}.union(*results.values())
            written |= {f"preview-{name.removesuffix('.json')}.html" for name in results}
    if Path(folder, "manifests").is_dir() and any(Path(folder, name).is_file() for name in _RUN_FILES):
        written |= {*OUTPUT_FOLDERS, *_RUN_FILES, "pf1m.json", "llava.json", "dataset_info.json", "report.html"}
    return written


def input_files(source: str, own: Path | None = None) -> tuple[Path, Found]:
    """Find the tars that a folder, a tar or a pattern names; their paths are relative to the returned folder.

    Args:
        source: for patterns see `user_paths.expanded`; folders that match one are searched.
        own: as in `files_below`.

    Raises:
        ValueError: it does not exist, or is in what the job writes.
    """
    path = Path(source)
    if not is_pattern(source):
        if not path.exists():
            remedy = "give a folder of .tar shards, one .tar, or a pattern in quotes"
            raise ValueError(f"input {source} does not exist; {remedy}")
        if own is not None and (folder := _written(path, own)):
            raise ValueError(f"input {source} is in {folder}, which this job writes: give another --out")
        if path.is_dir():
            return path, files_below(path, own=own)
        found = Found()
        with path.open("rb") as file:
            tar = path.suffix.lower() == ".tar" or is_tar(file.read(HEAD_BYTES))
        if tar:
            found.files.append(path.name)
        else:
            found.sort_in(path.name, ".tar", path.name)
        return path.parent, found
    root, found = Path(_fixed(source)), Found()
    for path in map(Path, expanded(source)):
        inside = os.path.relpath(path, root)
        if own is not None and _written(path, own):
            found.pass_over(_JOBS, inside)
        elif path.is_dir() and not path.name.lower().endswith(".tar"):
            found.add(files_below(path, own=own), inside)
        else:
            found.sort_in(path.name, ".tar", inside)
    return root, found


def _fixed(pattern: str) -> str:
    """Return the leading folders of a pattern that have no wildcard."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if any(character in part for character in "*?[{"))
    return "/".join(parts[:first]) or ("/" if first else ".")


def _written(path: Path, own: Path) -> Path | None:
    """Return the folder of the job's output that a path is in, or None."""
    root, found = own.resolve(), path.resolve()
    return next((own / folder for folder in OUTPUT_FOLDERS if found.is_relative_to(root / folder)), None)


def _kind(name: str) -> str:
    lower = name.lower()
    packed = next((ending for ending in PACKED if lower.endswith(ending)), None)
    if packed:
        return f"packed {packed} (unpack them first)"
    ending = os.path.splitext(lower)[1]  # noqa: PTH122
    return f"files ending in {ending}" if ending else "files without an extension"


def _cannot_list(error: OSError) -> NoReturn:
    """Raise; `os.walk` alone would silently skip a folder that cannot be opened."""
    raise path_unavailable(error.filename, error)


def _identity(path: Path | str) -> tuple[int, int] | None:
    """Identify a folder by any path that leads to it; None if it does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ingested(folder: str) -> dict[str, list[str]]:
    """Return the shards of each ingest whose result is in a folder."""
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            results[path.name] = [str(shard) for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not the result of an ingest
    return results
