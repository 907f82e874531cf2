"""What lies below a folder: the files that are wanted, and how many others are passed over, of which kind.

Links are followed, each folder once, whatever circle they make. What a run of this project wrote there is no input: the
folders of its output (`OUTPUT_FOLDERS`) where its manifests lie beside them. Hidden files, packed tars and files
of another kind are passed over and counted; whoever looks says so.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.tar_members import is_companion, printable

OUTPUT_FOLDERS = (
    "scored",
    "pairs",
    "captions",
    "manifests",
    "quarantine",
    "keys",
    "pf1m",
    "parquet",
    "verdicts",
    "exports",
    "images",
    "journal",
    "engine",
    "parts",
    "replay",
    "scratch",
)
"""Of a job's output folder, those that it writes."""

PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lz4")
_MOST = 3
"""Names that a line shows."""


@dataclass(kw_only=True)
class Found:
    """What lies below a folder.

    Attributes:
        files: paths relative to the folder, in no order.
        passed: what was passed over: its kind, and how many there are of it.
        examples: of each kind, the first few.
    """

    files: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, kind: str, path: str) -> None:
        """Count what is not taken."""
        self.passed[kind] += 1
        if len(shown := self.examples.setdefault(kind, [])) < _MOST:
            shown.append(path)

    def lines(self) -> Iterator[str]:
        """A line for each kind of what was passed over."""
        for kind, times in self.passed.items():
            shown = self.examples[kind]
            more = f" and {times - len(shown):,} more" if times > len(shown) else ""
            yield f"passed over, {kind}: {printable(', '.join(shown))}{more}"


def files_below(folder: Path, suffix: str = ".tar", *, own: Path | None = None, ingested: bool = True) -> Found:
    """The files below a folder whose names end in `suffix`, in any case.

    Paths are plain strings: a `Path` for each of a million takes ten times as long.

    Args:
        folder: links in it are followed.
        suffix: in lower case.
        own: the output folder of whoever asks: what lies in it is not taken, nor, if it is `folder` itself, what a job
            writes there.
        ingested: whether shards that an ingest wrote are taken.
    """
    found = Found()
    start = len(os.path.join(folder, ""))  # noqa: PTH118
    mine = _identity(own) if own is not None else None
    seen = {_identity(folder)}
    for where, folders, files in os.walk(folder, followlinks=True):
        inside = os.path.join(where, "")[start:]  # noqa: PTH118
        output = "manifests" in folders or (mine is not None and _identity(where) == mine)
        results = _ingested(os.path.join(where, "ingest")) if "ingest" in folders else {}  # noqa: PTH118
        deeper = []
        for name in sorted(folders):
            identity = _identity(os.path.join(where, name))  # noqa: PTH118
            if name.lower().endswith(suffix):
                found.files.append(inside + name)  # whoever reads it says that it is none
            if (output and name in OUTPUT_FOLDERS) or identity == mine is not None:
                found.pass_over("what a job wrote (to read it, name the folder itself)", inside + name)
            elif results and name in ("ingest", "quarantine"):
                pass  # what an ingest keeps for itself
            elif name.startswith(".") or is_companion(name):
                found.pass_over("hidden folders", inside + name)
            elif identity in seen:
                found.pass_over("links to folders that are read already", inside + name)
            else:
                seen.add(identity)
                deeper.append(name)
        folders[:] = deeper
        shards = {shard for result in results.values() for shard in result} if not ingested else set()
        for name in files:
            if name.startswith("."):
                found.pass_over("hidden files", inside + name)
            elif is_companion(name):
                found.pass_over("no data by their names", inside + name)
            elif name in shards:
                found.pass_over("shards that an ingest wrote", inside + name)
            elif name.lower().endswith(suffix):
                found.files.append(inside + name)
            elif not output:
                found.pass_over(_kind(name), inside + name)
    return found


def _kind(name: str) -> str:
    lower = name.lower()
    packed = next((ending for ending in PACKED if lower.endswith(ending)), None)
    if packed:
        return f"packed {packed} (unpack them first)"
    ending = os.path.splitext(lower)[1]  # noqa: PTH122
    return f"files ending in {ending}" if ending else "files without an extension"


def _identity(path: Path | str) -> tuple[int, int] | None:
    """The same for every way to a folder; None for what is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ingested(folder: str) -> dict[str, list[str]]:
    """The shards of each ingest whose result lies in a folder."""
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            results[path.name] = [str(shard) for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # it is not the result of an ingest
    return results
