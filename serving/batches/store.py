"""Uploaded files and bulk jobs on disk, shared by the routes and the runner.

    FOLDER/uploads/ID/           a file that is being received or written
    FOLDER/files/ID/data         its bytes
    FOLDER/files/ID/file.json    `StoredFile`; the folder ID appears complete, by a rename
    FOLDER/jobs/ID/job.json      `Job`; written when it is created, then only by the runner
    FOLDER/jobs/ID/cancel        exists once the job is to be cancelled
    FOLDER/jobs/ID/work          the runner's folder

Any number of processes may use a folder. Ids have 128 random bits, and files and jobs belong to the key that made them:
for other keys they do not exist. Nothing here runs a job (`runner.py`) or reads a line (`lines.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from polite_flamingo.storage.location import write_atomically
from serving.batches.records import ENDED, Job, StoredFile
from serving.config import BatchesConfig
from serving.errors import ApiError

ABANDONED_SECONDS = 24 * 3600.0
"""Age at which an unfinished upload is deleted."""

Record = TypeVar("Record", StoredFile, Job)

_ID = re.compile(r"(file|batch)-[0-9a-f]{32}")


class BatchStore:
    """The folder of files and jobs. Keeps nothing in memory: every method reads the disk."""

    def __init__(self, config: BatchesConfig, now: Callable[[], float] = time.time):
        """Args: config: names the folder. now: seconds since 1970."""
        self.config, self.now = config, now
        self.root = Path(config.folder).absolute()

    def make_root(self) -> Path:
        """The folder, created if need be; only the service's own user may read it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root

    def new_upload(self) -> Path:
        """A new folder to write `data` into, for `add_file`; its name is the file's id."""
        folder = self.make_root() / "uploads" / f"file-{secrets.token_hex(16)}"
        folder.mkdir(parents=True)
        return folder

    def room(self, owner: str) -> int:
        """Bytes that a key may still upload."""
        return self.config.key_bytes - sum(one.size for one in self.files(owner) if one.purpose == "batch")

    def add_file(self, upload: Path, owner: str, filename: str, purpose: str, keep: float | None = None) -> StoredFile:
        """Sync and store an upload whose `data` is complete.

        Args:
            upload: from `new_upload`.
            owner: the key that it belongs to.
            filename: for display.
            purpose: "batch" or "batch_output".
            keep: seconds until it is deleted; at most the server's `keep_days`, the default.
        """
        with (upload / "data").open("rb") as data:
            os.fsync(data.fileno())
        now, limit = self.now(), self.config.keep_days * 86400
        stored = StoredFile(
            id=upload.name, owner=owner, filename=filename, purpose=purpose, size=(upload / "data").stat().st_size,
            created=now, expires=now + min(limit, limit if keep is None else keep),
        )  # fmt: skip
        write_atomically(upload / "file.json", json.dumps(dataclasses.asdict(stored)))
        final = self.root / "files" / stored.id
        final.parent.mkdir(parents=True, exist_ok=True)
        upload.rename(final)
        return stored

    def files(self, owner: str) -> list[StoredFile]:
        """The files of a key, oldest first."""
        return _oldest_first(map(self._file, _ids_in(self.root / "files")), owner)

    def file(self, identity: str, owner: str) -> StoredFile:
        """One of a key's files. Raises ApiError 404."""
        return _owned(self._file(identity), owner, "file", identity)

    def data(self, identity: str) -> Path:
        """The path of a file's bytes; it may not exist."""
        return self.root / "files" / identity / "data"

    def delete_file(self, identity: str) -> None:
        """Delete a file, which disappears from lists at once; does nothing if it is gone."""
        _discard(self.root / "files" / identity, self.root / "uploads")

    def create_job(
        self, owner: str, input_file_id: str, endpoint: str, window: str, metadata: Mapping[str, str] | None
    ) -> Job:
        """Create a job, for the runner to find. Raises ApiError: 404 for the file, 429 for too many unfinished jobs."""
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
        self.save(job)
        return job

    def save(self, job: Job) -> None:
        """Write a job's state. Only its creator and then the runner may."""
        write_atomically(self.job_folder(job.id) / "job.json", json.dumps(dataclasses.asdict(job)))

    def jobs(self, owner: str | None = None) -> list[Job]:
        """The jobs of a key, or all of them, oldest first."""
        return _oldest_first(map(self._job, _ids_in(self.root / "jobs")), owner)

    def unfinished(self, ended: set[str]) -> list[Job]:
        """All jobs that have not ended, oldest first. Ended ones are added to `ended` and not read again."""
        found = [job for name in _ids_in(self.root / "jobs") if name not in ended and (job := self._job(name))]
        ended.update(job.id for job in found if job.status in ENDED)
        return _oldest_first(job for job in found if job.status not in ENDED)

    def job(self, identity: str, owner: str) -> Job:
        """One of a key's jobs. Raises ApiError 404."""
        return _owned(self._job(identity), owner, "batch", identity)

    def job_folder(self, identity: str) -> Path:
        """The folder of a job."""
        assert _ID.fullmatch(identity), identity
        return self.root / "jobs" / identity

    def cancel(self, job: Job) -> None:
        """Ask the runner to end a job. Raises ApiError 409 if it has ended."""
        if job.status in ENDED:
            raise ApiError(409, f"batch {job.id} is {job.status} and cannot be cancelled", code="batch_ended")
        if self.cancelled_at(job.id) is None:
            write_atomically(self.job_folder(job.id) / "cancel", json.dumps(self.now()))

    def cancelled_at(self, identity: str) -> float | None:
        """When cancellation was requested; None if it was not."""
        try:
            return float(json.loads((self.job_folder(identity) / "cancel").read_text()))
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Delete expired files, old jobs that have ended, and abandoned uploads."""
        now = self.now()
        for name in _ids_in(self.root / "files"):
            stored = self._file(name)
            if stored is not None and stored.expires <= now:
                self.delete_file(name)
        for job in self.jobs():
            if job.status in ENDED and job.created + self.config.keep_days * 86400 <= now:
                _discard(self.job_folder(job.id), self.root / "uploads")
        for upload in (self.root / "uploads").glob("*"):
            with suppress(FileNotFoundError):
                if upload.stat().st_mtime + ABANDONED_SECONDS <= now:
                    shutil.rmtree(upload)

    def _file(self, identity: str) -> StoredFile | None:
        record = self._record(identity, "file-", self.root / "files" / identity / "file.json")
        return None if record is None else StoredFile(**record)

    def _job(self, identity: str) -> Job | None:
        record = self._record(identity, "batch-", self.root / "jobs" / identity / "job.json")
        return None if record is None else Job(**record)

    def _record(self, identity: str, kind: str, path: Path) -> dict[str, Any] | None:
        if not (identity.startswith(kind) and _ID.fullmatch(identity)):
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def _owned(found: Record | None, owner: str, what: str, identity: str) -> Record:
    if found is None or found.owner != owner:
        raise ApiError(404, f"no such {what}: {identity[:64]!r}", code=f"{what}_not_found")
    return found


def _oldest_first(found: Iterable[Record | None], owner: str | None = None) -> list[Record]:
    """Return the records of an owner, or all of them."""
    mine = [one for one in found if one is not None and owner in (None, one.owner)]
    return sorted(mine, key=lambda one: (one.created, one.id))


def _ids_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*-*") if _ID.fullmatch(path.name)]


def _discard(folder: Path, scratch: Path) -> None:
    """Delete a folder, which disappears at once by a rename."""
    scratch.mkdir(parents=True, exist_ok=True)
    doomed = scratch / f"gone-{secrets.token_hex(8)}"
    with suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed)
