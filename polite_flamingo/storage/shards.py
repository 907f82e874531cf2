"""One WebDataset tar <-> samples.

A shard is read whole (it is the block of a job and its unit of resume), so that what is wrong with it can be said
exactly: every readable row is kept, every other becomes one `Quarantined` record with its place, and the order of the
members does not matter. A shard is written under a temporary name, synced and renamed: a file with its final name is
complete, and the same samples give the same bytes.

    KEY.json   `Sample.to_record()`, UTF-8
    KEY.0.jpg  the first image, as it came from the source; KEY.1.png the second …

What is exported is the same with the fewest differences between rows (`export_record.py`): every image is called .jpg.

A shard that other tools have packed again is read too: names that begin with `./`, extensions in capitals, columns that
are not ours, and files that a system leaves (`tar_members.is_companion`), which are passed over.

Nothing here decodes an image or extracts a member to disk. What a job knows of its shards (manifests, quarantine,
layout of the output folder) is in `ledger.py`.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from polite_flamingo.sample import BadSample, Image, Quarantined, Reason, Sample
from polite_flamingo.storage.export_record import FREE, is_uniform, uniform_record
from polite_flamingo.storage.tar_groups import Group, read_members
from polite_flamingo.storage.tar_members import printable
from polite_flamingo.storage.visibility import out_of_reach

_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
_TEMPORARY = re.compile(r"\.tmp-(?:[0-9a-f]{1,16}|joining)$")


def read_shard(path: Path | str) -> list[Sample | Quarantined]:
    """Read a whole tar: valid samples and, in their places, one record for each row or shard that is not.

    Content never raises. The result has at least one item; the `index` of a record is its place in this list.

    Raises:
        OutOfReach: the file is absent or forbidden, or the way to it is broken: that says nothing about its rows.
    """
    path = Path(path)
    groups: list[Group] = []
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return [_shard_record(path, "unreadable_shard", "is not a file", 0)]
        with path.open("rb") as file:
            damage = read_members(file, groups)
    except OSError as error:
        raise out_of_reach(path, error) from error

    rows: list[Sample | Quarantined] = []
    taken: set[str] = set()
    cut = None
    for group in groups:
        try:
            if group.key in taken:
                raise BadSample("duplicate_key", f"{group.key} occurs before in this shard; the first is kept")
            rows.append(_to_sample(group))
            taken.add(group.key)
        except BadSample as error:
            if damage is not None and group is groups[-1] and error.reason in ("missing_image", "bad_json"):
                cut = group  # the row the damage cut in two: the shard's record stands for it
                continue
            rows.append(
                Quarantined(
                    key=printable(group.key),
                    shard=printable(str(path)),
                    index=len(rows),
                    reason=error.reason,
                    detail=printable(error.detail),
                    payload=printable(f"{path}#{group.member}"),
                )
            )
    if damage is not None:
        reason: Reason = "truncated_tar" if groups else "unreadable_shard"
        rows.append(_shard_record(path, reason, damage, len(rows), key=cut.key if cut else ""))
    if not rows:
        rows.append(_shard_record(path, "empty_shard", f"{path.stat().st_size} bytes, no members", 0))
    return rows


def write_shard(path: Path | str, samples: Iterable[Sample], *, uniform: bool = False) -> None:
    """Write samples as a tar, atomically. The bytes depend on nothing but the samples and their order.

    Args:
        path: of the tar.
        samples: valid ones, in order.
        uniform: as other libraries want it: `uniform_record`, and one extension for all images.

    Raises:
        BadSample: a sample is not valid (`Sample.validate`).
        ValueError: two samples share a key, an image's extension is odd, or a score is not finite.
    """
    names: set[str] = set()
    with replacing(Path(path)) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            sample.validate()
            name = member_name(sample.key)
            if name in names:
                raise ValueError(f"{path}: two samples have the key {sample.key!r}")
            names.add(name)
            _add(tar, f"{name}.json", encode_record(sample, uniform=uniform))
            for number, image in enumerate(sample.images):
                if not _EXTENSION.fullmatch(image.extension):
                    raise ValueError(f"{sample.key}: image extension {image.extension!r} is not like 'jpg'")
                _add(tar, f"{name}.{number}.{'jpg' if uniform else image.extension}", image.data)


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[io.BufferedWriter]:
    """Open a file that takes the place of `path` when the block ends without an error; else nothing has changed.

    Args:
        path: what is written; its folder is made.
        sync: wait until the bytes are on disk.
    """
    buffered = temporary_name(path)
    buffered.parent.mkdir(parents=True, exist_ok=True)
    try:
        with buffered.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            buffered.replace(path)
    except BaseException:
        buffered.unlink(missing_ok=True)
        raise


def member_name(key: str) -> str:
    """What a key's members are called: libraries pass over names with a part that begins with `__`."""
    return re.sub(r"(?:^|(?<=/))__", "~5F_", key)


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write a file under a temporary name, sync it, rename it: it is there whole or not at all."""
    with replacing(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def temporary_name(path: Path) -> Path:
    """Beside `path`, and nobody else's: process ids repeat in containers and on other machines."""
    return path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")


