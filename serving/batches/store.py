"""Uploaded files and bulk jobs, on disk. Routes and the runner meet here and nowhere else.

    FOLDER/uploads/ID/           a file that is being received or written
    FOLDER/files/ID/data         its bytes
    FOLDER/files/ID/file.json    whose it is, its name, size and dates; ID appears here whole, by a rename
    FOLDER/jobs/ID/job.json      what the job is and how far; written when it is made, then by the runner alone
    FOLDER/jobs/ID/cancel        there when somebody wants it to end
    FOLDER/jobs/ID/work          the runner's folder

Any number of processes may use one folder. Ids hold 128 random bits, and whatever is asked for belongs to the key that
made it: to others it is not there. Nothing here runs a job (`runner.py`) or reads a line (`lines.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polite_flamingo.storage.shards import write_atomically
from serving.config import BatchesConfig
from serving.errors import ApiError

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelled"]
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")

ABANDONED_SECONDS = 24 * 3600.0
"""An upload that is older was given up."""

_ID = re.compile(r"(file|batch)-[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file.

    Attributes:
        id: as clients call it.
        owner: the key that it belongs to; "" where there are no keys.
        filename: as it was uploaded; never a path here.
        purpose: "batch", or "batch_output" for what a job wrote.
        size: bytes.
        created, expires: seconds of the epoch.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    size: int
    created: float
    expires: float

    def shown(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id, "object": "file", "bytes": self.size, "created_at": int(self.created),
            "expires_at": int(self.expires), "filename": self.filename, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One bulk job.

    Attributes:
        id: as clients call it.
        owner: as of a file.
        input_file_id: the lines.
        endpoint: of each line.
        window: the client's words, such as "24h".
        created, expires: seconds of the epoch; a job that has not ended by then is expired.
        metadata: the client's own.
        status: how far it is.
        reached: when it came to a status, seconds of the epoch.
        total, completed, failed: lines; `failed` has the `invalid` ones in it, which are no rewriting.
        ending: the status that it is about to end with; "" until then.
        output_file_id, error_file_id: results; "" where there is none.
        errors: why the job as a whole failed, OpenAI's objects.
    """

    id: str
    owner: str
    input_file_id: str
    endpoint: str
    window: str
    created: float
    expires: float
    metadata: Mapping[str, str] | None = None
    status: Status = "validating"
    reached: Mapping[str, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    invalid: int = 0
    ending: Status | Literal[""] = ""
    output_file_id: str = ""
    error_file_id: str = ""
    errors: Sequence[Mapping[str, Any]] = ()

    def shown(self, cancelling: float | None) -> dict[str, Any]:
        """OpenAI's batch object.

        Args:
            cancelling: when somebody asked for its end, if so.
        """
        at = {f"{name}_at": int(when) for name, when in self.reached.items()}
        wanted = cancelling is not None and self.status not in ENDED
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelled")
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "input_file_id": self.input_file_id,
            "completion_window": self.window, "status": "cancelling" if wanted else self.status,
            "output_file_id": self.output_file_id or None if self.status in ENDED else None,
            "error_file_id": self.error_file_id or None if self.status in ENDED else None,
            "errors": {"object": "list", "data": [dict(one) for one in self.errors]} if self.errors else None,
            "created_at": int(self.created), "expires_at": int(self.expires),
            **{f"{name}_at": at.get(f"{name}_at") for name in names},
            "cancelling_at": None if cancelling is None else int(cancelling),
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": None if self.metadata is None else dict(self.metadata),
        }  # fmt: skip


