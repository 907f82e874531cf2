"""Whole small files, and the files of a folder.

JSON is read strictly (UTF-8, with or without a byte order mark). Nothing here unpickles. Large files are streamed
instead (`streaming.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo import text_files
from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.json_values import parse_json
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.unsupported_files import why_unsupported
from polite_flamingo.storage.discovery import Found
from polite_flamingo.storage.location import location
from polite_flamingo.storage.remote_path import walk
from polite_flamingo.storage.visibility import refuse_broken_mount

MAX_TEXT_FILE_BYTES = 20 << 20
"""Limit for annotation files that describe one image (XML, label lines)."""


def read_text(path: Path) -> str:
    """Read a whole UTF-8 text file, without its byte order mark. Raises `SourceError`."""
    try:
        with path.open("rb") as file:
            if what := why_unsupported(path, file.read(1 << 16)):
                raise SourceError(f"{path} is {what}")
        return text_files.read_text(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}): check path and permissions") from None
    except text_files.NotText as error:
        raise SourceError(str(error)) from None


def printable_name(path: Path) -> str:
    """Return the name of a file as it can be written to JSON: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def files_in(path: Path, suffix: str, scratch: Scratch) -> Iterator[Path]:
    """Yield `path` itself, or the files with `suffix` directly in it, by name; other files are noted.

    Raises:
        SourceError: no file matches.
    """
    if not path.is_dir():
        yield path
        return
    found = Found()
    at, folders, names = next(walk(path, onerror=_raised))
    for name in sorted(folders):
        found.pass_over("folders", name)
    for name in sorted(names):
        found.sort_in(location(at / name), suffix, name)
    if not found.files:
        raise SourceError(f"{path} holds no *{suffix} file: name the folder that directly holds the annotations")
    for line in found.lines():
        scratch.note(line)
    yield from (path / name for name in found.files)


def _raised(error: OSError) -> None:
    raise error


def read_small_text(path: Path, folder: Path | None) -> str:
    """Read an annotation file that is one record. If `folder` is given, the file must lie in it.

    Raises:
        BadSample: `unsafe_name` (a link that leads out of the folder), `bad_field` (not UTF-8), `text_too_long`,
            `missing_annotation` (unreadable).
    """
    try:
        if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
            raise BadSample("unsafe_name", f"{path.name} is a link that leads out of {folder}")
        if path.stat().st_size > MAX_TEXT_FILE_BYTES:
            raise BadSample("text_too_long", f"{path.name}: more than {MAX_TEXT_FILE_BYTES} bytes")
        return text_files.decoded(path.read_bytes())
    except OSError as error:
        refuse_broken_mount(path, error)
        raise BadSample("missing_annotation", f"{path.name} cannot be read: {error.strerror or error}") from None
    except text_files.NotText as error:
        raise BadSample("bad_field", f"{path.name} is {error}") from None


def read_small_json(path: Path, folder: Path | None) -> Any:
    """Read a JSON annotation file that is one record. Raises `BadSample` like `read_small_text`, and for bad JSON."""
    return parse_json(read_small_text(path, folder), path.name)
