"""Requests and responses of /v1/files and /v1/batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.batches.lines import ENDPOINT


class FileObject(BaseModel):
    """OpenAI's file object."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FileDeleted(BaseModel):
    """Confirmation of a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class RequestCounts(BaseModel):
    """Numbers of lines. Failed ones have a line in the error file, completed ones in the output file."""

    total: int
    completed: int
    failed: int


class BatchError(BaseModel):
    """Why a job as a whole failed."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    """A list of errors."""

    object: Literal["list"]
    data: list[BatchError]


class BatchObject(BaseModel):
    """OpenAI's batch object."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    errors: BatchErrors | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class _Page(BaseModel):
    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileList(_Page):
    """A page of files."""

    data: list[FileObject]


class BatchList(_Page):
    """A page of batches."""

    data: list[BatchObject]


class BatchRequest(BaseModel):
    """A job to start."""

    model_config = ConfigDict(extra="ignore")  # newer clients may send fields that are not supported here

    input_file_id: str = Field(description="An uploaded file with the purpose `batch`.")
    endpoint: str = Field(description="`/v1/rewrite`, the only endpoint of bulk jobs.", examples=[ENDPOINT])
    completion_window: str = Field(description="Hours after which the job ends, complete or not.", examples=["24h"])
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
