"""Group the members of a tar by the key at the start of their names: one group is one row of a shard.

The order of the members does not matter. Problems of a group or the file are noted, never raised: the shard's reader
(`shards.py`) reports them in place of the row.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

from polite_flamingo.sample import Image, Reason
from polite_flamingo.storage.tar_members import HEAD_BYTES, is_companion, packed_with, plain_name
from polite_flamingo.storage.visibility import about_content

MAX_JSON_BYTES = 8 << 20
MAX_IMAGE_BYTES = 256 << 20
"""Larger members are not read: a header may claim any size."""

_MEMBER = re.compile(
    r"(?P<key>.*/[^/.]+|[^/.]+)\.(?:(?P<json>json)|(?P<number>\d{1,4})\.(?P<extension>[a-z0-9]{1,8}))",
    re.IGNORECASE | re.DOTALL,
)
BROKEN_TAR = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError)
"""Errors that `tarfile` raises on damaged bytes: its own, and those of its number parsing."""


@dataclass(kw_only=True)
class Group:
    """The members of one key; `problem` is the first problem found with them."""

    key: str
    member: str
    json: bytes | None = None
    images: dict[int, Image] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    places: list[int] = field(default_factory=list)
    problem: tuple[Reason, str] | None = None


def read_members(file: io.BufferedIOBase, groups: list[Group]) -> str | None:
    """Fill `groups`, in order of first appearance; return the problem of the file, or None."""
    by_key: dict[str, list[Group]] = {}
    last: Group | None = None
    try:
        if file.seek(0, io.SEEK_END) == 0:
            return None
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            offset = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= offset:
                    return f"member {member.name[:80]!r} points backwards"
                offset = tar.offset
                name = plain_name(member.name)
                if member.isdir() or is_companion(name):
                    continue
                match = _MEMBER.fullmatch(name)
                folder, slash, base = name.rpartition("/")
                key = match["key"] if match else folder + slash + (base.partition(".")[0] or base)
                slot = "json" if match and match["json"] else f"image {int(match['number'])}" if match else name
                last = _group_for(key, slot, name, by_key, groups, last)
                last.places.append(offset)
                _take(tar, member, name, match, last)
            return after_the_end(file, tar.offset)
    except BROKEN_TAR as error:
        if not about_content(error):
            raise
        file.seek(0)
        if packed := packed_with(file.read(HEAD_BYTES)):
            return f"packed with {packed[0]}; only plain tars are read: unpack it first ({packed[1]})"
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    finally:
        _tell_apart(by_key)


def after_the_end(file: io.BufferedIOBase, offset: int) -> str | None:
    """Check the end mark: `tarfile` takes a damaged header, or a file cut between two members, for the end."""
    file.seek(offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        return f"no end mark at byte {offset}: the file was cut"
    if mark.strip(b"\0"):
        return f"damaged header at byte {offset}"
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            return f"data after the end mark at byte {offset}: tars must not be concatenated"
    return None


def _group_for(
    key: str, slot: str, name: str, by_key: dict[str, list[Group]], groups: list[Group], last: Group | None
) -> Group:
    """Return the group that lacks this member: preferably the last one, else the first, else a new one."""
    same = by_key.setdefault(key, [])
    candidates = [last, *same] if last is not None and last in same else same
    group = next((group for group in candidates if slot not in group.seen), None)
    if group is None:
        group = Group(key=key, member=name)
        same.append(group)
        groups.append(group)
    group.seen.add(slot)
    return group


def _tell_apart(by_key: Mapping[str, list[Group]]) -> None:
    """Mark the groups of a repeated key if it is unclear which image belongs to which text.

    It is clear if the members of each group are adjacent and the first group has all members that others have.
    """
    for key, same in by_key.items():
        apart = all(before.places[-1] < after.places[0] for before, after in pairwise(same))
        if len(same) > 1 and not (apart and all(group.seen <= same[0].seen for group in same)):
            for group in same:
                detail = f"members of {key[:80]!r} repeat, and nothing says which belong together"
                group.problem = ("duplicate_key", detail)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, match: re.Match[str] | None, group: Group) -> None:
    """Read one member into its group, or note the problem."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        _note(group, "unsafe_name", f"member {name[:80]!r} leads out of the shard")
    elif not member.isreg() or member.issparse():
        detail = f"member {name[:80]!r} is a link, device or sparse file; only plain files are read"
        _note(group, "unsafe_name", detail)
    elif match is None:
        pass  # another tool's column: a row needs only KEY.json and KEY.N.EXT
    elif match["json"]:
        if member.size > MAX_JSON_BYTES:
            _note(group, "text_too_long", f"{name}: {member.size} bytes of JSON, at most {MAX_JSON_BYTES} are read")
        else:
            group.member = name
            group.json = _bytes(tar, member)
    elif member.size > MAX_IMAGE_BYTES:
        _note(group, "image_too_large", f"{name}: {member.size} bytes, at most {MAX_IMAGE_BYTES} are read")
    else:
        group.images[int(match["number"])] = Image(extension=match["extension"].lower(), data=_bytes(tar, member))


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a plain file always opens
    return file.read()


def _note(group: Group, reason: Reason, detail: str) -> None:
    if group.problem is None:
        group.problem = (reason, detail)