class BatchStore:
    """The folder. Cheap to make; every method reads the disk anew."""

    def __init__(self, config: BatchesConfig, now: Callable[[], float] = time.time):
        """Args: config: names the folder. now: seconds of the epoch."""
        self.config, self.now = config, now
        self.root = Path(config.folder).absolute()

    def make_root(self) -> Path:
        """The folder, made where it is not there; only the service's own user may look into it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root

    def new_upload(self) -> Path:
        """A folder to write `data` into, for `add_file`; its name is the file's id."""
        folder = self.make_root() / "uploads" / f"file-{secrets.token_hex(16)}"
        folder.mkdir(parents=True)
        return folder

    def room(self, owner: str) -> int:
        """Bytes that a key may still upload."""
        return self.config.key_bytes - sum(one.size for one in self.files(owner) if one.purpose == "batch")

    def add_file(self, upload: Path, owner: str, filename: str, purpose: str, keep: float | None = None) -> StoredFile:
        """Take an upload in; its `data` must be synced.

        Args:
            upload: from `new_upload`.
            owner: whose it is.
            filename: for people.
            purpose: "batch" or "batch_output".
            keep: seconds, at most the server's `keep_days`; None for these.
        """
        now, most = self.now(), self.config.keep_days * 86400
        stored = StoredFile(
            id=upload.name, owner=owner, filename=filename, purpose=purpose, size=(upload / "data").stat().st_size,
            created=now, expires=now + min(most, most if keep is None else keep),
        )  # fmt: skip
        write_atomically(upload / "file.json", json.dumps(dataclasses.asdict(stored)))
        final = self.root / "files" / stored.id
        final.parent.mkdir(parents=True, exist_ok=True)
        upload.rename(final)
        return stored

    def files(self, owner: str) -> list[StoredFile]:
        """A key's, oldest first."""
        found = (self._file(name) for name in _names(self.root / "files"))
        return sorted(
            (one for one in found if one is not None and one.owner == owner), key=lambda one: (one.created, one.id)
        )

    def file(self, identity: str, owner: str) -> StoredFile:
        """One of a key's files. Raises ApiError 404."""
        found = self._file(identity)
        if found is None or found.owner != owner:
            raise _missing("file", identity)
        return found

    def data(self, identity: str) -> Path:
        """A file's bytes; they may be gone."""
        return self.root / "files" / identity / "data"

    def delete_file(self, identity: str) -> None:
        """At once for whoever lists; nothing where it is gone already."""
        _discard(self.root / "files" / identity, self.root / "uploads")

    def create_job(
        self, owner: str, input_file_id: str, endpoint: str, window: str, metadata: Mapping[str, str] | None
    ) -> Job:
        """A job that waits for the runner. Raises ApiError: 404 for the file, 429 for too many that wait."""
        self.file(input_file_id, owner)
        waiting = sum(job.status not in ENDED for job in self.jobs(owner))
        if waiting >= self.config.waiting:
            message = f"{waiting} jobs have not ended; serving.batches.waiting is {self.config.waiting}"
            raise ApiError(429, message, "rate_limit_error", "too_many_batches", retry_after=60)
        now = self.now()
        job = Job(
            id=f"batch-{secrets.token_hex(16)}", owner=owner, input_file_id=input_file_id, endpoint=endpoint,
            window=window, created=now, expires=now + int(window.removesuffix("h")) * 3600, metadata=metadata,
        )  # fmt: skip
        self.save(job)
        return job

    def save(self, job: Job) -> None:
        """Put a job's state on disk. Only its maker and then the runner do."""
        write_atomically(self.job_folder(job.id) / "job.json", json.dumps(dataclasses.asdict(job)))

    def jobs(self, owner: str | None = None) -> list[Job]:
        """A key's, or everybody's, oldest first."""
        found = (self._job(name) for name in _names(self.root / "jobs"))
        mine = (one for one in found if one is not None and owner in (None, one.owner))
        return sorted(mine, key=lambda one: (one.created, one.id))

    def unfinished(self, ended: set[str]) -> list[Job]:
        """Everybody's jobs that have not ended, oldest first; those that have join `ended` and are not read again."""
        found = [job for name in _names(self.root / "jobs") if name not in ended and (job := self._job(name))]
        ended.update(job.id for job in found if job.status in ENDED)
        return sorted((job for job in found if job.status not in ENDED), key=lambda one: (one.created, one.id))

    def job(self, identity: str, owner: str) -> Job:
        """One of a key's jobs. Raises ApiError 404."""
        found = self._job(identity)
        if found is None or found.owner != owner:
            raise _missing("batch", identity)
        return found

    def job_folder(self, identity: str) -> Path:
        """Where a job lies."""
        assert _ID.fullmatch(identity), identity
        return self.root / "jobs" / identity

    def cancel(self, job: Job) -> None:
        """Ask the runner to end it. Raises ApiError 409 where it has ended."""
        if job.status in ENDED:
            raise ApiError(409, f"batch {job.id} is {job.status}: nothing is left to cancel", code="batch_ended")
        if self.cancelling(job.id) is None:
            write_atomically(self.job_folder(job.id) / "cancel", json.dumps(self.now()))

    def cancelling(self, identity: str) -> float | None:
        """When its end was asked for, if so."""
        try:
            return float(json.loads((self.job_folder(identity) / "cancel").read_text()))
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Delete what is older than it may be: files, jobs that have ended, uploads that were given up."""
        now = self.now()
        for name in _names(self.root / "files"):
            stored = self._file(name)
            if stored is not None and stored.expires <= now:
                self.delete_file(name)
        for job in self.jobs():
            if job.status in ENDED and job.created + self.config.keep_days * 86400 <= now:
                _discard(self.job_folder(job.id), self.root / "uploads")
        for name in os.listdir(self.root / "uploads") if (self.root / "uploads").is_dir() else ():  # noqa: PTH208
            with suppress(FileNotFoundError):
                if (self.root / "uploads" / name).stat().st_mtime + ABANDONED_SECONDS <= now:
                    shutil.rmtree(self.root / "uploads" / name)

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


def _missing(what: str, identity: str) -> ApiError:
    return ApiError(404, f"no such {what}: {identity[:64]!r}", code=f"{what}_not_found")


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _ID.fullmatch(name)]  # noqa: PTH208
    except FileNotFoundError:
        return []


def _discard(folder: Path, scratch: Path) -> None:
    """Out of sight at once, then off the disk."""
    scratch.mkdir(parents=True, exist_ok=True)
    hidden = scratch / f"gone-{secrets.token_hex(8)}"
    with suppress(FileNotFoundError):
        folder.rename(hidden)
        shutil.rmtree(hidden)
