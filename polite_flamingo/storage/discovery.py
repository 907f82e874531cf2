"""Find the input files of a job in a folder, a bucket, a pattern or a list, and count those passed over, by kind.

Links are followed, and each folder is visited once, so circular links do no harm. A bucket is listed once per folder
named, and each file found carries what the listing says of it. The output of a run is never input: its folders
(`OUTPUT_FOLDERS`) are skipped if its manifests and run.json are beside them. Hidden files, packed tars and files of
other kinds are passed over and counted; the caller prints the counts.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.storage.attempts import published
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.patterns import fixed_part, matches_in_bucket, present
from polite_flamingo.storage.tar_members import HEAD_BYTES, is_companion, is_tar, printable
from polite_flamingo.storage.tree import Tree, identity_of
from polite_flamingo.storage.user_paths import expanded, is_address, is_pattern, user_path
from polite_flamingo.text_files import read_text

OUTPUT_FOLDERS = (
    "scored", "pairs", "samples", "rated", "captions", "manifests", "quarantine", "keys", "near", "pf1m", "parquet",
    "verdicts", "exports", "images", "journal", "engine", "answers", "index", "parts", "replay", "scratch",
    "estimate",
)  # fmt: skip
"""The folders that a job writes in its output folder."""

PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lz4")
UNFINISHED = "unfinished"
"""OUT/ingest/NAME/unfinished is there while the shards OUT/NAME-NNNNN.tar are being built."""

_RUN_FILES = frozenset({"run.json", "config.yaml", "stats.json"})
_JOBS = "what a job wrote (to read it, name the folder itself)"
_HALF = "shards of an ingest that has not finished (run it again)"
_MAX_EXAMPLES = 3
"""Names shown per kind."""

_LIST = ".txt"
"""What the name of a list of inputs ends in."""


@dataclass(kw_only=True)
class Found:
    """The files found below a folder.

    Attributes:
        files: paths relative to the folder, unordered -> where they are.
        passed: kind -> number of files passed over.
        examples: kind -> the first few of them.
    """

    files: dict[str, Location] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, kind: str, path: str) -> None:
        """Count a file that is not taken."""
        self.passed[kind] += 1
        if len(shown := self.examples.setdefault(kind, [])) < _MAX_EXAMPLES:
            shown.append(path)

    def sort_in(self, place: Location, suffix: str, path: str) -> None:
        """Take a file or pass it over, depending on its name."""
        name = path.rpartition("/")[2]
        if name.startswith("."):
            self.pass_over("hidden files", path)
        elif is_companion(name):
            self.pass_over("not data, by their names", path)
        elif name.lower().endswith(suffix):
            self.files[path] = place
        else:
            self.pass_over(_kind(path), path)

    def add(self, other: Found, folder: str) -> None:
        """Add the files found below `folder`."""
        self.files |= {posixpath.join(folder, file): place for file, place in other.files.items()}
        for kind, times in other.passed.items():
            for path in other.examples[kind]:
                self.pass_over(kind, posixpath.join(folder, path))
            self.passed[kind] += times - len(other.examples[kind])

    def lines(self) -> Iterator[str]:
        """Yield one line per kind of file that was passed over."""
        for kind, times in self.passed.items():
            shown = self.examples[kind]
            more = f" and {times - len(shown):,} more" if times > len(shown) else ""
            yield f"passed over, {kind}: {printable(', '.join(shown))}{more}"


def shard_names(
    source: str, own: Path | Location | None = None, say: Callable[[str], None] = lambda line: None
) -> dict[str, Location]:
    """Return the input shards of a folder, a tar, a pattern or a list: name -> where, sorted by name.

    A name is the path below the folder (below a pattern's fixed part; in a list the path as it stands there) without
    `.tar`, `/` written as `__`.

    Args:
        source: what `input_files` takes.
        own: the output folder of the job, whose files are not input.
        say: called with one line per kind of file that is passed over.

    Raises:
        ValueError: there are no shards, two shards have the same name, or a name is not UTF-8. The message says what to
            do.
        PathUnavailable: a folder or a bucket cannot be listed.
    """
    found = input_files(source, own)
    passed = list(found.lines())
    if not found.files:
        why = f" ({'; '.join(passed)})" if passed else ""
        raise ValueError(f"input {source} has no .tar shard{why}; ingest some first (polite-flamingo ingest --help)")
    for line in passed:
        say(line)
    shards = published({posixpath.splitext(file)[0]: place for file, place in found.files.items()})
    if left_out := len(found.files) - len(shards):
        say(f"passed over, of unfinished or repeated shards of a job: {left_out:,} tars that no manifest names")
    names: dict[str, Location] = {}
    for shard, place in sorted(shards.items()):
        if printable(shard) != shard:
            raise ValueError(f"the name of {printable(str(place))} is not UTF-8: rename it")
        name = shard.replace("/", "__")
        if name in names:
            raise ValueError(f"shards {names[name]} and {place} would both be called {name!r}; rename one")
        names[name] = place
    return {name: names[name] for name in sorted(names)}


def input_files(source: str, own: Path | Location | None = None) -> Found:
    """Find the tars that a folder, a tar, a pattern or a list names, on a disk or in a bucket.

    Args:
        source: for patterns see `user_paths.expanded`; folders that match one are searched. A file called *.txt is a
            list: a path or an address per line, relative to the list's folder; blank lines and # comments are ignored.
        own: as in `files_below`.

    Raises:
        ValueError: it does not exist, or is in what the job writes.
        PathUnavailable: a folder or a bucket cannot be listed.
    """
    place = location(source if is_address(source) else Path(source))
    mine = None if own is None else location(own)
    if is_pattern(source):
        return _matching(source, mine)
    if mine is not None and (folder := _written(place, mine)):
        raise ValueError(f"input {source} is in {folder}, which this job writes: give another --out")
    if (file := _file_at(place)) is None:
        found = files_below(place, own=mine)
        if place.local is None and not found.files and not found.passed:
            raise ValueError(f"input {source} does not exist: there is no object of that name and none below it")
        return found
    if file.name.lower().endswith(_LIST):
        return _of_list(file, mine)
    found = Found()
    if _is_tar(file):
        found.files[file.name] = file
    else:
        found.sort_in(file, ".tar", file.name)
    return found


def _file_at(place: Location) -> Location | None:
    """Return the file at a place, None for a folder (in a bucket, whatever is no object). Raises `ValueError`."""
    if place.local is None:
        entry = place.head() if place.key else None
        return None if entry is None else Location(place.store, place.key, entry)
    if not place.local.exists():
        remedy = "give a folder of .tar shards, one .tar, a list, or a pattern in quotes"
        raise ValueError(f"input {place} does not exist; {remedy}")
    return None if place.local.is_dir() else place


def _is_tar(file: Location) -> bool:
    return file.name.lower().endswith(".tar") or is_tar(file.store.get(file.key, 0, HEAD_BYTES))


def _of_list(file: Location, own: Location | None) -> Found:
    """Find what the lines of a list name. What is named twice counts once, and is said."""
    found = Found()
    lines: dict[str, str] = {}
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        given = text.strip()
        if not given or given.startswith("#"):
            continue
        path = user_path(given, f"{file}, line {number}:")
        if not is_address(path):
            key = posixpath.normpath(posixpath.join(file.parent.absolute().key, path))
            path = str(Location(file.store, key)) if file.local or not path.startswith("/") else path
        if path in lines:
            found.pass_over("lines that repeat an earlier one", given)
        lines.setdefault(path, given)
    tars = [path for path in lines if path.lower().endswith(".tar") and not is_pattern(path)]
    there = present(tars)
    if absent := [path for path in tars if path not in there]:
        raise ValueError(f"{len(absent):,} of the {len(lines):,} files that {file} names do not exist: {absent[0]}")
    taken: set[Location] = set()
    for path, given in lines.items():
        if path in there and own is not None and _written(there[path], own):
            found.pass_over(_JOBS, given)
            continue
        if path in there:
            some = Found(files={_listed_name(given): there[path]})
        elif path.lower().endswith(_LIST):
            raise ValueError(f"{file} names another list, {path}: put its lines in place of its name")
        else:
            some = Found()
            some.add(input_files(path, own), _listed_name(fixed_part(given) if is_pattern(path) else given))
        for name, place in list(some.files.items()):
            if place in taken:
                some.pass_over("shards that the list names twice", name)
                del some.files[name]
            elif name in found.files:
                raise ValueError(f"{file} names {found.files[name]} and {place}, both called {name}: rename one")
            taken.add(place)
        found.add(some, "")
    return found


def _listed_name(given: str) -> str:
    """Return what the shards of a line are called after: its path, which stays when the list grows.

    Without `../`: a name that begins with a dot would be hidden.
    """
    name = posixpath.normpath(given.partition("://")[2] if is_address(given) else given)
    return re.sub(r"^(\.\./)*(\.{1,2}$)?", "", name.lstrip("/"))


def _matching(pattern: str, own: Location | None) -> Found:
    """Find what a pattern stands for. In a bucket, each folder before a wildcard is listed once."""
    root, found = location(fixed_part(pattern)), Found()
    matches = (
        matches_in_bucket(pattern) if is_address(pattern) else {path: location(path) for path in expanded(pattern)}
    )
    half: dict[Location, re.Pattern[str] | None] = {}
    for path, place in matches.items():
        if place.parent not in half:
            half[place.parent] = _unfinished(place.parent / "ingest")
        pattern_of_half = half[place.parent]
        inside = os.path.relpath(path, root.key) if root.local else place.key[len(root.key) :].lstrip("/")
        is_folder = place.local.is_dir() if place.local else place.listed is None
        if own is not None and _written(place, own):
            found.pass_over(_JOBS, inside)
        elif pattern_of_half and pattern_of_half.fullmatch(place.name):
            found.pass_over(_HALF, inside)
        elif is_folder and not path.lower().endswith(".tar"):
            found.add(files_below(place, own=own), inside)
        else:
            found.sort_in(place, ".tar", inside)
    return found


def files_below(
    folder: Path | Location, suffix: str = ".tar", *, own: Path | Location | None = None, ingested: bool = True
) -> Found:
    """Find the files below a folder whose names end in `suffix`, whatever their case.

    Args:
        folder: where to look; links are followed.
        suffix: in lower case.
        own: the caller's output folder, from which nothing is taken; if it is `folder` itself, only what jobs write
            there is left out.
        ingested: whether to take shards that an ingest wrote.

    Raises:
        PathUnavailable: a folder cannot be listed. Skipping it would lose its files silently.
    """
    found = Found()
    tree = Tree(location(folder))
    mine = identity_of(location(own)) if own is not None else None
    seen = {tree.identity("")}
    for inside, folders, files in tree.walk():
        output = ("manifests" in folders and not _RUN_FILES.isdisjoint(files)) or (
            mine and tree.identity(inside) == mine
        )
        results = _ingested(tree.place(f"{inside}ingest")) if "ingest" in folders else {}
        half = _unfinished(tree.place(f"{inside}ingest")) if "ingest" in folders else None
        deeper = []
        for name in sorted(folders):
            known = tree.identity(inside + name)
            if name.lower().endswith(suffix):
                found.files[inside + name] = tree.place(inside + name)  # its reader reports that it is not a file
            if (output and name in OUTPUT_FOLDERS) or (mine and known == mine):
                found.pass_over(_JOBS, inside + name)
            elif (results or half) and name in ("ingest", "quarantine"):
                pass  # an ingest's own records
            elif name.startswith(".") or is_companion(name):
                found.pass_over("hidden folders", inside + name)
            elif known in seen:
                found.pass_over("links to folders that are already read", inside + name)
            else:
                seen.add(known)
                deeper.append(name)
        folders[:] = deeper
        shards = {shard for result in results.values() for shard in result} if not ingested else set()
        for name in files:
            if half and half.fullmatch(name):
                found.pass_over(_HALF, inside + name)
            elif name in shards:
                found.pass_over("shards that an ingest wrote", inside + name)
            elif not output or name.lower().endswith(suffix):
                found.sort_in(tree.place(inside + name), suffix, inside + name)
    return found


def own_output(folder: Path) -> set[str]:
    """Return the names in a folder that an ingest (finished or not) or another job of this project wrote there."""
    written: set[str] = set()
    place = location(folder)
    ingests = place / "ingest"
    results = _ingested(ingests)
    if half := _unfinished(ingests):
        names = place.names() if place.local is None else os.listdir(place.local)  # noqa: PTH208
        written |= {name for name in names if half.fullmatch(name)}
    begun = any(ingests.local.glob("*/.lock")) if ingests.local else any("/" in name for name in ingests.names())
    if results or begun:
        written |= {"ingest", "quarantine"}.union(*results.values())
        written |= {f"preview-{name.removesuffix('.json')}.html" for name in results}
    manifests = next(place.store.keys((place / "manifests").key), None)
    if manifests is not None and any((place / name).exists() for name in _RUN_FILES):
        written |= {*OUTPUT_FOLDERS, *_RUN_FILES, "pf1m.json", "llava.json", "dataset_info.json", "report.html"}
    return written


def _written(place: Location, own: Location) -> Location | None:
    """Return the folder of the job's output that a place is in, or None."""
    if place.store != own.store:
        return None
    root, found = (own.key, place.key) if own.local is None else map(os.path.realpath, (own.key, place.key))
    folders = (folder for folder in OUTPUT_FOLDERS if f"{found}/".startswith(posixpath.join(root, folder, "")))
    return next((own / folder for folder in folders), None)


def _kind(name: str) -> str:
    lower = name.lower()
    packed = next((ending for ending in PACKED if lower.endswith(ending)), None)
    if packed:
        return f"packed {packed} (unpack them first)"
    ending = os.path.splitext(lower)[1]  # noqa: PTH122
    return f"files ending in {ending}" if ending else "files without an extension"


def _unfinished(folder: Location) -> re.Pattern[str] | None:
    """Return what the names of the shards of unfinished ingests are like, given the folder of their records."""
    ending = f"/{UNFINISHED}"
    names = [re.escape(name.removesuffix(ending)) for name in folder.names() if name.endswith(ending)]
    return re.compile(rf"({'|'.join(names)})-\d{{5}}(-[^/]*)?\.tar") if names else None


def _ingested(folder: Location) -> dict[str, list[str]]:
    """Return the shards of each ingest whose result is in a folder."""
    results = {}
    for name in sorted(name for name in folder.names() if name.endswith(".json") and "/" not in name):
        try:
            results[name] = [str(shard) for shard in json.loads((folder / name).read_text())["shards"]]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # not the result of an ingest
    return results
