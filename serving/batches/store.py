"""Uploaded files and bulk jobs in a folder or a bucket, shared by the routes and the runners.

    ROOT/files/ID/data         a file's bytes
    ROOT/files/ID/file.json    `StoredFile`, written last: from then on the file exists
    ROOT/uploads/ID.json       when the file was begun; gone once it exists
    ROOT/jobs/ID/job.json      `Job`; created by a route, then changed only by the runner that holds the job
    ROOT/jobs/ID/cancel        exists once the job is to be cancelled
    ROOT/jobs/ID/lock.json     the lease of that runner, renewed by heartbeat
    ROOT/jobs/ID/work-RANDOM/  the files around its build
    ROOT/queue/TIME-ID         exists until the job has ended

Any number of processes on any machines may use a folder or bucket. Ids are random, and state changes by creating an
object or by compare-and-swap, so a process that was believed dead changes nothing when it wakes. Ids have 128 random
bits, and files and jobs belong to the key that made them: for other keys they do not exist. Nothing here runs a job
(`runner.py`) or reads a line (`lines.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from polite_flamingo.storage.lease import Lease
from polite_flamingo.storage.location import Location, location
from serving.batches.records import ENDED, Job, StoredFile
from serving.config import BatchesConfig
from serving.errors import ApiError

ABANDONED_SECONDS = 24 * 3600.0
"""Age at which an unfinished upload is deleted."""

RECORDS = 10_000
"""Records that a process keeps in memory, each until its object changes: lists would read all of them each time."""

Record = TypeVar("Record", StoredFile, Job)

_ID = r"(?:file|batch)-[0-9a-f]{32}"


class JobLost(Exception):
    """Another runner has taken the job over."""


class BatchStore:
    """The files and jobs. What is kept in memory is checked against the store in every method."""

    def __init__(self, config: BatchesConfig, now: Callable[[], float] = time.time):
        """Args: config: names the folder or bucket. now: seconds since 1970."""
        self.config, self.now = config, now
        self.root = location(config.folder).absolute()
        self._parsed = functools.lru_cache(RECORDS)(_read)

    def make_root(self) -> None:
        """Create the folder if need be; only the service's own user may read it. A bucket needs nothing."""
        if self.root.local is not None:
            self.root.local.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new_file(self) -> str:
        """Begin a file: return its id, under which `data` can be written and `add_file` called.

        What a killed process leaves of it is found by `sweep`.
        """
        self.make_root()
        identity = f"file-{secrets.token_hex(16)}"
        self._upload(identity).put(json.dumps(self.now()))
        return identity

    def room(self, owner: str) -> int:
        """Bytes that a key may still upload."""
        return self.config.key_bytes - sum(one.size for one in self.files(owner) if one.purpose == "batch")

    def add_file(
        self,
        identity: str,
        owner: str,
        filename: str,
        purpose: str,
        keep: float | None = None,
        created: float | None = None,
    ) -> StoredFile:
        """Let a file exist whose `data` is complete. The same call again changes nothing.

        Args:
            identity: from `new_file`.
            owner: the key that it belongs to.
            filename: for display.
            purpose: "batch" or "batch_output".
            keep: seconds until it is deleted; at most the server's `keep_days`, the default.
            created: seconds since 1970; now by default.

        Raises:
            FileNotFoundError: there is no data.
        """
        data = self.data(identity).head()
        if data is None:
            raise FileNotFoundError(str(self.data(identity)))
        begun, limit = self.now() if created is None else created, self.config.keep_days * 86400
        stored = StoredFile(
            id=identity, owner=owner, filename=filename, purpose=purpose, size=data.size,
            created=begun, expires=begun + min(limit, limit if keep is None else keep),
        )  # fmt: skip
        self._file_record(identity).create(_to_json(stored))
        self._upload(identity).delete()
        return stored

    def files(self, owner: str) -> list[StoredFile]:
        """The files of a key, oldest first."""
        return _oldest_first(self._records(StoredFile, "files", "file.json"), owner)

    def file(self, identity: str, owner: str) -> StoredFile:
        """One of a key's files. Raises ApiError 404."""
        return _owned(self._file(identity), owner, "file", identity)

    def data(self, identity: str) -> Location:
        """The place of a file's bytes; there may be none."""
        return self.root / "files" / identity / "data"

    def open(self, identity: str) -> io.BufferedReader:
        """Stream a file's bytes. Raises ApiError 404."""
        try:
            return self.data(identity).open()
        except FileNotFoundError:
            raise _no_such("file", identity) from None

    def delete_file(self, identity: str) -> None:
        """Delete a file, which disappears from lists at once, or what there is of it; does nothing if it is gone."""
        self._file_record(identity).delete()
        self.data(identity).parent.delete_tree()
        self._upload(identity).delete()

    def create_job(
        self, owner: str, input_file_id: str, endpoint: str, window: str, metadata: Mapping[str, str] | None
    ) -> Job:
        """Create a job, for a runner to find. Raises ApiError: 404 for the file, 429 for too many unfinished jobs."""
        self.file(input_file_id, owner)
        waiting = sum(job.status not in ENDED for job in self.jobs(owner))
        if waiting >= self.config.waiting:
            message = f"{waiting} jobs have not ended; the limit is {self.config.waiting} (serving.batches.waiting)"
            raise ApiError(429, message, "rate_limit_error", "too_many_batches", retry_after=60)
        now = self.now()
        job = Job(
            id=f"batch-{secrets.token_hex(16)}", owner=owner, input_file_id=input_file_id, endpoint=endpoint,
            window=window, created=now, expires=now + int(window.removesuffix("h")) * 3600, metadata=metadata,
        )  # fmt: skip
        self._job_record(job.id).create(_to_json(job))
        self._queued(job).put("")
        return job

    def jobs(self, owner: str | None = None) -> list[Job]:
        """The jobs of a key, or all of them, oldest first."""
        return _oldest_first(self._records(Job, "jobs", "job.json"), owner)

    def job(self, identity: str, owner: str) -> Job:
        """One of a key's jobs. Raises ApiError 404."""
        return _owned(self._job(identity), owner, "batch", identity)

    def job_folder(self, identity: str) -> Location:
        """The folder of a job."""
        assert re.fullmatch(_ID, identity), identity
        return self.root / "jobs" / identity

    def cancel(self, job: Job) -> None:
        """Ask the runner to end a job. Raises ApiError 409 if it has ended."""
        if job.status in ENDED:
            raise ApiError(409, f"batch {job.id} is {job.status} and cannot be cancelled", code="batch_ended")
        (self.job_folder(job.id) / "cancel").create(json.dumps(self.now()))

    def cancelled_at(self, identity: str) -> float | None:
        """When cancellation was requested; None if it was not."""
        try:
            return float(json.loads((self.job_folder(identity) / "cancel").read_text()))
        except FileNotFoundError:
            return None

    def queue(self) -> list[str]:
        """The ids of the jobs that have not ended, oldest first."""
        return [found[0] for name in sorted((self.root / "queue").names()) if (found := re.findall(_ID, name))]

    def lease(self, identity: str, seconds: float) -> Lease:
        """The lease on a job: who has it may `take` the job."""
        return Lease(self.job_folder(identity) / "lock.json", seconds)

    def take(self, identity: str) -> HeldJob | None:
        """Take a job from the runner that had it, whose changes fail from now on; None if the job has ended."""
        place, runner = self._job_record(identity), secrets.token_hex(8)
        while (found := place.head()) is not None and (job := self._job(identity)) is not None:
            if job.status in ENDED:
                self.close(job)
                return None
            held = HeldJob(place, job, found.tag)
            try:
                held.change(runner=runner)
            except JobLost:
                continue  # changed in between by the one who had it
            return held
        return None

    def close(self, job: Job) -> None:
        """Delete what an ended job no longer needs."""
        folder = self.job_folder(job.id)
        for name in {below.split("/")[0] for below in folder.names() if below.startswith("work")}:
            (folder / name).delete_tree()
        self._queued(job).delete()

    def sweep(self) -> None:
        """Delete expired files, old jobs that have ended, and abandoned uploads; queue jobs of earlier versions."""
        now = self.now()
        for stored in list(self._records(StoredFile, "files", "file.json")):
            if stored.expires <= now:
                self.delete_file(stored.id)
        queued, jobs = set(self.queue()), self.jobs()
        for job in jobs:
            if job.status not in ENDED:
                if job.id not in queued:  # of an earlier version, or its creator was killed in between
                    self._queued(job).put("")
            elif job.created + self.config.keep_days * 86400 <= now:
                self.job_folder(job.id).delete_tree()
        unfinished = {
            file for job in jobs if job.status not in ENDED for file in (job.output_file_id, job.error_file_id)
        }
        self._sweep_uploads(now, unfinished)

    def _sweep_uploads(self, now: float, spared: set[str]) -> None:
        """Args: spared: results that become files when a runner goes on with their job."""
        uploads = self.root / "uploads"
        names = uploads.names()
        begun = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        for identity in begun - spared:
            try:
                when = float(json.loads(self._upload(identity).read_text()))
            except FileNotFoundError:
                continue  # it has just become a file
            if when + ABANDONED_SECONDS <= now:
                if self._file(identity) is None:
                    self.delete_file(identity)
                (uploads / identity).delete_tree()
                self._upload(identity).delete()
        for name in names:  # earlier versions wrote the data itself here, below the id
            identity = name.split("/")[0]
            if "/" in name and re.fullmatch(_ID, identity) and identity not in begun:
                self._upload(identity).put(json.dumps(now))

    def _upload(self, identity: str) -> Location:
        return self.root / "uploads" / f"{identity}.json"

    def _file_record(self, identity: str) -> Location:
        return self.root / "files" / identity / "file.json"

    def _job_record(self, identity: str) -> Location:
        return self.root / "jobs" / identity / "job.json"

    def _queued(self, job: Job) -> Location:
        return self.root / "queue" / f"{job.created:017.6f}-{job.id}"

    def _file(self, identity: str) -> StoredFile | None:
        return self._record(StoredFile, identity, "file-", self._file_record)

    def _job(self, identity: str) -> Job | None:
        return self._record(Job, identity, "batch-", self._job_record)

    def _record(self, kind: type[Record], identity: str, start: str, place: Callable[[str], Location]) -> Record | None:
        if not (identity.startswith(start) and re.fullmatch(_ID, identity)):
            return None
        try:
            return kind(**json.loads(place(identity).read_text()))
        except FileNotFoundError:
            return None

    def _records(self, kind: type[Record], folder: str, name: str) -> Iterator[Record]:
        """Every record of a kind, by one listing; only those that have changed are read."""
        record = re.compile(rf"(?:^|/){folder}/{_ID}/{re.escape(name)}$")
        for entry in (self.root / folder).entries():
            if record.search(entry.key):
                found = self._parsed(Location(self.root.store, entry.key), entry.tag)
                if found is not None:
                    yield kind(**found)


