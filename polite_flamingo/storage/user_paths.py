"""Turn users' paths into paths on this machine; refuse addresses and unknown variables in one line.

Every job passes its inputs and outputs through `local_path`. Otherwise an address would be read as an empty folder, or
created as a folder called `s3:`.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from polite_flamingo.storage.tar_members import printable

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/|(pipe):")
"""One slash is enough: `Path` turns `s3://x` into `s3:/x`."""

_HOME = re.compile(r"~[\w.-]*(/|$)")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_PATHS = 1_000_000
"""Most paths that one pattern may expand to."""

_REMEDIES = {
    "file": "give the path alone, without file://",
    "hf": "download it first (hf download), and give the folder",
    "http": "download it first, and give the file",
    "https": "download it first, and give the file",
    "s3": "copy it first (aws s3 sync), or mount the bucket, and give the folder",
    "gs": "copy it first (gcloud storage rsync), or mount the bucket, and give the folder",
}


def local_path(given: str | Path, option: str) -> str:
    """Return a path on this machine, with `~` and `$NAME` expanded unless a file has that name.

    Args:
        given: the user's path, from the command line or a profile.
        option: the option's name, for the message.

    Raises:
        ValueError: it is an address, is empty, or names a variable that is not set; the message says what to do.
    """
    path = str(given)
    if not path or "\0" in path:
        raise ValueError(f"{option} is {'empty' if not path else 'not a path'}: give a folder or a file")
    if found := _ADDRESS.match(path):
        kind = (found[1] or found[2]).lower()
        remedy = _REMEDIES.get(kind, "copy it to a disk or mount it, and give the folder")
        if option == "--out" and kind != "file":
            remedy = "give a folder, and copy it there afterwards"
        raise ValueError(f"{option} {printable(path)}: {kind}: is not supported, only paths on this machine: {remedy}")
    if os.path.lexists(path):
        return path
    path = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111
    if _HOME.match(path):
        raise ValueError(f"{option} {printable(path)}: no such user on this machine: give the full path")
    if (variable := _VARIABLE.search(path)) and not os.path.lexists(path):
        raise ValueError(f"{option} {printable(path)}: {variable[0]} is not set: set it, or give the full path")
    return path


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern: it has `*`, `?`, `[` or `{a,b}`, and no file has that name."""
    braces = any(_RANGE.fullmatch(inner) or "," in inner for inner in _BRACES.findall(path))
    return (braces or any(character in path for character in "*?[")) and not os.path.lexists(path)


def expanded(pattern: str) -> list[str]:
    """Expand a pattern: `{00000..00099}` and `{a,b}` as in a shell, then `*`, `?` and `[`.

    Raises:
        ValueError: nothing matches, or some of the paths that braces name do not exist; the message says how many.
    """
    found: list[str] = []
    absent: list[str] = []
    for path in _without_braces(pattern):
        if os.path.lexists(path):
            found.append(path)
        elif any(character in path for character in "*?[") and (matched := glob.glob(path, recursive=True)):  # noqa: PTH207
            found += sorted(matched)
        else:
            absent.append(path)
    if not found:
        raise ValueError(f"nothing matches {printable(pattern)}; is it right, relative to {Path.cwd()}?")
    if absent:
        absence = f"{len(absent):,} of the {len(found) + len(absent):,} files of {printable(pattern)} do not exist"
        raise ValueError(f"{absence}; the first is {printable(absent[0])}")
    return list(dict.fromkeys(found))


def _without_braces(pattern: str) -> list[str]:
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
