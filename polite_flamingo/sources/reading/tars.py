"""Tars of pictures and texts that other tools wrote -> rows, in which every member is accounted for.

A member ends in a row, or in the counted note of what was passed over: folders, and what systems and tools leave
(`tar_members.is_companion`). A row that cannot become a sample says what is wrong with it. The order of the members
does not matter, and a tar of millions of members is indexed on disk (`Shelf`).

Which members are a row:

1. A stem is a member's whole path without its last extension: `a/v1.5_0.jpg` and `a/v1.5_0.txt` are a row, `b/0.jpg`
   and `a/0.txt` are none. The extension may be in any case. `0.jpg.txt` goes with `0.jpg`.
2. A stem that lacks its picture or its text may be a column of another, as WebDataset names them: `0.seg.png` of `0`.
   It joins `0` if there is one, or if the column's name says what it is (`0.img.jpg` with `0.caption.txt`).
3. Where a folder of the tar holds nothing but pictures and another nothing but texts, they are matched: `images/0.jpg`
   with `captions/0.txt`, or with `0.txt`.
4. Of repeated names, the first of each is a row, then the second of each, if each set stands together and the first
   lacks nothing. Otherwise nothing tells which belong together, and each set is a row that says so.

Links to other members are followed. Nothing is extracted, so names that are absolute or hold `..` do no harm.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.checks import SourceError
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.storage.shards import BROKEN_TAR, after_the_end
from polite_flamingo.storage.tar_members import HEAD_BYTES, is_companion, packed_with, plain_name, printable

MAX_TEXT_BYTES = 1 << 20
"""Of a member that is read as text or JSON; img2dataset's have a few hundred."""

PICTURES = frozenset({*EXTENSIONS, "jpe", "jfif", "avif", "heic", "heif", "svg", "jxl"})
"""Extensions of pictures; those that cannot be opened are told when they are read."""

TEXTS = frozenset({"txt", "text", "caption", "cap"})

CAPTION_FIELDS = ("caption", "text", "TEXT", "Caption", "txt", "alt", "alt_text", "title", "description")
"""Of a JSON member, the fields that may be its caption, in this order."""

_EXTENSION = re.compile(r"[a-z0-9_+-]{1,16}")
_COLUMN = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
_PICTURE_COLUMN = re.compile(r"(img|image|picture|pic|photo|rgb|input|view|frame)?s?[-_]?\d{0,4}", re.IGNORECASE)
_TEXT_COLUMN = re.compile(r"(img|image)?[-_]?(caption|cap|text|txt|alt|title|description|prompt)s?", re.IGNORECASE)
_HOPS = 8
"""Links that lead to links are followed so far."""

