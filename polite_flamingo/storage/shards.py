"""Read and write shards: WebDataset tars of samples.

A shard is read whole (it is the block of a job and its unit of resume), so its damage can be described exactly: every
readable row is kept, every other becomes one `Quarantined` record with its place, and the order of the members does not
matter. A shard is written under a temporary name, synced and renamed: a file with its final name is complete. The same
samples give the same bytes.

    KEY.json   `Sample.to_record()`, UTF-8
    KEY.0.jpg  the first image, as it came from the source; KEY.1.png the second …

An exported shard has the same fields in every row (`export_record.py`), and every image is called .jpg.

Shards that other tools have repacked are read too: with names that begin with `./`, extensions in capitals, and foreign
columns. Files that systems add (`tar_members.is_companion`) are passed over.

No image is decoded here, and no member extracted to disk. What a job knows of its shards (manifests, quarantine, layout
of the output folder) is in `ledger.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from polite_flamingo.sample import BadSample, Image, Quarantined, Reason, Sample
from polite_flamingo.storage.export_record import FREE, is_uniform, plain_record, uniform_record
from polite_flamingo.storage.location import Location, location, replacing
from polite_flamingo.storage.tar_groups import Group, read_members
from polite_flamingo.storage.tar_members import printable
from polite_flamingo.storage.visibility import reaching

_EXTENSION = re.compile(r"[a-z0-9]{1,8}")


def read_shard(path: Path | str | Location, content: io.BytesIO | None = None) -> list[Sample | Quarantined]:
    """Read a whole tar: its valid samples and, in place of each other row, a record with the reason.

    Damaged content never raises. The result has at least one item; a record's `index` is its place in this list.

    Args:
        path: the tar, on a disk or in a bucket.
        content: its bytes, if they were read already.

    Raises:
        PathUnavailable: the file is missing, not readable or on a broken mount, which says nothing about its rows.
    """
    place, size = location(path), 0
    groups: list[Group] = []
    with reaching(str(place)):
        if place.local is not None and not stat.S_ISREG(place.local.stat().st_mode):
            return [_shard_record(place, "unreadable_shard", "is not a file", 0)]
        with content or place.open() as file:
            damage = read_members(file, groups)
            size = file.seek(0, io.SEEK_END)

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
                cut = group  # the row that the damage cut in two: the shard's record stands for it
                continue
            rows.append(
                Quarantined(
                    key=printable(group.key),
                    shard=printable(str(place)),
                    index=len(rows),
                    reason=error.reason,
                    detail=printable(error.detail),
                    payload=printable(f"{place}#{group.member}"),
                )
            )
    if damage is not None:
        reason: Reason = "truncated_tar" if groups else "unreadable_shard"
        rows.append(_shard_record(place, reason, damage, len(rows), key=cut.key if cut else ""))
    if not rows:
        rows.append(_shard_record(place, "empty_shard", f"{size} bytes, no members", 0))
    return rows


def write_shard(path: Path | str | Location, samples: Iterable[Sample], *, uniform: bool = False) -> tuple[int, str]:
    """Write samples as a tar, atomically; return its size in bytes and the SHA-256 of its bytes.

    The bytes depend only on the samples and their order.

    Args:
        path: the tar.
        samples: valid samples, in order.
        uniform: write for other libraries: `uniform_record`, and one extension for all images.

    Raises:
        BadSample: a sample is not valid (`Sample.validate`).
        ValueError: two samples share a key, an image's extension is odd, or a score is not finite.
    """
    with replacing(path) as target:
        file = _Hashing(target)
        with opened_tar(file) as tar:
            add_samples(tar, samples, str(path), uniform=uniform)
        return file.tell(), file.sha256.hexdigest()


def opened_tar(file: Any) -> tarfile.TarFile:
    """Open a file to write a tar to, front to back."""
    hashing = file if isinstance(file, _Hashing) else _Hashing(file)  # which knows its place in any file
    return tarfile.open(fileobj=hashing, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload,no-any-return]


class _Hashing:
    """A file to write to, front to back, that computes the digest of what is written."""

    def __init__(self, file: BinaryIO):
        self._file, self.sha256, self._size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._size


def add_samples(tar: tarfile.TarFile, samples: Iterable[Sample], path: str, *, uniform: bool) -> None:
    """Write samples to a tar; see `write_shard`. Args: path: for messages."""
    names: set[str] = set()
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


def member_name(key: str) -> str:
    """Return the name of a key's members. Leading `__` is escaped: libraries ignore names with such a part."""
    return re.sub(r"(?:^|(?<=/))__", "~5F_", key)


def encode_record(sample: Sample, *, uniform: bool = False) -> bytes:
    """Return the bytes of `KEY.json`. Raises `ValueError` if JSON or UTF-8 cannot hold it (NaN, lone surrogates)."""
    record = uniform_record(sample) if uniform else sample.to_record()
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()


def decode_record(data: bytes) -> object:
    """Parse strict JSON, as `encode_record` writes it. Raises `BadSample("bad_json", …)`."""
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
        parsed = [name for name in (*FREE, "turn_notes") if isinstance(record.get(name), str)]
        record = plain_record({**record, **{name: decode_record(record[name].encode()) for name in parsed}})
        images = _as_listed(images, record.get("images"))
    sample = Sample.from_record(record, images)
    if group.key not in (sample.key, member_name(sample.key)):
        raise BadSample("bad_field", f"{group.member}: its key is {sample.key[:80]!r}; it must be the member's name")
    listed = record.get("images", []) if isinstance(record, dict) else []
    if sorted(group.images) != list(range(len(images))) or (isinstance(listed, list) and len(listed) > len(images)):
        expected = max(len(listed), len(images))
        raise BadSample("missing_image", f"{group.key}: has images {sorted(group.images)} of {expected}")
    return sample.validate()


def _as_listed(images: tuple[Image, ...], extensions: object) -> tuple[Image, ...]:
    """Return the images with the extensions that the record gives, if it gives any."""
    if not isinstance(extensions, list) or len(extensions) != len(images):
        return images
    plain = [isinstance(extension, str) and _EXTENSION.fullmatch(extension) for extension in extensions]
    return tuple(
        Image(extension=extension, data=image.data) if known else image
        for image, extension, known in zip(images, extensions, plain, strict=True)
    )


def _shard_record(place: Location, reason: Reason, detail: str, index: int, key: str = "") -> Quarantined:
    where = printable(str(place))
    return Quarantined(
        key=printable(key), shard=where, index=index, reason=reason, detail=f"{where}: {detail}", payload=where
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member like `TarFile.addfile`, with the same bytes but fewer copies: writing is half of an ingest."""
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
