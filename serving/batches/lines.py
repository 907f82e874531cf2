"""The lines of a bulk job, each a request in JSON, and the lines of its two result files.

    {"custom_id": "a", "method": "POST", "url": "/v1/rewrite", "body": {"instruction": …, "raw": …, "image": …}}

Each line that is not blank gives one request or one error, whatever its bytes. Memory holds one line, which may be as
long as a request (`limits.body_bytes`).
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Quarantined, Sample
from serving.config import ServiceConfig
from serving.errors import ApiError, invalid
from serving.http.validation import parse_body, validated
from serving.rewrite.protocol import Content, RewriteOne
from serving.rewrite.rewriting import check_model, image_references, make_result

ENDPOINT = "/v1/rewrite"

_MAX_ID = 512


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line.

    Attributes:
        number: from 1; blank lines count.
        custom_id: "" if it could not be read.
        content: the annotation to rewrite, if the line is valid.
        error: why the line is invalid; None if it is valid.
    """

    number: int
    custom_id: str = ""
    content: Content | None = None
    error: ApiError | None = None


def read_lines(file: BinaryIO, config: ServiceConfig) -> Iterator[Line]:
    """The lines that are not blank, in order; a repeated `custom_id` is an error of the later line.

    Args:
        file: at its beginning.
        config: limits, and the model's name.
    """
    taken: set[bytes] = set()
    most = config.serving.limits.body_bytes
    number = 0
    while data := file.readline(most + 2):
        number += 1
        if number == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        too_long = len(data.rstrip(b"\r\n")) > most
        while too_long and not data.endswith(b"\n") and (more := file.readline(1 << 20)):
            data = more
        if too_long:
            error = invalid("", f"the line is longer than {most} bytes (limits.body_bytes)", "line_too_long")
            yield Line(number=number, error=error)
        elif data.strip():
            yield _read(data, number, config, taken)


def _read(data: bytes, number: int, config: ServiceConfig, taken: set[bytes]) -> Line:
    """One line. Raises nothing, whatever its content."""
    custom_id = ""
    try:
        record = parse_body(data)
        if not isinstance(record, dict):
            raise invalid("", f"a line must be a JSON object, not {type(record).__name__}")
        name = record.get("custom_id")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_ID:
            raise invalid("custom_id", f"must be a string of 1 to {_MAX_ID} characters")
        custom_id = name
        digest = hashlib.sha256(custom_id.encode()).digest()[:16]
        if digest in taken:
            raise invalid("custom_id", "used before in this file", "duplicate_custom_id")
        taken.add(digest)
        if record.get("method") != "POST":
            raise invalid("method", "must be 'POST'")
        if record.get("url") != ENDPOINT:
            raise invalid("url", f"must be {ENDPOINT!r}")
        return Line(number=number, custom_id=custom_id, content=_content(record.get("body"), config))
    except ApiError as error:
        return Line(number=number, custom_id=custom_id, error=error)


def _content(body: Any, config: ServiceConfig) -> Content:
    """Raises ApiError."""
    request = validated(RewriteOne, body, "body")
    check_model(request.model, config)
    for name in ("temperature", "top_p", "seed", "max_tokens"):
        if getattr(request, name) is not None:
            raise invalid(f"body.{name}", "bulk jobs use the server's settings; leave it out")
    if not request.scores:
        raise invalid("body.scores", "bulk jobs always score; leave it out")
    image_references(request, config.serving.limits, "body")
    return request


def output_line(sample: Sample, job: str, model: str, thresholds: Thresholds) -> str:
    """Return a line of the output file, for a rewritten and scored sample."""
    result = make_result(sample, model, thresholds)
    return _line(job, sample.meta["line"], sample.meta["custom_id"], 200, result.model_dump(), None)


def error_line(job: str, number: int, custom_id: str, error: ApiError) -> str:
    """Return a line of the error file."""
    summary = {"code": error.code, "message": error.message}
    return _line(job, number, custom_id, error.status, error.body(), summary)


def quarantine_error(row: Quarantined) -> ApiError:
    """Return the error of a line that the build has quarantined."""
    return invalid("", row.detail.removeprefix(f"{row.key}: "), row.reason)


def _line(job: str, number: int, custom_id: str, status: int, body: Any, error: Any) -> str:
    request_id = f"{job.replace('batch-', 'batch_req_', 1)}_{number}"
    response = {"status_code": status, "request_id": request_id, "body": body}
    record = {"id": request_id, "custom_id": custom_id or None, "line": number, "response": response, "error": error}
    return json.dumps(record, ensure_ascii=False) + "\n"
