"""Stored records of uploaded files and bulk jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelled"]
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """An uploaded file, or the result of a job.

    Attributes:
        id: shown to clients.
        owner: the key that it belongs to; "" where there are no keys.
        filename: the client's; never used as a path.
        purpose: "batch", or "batch_output" for results.
        size: bytes.
        created, expires: seconds since 1970.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    size: int
    created: float
    expires: float

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id, "object": "file", "bytes": self.size, "created_at": int(self.created),
            "expires_at": int(self.expires), "filename": self.filename, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """A bulk job.

    Attributes:
        id: shown to clients.
        owner: the key that it belongs to; "" where there are no keys.
        input_file_id: its lines.
        endpoint: of each line.
        window: as the client wrote it, such as "24h".
        created, expires: seconds since 1970; a job that has not ended by then expires.
        metadata: the client's own.
        status: its progress.
        reached: when it reached each status, seconds since 1970.
        total, completed, failed: numbers of lines; `failed` includes the `invalid` ones, which are not valid requests.
        ending: the final status while results are being written, else "".
        output_file_id, error_file_id: its results; "" for none.
        errors: why the job as a whole failed, as OpenAI's objects.
        work: the folder, beside the record, of the files around its build.
        written: the result files are complete, and their ids and the counts are final.
        runner: the latest runner that took the job; a new one changes the record, so that the last can no longer.
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
    work: str = "work"
    written: bool = False
    runner: str = ""

    def to_openai(self, cancelled_at: float | None) -> dict[str, Any]:
        """OpenAI's batch object. Args: cancelled_at: when cancellation was requested, if it was."""
        at = {name: int(when) for name, when in self.reached.items()}
        cancelling = cancelled_at is not None and self.status not in ENDED
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelled")
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "input_file_id": self.input_file_id,
            "completion_window": self.window, "status": "cancelling" if cancelling else self.status,
            "output_file_id": self.output_file_id or None if self.status in ENDED else None,
            "error_file_id": self.error_file_id or None if self.status in ENDED else None,
            "errors": {"object": "list", "data": [dict(one) for one in self.errors]} if self.errors else None,
            "created_at": int(self.created), "expires_at": int(self.expires),
            **{f"{name}_at": at.get(name) for name in names},
            "cancelling_at": None if cancelled_at is None else int(cancelled_at),
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": None if self.metadata is None else dict(self.metadata),
        }  # fmt: skip
