"""Strips metadata from encoded images, so that broken metadata does not make good pixels unreadable.

Pillow rejects intact images because of their metadata: three megabytes of text in a PNG, an unknown colour profile, a
truncated JPEG segment, a TIFF tag that points beyond the file. Only the orientation matters here. When a file does not
open, `decoding.py` tries again with the bytes that this module returns: the pixels, what is needed to read them, and
EXIF. Nothing is decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping

_PNG = b"\x89PNG\r\n\x1a\n"
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_JP2_BOXES = {
    b"jP  ": 12, b"ftyp": 8, b"jp2h": 8, b"ihdr": 22, b"bpcc": 9, b"colr": 15, b"pclr": 12, b"cmap": 12, b"cdef": 10,
}  # fmt: skip
"""Boxes needed to read JPEG 2000 (ISO 15444-1, annex I), with their minimum sizes in bytes."""

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_TRANSPARENCY = {0: 2, 2: 6}
"""Minimum bytes of tRNS by colour type; 1 for the others."""

_TIFF_TAGS = {
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 330, 332,
    338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532,
}  # fmt: skip
"""Tags needed to read the pixels (TIFF 6.0) and the orientation, and to recognise thumbnails."""

_ORIENTATION = 274


def without_metadata(data: bytes) -> bytes:
    """Return the image without metadata; unchanged if there is nothing to strip or the format is unknown."""
    if data.startswith(_PNG):
        return _PNG + b"".join(_png(data))
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd8" + b"".join(_jpeg(data))
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return _tiff(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return b"".join(_gif(data))
    if data.startswith(_JP2):
        return b"".join(_boxes(data, _JP2_BOXES))
    if data[4:8] == b"ftyp":  # HEIC, AVIF: rename the EXIF item so that readers skip it
        return re.sub(rb"(infe.{8})Exif", rb"\1skip", data, flags=re.DOTALL)
    return data


def _png(data: bytes) -> Iterator[bytes]:
    """Yield the chunks to keep, and everything after the last complete one, which may be truncated pixels."""
    at, colours = len(_PNG), 0
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + size
        if end > len(data):
            break
        if kind == b"IHDR" and size > 9:
            colours = data[at + 17]
        whole = zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]
        useful = kind == b"eXIf" or (kind == b"tRNS" and size >= _TRANSPARENCY.get(colours, 1))
        if kind in _CRITICAL or (useful and whole):
            yield data[at:end]
        at = end
        if kind == b"IEND":
            return
    yield data[at:]


def _jpeg(data: bytes) -> Iterator[bytes]:
    """Yield the segments to keep before the scan, and everything after them."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + size
        if marker == 0xDA or size < 2 or end > len(data):
            break
        body = data[at + 4 : end]
        metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not metadata or _defines_colours(marker, body) or body.startswith(b"Exif\0\0"):
            yield data[at:end]
        at = end
    yield data[at:]


def _defines_colours(marker: int, body: bytes) -> bool:
    """Whether this is a complete JFIF or Adobe segment, which defines the colour components."""
    jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _gif(data: bytes) -> Iterator[bytes]:
    """Yield everything from the first frame on, and before it only graphic control blocks, for transparency."""
    palette = 3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0
    at = 13 + palette
    yield data[:at]
    while data[at : at + 1] == b"\x21":
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if data[at + 1 : at + 3] == b"\xf9\x04":
            yield data[at:end]
        at = end
    yield data[at:]


def _boxes(data: bytes, needed: Mapping[bytes, int]) -> Iterator[bytes]:
    """Yield the needed and complete JPEG 2000 boxes, and the codestream, which comes last."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"jp2c" or size < 8:
            break
        box = data[at : at + size]
        if kind == b"jp2h":
            inner = b"".join(_boxes(box[8:], needed))
            yield (8 + len(inner)).to_bytes(4, "big") + kind + inner
        elif size >= needed.get(kind, size + 1):
            yield box
        at += size
    yield data[at:]


def _tiff(data: bytes) -> bytes:
    """Replace the first directory by one with only the needed tags."""
    order = "<" if data[:1] == b"I" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4) if len(data) >= 8 else (len(data),)
    if at + 2 > len(data):
        return data
    (count,) = struct.unpack_from(f"{order}H", data, at)
    end = at + 2 + 12 * count
    if end + 4 > len(data):
        return data
    entries = [data[start : start + 12] for start in range(at + 2, end, 12)]
    kept = [entry for entry in entries if _is_needed(*struct.unpack_from(f"{order}HHI", entry))]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:at] + directory + data[at + len(directory) :]


def _is_needed(tag: int, kind: int, count: int) -> bool:
    return tag in _TIFF_TAGS and (tag != _ORIENTATION or count == 1)
