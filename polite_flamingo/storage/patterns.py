"""Patterns and lists of names, held against as few listings as there are folders: a bucket is never asked per shard."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.user_paths import WILDCARDS, expanded, is_address, refuse_absent, without_braces

_THREADS = 16
"""Folders of a bucket listed at once."""


def matching(pattern: str) -> list[str]:
    """Return the paths and addresses that a pattern stands for. Raises `ValueError` as `user_paths.expanded` does."""
    return [str(place) for place in matches_in_bucket(pattern).values()] if is_address(pattern) else expanded(pattern)


def matches_in_bucket(pattern: str) -> dict[str, Location]:
    """Return the objects of a bucket that match a pattern, and the folders that do, which have no `listed`."""
    plain: list[str] = []
    wild: list[str] = []
    for path in without_braces(pattern):
        (wild if any(character in path for character in WILDCARDS) else plain).append(path)
    found = present(plain)
    absent = [path for path in plain if path not in found]
    for path in wild:
        place, start = location(path), location(fixed_part(path))
        form = _form(place.key)
        matched: dict[str, Location] = {}
        for entry in start.entries():
            for end in [*(match.start() for match in re.finditer("/", entry.key)), len(entry.key)]:
                part = entry.key[:end]
                if len(part) > len(start.key) and form.fullmatch(part):
                    listed = entry if end == len(entry.key) else None
                    matched[place.store.url + part] = Location(place.store, part, listed)
                    break
        found |= dict(sorted(matched.items()))
        absent += [] if matched else [path]
    refuse_absent(pattern, absent, len(found))
    return found


def present(paths: Iterable[str]) -> dict[str, Location]:
    """Return those of the paths that exist, with what a listing says of them; each folder is listed once."""
    folders: dict[Location, list[str]] = defaultdict(list)
    for path in paths:
        folders[location(path).parent].append(path)

    def look(folder: Location) -> dict[str, Location]:
        wanted = folders[folder]
        if folder.local is not None:
            return {path: location(path) for path in wanted if os.path.lexists(path)}
        entries = {entry.key: entry for entry in folder.entries()}
        places = {path: location(path) for path in wanted}
        return {
            path: Location(place.store, place.key, entries[place.key])
            for path, place in places.items()
            if place.key in entries
        }

    found: dict[str, Location] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for some in pool.map(look, folders):
            found |= some
    return found


def _form(pattern: str) -> re.Pattern[str]:
    """Make a regular expression of `*`, `?`, `[…]` and `**`, as `glob` understands them."""
    parts = []
    for segment in pattern.split("/"):
        if segment == "**":
            parts.append("(?:[^/.][^/]*/)*")
            continue
        form = "(?!\\.)" if segment[:1] in ("*", "?", "[") else ""
        for token in re.findall(r"\[[!^]?\]?[^\]]*\]|.", segment, re.DOTALL):
            if len(token) > 1:
                form += "[" + re.sub(r"^[!^]", "^", token[1:-1]).replace("\\", "\\\\") + "]"
            else:
                form += {"*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))
        parts.append(form + "/")
    return re.compile("".join(parts).removesuffix("/"), re.DOTALL)


def fixed_part(pattern: str) -> str:
    """Return the leading folders of a pattern that have no wildcard."""
    scheme, separator, rest = pattern.partition("://") if is_address(pattern) else ("", "", pattern)
    parts = rest.split("/")
    first = next((number for number, part in enumerate(parts) if any(one in part for one in "*?[{")), len(parts) - 1)
    return scheme + separator + ("/".join(parts[:first]) or ("/" if first else ".") * (not separator))
