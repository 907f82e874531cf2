"""Tars of images and texts from other tools -> rows. Every member is accounted for.

A member ends up in a row or in the count of members passed over: folders, and what systems and tools leave behind
(`tar_members.is_companion`). A row that cannot become a sample says what is wrong with it. The order of the members
does not matter.

Which members form a row:

1. A stem is a member's whole path without its last extension: `a/v1.5_0.jpg` and `a/v1.5_0.txt` are a row, `b/0.jpg`
   and `a/0.txt` are not. The extension may be in any case. `0.jpg.txt` goes with `0.jpg`.
2. A stem that lacks its picture or its text may be a column of another, as WebDataset names them: `0.seg.png` of `0`.
   It joins `0` if there is one, or if the column's name says what it is (`0.img.jpg` with `0.caption.txt`).
3. If a folder of the tar holds nothing but pictures and another nothing but texts, they are matched: `images/0.jpg`
   with `captions/0.txt`, or with `0.txt`.
4. If names repeat, the first of each form a row, then the second of each, provided that each set stands together and
   the first is complete. Otherwise it is unknown which belong together, and each set is a row that says so.

Links to other members are followed. Nothing is extracted, so names that are absolute or hold `..` do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.json_values import parse_json
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.tar_index import (
    COLUMN,
    JSON,
    PICTURE,
    PICTURE_COLUMN,
    TEXT,
    TEXT_COLUMN,
    Member,
    TarIndex,
)
from polite_flamingo.storage.discovery import files_below
from polite_flamingo.storage.tar_groups import BROKEN_TAR
from polite_flamingo.storage.tar_members import HEAD_BYTES, is_tar, packed_with, printable

MAX_TEXT_BYTES = 1 << 20
"""Limit for a member that is read as text or JSON; img2dataset's have a few hundred bytes."""

