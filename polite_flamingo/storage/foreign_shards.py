"""Refuse tars that are not shards of this project before a job starts anything.

Every row of such a tar would end in quarantine, after Ray has started and the models are loaded. A look at the first
members takes a fraction of a second, and the message gives the command that ingests the tars.
"""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from polite_flamingo.sample import BadSample
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import decode_record
from polite_flamingo.storage.tar_groups import BROKEN_TAR, MAX_JSON_BYTES
from polite_flamingo.storage.tar_members import HEAD_BYTES, is_companion, packed_with, plain_name, printable
from polite_flamingo.storage.visibility import PathUnavailable

MAX_SHARDS_OPENED = 1000
"""Most shards to open, spread over all: opening a million takes minutes."""

_AHEAD = 1 << 16
"""Bytes per request of a shard in a bucket: a look at the first members must not fetch the rest."""

_MAX_MEMBERS = 64
"""Most members to read of a tar while looking for a sample of this project."""

_THREADS = 16
_PICTURE = re.compile(r".*\.\d{1,4}\.\w{1,8}", re.DOTALL)
"""The name of a picture in a shard; many other tools use the same form, so it proves nothing."""


def refuse_foreign(shards: Iterable[Location], say: Callable[[str], None] = print) -> None:
    """Raise ValueError if a shard holds no sample of this project; the message says how to ingest it.

    Args:
        shards: the input of a job; if there are many, only some are opened. Damaged or missing ones are left to their
            reader.
        say: called with a line if members are passed over.
    """
    places = list(shards)
    places = places[:: len(places) // MAX_SHARDS_OPENED + 1]
    companions = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for place, (problem, others) in zip(places, pool.map(_look, places), strict=True):
            if problem:
                pool.shutdown(cancel_futures=True)
                raise ValueError(problem)
            if others:
                companions.append(place)
    if companions:
        more = f" and {len(companions) - 1:,} other shards" if len(companions) > 1 else ""
        where = printable(str(companions[0]))
        say(f"passed over: members of {where}{more} that are not data (._*, .DS_Store, README and the like)")


def _look(place: Location) -> tuple[str, bool]:
    """Return what is wrong with a tar as input ("" if nothing), and whether it has companion files."""
    first, companions = "", False
    try:
        with place.store.open(place.key, place.listed, ahead=_AHEAD) as file:
            if packed := packed_with(file.read(HEAD_BYTES)):
                detail = f"{place} is packed with {packed[0]}; only plain tars are read: unpack it first ({packed[1]})"
                return printable(detail), False
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for _ in range(_MAX_MEMBERS):
                    member = tar.next()
                    if member is None or member.size < 0:
                        break
                    name = plain_name(member.name)
                    if member.isdir():
                        continue
                    if is_companion(name):
                        companions = True
                        continue
                    if not name.lower().endswith(".json"):
                        first = first or ("" if _PICTURE.fullmatch(name) else name)
                        continue
                    ours = _is_ours(tar, member)
                    if ours:
                        return "", companions
                    first = first or ("" if ours is None else name)
    except PathUnavailable:
        raise  # a bucket that cannot be read at all
    except BROKEN_TAR:
        pass  # its reader reports it in place of the shard's rows
    return _message(place, first) if first else "", companions


def _is_ours(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool | None:
    """Return whether a .json is the record of a sample; None if it cannot be read."""
    if not member.isreg() or member.size > MAX_JSON_BYTES:
        return None
    file = tar.extractfile(member)
    assert file is not None  # a plain file always opens
    try:
        record = decode_record(file.read())
    except BadSample:
        return None
    return isinstance(record, dict) and "key" in record and bool(record.keys() & {"turns", "task", "dataset"})


def _message(place: Location, first: str) -> str:
    command = f"polite-flamingo ingest --source webdataset --annotations {shlex.quote(str(place.parent))} --out DIR"
    return printable(
        f"{place} is not a shard of this project: it has {first[:80]!r} and no sample's .json. If these are images "
        f"with captions or conversations, make shards of them and give those as input: {command}"
    )