class HeldJob:
    """A job in the hands of one runner.

    Attributes:
        job: its record as it is in the store.
    """

    def __init__(self, place: Location, job: Job, tag: str):
        self.job = job
        self._place, self._tag = place, tag

    def change(self, **changes: Any) -> None:
        """Change fields of the record. Raises `JobLost` if another runner has taken the job."""
        changed = dataclasses.replace(self.job, **changes)
        if changed != self.job:
            tag = self._place.swap(_to_json(changed), self._tag)
            if tag is None:
                raise JobLost(changed.id)
            self.job, self._tag = changed, tag


def _read(place: Location, tag: str) -> dict[str, Any] | None:
    """Read a record; the tag is that of its object, so that a changed one is read again."""
    try:
        return dict(json.loads(place.read_text()))
    except FileNotFoundError:
        return None


def _to_json(record: StoredFile | Job) -> str:
    return json.dumps(dataclasses.asdict(record))


def _no_such(what: str, identity: str) -> ApiError:
    return ApiError(404, f"no such {what}: {identity[:64]!r}", code=f"{what}_not_found")


def _owned(found: Record | None, owner: str, what: str, identity: str) -> Record:
    if found is None or found.owner != owner:
        raise _no_such(what, identity)
    return found


def _oldest_first(found: Iterable[Record], owner: str | None = None) -> list[Record]:
    """Return the records of an owner, or all of them."""
    mine = [one for one in found if owner in (None, one.owner)]
    return sorted(mine, key=lambda one: (one.created, one.id))