_PICTURE, _TEXT, _JSON, _OTHER = "picture", "text", "json", "other"
_KINDS = dict.fromkeys(PICTURES, _PICTURE) | dict.fromkeys(TEXTS, _TEXT) | {"json": _JSON}


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A member of a tar: where its bytes lie.

    Attributes:
        place: its number among the members that are data.
        name: its path in the tar (see `plain_name`).
        stem: the path without column and extension.
        extension: in lower case, without the dot.
        column: what its name has between the row's stem and the extension: "seg" of `0.seg.png`, mostly "".
        offset: of its bytes in the tar.
        size: in bytes.
        problem: why it cannot be read (a link that leads nowhere, a device), or "".
        reason: of that.
    """

    place: int
    name: str
    stem: str
    extension: str
    column: str
    offset: int
    size: int
    problem: str = ""
    reason: str = ""

    @property
    def kind(self) -> str:
        """By its extension: picture, text, json or other."""
        return _kind(self.extension)


@dataclass(frozen=True, kw_only=True)
class TarRow:
    """Members that belong together.

    Attributes:
        id: the stem's last part where no other folder of the tar has it, else the whole stem, as it can be written.
        members: all of them, in the order of the tar.
        pictures: those that are the row's pictures, in the order of their names.
        text: of the caption's member, as it stands; bytes that are not UTF-8 become half surrogates.
        json: the parsed JSON member.
        problem: why the row can be no sample.
    """

    id: str
    members: tuple[Member, ...]
    pictures: tuple[Member, ...] = ()
    text: str | None = None
    json: Any = None
    problem: BadSample | None = None


def rows_of(path: Path, shelf: Shelf) -> Iterator[TarRow | BadSample]:
    """The rows of a tar in the order of their first members, and last what is wrong with the tar as a whole.

    Args:
        path: of the tar.
        shelf: for notes of what is passed over.

    Raises:
        SourceError: it is packed; the message says how to unpack it.
    """
    refuse_packed(path)
    index = _Index(shelf)
    damage = None
    try:
        with path.open("rb") as file:
            try:
                damage = index.fill(file)
            except BROKEN_TAR as error:
                damage = f"{type(error).__name__}: {error}"
            for members, ambiguous in index.groups():
                yield _row(index, members, ambiguous, file, shelf)
    except OSError as error:
        damage = f"{path.name} cannot be read: {error.strerror or error}"
    if damage:
        yield BadSample("truncated_tar" if index.members else "unreadable_shard", damage)
    elif not index.members:
        yield BadSample("empty_shard", f"{path.name} holds no picture and no text")


def caption_field(said: dict[str, Any]) -> str | None:
    """The first of `CAPTION_FIELDS` that holds anything."""
    return next((name for name in CAPTION_FIELDS if said.get(name)), None)


def refuse_packed(path: Path) -> None:
    """Raise SourceError for a file that begins as a packed one does, whatever it is called."""
    try:
        with path.open("rb") as file:
            found = packed_with(file.read(HEAD_BYTES))
    except OSError:
        return  # whoever reads it says so
    if found:
        raise SourceError(f"{path} is packed with {found[0]}; only plain tars are read: unpack it first ({found[1]})")


class _Index:
    """The members of one tar by stem. A private `Shelf` holds them, so that they are gone with the tar."""

    def __init__(self, notes: Shelf) -> None:
        self.members = 0
        self._notes = notes
        self._shelf = Shelf()
        self._times: Counter[str] = Counter()
        self._again: dict[str, int] = {}
        self._folders: dict[str, set[str]] = {}
        self._columns = self._matched = False

    def fill(self, file: BufferedReader) -> str | None:
        """Read every header; return what is wrong with the tar, or None. Raises one of `BROKEN_TAR`."""
        with tarfile.open(fileobj=file, mode="r:") as tar:
            offset = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= offset:
                    return f"member {member.name[:80]!r} leads backwards"
                offset = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold every header of the tar
                if member.isdir():
                    self._notes.note("passed over: folders in a tar")
                elif is_companion(member.name):
                    self._notes.note("passed over: members that are no data (._*, .DS_Store, README and the like)")
                else:
                    self._put(member)
            return after_the_end(file, tar.offset)

    def groups(self) -> Iterator[tuple[list[Member], str]]:
        """The members of each row, and what is wrong where nothing tells which of them belong together."""
        self._find_columns()
        self._find_matches()
        for stem, time in self._shelf.items("stem"):
            if stem in self._again:
                yield self._of(stem, time), self._ambiguous(stem)
                continue
            root = self._root(stem)
            if not self._shelf.first(f"row {root}"):
                continue
            found = self._with_columns(root)
            if (partner := self._partner(root, found)) is not None:
                self._shelf.first(f"row {partner}")
                found += self._with_columns(partner)
                self._notes.note("rows whose picture and text lie in different folders of a tar were matched by name")
            yield sorted(found, key=lambda member: member.place), ""

    def id_of(self, members: Iterable[Member]) -> str:
        """Of the row: see `TarRow`."""
        stems = list(dict.fromkeys(member.stem for member in members))
        if len(stems) == 1:
            base = posixpath.basename(stems[0])
            return stems[0] if self._shelf.has("base twice", _key(base)) else base
        parts = [stem.split("/") for stem in stems]
        start = posixpath.commonprefix(parts)
        end = posixpath.commonprefix([part[len(start) :][::-1] for part in parts])[::-1]
        return "/".join([*start, *end])

    def _put(self, member: tarfile.TarInfo) -> None:
        name = plain_name(member.name)
        stem, extension = _split(name)
        target, problem = "", ["", ""]
        if member.islnk() or member.issym():
            near = posixpath.dirname(name) if member.issym() else ""
            target = plain_name(posixpath.normpath(posixpath.join(near, member.linkname)))
        elif not member.isreg():
            problem = ["unsafe_name", "is a device, not a file"]
        elif member.issparse():
            problem = ["unsupported", "is stored as a sparse file: pack the tar again without --sparse"]
        key, time = _key(stem), 0
        if not self._shelf.first(f"name {name}"):
            self._times[name] += 1
            time = self._times[name]
            self._again[key] = max(time, self._again.get(key, 0))
        self._shelf.put(
            "member", f"{time}{key}", [self.members, name, member.offset_data, member.size, target, problem]
        )
        if self._shelf.first(f"stem {time} {stem}"):
            self._shelf.put("stem", key, time)
            base = posixpath.basename(stem)
            if time == 0 and not self._shelf.first(f"base {base}"):
                self._shelf.put("base twice", _key(base), 0)
        self._folders.setdefault(posixpath.dirname(stem), set()).add(_kind(extension))
        self.members += 1

    def _of(self, stem: str, time: int = 0, column: str = "") -> list[Member]:
        """The members of a stem, links followed."""
        return [self._member(column, *value) for value in self._shelf.get("member", f"{time}{stem}")]

    def _member(
        self, column: str, place: int, name: str, offset: int, size: int, target: str, problem: list[Any]
    ) -> Member:
        for _ in range(_HOPS if target else 0):
            if target:
                found = self._shelf.get("member", f"0{_key(_split(target)[0])}")
                other = next((one for one in found if one[1] == target), None)
                if other is None:
                    problem = ["unsafe_name", f"is a link to {target[:80]!r}, which is not in the tar"]
                    target = ""
                else:
                    _, _, offset, size, target, problem = other
        if target:
            problem = ["unsafe_name", "is a link that leads in a circle"]
        stem, extension = _split(name)
        return Member(
            place=place,
            name=name,
            stem=stem.removesuffix(f".{column}") if column else stem,
            extension=extension,
            column=column,
            offset=offset,
            size=size,
            reason=problem[0],
            problem=problem[1],
        )

    def _find_columns(self) -> None:
        """Put on the shelf which stems are columns of others (rule 2)."""
        dotted = [stem for stem, time in self._shelf.items("stem") if time == 0 and _cut(stem) is not None]
        for stem in dotted:
            if (cut := _cut(stem)) is not None and self._is_column(stem, *cut):
                self._columns = True
                self._shelf.put("column", cut[0], stem)

    def _is_column(self, stem: str, parent: str, column: str) -> bool:
        members = self._of(stem)
        kinds = {member.kind for member in members}
        if stem in self._again or parent in self._again or _is_whole(kinds):
            return False
        there = self._of(parent)
        if _NUMBER.fullmatch(column):
            return any(member.kind == _JSON for member in there)
        known = _PICTURE_COLUMN if _PICTURE in kinds else _TEXT_COLUMN
        return bool(_COLUMN.fullmatch(column)) and (bool(there) or kinds == {_JSON} or bool(known.fullmatch(column)))

    def _find_matches(self) -> None:
        """Put on the shelf the stems in folders that hold pictures alone, or texts alone (rule 3)."""
        only = {folder: kinds for folder, kinds in self._folders.items() if not _is_whole(kinds)}
        pictures = {folder for folder, kinds in only.items() if _PICTURE in kinds}
        self._matched = bool(pictures) and len(pictures) < len(only)
        if not self._matched:
            return
        for stem in [stem for stem, time in self._shelf.items("stem") if time == 0 and stem not in self._again]:
            folder = posixpath.dirname(json.loads(stem))
            if folder in only:
                for place in _places(stem):
                    self._shelf.put("pictures" if folder in pictures else "texts", place, stem)

    def _partner(self, root: str, members: list[Member]) -> str | None:
        """The one stem of another folder that has what this one lacks, and lacks what it has (rule 3)."""
        if not self._matched:
            return None
        kinds = {member.kind for member in members}
        mine, other = ("pictures", "texts") if _PICTURE in kinds else ("texts", "pictures")
        places = _places(root)
        if _is_whole(kinds) or root not in self._shelf.get(mine, places[0]):
            return None
        found = {stem for place in places for stem in self._shelf.get(other, place)}
        if len(found) != 1:
            return None
        (partner,) = found
        back = {stem for place in _places(partner) for stem in self._shelf.get(mine, place)}
        return partner if back == {root} else None

    def _root(self, stem: str) -> str:
        while self._columns and (cut := _cut(stem)) is not None and stem in self._shelf.get("column", cut[0]):
            stem = cut[0]
        return stem

    def _with_columns(self, root: str, column: str = "") -> list[Member]:
        found = self._of(root, column=column)
        for stem in self._shelf.get("column", root) if self._columns else ():
            cut = _cut(stem)
            assert cut is not None  # else it were no column
            found += self._with_columns(stem, f"{column}.{cut[1]}" if column else cut[1])
        return found

    def _ambiguous(self, stem: str) -> str:
        """What is wrong with a stem whose names repeat; "" where each set stands together, and the first has all."""
        sets = [self._of(stem, time) for time in range(self._again[stem] + 1)]
        names = [{member.name for member in one} for one in sets]
        apart = all(before[-1].place < after[0].place for before, after in pairwise(sets))
        if apart and all(one <= names[0] for one in names):
            return ""
        return f"members called {json.loads(stem)[:80]!r} repeat, and nothing tells which of them belong together"


def _row(index: _Index, members: list[Member], ambiguous: str, file: BufferedReader, notes: Shelf) -> TarRow:
    """The row of members: its pictures chosen, its text and JSON read."""
    row = TarRow(id=printable(index.id_of(members)), members=tuple(members))
    if ambiguous:
        return replace(row, problem=BadSample("duplicate_key", ambiguous))
    try:
        pictures = _chosen(members, _PICTURE, _PICTURE_COLUMN)
        texts = _one(_chosen(members, _TEXT, _TEXT_COLUMN), "texts")
        jsons = _one(_chosen(members, _JSON, _COLUMN), "JSON members")
        if not pictures and not texts and not jsons:
            raise BadSample("unsupported", _nothing_of_use(members))
        for member in (*pictures, *texts, *jsons):
            if member.problem:
                raise BadSample(member.reason, f"{printable(member.name)} {member.problem}")  # type: ignore[arg-type]
        text = _text(texts[0], file) if texts else None
        content = _parsed(jsons[0], file) if jsons else None
    except BadSample as problem:
        return replace(row, problem=problem)
    for member in members if len(members) > len(pictures) + len(texts) + len(jsons) else ():
        if member not in (*pictures, *texts, *jsons):
            column = f".{member.column}" if member.column and not member.column.isdecimal() else ""
            ending = f"{column}.{member.extension}" if member.extension else "without an extension"
            notes.note(f"passed over: members {printable(ending)} beside the picture and the text of their row")
    return replace(row, pictures=tuple(pictures), text=text, json=content)


def _chosen(members: list[Member], kind: str, columns: re.Pattern[str]) -> list[Member]:
    """Those of a kind that have the plain name; else those whose column says what they are, by its number and name."""
    found = [member for member in members if member.kind == kind]
    plain = [member for member in found if not member.column]
    if plain or not found:
        return plain
    known = [member for member in found if columns.fullmatch(member.column)]
    return sorted(known, key=lambda member: (len(member.column), member.column))


def _one(members: list[Member], what: str) -> list[Member]:
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


def _parsed(member: Member, file: BufferedReader) -> Any:
    name = printable(member.name)[:80]
    try:
        return json.loads(_text(member, file))
    except RecursionError:
        raise BadSample("bad_json", f"{name} is nested too deeply") from None
    except BadSample:
        raise
    except ValueError as error:
        raise BadSample("bad_json", f"{name} is not JSON ({error})") from None


@functools.lru_cache(maxsize=4096)
def _split(name: str) -> tuple[str, str]:
    """A member's name -> its stem and its extension (rule 1)."""
    folder, slash, base = name.rpartition("/")
    front, _, extension = base.rpartition(".")
    extension = extension.lower()
    if not front or not _EXTENSION.fullmatch(extension):
        return name, ""
    if _kind(extension) in (_TEXT, _JSON):
        inner, _, before = front.rpartition(".")
        front = inner if inner and before.lower() in PICTURES else front
    return f"{folder}{slash}{front}", extension


def _kind(extension: str) -> str:
    return (
        _PICTURE if extension in PICTURES else _TEXT if extension in TEXTS else _JSON if extension == _JSON else _OTHER
    )


def _is_whole(kinds: Set[str]) -> bool:
    return _PICTURE in kinds and bool(kinds & {_TEXT, _JSON})


def _key(path: str) -> str:
    """A path as a key of the shelf, which takes no half surrogates."""
    return json.dumps(path)


def _cut(stem: str) -> tuple[str, str] | None:
    """The key of a stem -> that of what stands before its last dot, and the column after it; None without a dot."""
    folder, base = posixpath.split(json.loads(stem))
    front, _, column = base.rpartition(".")
    return (_key(posixpath.join(folder, front)), column) if front and column else None


def _places(stem: str) -> list[str]:
    """Equal for two stems of which one has a folder more than the other, or one called otherwise."""
    *folders, base = json.loads(stem).split("/")
    fewer = [(number, [*folders[:number], *folders[number + 1 :], base]) for number in range(len(folders))]
    same = [(number, [*folders, base]) for number in range(len(folders) + 1)]
    return [_key(f"{number} {'/'.join(parts)}") for number, parts in (*fewer, *same)]
