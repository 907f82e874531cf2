"""JSON bodies of requests: read fast and strictly, and what is wrong with them told in OpenAI's words.

A body may hold megabytes of base64 in one string. The standard library takes ten times as long to read it as pydantic,
and everybody else waits meanwhile; besides, pydantic's refuses half a surrogate pair, which no tokenizer takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute

from polite_flamingo.text_files import without_mark
from serving.errors import ApiError

_LONGEST = 300
"""Characters of a message: some repeat what they found."""

_OF_CONTENT = re.compile(r"messages\.\d+\.content(\..*)?")
_REMEDY = (
    '; send a string, or a list of parts such as {"type": "text", "text": "What is this?"} and '
    '{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo…"}}'
)


class JsonRoute(APIRoute):
    """A route whose JSON bodies pydantic reads: `APIRouter(route_class=JsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, given another request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


class _Request(Request):
    async def json(self) -> Any:
        """The body. Raises json.JSONDecodeError, which FastAPI makes a validation error of."""
        try:
            return parsed(await self.body())
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


def parsed(data: bytes) -> Any:
    """JSON types, of a body or of a line.

    Raises:
        ValueError: it is empty, not UTF-8, not JSON, or holds what nothing can write: NaN, half of a surrogate pair.
    """
    if not data.strip():
        raise ValueError("it is empty; send a JSON object")
    return pydantic_core.from_json(without_mark(data), allow_inf_nan=False)


def as_api_error(errors: Sequence[Any], body: Any) -> ApiError:
    """The first of pydantic's errors as OpenAI tells it.

    Args:
        errors: `RequestValidationError.errors()`.
        body: that they are about.
    """
    first = errors[0]
    kind, message = str(first["type"]), str(first["msg"])
    if kind == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first.get('ctx', {}).get('error', message)}", code="invalid_json")
    where = at_fault(first["loc"], body)
    if not where and not isinstance(body, dict):
        return ApiError(400, "the body must be a JSON object, sent as Content-Type: application/json")
    remedy = _REMEDY if _OF_CONTENT.fullmatch(where) else ""
    if kind == "missing":
        return ApiError(400, f"{where} is missing{remedy}", code="missing_required_parameter", param=where)
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    told = f"{where or 'the body'}: {message}"[:_LONGEST]
    return ApiError(400, f"{told}{remedy}", code=code, param=where or None)


def at_fault(location: Sequence[str | int], body: Any) -> str:
    """The path of a field, such as "messages.0.content", without the steps that pydantic adds for unions.

    Args:
        location: as pydantic tells it.
        body: in which a step must lead somewhere; the last may name what is missing.
    """
    steps = list(location[1:] if location and location[0] in ("body", "query", "path", "header") else location)
    if location and location[0] in ("query", "path", "header"):
        return ".".join(map(str, steps))
    found: list[str] = []
    for number, step in enumerate(steps):
        inside = isinstance(body, list) and isinstance(step, int) and step < len(body)
        if inside or (isinstance(body, dict) and step in body):
            body = body[step]
        elif number < len(steps) - 1 or not isinstance(body, dict):
            continue
        found.append(str(step))
    return ".".join(found)
