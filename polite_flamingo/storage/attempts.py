"""Names of the files of attempts: each attempt at a shard writes its own files, and a manifest names those that count.

scored/NAME.ATTEMPT.tar   manifests/NAME.json
"""

from __future__ import annotations

import json
import posixpath
import re
import secrets
from collections import defaultdict
from collections.abc import Mapping

from polite_flamingo.storage.location import Location

FOLDERS = ("scored", "pairs")
"""Folders of an output that hold samples by attempt."""

_ATTEMPT = re.compile(r"\.[0-9a-f]{8}$")


def new_attempt() -> str:
    """Return a random name for an attempt at a shard."""
    return secrets.token_hex(4)


def shard_of(name: str) -> str:
    """Return the shard that an attempt's file belongs to. Both names have no suffix; one without an attempt stays."""
    return _ATTEMPT.sub("", name)


def published(files: Mapping[str, Location]) -> dict[str, Location]:
    """Leave out the files of attempts that no manifest names, and the attempts from the names of the others.

    Args:
        files: path without .tar -> where it is. Files that are not in an output's folder of samples stay as they are.
    """
    kept: dict[str, Location] = {}
    by_folder: defaultdict[str, dict[str, Location]] = defaultdict(dict)
    for path, place in files.items():
        folder = place.key.rpartition("/")[0]
        (by_folder[folder] if folder.rpartition("/")[2] in FOLDERS else kept)[path] = place
    for found in by_folder.values():
        manifests = next(iter(found.values())).parent.parent / "manifests"
        finished = set(manifests.names(".json"))
        if not finished:  # a folder of this name that no job wrote, or a copy of one
            kept |= found
            continue
        shards: defaultdict[str, dict[str, Location]] = defaultdict(dict)
        for path, place in found.items():
            stem = place.name.removesuffix(".tar")
            shards[stem if stem in finished else shard_of(stem)][path] = place
        for shard in shards.keys() & finished:
            named = _named(manifests / f"{shard}.json") if len(shards[shard]) > 1 else None
            for path, place in shards[shard].items():
                if named in (None, place.name):
                    kept[path if posixpath.basename(path) == shard else shard_of(path)] = place
    return kept


def _named(manifest: Location) -> str | None:
    """Return the name of the file that a manifest names; of an earlier version, the one with the shard's name."""
    files = json.loads(manifest.read_text()).get("files", {})
    return posixpath.basename(files["samples"]["path"]) if "samples" in files else f"{manifest.name[:-5]}.tar"