CAPTION_FIELDS = ("caption", "text", "TEXT", "Caption", "txt", "alt", "alt_text", "title", "description")
"""The fields of a JSON member that may be its caption, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class TarRow:
    """Members that belong together.

    Attributes:
        id: the stem's last part if no other folder of the tar has it, else the whole stem; printable.
        members: all of them, in the order of the tar.
        pictures: the members that are the row's pictures, in the order of their names.
        text: the caption member's text, unchanged; bytes that are not UTF-8 become lone surrogates.
        json: the parsed JSON member.
        problem: why the row cannot become a sample.
    """

    id: str
    members: tuple[Member, ...]
    pictures: tuple[Member, ...] = ()
    text: str | None = None
    json: Any = None
    problem: BadSample | None = None


def tar_rows(path: Path, scratch: Scratch) -> Iterator[TarRow | BadSample]:
    """Yield the rows of a tar in the order of their first members, and last what is wrong with the tar as a whole.

    Args:
        path: the tar.
        scratch: collects notes of what is passed over.

    Raises:
        SourceError: the tar is compressed; the message says how to unpack it.
    """
    index = TarIndex(scratch)
    damage = None
    try:
        with path.open("rb") as file:
            _refuse_packed(path, file.read(HEAD_BYTES))
            file.seek(0)
            try:
                damage = index.fill(file)
            except BROKEN_TAR as error:
                damage = f"{type(error).__name__}: {error}"
            for members, ambiguous in index.groups():
                yield _row(index, members, ambiguous, file, scratch)
    except OSError as error:
        damage = f"{path.name} cannot be read: {error.strerror or error}"
    if damage:
        yield BadSample("truncated_tar" if index.members else "unreadable_shard", damage)
    elif not index.members:
        yield BadSample("empty_shard", f"{path.name} holds no picture and no text")


def caption_field(said: dict[str, Any]) -> str | None:
    """Return the first of `CAPTION_FIELDS` that is not empty."""
    return next((name for name in CAPTION_FIELDS if said.get(name)), None)


def tars_below(path: Path, scratch: Scratch) -> list[Path]:
    """List `path` itself, or the tars below a folder, by name; other files are noted. Raises `SourceError`."""
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror or error})") from None
        _refuse_packed(path, head)
        if head and not is_tar(head):
            raise SourceError(f"{path} is not a tar: give tars, or the folder that holds them")
        return [path]
    found = files_below(path, ingested=False)
    for line in found.lines():
        scratch.note(line)
    if not found.files:
        raise SourceError(f"{path} holds no .tar file ({'; '.join(found.lines()) or 'it is empty'})")
    for name in found.files:
        if printable(name) != name:
            raise SourceError(f"{path}: the name {printable(name)!r} is not UTF-8: rename it")
    return [path / name for name in sorted(found.files)]


def _refuse_packed(path: Path, head: bytes) -> None:
    """Raise `SourceError` for a file whose first bytes are those of a compressed one, whatever its name."""
    if found := packed_with(head):
        raise SourceError(f"{path} is packed with {found[0]}; only plain tars are read: unpack it first ({found[1]})")


def _row(index: TarIndex, members: list[Member], ambiguous: str, file: BufferedReader, notes: Scratch) -> TarRow:
    """Make a row of members: choose its pictures, read its text and JSON."""
    row = TarRow(id=printable(index.id_of(members)), members=tuple(members))
    if ambiguous:
        return replace(row, problem=BadSample("duplicate_key", ambiguous))
    try:
        pictures = _chosen(members, PICTURE, PICTURE_COLUMN)
        texts = _at_most_one(_chosen(members, TEXT, TEXT_COLUMN), "texts")
        jsons = _at_most_one(_chosen(members, JSON, COLUMN), "JSON members")
        if not pictures and not texts and not jsons:
            raise BadSample("unsupported", _nothing_of_use(members))
        for member in (*pictures, *texts, *jsons):
            if member.problem:
                raise BadSample(member.reason, f"{printable(member.name)} {member.problem}")  # type: ignore[arg-type]
        text = _text(texts[0], file) if texts else None
        content = parse_json(_text(jsons[0], file), printable(jsons[0].name)[:80]) if jsons else None
    except BadSample as problem:
        return replace(row, problem=problem)
    for member in members if len(members) > len(pictures) + len(texts) + len(jsons) else ():
        if member not in (*pictures, *texts, *jsons):
            column = f".{member.column}" if member.column and not member.column.isdecimal() else ""
            ending = f"{column}.{member.extension}" if member.extension else "without an extension"
            notes.note(f"passed over: members {printable(ending)} beside the picture and the text of their row")
    return replace(row, pictures=tuple(pictures), text=text, json=content)


def _chosen(members: list[Member], kind: str, columns: re.Pattern[str]) -> list[Member]:
    """Choose the members of a kind with the plain name; else those whose column says what they are, in its order."""
    found = [member for member in members if member.kind == kind]
    plain = [member for member in found if not member.column]
    if plain or not found:
        return plain
    known = [member for member in found if columns.fullmatch(member.column)]
    return sorted(known, key=lambda member: (len(member.column), member.column))


def _at_most_one(members: list[Member], what: str) -> list[Member]:
    if len(members) > 1:
        names = " and ".join(printable(member.name) for member in members)
        raise BadSample("bad_field", f"the row has {len(members)} {what}: {names[:200]}")
    return members


def _nothing_of_use(members: list[Member]) -> str:
    names = ", ".join(printable(member.name) for member in members)[:200]
    if any(member.extension in ("tar", "tgz", "zip", "gz", "bz2", "xz", "zst") for member in members):
        return f"{names} is an archive within the tar: unpack the outer one first (tar -xf)"
    if any(member.extension in ("jsonl", "ndjson", "csv", "tsv", "parquet", "arrow") for member in members):
        return f"{names} lists annotations: unpack the tar (tar -xf), and read it with --source table or llava"
    return f"{names}: neither a picture nor a caption by its name"


def _text(member: Member, file: BufferedReader) -> str:
    if member.size > MAX_TEXT_BYTES:
        detail = f"{printable(member.name)}: {member.size} bytes, at most {MAX_TEXT_BYTES} are read"
        raise BadSample("text_too_long", detail)
    file.seek(member.offset)
    return file.read(member.size).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
