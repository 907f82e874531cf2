"""File types that are not decoded: describes what bytes are instead of a supported image, and what to do.

A web page saved under an image's name, a Git LFS pointer, a rare format: "corrupt" would make people look for damage
that is not there. Only the first bytes count, never the file's name. `decoding.py` decides what is read.
"""

from __future__ import annotations

import json
import re

_CONVERT = "convert it to PNG or JPEG"

_FORMATS: dict[str, tuple[bytes, ...]] = {
    "JPEG XL": (b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    "JPEG XR": (b"II\xbc\x01",),
    "PSD (Photoshop)": (b"8BPS",),
    "PDF": (b"%PDF-",),
    "PostScript": (b"%!PS",),
    "EPS": (b"\xc5\xd0\xd3\xc6",),
    "TGA": (b"\x00\x00\x02\x00\x00\x00\x00\x00", b"\x00\x00\x0a\x00\x00\x00\x00\x00"),
    "ICO": (b"\x00\x00\x01\x00",),
    "CUR": (b"\x00\x00\x02\x00",),
    "ICNS": (b"icns",),
    "XCF (GIMP)": (b"gimp xcf",),
    "DjVu": (b"AT&TFORM",),
    "MNG": (b"\x8aMNG\r\n\x1a\n",),
    "JNG": (b"\x8bJNG\r\n\x1a\n",),
    "FLIF": (b"FLIF",),
    "BPG": (b"BPG\xfb",),
    "QOI": (b"qoif",),
    "OpenEXR": (b"v/1\x01",),
    "Radiance HDR": (b"#?RADIANCE", b"#?RGBE"),
    "DDS": (b"DDS ",),
    "KTX": (b"\xabKTX ",),
    "SGI": (b"\x01\xda",),
    "Sun raster": (b"\x59\xa6\x6a\x95",),
    "DPX": (b"SDPX", b"XPDS"),
    "PAM": (b"P7\n",),
    "XPM": (b"/* XPM */",),
    "WMF": (b"\xd7\xcd\xc6\x9a",),
    "RAF (a camera's raw file)": (b"FUJIFILMCCD-RAW",),
    "ORF (a camera's raw file)": (b"IIRO", b"IIRS", b"MMOR"),
    "RW2 (a camera's raw file)": (b"IIU\x00",),
    "X3F (a camera's raw file)": (b"FOVb",),
    "FITS": (b"SIMPLE  =",),
}
"""Image formats that are not read -> first bytes."""

_FILES: dict[str, tuple[bytes, ...]] = {
    "a Git LFS pointer, not the file: run git lfs pull": (b"version https://git-lfs.github.com/spec/",),
    "a git-annex pointer, not the file: run git annex get": (b"/annex/objects/",),
    "a macOS resource file (._NAME), not the file itself": (b"\x00\x05\x16\x07",),
    "a macOS resource fork, not the file itself": (b"\x00\x05\x16\x00",),
    "an HTTP response with its headers, not an image: download it again": (b"HTTP/1.",),
    "a video (Matroska or WebM), not an image": (b"\x1aE\xdf\xa3",),
    "a video (FLV), not an image": (b"FLV\x01",),
    "a video (MPEG), not an image": (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
    "a video or sound (ASF), not an image": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",),
    "a video or sound (Ogg), not an image": (b"OggS",),
    "a sound (FLAC), not an image": (b"fLaC",),
    "a sound (MP3), not an image": (b"ID3",),
    "a zip archive (or a document in one), not an image: unpack it": (b"PK\x03\x04",),
    "an empty zip archive, not an image": (b"PK\x05\x06",),
    "gzip, not an image: unpack it": (b"\x1f\x8b",),
    "bzip2, not an image: unpack it": (b"BZh",),
    "xz, not an image: unpack it": (b"\xfd7zXZ\x00",),
    "zstandard, not an image: unpack it": (b"\x28\xb5\x2f\xfd",),
    "a 7z archive, not an image: unpack it": (b"7z\xbc\xaf\x27\x1c",),
    "a RAR archive, not an image: unpack it": (b"Rar!\x1a\x07",),
    "Parquet, not an image": (b"PAR1",),
    "Arrow, not an image": (b"ARROW1",),
    "HDF5, not an image": (b"\x89HDF\r\n\x1a\n",),
    "a NumPy array, not an image": (b"\x93NUMPY",),
    "an SQLite database, not an image": (b"SQLite format 3\x00",),
    "an old Office document or Thumbs.db, not an image": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",),
    "a program, not an image": (b"\x7fELF",),
}
"""Files other than images that are found in their place -> first bytes."""

_INSIDE: dict[str, tuple[int, tuple[bytes, ...]]] = {
    f"EMF is not read: {_CONVERT}": (40, (b" EMF",)),
    f"DICOM is not read: {_CONVERT}": (128, (b"DICM",)),
    "a video (QuickTime), not an image": (4, (b"moov", b"mdat", b"wide")),
    "a tar archive, not an image: unpack it": (257, (b"ustar",)),
}
"""Formats and other files that are recognised by bytes at an offset."""

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
    for name, beginnings in _FORMATS.items():
        if data.startswith(beginnings):
            return f"{name} is not read: {_CONVERT}"
    for what, beginnings in _FILES.items():
        if data.startswith(beginnings):
            return what
    for what, (at, marks) in _INSIDE.items():
        if data.startswith(marks, at):
            return what
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
