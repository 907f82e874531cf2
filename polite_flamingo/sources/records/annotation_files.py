"""The annotation files that a user names; a folder stands for the files in it, all of one kind.

In folders from Hugging Face (a saved dataset, a clone of a hub repository) the file names give the splits.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sources.reading.compression import uncompressed_name
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.file_kinds import Kind, detect_kind
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import printable_name
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import own_output
from polite_flamingo.storage.remote_path import walk

_FAMILY: dict[Kind, str] = {
    "JSON list": "JSON", "JSON lines": "JSON", "JSON object": "JSON",
    "delimited text": "CSV", "Parquet": "Parquet", "Arrow file": "Arrow", "Arrow stream": "Arrow",
    "empty": "empty",
}  # fmt: skip
_NOT_RECORDS = re.compile(
    r"(readme|license|licence|notice|citation|changelog)(\..*)?|.*\.(md|rst|py|lock|crc|yaml|yml)"
    r"|(dataset_infos?|state|dataset_dict)\.json|[._].*",
    re.IGNORECASE,
)
"""Names of files that accompany a dataset."""

_ANNOTATION_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_PICTURES = {f".{extension}" for extension in EXTENSIONS} | {".svg"}
_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-\w+)?")


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """One file of annotations.

    Attributes:
        path: where it lies.
        number: index in `SourceOptions.annotations` of the file, or of the folder that it lies in.
        inside: its path in that folder, "" if it was named itself.
        kind: see `file_kinds.py`.
        split: for a file in a folder, the split that its name or its folder's says; else "".
    """

    path: Path
    number: int
    inside: str
    kind: Kind
    split: str = ""

    @property
    def name(self) -> str:
        """The name of the file in the places of its records."""
        return os.fsencode(self.inside).decode("utf-8", "replace") if self.inside else printable_name(self.path)

    @property
    def place(self) -> dict[str, Any]:
        """The first fields of references to the file's cells."""
        return {"file": self.number} | ({"inside": self.inside} if self.inside else {})


def annotation_files(options: SourceOptions, scratch: Scratch) -> Iterator[AnnotationFile]:
    """Yield the files that the user names; for a folder, the files in it.

    Raises:
        SourceError: a file is of an unsupported kind, or a folder holds no annotation file, or several kinds of them.
    """
    for number, path in enumerate(options.annotations):
        yield from files_at(path, number, scratch)


def files_at(path: Path, number: int, scratch: Scratch, inside: str = "") -> Iterator[AnnotationFile]:
    """Yield a file, or the files in a folder, as `annotation_files` does.

    Args:
        path: annotation `number` of `SourceOptions.annotations`.
        number: its index.
        scratch: collects notes.
        inside: the path of a file or folder in that annotation, which is then all that is read.
    """
    found = path / inside if inside else path
    if not found.is_dir():
        yield AnnotationFile(path=found, number=number, inside=inside, kind=detect_kind(found))
        return
    for file in _in_folder(found, number, scratch):
        yield replace(file, inside=f"{inside}/{file.inside}") if inside else file


def _in_folder(folder: Path, number: int, scratch: Scratch) -> Iterator[AnnotationFile]:
    found: list[AnnotationFile] = []
    passed: Counter[str] = Counter()
    dictionary = (folder / "dataset_dict.json").is_file()
    for path in _walk(folder):
        inside = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _PICTURES:
            passed["pictures"] += 1
        elif _NOT_RECORDS.fullmatch(path.name):
            passed[path.name if path.name.startswith((".", "_")) else "files that describe a dataset"] += 1
        else:
            try:
                kind = detect_kind(path)
            except SourceError as error:
                if uncompressed_name(path.name).lower().endswith(_ANNOTATION_SUFFIXES):
                    raise  # named like one, but something else: not downloaded, or damaged
                passed[str(error).removeprefix(f"{path} is ").split(":")[0].split(", not annotations")[0]] += 1
                continue
            split = _split(inside, dictionary)
            found.append(AnnotationFile(path=path, number=number, inside=inside, kind=kind, split=split))
    described = [file for file in found if Path(file.inside).stem == "metadata"]
    empty = [file.name for file in found if file.kind == "empty"]
    found = described or [file for file in found if file.kind != "empty"]
    families: dict[str, list[str]] = {}
    for file in found:
        families.setdefault(_FAMILY[file.kind], []).append(file.inside)
    if not found:
        there = f" ({', '.join(passed)})" if passed else ""
        raise SourceError(f"{folder} holds no annotation file that can be read{there}: name it, or another folder")
    if len(families) > 1:
        kinds = ", ".join(f"{len(names)} {family}" for family, names in families.items())
        taken = ", ".join(f"{names[0]} is taken for {family}" for family, names in families.items())
        raise SourceError(f"{folder} holds annotation files of several kinds ({kinds}): name those to read ({taken})")
    for name in empty:
        scratch.note(f"{name} is empty")
    for what, count in passed.items():
        scratch.note(f"{folder}: passed over, not annotations: {what}", count)
    for split, count in Counter(file.split for file in found).items():
        if split:
            scratch.note(f"{folder}: files of the split {split!r}, by their names", count)
    yield from found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder by name, following links, each folder once, without our own output."""
    seen = set()
    for at, folders, names in walk(folder, followlinks=True):
        real = at.resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        written = own_output(at) if {"ingest", "manifests"} & {*folders} else set()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in written)
        yield from (at / name for name in sorted(names) if name not in written)


def _split(inside: str, dictionary: bool) -> str:
    """Return the split that a path in a folder names; "" if it names none."""
    *folders, name = inside.split("/")
    if dictionary and folders:
        return folders[0]
    stem = name.split(".")[0]
    if (shard := _SHARD.fullmatch(stem)) and shard[1].lower() not in ("data", "part", "shard"):
        return shard[1].rpartition("/")[2]
    for part in (stem, *reversed(folders)):
        for word in re.split(r"[-_. ]", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""
