"""The folders and files below a folder, on a disk or in a bucket."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import NoReturn

from polite_flamingo.storage.location import Location
from polite_flamingo.storage.store import Entry
from polite_flamingo.storage.visibility import path_unavailable


class Tree:
    """A folder's folders and files: walked on a disk, listed at once in a bucket."""

    def __init__(self, folder: Location):
        self._folder, self._store = folder, folder.store
        self._start = "" if folder.key in ("", ".") else posixpath.join(folder.key, "")
        self._listed: dict[str, Entry] | None = None
        if folder.local is None:
            entries = ((entry.key[len(self._start) :], entry) for entry in folder.entries())
            self._listed = {name: entry for name, entry in entries if name and not name.endswith("/")}

    def place(self, inside: str) -> Location:
        """Return the place of a path below the folder."""
        listed = None if self._listed is None else self._listed.get(inside)
        return Location(self._store, self._start + inside, listed)

    def identity(self, inside: str) -> object:
        """Identify a folder by any path that leads to it."""
        return identity_of(Location(self._store, (self._start + inside).rstrip("/") or self._start))

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield, top down, each folder's path below this one (with a slash at its end), its folders and its files.

        What the caller takes out of the list of folders is not visited.
        """
        if self._listed is None:
            top = self._folder.key
            for where, folders, files in os.walk(top, onerror=_cannot_list, followlinks=True):
                yield posixpath.join(where, "")[len(posixpath.join(top, "")) :], folders, files
            return
        below: dict[str, dict[str, None]] = {}
        names: dict[str, list[str]] = defaultdict(list)
        for path in self._listed:
            inside, slash, name = path.rpartition("/")
            names[inside + slash].append(name)
            while inside:
                above, slash, name = inside.rpartition("/")
                known = below.setdefault(above + slash, {})
                if name in known:
                    break
                known[name] = None
                inside = above
        todo = [""]
        while todo:
            inside = todo.pop()
            deeper = sorted(below.get(inside, ()))
            marks = {name for name in deeper if (entry := self._listed.get(inside + name)) and not entry.size}
            yield inside, deeper, [name for name in names[inside] if name not in marks]  # consoles mark folders so
            todo += [f"{inside}{name}/" for name in reversed(deeper)]


def identity_of(folder: Location) -> object:
    """Identify a folder by any path that leads to it; None if it does not exist."""
    if folder.local is None:
        return folder
    try:
        found = os.stat(folder.key or ".")  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _cannot_list(error: OSError) -> NoReturn:
    """Raise; `os.walk` alone would silently skip a folder that cannot be opened."""
    raise path_unavailable(error.filename, error)