def is_temporary(name: str) -> bool:
    """Whether a file has such a name. A shard may have `.tmp-` in the middle of its own."""
    return _TEMPORARY.search(name) is not None


def sweep_temporary(folder: Path | str) -> list[Path]:
    """Remove what killed writers left under `folder`; return what was removed.

    For whoever holds the folder's lock (`ledger.exclusive`): a living writer would lose its file.
    """
    stale = sorted(
        Path(where, name) for where, _, files in os.walk(folder) for name in files if is_temporary(name)
    )  # a million files are walked over in a second; with a Path for each it is a minute
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def encode_record(sample: Sample, *, uniform: bool = False) -> bytes:
    """The bytes of `KEY.json`. Raises `ValueError` for what JSON or UTF-8 cannot hold (NaN, lone surrogates)."""
    record = uniform_record(sample) if uniform else sample.to_record()
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()


def decode_record(data: bytes) -> object:
    """Inverse of `encode_record`, strict. Raises `BadSample("bad_json", …)`."""
    try:
        record = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False).encode()  # a lone surrogate passes the parser and fails every writer
    except UnicodeError as error:
        raise BadSample("bad_json", f"not UTF-8: {error}") from None
    except RecursionError:
        raise BadSample("bad_json", "nested too deeply") from None
    except ValueError as error:
        raise BadSample("bad_json", str(error)) from None
    return record


def _to_sample(group: Group) -> Sample:
    if group.problem is not None:
        raise BadSample(*group.problem)
    if group.json is None:
        raise BadSample("bad_json", f"{group.key}: no member {group.key}.json")
    try:
        record = decode_record(group.json)
    except BadSample as error:
        raise BadSample(error.reason, f"{group.member}: {error.detail}") from None
    images = tuple(group.images[number] for number in sorted(group.images))
    if isinstance(record, dict) and is_uniform(record):
        record = {**record, **{name: decode_record(record[name].encode()) for name in FREE}}
        images = _as_listed(images, record.get("images"))
    sample = Sample.from_record(record, images)
    if group.key not in (sample.key, member_name(sample.key)):
        raise BadSample("bad_field", f"{group.member}: its key is {sample.key[:80]!r}; it must be the member's name")
    listed = record.get("images", []) if isinstance(record, dict) else []
    if sorted(group.images) != list(range(len(images))) or (isinstance(listed, list) and len(listed) > len(images)):
        most = max(len(listed), len(images))
        raise BadSample("missing_image", f"{group.key}: has images {sorted(group.images)} of {most}")
    return sample.validate()


def _as_listed(images: tuple[Image, ...], extensions: object) -> tuple[Image, ...]:
    """The images with the extensions that the record gives them, if it does."""
    if not isinstance(extensions, list) or len(extensions) != len(images):
        return images
    plain = [isinstance(extension, str) and _EXTENSION.fullmatch(extension) for extension in extensions]
    return tuple(
        Image(extension=extension, data=image.data) if known else image
        for image, extension, known in zip(images, extensions, plain, strict=True)
    )


def _shard_record(path: Path, reason: Reason, detail: str, index: int, key: str = "") -> Quarantined:
    where = printable(str(path))
    return Quarantined(
        key=printable(key), shard=where, index=index, reason=reason, detail=f"{where}: {detail}", payload=where
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """`TarFile.addfile` without its copies; the bytes are the same, and writing shards is half of an ingest."""
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
    member.size = len(data)
    member.mode = 0o644
    plain = len(name) <= tarfile.LENGTH_NAME and name.isascii() and len(data) < 8 << 30
    header = member.tobuf(tarfile.USTAR_FORMAT if plain else tarfile.PAX_FORMAT)
    padding = -len(data) % tarfile.BLOCKSIZE
    assert tar.fileobj is not None
    for part in (header, data, bytes(padding)):
        tar.fileobj.write(part)
    tar.offset += len(header) + len(data) + padding


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
