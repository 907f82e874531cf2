"""Names of tar members: normalise them, and tell which members are not data.

Only names and first bytes are read here. `shards.py` turns the members of our own shards into rows, `sources/` those of
other tars.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata

PACKERS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"),
    b"Rar!\x1a\x07": ("rar", "unrar x"),
}
"""First bytes of a packed file -> the packer, and the command that unpacks it."""

HEAD_BYTES = 512
"""How many first bytes `packed_with` and `is_tar` need."""

_COMPANIONS = re.compile(
    r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|pax_global_header|\.git(keep|ignore|attributes)|\.keep|\.localized"
    r"|.*_stats\.json|(README|LICEN[CS]E)(\.(md|txt|rst))?",
    re.IGNORECASE | re.DOTALL,
)
_COMPANION_FOLDERS = re.compile(r"__MACOSX|@PaxHeader|PaxHeaders(\.\d+)?|@eaDir|\.Trash.*|\.git|\.ipynb_checkpoints")


def plain_name(name: str) -> str:
    """Return a member's name in Unicode's composed form, without a leading `./` and doubled slashes."""
    if name.startswith((".", "/")) or "//" in name or "/." in name:
        name = "/" * name.startswith("/") + "/".join(part for part in name.split("/") if part not in ("", "."))
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_companion(name: str) -> bool:
    """Whether a tool or a system put this member beside the data: `._x` of macOS, `.DS_Store`, a README."""
    *folders, base = name.split("/")
    return bool(_COMPANIONS.fullmatch(base)) or any(map(_COMPANION_FOLDERS.fullmatch, [*folders, base]))


def printable(text: str) -> str:
    """Return a name that can be written as UTF-8; other bytes, which Python keeps as lone surrogates, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar's header or end mark, by its first `HEAD_BYTES`."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return bool(head) and not head.strip(b"\0")  # an empty tar is zeros
    return True


def packed_with(head: bytes) -> tuple[str, str] | None:
    """Return a file's packer and the command that unpacks it, by its first `HEAD_BYTES`; None for a plain tar."""
    if head[257:262] == b"ustar":
        return None
    return next((found for magic, found in PACKERS.items() if head.startswith(magic)), None)
