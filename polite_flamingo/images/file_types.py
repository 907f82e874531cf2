"""File types that are not decoded: describes what bytes are instead of a supported image, and what to do.

A web page saved under an image's name, a Git LFS pointer, a rare format: "corrupt" would make people look for damage
that is not there. Only the first bytes count, never the file's name. `decoding.py` decides what is read.
"""

from __future__ import annotations

import json
import re

_CONVERT = "convert it to PNG or JPEG"

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "PSD (Photoshop)"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"\x00\x00\x02\x00\x00\x00\x00\x00", "TGA"),
    (0, b"\x00\x00\x0a\x00\x00\x00\x00\x00", "TGA"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"gimp xcf", "XCF (GIMP)"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"qoif", "QOI"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"P7\n", "PAM"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"FUJIFILMCCD-RAW", "RAF (a camera's raw file)"),
    (0, b"IIRO", "ORF (a camera's raw file)"),
    (0, b"IIRS", "ORF (a camera's raw file)"),
    (0, b"MMOR", "ORF (a camera's raw file)"),
    (0, b"IIU\x00", "RW2 (a camera's raw file)"),
    (0, b"FOVb", "X3F (a camera's raw file)"),
    (128, b"DICM", "DICOM"),
    (0, b"SIMPLE  =", "FITS"),
)
"""Image formats that are not read: offset, magic bytes, name."""

_OTHER: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file: run git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer, not the file: run git annex get"),
    (0, b"\x00\x05\x16\x07", "a macOS resource file (._NAME), not the file itself"),
    (0, b"\x00\x05\x16\x00", "a macOS resource fork, not the file itself"),
    (0, b"HTTP/1.", "an HTTP response with its headers, not an image: download it again"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM), not an image"),
    (0, b"FLV\x01", "a video (FLV), not an image"),
    (0, b"\x00\x00\x01\xba", "a video (MPEG), not an image"),
    (0, b"\x00\x00\x01\xb3", "a video (MPEG), not an image"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video or sound (ASF), not an image"),
    (0, b"OggS", "a video or sound (Ogg), not an image"),
    (0, b"fLaC", "a sound (FLAC), not an image"),
    (0, b"ID3", "a sound (MP3), not an image"),
    (4, b"moov", "a video (QuickTime), not an image"),
    (4, b"mdat", "a video (QuickTime), not an image"),
    (4, b"wide", "a video (QuickTime), not an image"),
    (0, b"PK\x03\x04", "a zip archive (or a document in one), not an image: unpack it"),
    (0, b"PK\x05\x06", "an empty zip archive, not an image"),
    (0, b"\x1f\x8b", "gzip, not an image: unpack it"),
    (0, b"BZh", "bzip2, not an image: unpack it"),
    (0, b"\xfd7zXZ\x00", "xz, not an image: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard, not an image: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive, not an image: unpack it"),
    (0, b"Rar!\x1a\x07", "a RAR archive, not an image: unpack it"),
    (257, b"ustar", "a tar archive, not an image: unpack it"),
    (0, b"PAR1", "Parquet, not an image"),
    (0, b"ARROW1", "Arrow, not an image"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, not an image"),
    (0, b"\x93NUMPY", "a NumPy array, not an image"),
    (0, b"SQLite format 3\x00", "an SQLite database, not an image"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document or Thumbs.db, not an image"),
    (0, b"\x7fELF", "a program, not an image"),
)
"""Files other than images, which are found in their place: offset, magic bytes, description."""

_RIFF = {b"AVI ": "a video (AVI), not an image", b"WAVE": "a sound (WAV), not an image"}

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
"""Brands of HEVC images; those of AVIF are avif and avis, while mif1 and msf1 may be either."""

_PICTURES = re.compile(r"avif|avis|mif1|msf1|jp2 |jpx |jpm ")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_PAGE = re.compile(
    r"(?:<\?xml[^>]*\?>|<!--.*?-->|\s)*"
    r"<(?:!doctype\s+html|html|head|body|title|meta|link|style|script|center|table|div|h[1-6]|img|br|hr|p|a)\b",
    re.I | re.S,
)
_DRAWING = re.compile(r"<(?:\w+:)?svg[\s>/]")
_SHOWN = 4096


def describe(data: bytes) -> str | None:
    """Describe bytes in one line that names the format; None for supported formats and unknown bytes."""
    for at, magic, name in _MAGIC:
        if data.startswith(magic, at):
            return f"{name} is not read: {_CONVERT}"
    for at, magic, name in _OTHER:
        if data.startswith(magic, at):
            return name
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    if data[4:8] == b"ftyp" and len(data) > 11:
        return _container(data)
    if data[-18:] == b"TRUEVISION-XFILE.\x00":
        return f"TGA is not read: {_CONVERT}"
    return _text(data)


def as_text(data: bytes) -> str | None:
    """Return the start of readable text; None for anything else."""
    try:
        start = data[:_SHOWN].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    return start.splitlines()[0][:60] if start and all(c.isprintable() or c in "\t\n\r" for c in start) else None


def brands(data: bytes) -> list[bytes]:
    """Return the brands of an ISO media file (HEIC, AVIF, MP4 …), the major one first; else an empty list."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]


def _container(data: bytes) -> str | None:
    major = data[8:12].decode("latin-1")
    if major == "crx ":
        return f"CR3 (a camera's raw file) is not read: {_CONVERT}"
    if _PICTURES.fullmatch(major):
        return None
    return f"a video or sound (MP4 or QuickTime, brand {major.strip()!r}), not an image"


def _text(data: bytes) -> str | None:
    """Describe a text; None if it is not text or not recognised."""
    start = data[:_SHOWN]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = start.decode("utf-16", "replace")
    else:
        try:
            text = start.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if error.start < len(start) - 3:  # otherwise the cut split a character
                return None
            text = start[: error.start].decode("utf-8-sig")
    begin = text.lstrip().lower()
    if _PAGE.match(text):
        return "an HTML page, not an image: the address now serves a page, or asks for a login"
    if _DRAWING.search(text) and begin.startswith("<"):
        return f"SVG is not read: {_CONVERT}"
    if begin.startswith("<?xml") or re.match(r"<error\b", begin):
        return "an XML document, not an image: perhaps a server's error message"
    if begin.startswith(("{", "[")) and _looks_like_json(data):
        return "JSON, not an image: perhaps a server's error message"
    if begin.startswith("data:image/"):
        return "a data: URL, not an image: decode it first"
    if re.match(r"https?://\S+\s*$", text):
        return "a URL, not the image that it names: download it"
    if _BASE64.fullmatch(data):
        return "base64, not the bytes that it holds: decode it"
    return None


def _looks_like_json(data: bytes) -> bool:
    if len(data) > 1 << 20:
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
