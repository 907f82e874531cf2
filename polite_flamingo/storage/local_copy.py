"""Copies of objects on this machine's disk, for libraries that read files only.

A copy is kept for the next process that asks, under the digest of the objects' names, sizes and tags: what has changed
in the bucket is copied again. Copies lie in the folder for temporary files (TMPDIR), and the system may delete them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from polite_flamingo.storage.location import Location
from polite_flamingo.storage.store import READ_AHEAD


def local_copy(place: Location) -> Path:
    """Return the path of a file, or of a folder with all that is in it, on this machine; copy it if it is elsewhere.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: it cannot be copied.
    """
    if place.local is not None:
        return place.local
    found = place.head()
    entries = [found] if found is not None else sorted(place.entries(), key=lambda entry: entry.key)
    if not entries:
        raise FileNotFoundError(f"{place} does not exist")
    stamp = json.dumps([place.store.url, *((entry.key, entry.size, entry.tag) for entry in entries)])
    home = _home() / hashlib.sha256(stamp.encode()).hexdigest()[:16]
    if not home.exists():
        scratch = Path(tempfile.mkdtemp(dir=home.parent))
        try:
            for entry in entries:
                path = scratch / place.name / entry.key[len(place.key) + 1 :]
                path.parent.mkdir(parents=True, exist_ok=True)
                with place.store.open(entry.key) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file, READ_AHEAD)
            with suppress(OSError):  # another process has copied it meanwhile
                scratch.rename(home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home / place.name


def _home() -> Path:
    """Return the folder of this user's copies; nobody else may write there, since models are read from it."""
    home = Path(tempfile.gettempdir()) / f"polite-flamingo-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{home} is not a folder that only you can write to: set TMPDIR to a folder of your own")
    return home
