"""/v1/files and /v1/batches: bulk jobs as OpenAI's Batch API has them, so that its clients work unchanged.

Upload lines that each ask for a rewriting, make a batch of them, look at it until it has ended, download what came of
it. The routes only touch the folder (`store.py`); `runner.py` does the work. The one endpoint of a batch is
/v1/rewrite: bulk chat is not offered.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from polite_flamingo.text_files import NotText, without_mark
from serving.batches.lines import ENDPOINT
from serving.batches.store import BatchStore, Job
from serving.batches.upload import receive_form
from serving.config import BatchesConfig
from serving.errors import ApiError
from serving.http.validation import JsonRoute

router = APIRouter(tags=["bulk jobs"], route_class=JsonRoute)

PURPOSE = "batch"


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
    """OpenAI's answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class RequestCounts(BaseModel):
    """Lines; those that have failed have a line in the error file each, the completed ones one in the output file."""

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
    """A list of them."""

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


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchRequest(BaseModel):
    """A job that is wanted."""

    model_config = ConfigDict(extra="ignore")  # newer clients may send what no job here needs

    input_file_id: str = Field(description="An uploaded file of lines, its purpose `batch`.")
    endpoint: str = Field(description="`/v1/rewrite`; nothing else runs in bulk.", examples=[ENDPOINT])
    completion_window: str = Field(description="Hours after which the job ends, whatever is left.", examples=["24h"])
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )


_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "JSON lines."},
        "purpose": {"type": "string", "enum": [PURPOSE]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 1},
    },
}


@router.post(
    "/v1/files",
    summary="Upload a file of lines",
    response_model=FileObject,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def create_file(request: Request) -> dict[str, Any]:
    """For a batch. It is kept until it is deleted or expires."""
    store, owner = _store(request), _owner(request)
    room = await asyncio.to_thread(store.room, owner)
    most, limit = store.config.file_bytes, "serving.batches.file_bytes"
    if room < most:
        most, limit = max(0, room), "serving.batches.key_bytes: delete files that you need no more"
    upload = await asyncio.to_thread(store.new_upload)
    try:
        with (upload / "data").open("wb") as file:
            form = await receive_form(request.headers.get("content-type", ""), request.stream(), file, most, limit)
        await asyncio.to_thread(_check_lines, upload / "data")
        if form.fields.get("purpose") != PURPOSE:
            raise ApiError(400, f"purpose: must be {PURPOSE!r}", code="invalid_value", param="purpose")
        keep = _seconds(form.fields.get("expires_after[seconds]"))
        stored = await asyncio.to_thread(store.add_file, upload, owner, form.filename or "file", PURPOSE, keep)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, upload, True)
        raise
    return stored.shown()


