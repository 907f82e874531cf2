"""What every long job shares: an output folder that belongs to one configuration and one process, and can be resumed.

    OUT/.lock        held by the job that writes here
    OUT/run.json     the command, models and versions that made this folder, and the hash of what decides the result
    OUT/config.yaml  the resolved configuration of the last attempt

A job locks its folder, is refused if another configuration or other input made what is there, does what is left, and
adds this attempt to run.json. Whatever kills it, the same command resumes it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

import yaml

from polite_flamingo.config import differing, read_yaml
from polite_flamingo.storage.discovery import OUTPUT_FOLDERS, shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.input_index import PIECE, THREADS, extend_index, finished_tags, made_of
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import OutputLayout, read_manifest
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.provenance import ingests_of
from polite_flamingo.storage.run_info import ModelInfo, RunInfo, installed_versions, read_run, write_run
from ray_jobs.console import names_of, typed
from ray_jobs.progress import counted
from ray_jobs.replay_ledger import source_of

LEDGER_OUTPUTS = (
    *OUTPUT_FOLDERS, "config.yaml", "run.json", "stats.json", "agreement.json", "ray_data_stats.txt",
    "pf1m.json", "llava.json", "report.html", "preview.html", "README.md",
)  # fmt: skip
"""What a build or a distortion leaves in its folder."""

SAMPLED_MANIFESTS = 1000

MOST_NAMED = 4
"""Most settings that a refusal names."""

_HARMLESS = frozenset({"input", "out", "fresh", "estimate", "thresholds", "prices"})
"""What may differ between attempts of a job."""


@dataclass(frozen=True, kw_only=True)
class ResumableJob:
    """A job and its output folder.

    Attributes:
        layout: the output folder.
        identity: hash of everything that decides the result.
        models: role -> name and fingerprint.
        config: resolved, as YAML.
        outputs: glob patterns of what the job leaves in its folder, for `--fresh`.
    """

    layout: OutputLayout
    identity: str
    models: Mapping[str, Mapping[str, str]]
    config: str
    outputs: Sequence[str] = LEDGER_OUTPUTS

    @contextmanager
    def locked(self, *, fresh: bool = False) -> Iterator[None]:
        """Hold the output folder, emptied if `fresh` and a job has begun there: else, what is there is the user's own.

        Raises:
            ValueError: another process holds it, or another configuration made what is there.
        """
        with exclusive(self.layout.root):
            if fresh and (self.layout.run.exists() or self.layout.config.exists() or self.layout.finished(at_most=1)):
                clear(self.layout.root, self.outputs)
            self.refuse_other_configuration()
            yield

    def refuse_other_configuration(self) -> None:
        """Raise `ValueError` if the folder holds results of other models, prompts, settings or input."""
        other = next((found for found in self.found_identities() if found != self.identity), None)
        if other is not None:
            changed = self._changed_settings()
            raise ValueError(
                f"{self.layout.root} holds the work of another configuration ({other}, now {self.identity}; it is in "
                f"{self.layout.config}{f', and differs in {changed}' if changed else ''}); give another --out, or "
                "--fresh to delete it and start over"
            )

    def _changed_settings(self) -> str:
        """Return a few of the settings that differ from those in the folder; "" if they cannot be told."""
        try:
            names = differing(read_yaml(self.layout.config), yaml.safe_load(self.config))
        except ValueError:
            return ""
        parts = [name.split(".") for name in names]
        names = [".".join(one) for one in parts if one[0] not in _HARMLESS and one[-1] != "urls"]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return ", ".join(names[:MOST_NAMED]) + more

    def found_identities(self) -> Iterator[str]:
        """Yield the hashes of the configurations that made what is in the folder."""
        if run := read_run(self.layout):
            yield run.config_hash

    def run(self) -> RunInfo:
        """Return what earlier attempts recorded, or a new run."""
        run = read_run(self.layout)
        if run is None or run.config_hash != self.identity:  # of another configuration that finished nothing
            run = begin_run(self.identity, self.models, self.config)
        return replace(run, config=self.config)

    @contextmanager
    def attempt(self, run: RunInfo | None = None) -> Iterator[Attempt]:
        """Record in run.json that work begins and, at the end of any attempt, failed or not, what it has done."""
        attempt = Attempt(self.layout, run or self.run())
        self.layout.config.put(self.config)
        self.layout.stats.delete()
        attempt.note()
        try:
            yield attempt
        except BaseException:
            with suppress(OSError):  # a full disk may be what ended the job
                attempt.note()
            raise
        attempt.note()
        if attempt.shards:
            extend_index(self.layout)


class ShardJob(ResumableJob):
    """A job that turns each input shard into an output shard with a manifest; a shard with a manifest is done."""

    def found_identities(self) -> Iterator[str]:
        """Yield the hashes in the manifests.

        run.json was written before any of them. If it names this configuration, a sample of the manifests is enough:
        reading a million takes a minute.
        """
        run = read_run(self.layout)
        same = run is not None and run.config_hash == self.identity
        names = self.layout.finished(at_most=SAMPLED_MANIFESTS if same else None)
        for manifest in in_order(lambda name: read_manifest(self.layout.manifest(name)), names, THREADS):
            yield manifest.config_hash

    def left_to_do(self, shards: Mapping[str, Location]) -> dict[str, Location]:
        """Return the shards that have no manifest yet; print which are done, and which are not part of this input.

        Raises:
            ValueError: the input of a finished shard has changed, or an input is not a shard of this project.
        """
        finished = finished_tags(self.layout)
        todo = {name: path for name, path in shards.items() if name not in finished}
        done = [name for name in shards if name not in todo]
        if done:  # else `input_shards` has looked at the same ones
            refuse_foreign(todo.values())
        self.refuse_changed_input({name: shards[name] for name in done}, finished)
        if others := sorted(name for name in finished if source_of(name) not in shards):
            root, names = self.layout.root, names_of(others)
            print(f"{root} also holds {counted(len(others), 'shard')} not in this input: {names}")
        if done:
            are = "is" if len(shards) == 1 else "are"
            print(f"{len(done):,} of {counted(len(shards), 'shard')} {are} already done: {names_of(done)}")
        return todo

    def refuse_changed_input(self, done: Mapping[str, Location], tags: Mapping[str, str]) -> None:
        """Raise `ValueError` if the input of a finished shard has changed since.

        Args:
            done: name -> input of each finished shard.
            tags: see `finished_tags`.
        """
        changed, unknown = [], 0
        for name, found in made_of(self.layout, {name: tags[name] for name in done}):
            unknown += found is None
            if found is not None and not found.is_still_at(done[name]):
                changed.append(name)
        if changed:
            changed.sort()
            only_these = f"delete their manifests ({self.layout.manifest('NAME')}, NAME~replay-*.json)"
            raise changed_input(self.layout.root, changed, len(done), f"; to remake only these shards, {only_these}")
        if unknown:
            print(
                f"{unknown:,} of {counted(len(done), 'finished shard')} came from an earlier version: whether the "
                "input has changed since cannot be checked"
            )


class Attempt:
    """What one attempt at a job has done, added to run.json on request.

    Attributes:
        rows: number of rows in the shards it has finished.
        shards: their number.
        seconds: name of a pool -> seconds that these shards spent in it.
    """

    def __init__(self, layout: OutputLayout, before: RunInfo):
        """Start the clock. Args: before: the run as earlier attempts left it."""
        self.rows = self.shards = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._layout, self._before, self._started = layout, before, time.monotonic()

    def add(self, shard: Mapping[str, Any]) -> None:
        """Add a finished shard (a row of `actors.commit.FINISHED`)."""
        self.rows += shard["rows_in"]
        self.shards += 1
        if self.shards % PIECE == 0:
            extend_index(self._layout)
        for pool, seconds in shard["seconds"]:
            self.seconds[pool] += seconds

    def note(self) -> RunInfo:
        """Write run.json with this attempt added to those before it; an attempt that is killed counts up to here."""
        run = with_work(self._before, self.rows, {**self.seconds, "wall": time.monotonic() - self._started})
        write_run(self._layout, run)
        return run


def with_work(run: RunInfo, rows: int, seconds: Mapping[str, float]) -> RunInfo:
    """Add rows, and seconds by pool and "wall", to a run."""
    total = {name: round(run.seconds.get(name, 0.0) + seconds.get(name, 0.0), 6) for name in {**run.seconds, **seconds}}
    rows += run.rows
    rate = round(rows / total["wall"], 2) if total.get("wall") else 0.0
    return replace(run, rows=rows, seconds=total, rows_per_second=rate)


def with_ingests(run: RunInfo, shards: Iterable[Location]) -> RunInfo:
    """Add the ingests that made these shards to those of earlier attempts.

    Raises:
        ValueError: the result of one cannot be read.
    """
    known = {ingest.where: ingest for ingest in (*run.ingests, *ingests_of(shards))}
    return replace(run, ingests=tuple(known.values()))


def begin_run(config_hash: str, models: Mapping[str, Mapping[str, str]], config: str) -> RunInfo:
    """Describe a run that starts now.

    Args:
        config_hash: see `fingerprint.config_hash`.
        models: role -> name and fingerprint.
        config: resolved, as YAML.
    """
    return RunInfo(
        title="Polite Flamingo on Ray",
        command=typed(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config_hash=config_hash,
        models=tuple(ModelInfo(role=role, **model) for role, model in models.items()),
        versions=installed_versions(),
        config=config,
    )


def input_shards(source: str, layout: OutputLayout) -> dict[str, Location]:
    """Find the input shards of a job: name -> path. What is passed over is printed.

    Raises:
        ValueError: there are none, or one is not a shard of this project.
    """
    shards = shard_names(source, layout.root, print)
    refuse_foreign(shards.values())
    return shards


def check_input(file: Location, shards: Mapping[str, Location], *, begun: bool = True) -> dict[str, str]:
    """Compare shards with what FILE recorded of them when they were first read, and record those that are new.

    Args:
        file: JSON: name -> `InputFile`, or in folders of earlier versions a digest.
        shards: name -> path.
        begun: whether a run has begun on what FILE recorded; otherwise it is ignored.

    Returns:
        Name -> digest; in a bucket, the ETag.

    Raises:
        ValueError: a shard has changed since.
        PathUnavailable: a shard cannot be read.
    """
    known: dict[str, Any] = json.loads(file.read_text()) if begun and file.exists() else {}
    if changed := [str(path) for name, path in shards.items() if name in known and not _is_still_at(path, known[name])]:
        raise changed_input(file.parent, changed, len(shards))
    known |= {name: asdict(InputFile.at(path)) for name, path in shards.items() if name not in known}
    file.put(json.dumps(known, indent=1) + "\n")
    digests = {name: one if isinstance(one, str) else one["sha256"] or one["tag"] for name, one in known.items()}
    return {name: digests[name] for name in shards}


def _is_still_at(path: Location, recorded: dict[str, Any] | str) -> bool:
    if isinstance(recorded, str):  # a digest of earlier versions, of all bytes or of the first and last
        from polite_flamingo.hub import fingerprint

        return recorded in (fingerprint(str(path), whole=True), fingerprint(str(path)))
    return InputFile(**recorded).is_still_at(path)


def changed_input(root: Location, changed: Sequence[str], total: int, otherwise: str = "") -> ValueError:
    """Return the error for input that differs from what `root` was made of. Args: otherwise: another remedy."""
    return ValueError(
        f"the input of {len(changed):,} of {total:,} shards has changed since {root} was made: {names_of(changed)}; "
        f"give another --out, or --fresh to delete it and start over{otherwise}"
    )


def clear(root: Location, patterns: Iterable[str]) -> None:
    """Delete what matches these patterns below `root`, and nothing else: inputs may lie in the same folder."""
    for pattern in patterns:
        if "*" in pattern:
            found = {"/".join(name.split("/")[: pattern.count("/") + 1]) for name in root.names()}
            places = [root / name for name in sorted(found) if fnmatch(name, pattern)]
        else:
            places = [root / pattern]
        for place in places:
            if place.local is not None and place.local.is_symlink():
                place.local.unlink()
            else:
                place.delete_tree()
                place.delete()
