"""The ways in which annotations write the path of one file, as paths inside a folder.

    sub/a.jpg   ./sub/a.jpg   sub\\a.jpg   /data/photos/sub/a.jpg   file:///data/photos/sub/a.jpg   photos/sub/a.jpg

are all `sub/a.jpg` in the folder /data/photos. Nothing here touches the disk, except to make the folder absolute.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from polite_flamingo.sample import BadSample

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""The start of an absolute Windows path: a drive or a server."""


def path_below(name: str, root: Path) -> str:
    """Return a name unchanged, or, if it is absolute or a file:// URL, its path from `root`.

    Raises:
        BadSample: `unsafe_name` for a name that leads out of the folder, or holds a NUL byte.
    """
    path = _path_of_url(name) if name[:7].lower() == "file://" else name
    if "\0" in path or (".." in path and ".." in re.split(r"[/\\]", path)):
        raise BadSample("unsafe_name", f"image name {name[:80]!r} leads out of the image folder")
    if path.startswith("/"):
        for home in (root.absolute(), root.resolve()):
            if PurePosixPath(path).is_relative_to(home):
                return str(PurePosixPath(path).relative_to(home))
    if path.startswith("/") or _WINDOWS.match(path):
        why = "it is an absolute path, and not one below --images"
        raise BadSample("unsafe_name", f"image name {name[:80]!r} leads out of the image folder: {why}")
    return path


def other_spellings(name: str, root: Path) -> Iterator[str]:
    """Yield other spellings of a relative name that was not found, to be tried in this order.

    Surrounding blanks are stripped, and backslashes become slashes. Leading folders are dropped if `root` ends with
    them. Accented letters are composed or decomposed, since file systems differ in that.
    """
    found = name.strip().replace("\\", "/").removeprefix("./")
    names = [found] if found != name else []
    parts, ends = PurePosixPath(found).parts, root.absolute().parts
    lengths = range(min(len(parts) - 1, len(ends) - 1), 0, -1)
    names += ["/".join(parts[length:]) for length in lengths if parts[:length] == ends[-length:]]
    yield from names
    if not found.isascii():
        for form in ("NFC", "NFD"):
            for spelling in (found, *names):
                if (normal := unicodedata.normalize(form, spelling)) != spelling:
                    yield normal


def _path_of_url(url: str) -> str:
    """Turn file:///a%20b into /a b; a host other than this machine becomes the first folder of a relative path."""
    try:
        split = urlsplit(url)
    except ValueError:
        raise BadSample("bad_field", f"image name {url[:80]!r} is not a usable URL") from None
    path = unquote(split.path)
    if _WINDOWS.match(path[1:]):
        return path[1:]
    return path if split.netloc in ("", "localhost") else unquote(split.netloc) + path
