"""Turn what users give as paths into paths of this machine and addresses; refuse the rest in one line.

Every job passes its inputs and outputs through `user_path`. Otherwise an address that no store knows would be read as
an empty folder, or created as a folder called `ftp:`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from polite_flamingo.storage import hub_files
from polite_flamingo.storage.bucket import SCHEMES
from polite_flamingo.storage.location import location
from polite_flamingo.storage.tar_members import printable

ONLY_LOCAL = ("--mixture", "--profile", "--serving.access.keys")
"""Options that take no address; those for data do."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/|(pipe):")
"""One slash is enough: `Path` turns `s3://x` into `s3:/x`."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOME = re.compile(r"~[\w.-]*(/|$)")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
WILDCARDS = "*?["
_MAX_PATHS = 1_000_000
"""Most paths that one pattern may expand to."""

_REMEDIES = {
    "file": "give the path alone, without file://",
    "http": "download it first, and give the file",
    "https": "download it first, and give the file",
    "s3a": "write s3://",
    "gcs": "write gs://",
    "abfs": "write az://CONTAINER/…, and set AZURE_STORAGE_ACCOUNT_NAME",
    "abfss": "write az://CONTAINER/…, and set AZURE_STORAGE_ACCOUNT_NAME",
}


def user_path(given: str | Path, option: str) -> str:
    """Return a path on this machine, with `~` and `$NAME` expanded unless a file has that name, or an address.

    Args:
        given: the user's path, from the command line or a profile.
        option: the option's name, for the message. `ONLY_LOCAL` take no address, and --out no hf://.

    Raises:
        ValueError: it is an address that cannot be used there, is empty, or names a variable that is not set; the
            message says what to do.
    """
    path = str(given)
    if not path or "\0" in path:
        raise ValueError(f"{option} is {'empty' if not path else 'not a path'}: give a folder or a file")
    if found := _ADDRESS.match(path):
        if why := _not_usable(path, (found[1] or found[2]).lower(), option):
            raise ValueError(f"{option} {printable(path) if path.isprintable() else ascii(path)}: {why}")
        return path
    if os.path.lexists(path):
        return path
    path = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111
    if _HOME.match(path):
        raise ValueError(f"{option} {printable(path)}: no such user on this machine: give the full path")
    if (variable := _VARIABLE.search(path)) and not os.path.lexists(path):
        raise ValueError(f"{option} {printable(path)}: {variable[0]} is not set: set it, or give the full path")
    return path


def is_address(path: str | Path) -> bool:
    """Whether a path is an address that `user_path` accepts, such as s3://bucket/folder."""
    return str(path).startswith((*SCHEMES, hub_files.SCHEME))


def _not_usable(address: str, kind: str, option: str) -> str:
    """Return why an address cannot be used for an option, and what to do; "" if it can."""
    known = ", ".join(SCHEMES)
    if not is_address(address):
        if is_address(address.replace(":/", "://", 1)):
            return f"an address has two slashes: {address.replace(':/', '://', 1)}"
        if f"{kind}://" in SCHEMES:
            return f"write {kind}:// in small letters"
        remedy = _REMEDIES.get(kind, "copy it to a disk or a bucket, and give that")
        return f"{kind}: is not supported, only paths, {known} and {hub_files.SCHEME}: {remedy}"
    if option in ONLY_LOCAL:
        return f"{option} takes a path on this machine: copy it there; --input and --out take addresses"
    if option == "--out" and kind == "hf":
        return f"hf:// is only read: give a folder or an address ({known}), and then polite-flamingo push"
    if not address.partition("://")[2].strip("/"):
        return "the address names no bucket"
    bucket, *parts = address.partition("://")[2].rstrip("/").split("/")
    if kind != "hf" and not _BUCKET.fullmatch(bucket):
        return f"{printable(bucket)} is not the name of a bucket: write {kind}://BUCKET/…"
    if kind != "hf" and (not {"", ".", ".."}.isdisjoint(parts) or _CONTROL.search(address)):
        return "a bucket has no folders `.`, `..` or without a name, and no control characters: write the key itself"
    return ""


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern: it has `*`, `?`, `[` or `{a,b}`, and no file has that name."""
    braces = any(_RANGE.fullmatch(inner) or "," in inner for inner in _BRACES.findall(path))
    if not braces and not any(character in path for character in WILDCARDS):
        return False
    return location(path).head() is None if is_address(path) else not os.path.lexists(path)


def expanded(pattern: str) -> list[str]:
    """Expand a pattern of local paths: `{00000..00099}` and `{a,b}` as in a shell, then `*`, `?` and `[`.

    Raises:
        ValueError: nothing matches, or some of the paths that braces name do not exist; the message says how many.
    """
    found: list[str] = []
    absent: list[str] = []
    for path in without_braces(pattern):
        if os.path.lexists(path):
            found.append(path)
        elif any(character in path for character in WILDCARDS) and (matched := glob.glob(path, recursive=True)):  # noqa: PTH207
            found += sorted(matched)
        else:
            absent.append(path)
    refuse_absent(pattern, absent, len(found))
    return list(dict.fromkeys(found))


def refuse_absent(pattern: str, absent: Sequence[str], found: int) -> None:
    """Raise `ValueError` if some of the paths that a pattern stands for are absent, or nothing was found."""
    if not found:
        where = "" if is_address(pattern) else f", relative to {Path.cwd()}"
        raise ValueError(f"nothing matches {printable(pattern)}; is it right{where}?")
    if absent:
        absence = f"{len(absent):,} of the {found + len(absent):,} files of {printable(pattern)} do not exist"
        raise ValueError(f"{absence}; the first is {printable(absent[0])}")


def without_braces(pattern: str) -> list[str]:
    """Return the paths and patterns that remain when braces are expanded. Raises `ValueError` if they are too many."""
    parts = [""]
    end = 0
    for braces in _BRACES.finditer(pattern):
        choices = _choices(braces[1])
        before = pattern[end : braces.start()]
        if len(parts) * len(choices) > _MAX_PATHS:
            raise ValueError(f"{pattern} stands for more than {_MAX_PATHS:,} paths")
        parts = [part + before + choice for part in parts for choice in choices]
        end = braces.end()
    return [part + pattern[end:] for part in parts]


def _choices(inner: str) -> list[str]:
    if bounds := _RANGE.fullmatch(inner):
        first, last = bounds[1], bounds[2]
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        if abs(int(last) - int(first)) >= _MAX_PATHS:
            raise ValueError(f"{{{inner}}} stands for more than {_MAX_PATHS:,} paths")
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
    return inner.split(",") if "," in inner else [f"{{{inner}}}"]
