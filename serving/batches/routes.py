"""/v1/files and /v1/batches: bulk jobs with OpenAI's Batch API, so that its clients work unchanged.

A client uploads a file of requests, makes a batch of it, polls until it has ended, and downloads the results. These
routes only read and write the store of jobs (`store.py`); `runner.py` does the work. The only endpoint of a batch is
/v1/rewrite: there is no bulk chat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import StreamingResponse

from polite_flamingo.text_files import NotText, without_mark
from serving.batches.lines import ENDPOINT
from serving.batches.protocol import BatchList, BatchObject, BatchRequest, FileDeleted, FileList, FileObject
from serving.batches.records import Job, StoredFile
from serving.batches.store import BatchStore
from serving.batches.upload import receive_form
from serving.errors import ApiError, invalid
from serving.http.validation import JsonRoute

router = APIRouter(tags=["bulk jobs"], route_class=JsonRoute)

PURPOSE = "batch"

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
    summary="Upload a file",
    response_model=FileObject,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def create_file(request: Request) -> dict[str, Any]:
    """Upload the input of a batch. It is kept until it is deleted or expires."""
    store, owner = _store(request), _owner(request)
    room = await asyncio.to_thread(store.room, owner)
    limit, setting = store.config.file_bytes, "serving.batches.file_bytes"
    if room < limit:
        limit, setting = max(0, room), "serving.batches.key_bytes: delete files that you no longer need"
    identity = await asyncio.to_thread(store.new_file)
    try:
        async with contextmanager_in_threadpool(store.data(identity).writer()) as file:
            form = await receive_form(request.headers.get("content-type", ""), request.stream(), file, limit, setting)
            _check_lines(form.start)
            if form.fields.get("purpose") != PURPOSE:
                raise invalid("purpose", f"must be {PURPOSE!r}")
            keep = _seconds(form.fields.get("expires_after[seconds]"))
        stored = await asyncio.to_thread(store.add_file, identity, owner, form.filename or "file", PURPOSE, keep)
    except BaseException:
        await asyncio.to_thread(store.delete_file, identity)
        raise
    return stored.to_openai()


@router.get("/v1/files", summary="List files", response_model=FileList)
def list_files(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """Uploaded files and results."""
    found = [file for file in _store(request).files(_owner(request)) if purpose in (None, file.purpose)]
    return _page(found if order == "asc" else found[::-1], after, limit, StoredFile.to_openai)


@router.get("/v1/files/{file_id}", summary="One file", response_model=FileObject)
def get_file(request: Request, file_id: str) -> dict[str, Any]:
    """Its name, size and dates."""
    return _store(request).file(file_id, _owner(request)).to_openai()


@router.get("/v1/files/{file_id}/content", summary="A file's content", response_class=StreamingResponse)
def get_content(request: Request, file_id: str) -> StreamingResponse:
    """Its bytes."""
    store = _store(request)
    stored = store.file(file_id, _owner(request))
    headers = {
        "Cache-Control": "private, no-store",
        "Content-Disposition": f'attachment; filename="{stored.id}.jsonl"',
        "Content-Length": str(stored.size),
    }
    return StreamingResponse(_blocks(store.open(stored.id)), media_type="application/jsonl", headers=headers)


@router.delete("/v1/files/{file_id}", summary="Delete a file", response_model=FileDeleted)
def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Delete a file. A batch that has not read its input yet fails."""
    store = _store(request)
    store.delete_file(store.file(file_id, _owner(request)).id)
    return {"id": file_id}


@router.post("/v1/batches", summary="Start a bulk job", response_model=BatchObject)
def create_batch(request: Request, body: BatchRequest) -> dict[str, Any]:
    """Start a job over an uploaded file, each line of which is a request to `/v1/rewrite`."""
    store = _store(request)
    if body.endpoint != ENDPOINT:
        why = f"{body.endpoint[:80]!r} is not available for batches; use {ENDPOINT!r}"
        raise invalid("endpoint", why, "unsupported_endpoint")
    if not _is_valid_window(body.completion_window):
        raise invalid("completion_window", "must be a number of hours from 1h to 720h, such as '24h'")
    owner = _owner(request)
    stored = store.file(body.input_file_id, owner)
    if stored.purpose != PURPOSE:
        raise invalid("input_file_id", f"the file's purpose is {stored.purpose!r}, it must be {PURPOSE!r}")
    job = store.create_job(owner, stored.id, body.endpoint, body.completion_window, body.metadata)
    return _shown(store, job)


@router.get("/v1/batches", summary="List bulk jobs", response_model=BatchList)
def list_batches(
    request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """List jobs, latest first."""
    store = _store(request)
    return _page(store.jobs(_owner(request))[::-1], after, limit, partial(_shown, store))


@router.get("/v1/batches/{batch_id}", summary="One bulk job", response_model=BatchObject)
def get_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """Its progress, and the ids of its result files."""
    store = _store(request)
    return _shown(store, store.job(batch_id, _owner(request)))


@router.post("/v1/batches/{batch_id}/cancel", summary="End a bulk job", response_model=BatchObject)
def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """End a job early. Its output file has what was rewritten by then, its error file everything else."""
    store = _store(request)
    job = store.job(batch_id, _owner(request))
    store.cancel(job)
    return _shown(store, job)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(1 << 20):
            yield block


def _check_lines(start: bytes) -> None:
    """Raise ApiError 400 for a file whose lines cannot be read at all: each would become an error.

    Args:
        start: the file's first bytes.
    """
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX")):
        raise invalid("file", "it is compressed; decompress it first, and send JSON lines", "invalid_file")
    try:
        without_mark(start)
    except NotText as error:
        raise invalid("file", f"it is {error}; send JSON lines", "invalid_file") from None


def _store(request: Request) -> BatchStore:
    store: BatchStore | None = request.app.state.batches
    if store is None:
        raise ApiError(404, "bulk jobs are turned off: serving.batches.folder is not set", code="batches_off")
    return store


def _owner(request: Request) -> str:
    return str(getattr(request.state, "client", ""))


def _shown(store: BatchStore, job: Job) -> dict[str, Any]:
    return job.to_openai(store.cancelled_at(job.id))


def _page(found: list[Any], after: str | None, limit: int, shown: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """At most `limit` items after the one with the id `after`, as `FileList` or `BatchList`."""
    start = 0
    if after is not None:
        start = 1 + next((place for place, one in enumerate(found) if one.id == after), -1)
        if not start:
            raise invalid("after", "unknown id")
    data = [shown(one) for one in found[start : start + limit]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "first_id": first, "last_id": last, "has_more": len(found) > start + limit}


def _is_valid_window(text: str) -> bool:
    hours = text.removesuffix("h")
    return text.endswith("h") and len(hours) <= 3 and hours.isascii() and hours.isdigit() and 1 <= int(hours) <= 720


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        raise invalid("expires_after[seconds]", "must be a positive number of seconds")
    return float(text)