@router.get("/v1/files", summary="List files", response_model=FileList)
def list_files(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """Uploaded ones and results."""
    found = [one for one in _store(request).files(_owner(request)) if purpose in (None, one.purpose)]
    page, more = _page(found if order == "asc" else found[::-1], after, limit)
    return _listed([one.shown() for one in page], more)


@router.get("/v1/files/{file_id}", summary="One file", response_model=FileObject)
def get_file(request: Request, file_id: str) -> dict[str, Any]:
    """What is known of it, but for its content."""
    return _store(request).file(file_id, _owner(request)).shown()


@router.get("/v1/files/{file_id}/content", summary="A file's content", response_class=FileResponse)
def get_content(request: Request, file_id: str) -> FileResponse:
    """Its bytes."""
    store = _store(request)
    stored = store.file(file_id, _owner(request))
    return FileResponse(
        store.data(stored.id), media_type="application/jsonl", filename=f"{stored.id}.jsonl", headers=_PRIVATE
    )


@router.delete("/v1/files/{file_id}", summary="Delete a file", response_model=FileDeleted)
def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """A batch that has not read its input yet fails by it."""
    store = _store(request)
    store.delete_file(store.file(file_id, _owner(request)).id)
    return {"id": file_id}


@router.post("/v1/batches", summary="Start a bulk job", response_model=BatchObject)
def create_batch(request: Request, body: BatchRequest) -> dict[str, Any]:
    """Over an uploaded file whose lines each ask for a rewriting, as `/v1/rewrite` takes it."""
    store = _store(request)
    if body.endpoint != ENDPOINT:
        message = f"endpoint: {body.endpoint[:80]!r} does not run in bulk; {ENDPOINT!r} does"
        raise ApiError(400, message, code="unsupported_endpoint", param="endpoint")
    if not _is_window(body.completion_window):
        message = "completion_window: give hours, 1h to 720h, such as '24h'"
        raise ApiError(400, message, code="invalid_value", param="completion_window")
    owner = _owner(request)
    stored = store.file(body.input_file_id, owner)
    if stored.purpose != PURPOSE:
        message = f"input_file_id: the file's purpose is {stored.purpose!r}, it must be {PURPOSE!r}"
        raise ApiError(400, message, code="invalid_value", param="input_file_id")
    job = store.create_job(owner, stored.id, body.endpoint, body.completion_window, body.metadata)
    return _shown(store, job)


@router.get("/v1/batches", summary="List bulk jobs", response_model=BatchList)
def list_batches(
    request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """The latest first."""
    store = _store(request)
    page, more = _page(store.jobs(_owner(request))[::-1], after, limit)
    return _listed([_shown(store, job) for job in page], more)


@router.get("/v1/batches/{batch_id}", summary="One bulk job", response_model=BatchObject)
def get_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """How far it is, and the files of its results."""
    store = _store(request)
    return _shown(store, store.job(batch_id, _owner(request)))


@router.post("/v1/batches/{batch_id}/cancel", summary="End a bulk job", response_model=BatchObject)
def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """What was rewritten by then is in its output file, everything else in its error file."""
    store = _store(request)
    job = store.job(batch_id, _owner(request))
    store.cancel(job)
    return _shown(store, job)


def _check_lines(file: Path) -> None:
    """Raises ApiError 400 for a file of which no line could be read: it would end in as many errors as it has lines."""
    with file.open("rb") as data:
        start = data.read(4)
    why = "it is packed; unpack it first" if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX")) else ""
    try:
        without_mark(start)
    except NotText as error:
        why = f"it is {error}"
    if why:
        raise ApiError(400, f"file: {why}; send lines of JSON", code="invalid_file", param="file")


_PRIVATE = {"Cache-Control": "private, no-store"}


def _store(request: Request) -> BatchStore:
    config: BatchesConfig = request.app.state.config.serving.batches
    if not config.folder:
        raise ApiError(404, "this server runs no bulk jobs: serving.batches.folder is not set", code="batches_off")
    return BatchStore(config)


def _owner(request: Request) -> str:
    return str(getattr(request.state, "client", ""))


def _shown(store: BatchStore, job: Job) -> dict[str, Any]:
    return job.shown(store.cancelling(job.id))


def _page(found: Sequence[Any], after: str | None, limit: int) -> tuple[Sequence[Any], bool]:
    """At most `limit` items that come after the one of that id, and whether there are more."""
    start = 0
    if after is not None:
        start = 1 + next((place for place, one in enumerate(found) if one.id == after), -1)
        if not start:
            raise ApiError(400, "after: there is nothing of this id in the list", code="invalid_value", param="after")
    return found[start : start + limit], len(found) > start + limit


def _listed(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "first_id": first, "last_id": last, "has_more": more}


def _is_window(text: str) -> bool:
    hours = text.removesuffix("h")
    return text.endswith("h") and len(hours) <= 3 and hours.isascii() and hours.isdigit() and 1 <= int(hours) <= 720


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        message = "expires_after[seconds]: must be a number of seconds above 0"
        raise ApiError(400, message, code="invalid_value", param="expires_after")
    return float(text)
