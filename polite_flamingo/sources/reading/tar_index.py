"""The members of one tar, indexed by stem, and the rows that they form.

A tar of millions of members is indexed on disk (`Scratch`). `tars.py` says which members form a row.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.storage.tar_groups import after_the_end
from polite_flamingo.storage.tar_members import is_companion, plain_name

PICTURES = frozenset({*EXTENSIONS, "jpe", "jfif", "avif", "heic", "heif", "svg", "jxl"})
"""Extensions of pictures; those that cannot be opened are reported when they are read."""

TEXTS = frozenset({"txt", "text", "caption", "cap"})

_EXTENSION = re.compile(r"[a-z0-9_+-]{1,16}")
COLUMN = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
PICTURE_COLUMN = re.compile(r"(img|image|picture|pic|photo|rgb|input|view|frame)?s?[-_]?\d{0,4}", re.IGNORECASE)
TEXT_COLUMN = re.compile(r"(img|image)?[-_]?(caption|cap|text|txt|alt|title|description|prompt)s?", re.IGNORECASE)
_HOPS = 8
"""Maximum length of a chain of links."""

PICTURE, TEXT, JSON, _OTHER = "picture", "text", "json", "other"
_KINDS = dict.fromkeys(PICTURES, PICTURE) | dict.fromkeys(TEXTS, TEXT) | {"json": JSON}


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A member of a tar: where its bytes lie.

    Attributes:
        place: its number among the members that are data.
        name: its path in the tar (see `plain_name`).
        stem: the path without column and extension.
        extension: in lower case, without the dot.
        column: what its name has between the row's stem and the extension: "seg" of `0.seg.png`, mostly "".
        offset: where its bytes begin in the tar.
        size: how many bytes it has.
        problem: why it cannot be read (a link that leads nowhere, a device), or "".
        reason: the quarantine reason that goes with `problem`.
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
        """What its extension makes it: picture, text, json or other."""
        return _KINDS.get(self.extension, _OTHER)


class TarIndex:
    """The members of one tar by stem. A private `Scratch` holds them, freed with the index."""

    def __init__(self, notes: Scratch) -> None:
        self.members = 0
        self._notes = notes
        self._scratch = Scratch()
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
                    return f"member {member.name[:80]!r} points backwards"
                offset = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # else it would keep every header of the tar
                if member.isdir():
                    self._notes.note("passed over: folders in a tar")
                elif is_companion(member.name):
                    self._notes.note("passed over: members that are not data (._*, .DS_Store, README and the like)")
                else:
                    self._put(member)
            return after_the_end(file, tar.offset)

    def groups(self) -> Iterator[tuple[list[Member], str]]:
        """Yield the members of each row, and an error if it is unknown which of them belong together."""
        self._find_columns()
        self._find_matches()
        for stem, time in self._scratch.items("stem"):
            if stem in self._again:
                yield self._members_of(stem, time), self._ambiguous(stem)
                continue
            root = self._root(stem)
            if not self._scratch.is_new(f"row {root}"):
                continue
            found = self._with_columns(root)
            if (partner := self._partner(root, found)) is not None:
                self._scratch.is_new(f"row {partner}")
                found += self._with_columns(partner)
                self._notes.note("rows whose picture and text lie in different folders of a tar were matched by name")
            yield sorted(found, key=lambda member: member.place), ""

    def id_of(self, members: Iterable[Member]) -> str:
        """Return the id of a row: see `TarRow`."""
        stems = list(dict.fromkeys(member.stem for member in members))
        if len(stems) == 1:
            base = posixpath.basename(stems[0])
            return stems[0] if self._scratch.has("base twice", stem_key(base)) else base
        parts = [stem.split("/") for stem in stems]
        start = posixpath.commonprefix(parts)
        end = posixpath.commonprefix([part[len(start) :][::-1] for part in parts])[::-1]
        return "/".join([*start, *end])

    def _put(self, member: tarfile.TarInfo) -> None:
        name = plain_name(member.name)
        stem, extension = split_name(name)
        target, problem = "", ["", ""]
        if member.islnk() or member.issym():
            near = posixpath.dirname(name) if member.issym() else ""
            target = plain_name(posixpath.normpath(posixpath.join(near, member.linkname)))
        elif not member.isreg():
            problem = ["unsafe_name", "is a device, not a file"]
        elif member.issparse():
            problem = ["unsupported", "is stored as a sparse file: pack the tar again without --sparse"]
        key, time = stem_key(stem), 0
        if not self._scratch.is_new(f"name {name}"):
            self._times[name] += 1
            time = self._times[name]
            self._again[key] = max(time, self._again.get(key, 0))
        self._scratch.put(
            "member", f"{time}{key}", [self.members, name, member.offset_data, member.size, target, problem]
        )
        if self._scratch.is_new(f"stem {time} {stem}"):
            self._scratch.put("stem", key, time)
            base = posixpath.basename(stem)
            if time == 0 and not self._scratch.is_new(f"base {base}"):
                self._scratch.put("base twice", stem_key(base), 0)
        self._folders.setdefault(posixpath.dirname(stem), set()).add(_KINDS.get(extension, _OTHER))
        self.members += 1

    def _members_of(self, stem: str, time: int = 0, column: str = "") -> list[Member]:
        """Return the members of a stem, with links followed."""
        return [self._member(column, *value) for value in self._scratch.get("member", f"{time}{stem}")]

    def _member(
        self, column: str, place: int, name: str, offset: int, size: int, target: str, problem: list[Any]
    ) -> Member:
        for _ in range(_HOPS if target else 0):
            if target:
                found = self._scratch.get("member", f"0{stem_key(split_name(target)[0])}")
                other = next((one for one in found if one[1] == target), None)
                if other is None:
                    problem = ["unsafe_name", f"is a link to {target[:80]!r}, which is not in the tar"]
                    target = ""
                else:
                    _, _, offset, size, target, problem = other
        if target:
            problem = ["unsafe_name", "is a link that leads in a circle"]
        stem, extension = split_name(name)
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
        """Store which stems are columns of others (rule 2)."""
        cuts = [(stem, cut) for stem, time in self._scratch.items("stem") if time == 0 and (cut := _cut(stem))]
        for stem, (parent, column) in cuts:
            if self._is_column(stem, parent, column):
                self._columns = True
                self._scratch.put("column", parent, stem)

    def _is_column(self, stem: str, parent: str, column: str) -> bool:
        members = self._members_of(stem)
        kinds = {member.kind for member in members}
        if stem in self._again or parent in self._again or _is_whole(kinds):
            return False
        there = self._members_of(parent)
        if _NUMBER.fullmatch(column):
            return any(member.kind == JSON for member in there)
        known = PICTURE_COLUMN if PICTURE in kinds else TEXT_COLUMN
        return bool(COLUMN.fullmatch(column)) and (bool(there) or kinds == {JSON} or bool(known.fullmatch(column)))

    def _find_matches(self) -> None:
        """Store the stems in folders that hold only pictures, or only texts (rule 3)."""
        only = {folder: kinds for folder, kinds in self._folders.items() if not _is_whole(kinds)}
        pictures = {folder for folder, kinds in only.items() if PICTURE in kinds}
        self._matched = bool(pictures) and len(pictures) < len(only)
        if not self._matched:
            return
        for stem in [stem for stem, time in self._scratch.items("stem") if time == 0 and stem not in self._again]:
            folder = posixpath.dirname(json.loads(stem))
            if folder in only:
                for place in _places(stem):
                    self._scratch.put("pictures" if folder in pictures else "texts", place, stem)

    def _partner(self, root: str, members: list[Member]) -> str | None:
        """Find the one stem of another folder that has what this one lacks, and lacks what it has (rule 3)."""
        if not self._matched:
            return None
        kinds = {member.kind for member in members}
        mine, other = ("pictures", "texts") if PICTURE in kinds else ("texts", "pictures")
        places = _places(root)
        if _is_whole(kinds) or root not in self._scratch.get(mine, places[0]):
            return None
        found = {stem for place in places for stem in self._scratch.get(other, place)}
        if len(found) != 1:
            return None
        (partner,) = found
        back = {stem for place in _places(partner) for stem in self._scratch.get(mine, place)}
        return partner if back == {root} else None

    def _root(self, stem: str) -> str:
        while self._columns and (cut := _cut(stem)) is not None and stem in self._scratch.get("column", cut[0]):
            stem = cut[0]
        return stem

    def _with_columns(self, root: str, column: str = "") -> list[Member]:
        found = self._members_of(root, column=column)
        for stem in self._scratch.get("column", root) if self._columns else ():
            cut = _cut(stem)
            assert cut is not None  # it is a column
            found += self._with_columns(stem, f"{column}.{cut[1]}" if column else cut[1])
        return found

    def _ambiguous(self, stem: str) -> str:
        """Say what is wrong with a stem whose names repeat; "" if each set stands together, the first complete."""
        sets = [self._members_of(stem, time) for time in range(self._again[stem] + 1)]
        names = [{member.name for member in one} for one in sets]
        apart = all(before[-1].place < after[0].place for before, after in pairwise(sets))
        if apart and all(one <= names[0] for one in names):
            return ""
        return f"members called {json.loads(stem)[:80]!r} repeat, and it is unknown which of them belong together"


@functools.lru_cache(maxsize=4096)
def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into its stem and its extension (rule 1)."""
    folder, slash, base = name.rpartition("/")
    front, _, extension = base.rpartition(".")
    extension = extension.lower()
    if not front or not _EXTENSION.fullmatch(extension):
        return name, ""
    if _KINDS.get(extension) in (TEXT, JSON):
        inner, _, before = front.rpartition(".")
        front = inner if inner and before.lower() in PICTURES else front
    return f"{folder}{slash}{front}", extension


def _is_whole(kinds: Set[str]) -> bool:
    return PICTURE in kinds and bool(kinds & {TEXT, JSON})


def stem_key(path: str) -> str:
    """Turn a path into a key of the scratch, which takes no lone surrogates."""
    return json.dumps(path)


def _cut(stem: str) -> tuple[str, str] | None:
    """Split the key of a stem at its last dot, into the key before and the column after it; None without a dot."""
    folder, base = posixpath.split(json.loads(stem))
    front, _, column = base.rpartition(".")
    return (stem_key(posixpath.join(folder, front)), column) if front and column else None


def _places(stem: str) -> list[str]:
    """Make the keys that two stems share if they differ by one extra folder, or by the name of one folder."""
    *folders, base = json.loads(stem).split("/")
    fewer = [(number, [*folders[:number], *folders[number + 1 :], base]) for number in range(len(folders))]
    same = [(number, [*folders, base]) for number in range(len(folders) + 1)]
    return [stem_key(f"{number} {'/'.join(parts)}") for number, parts in (*fewer, *same)]
