"""JSON bodies of requests: parsed fast and strictly, with errors in OpenAI's format.

A body may hold megabytes of base64 in one string. The standard library takes ten times as long as pydantic to parse it
while all other requests wait; and pydantic rejects lone surrogates, which no tokenizer accepts.
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

_MAX_MESSAGE = 300
"""Characters: some of pydantic's messages repeat the input."""

_OF_CONTENT = re.compile(r"messages\.\d+\.content(\..*)?")
_REMEDY = (
    '; send a string, or a list of parts such as {"type": "text", "text": "What is this?"} and '
    '{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo…"}}'
)


class JsonRoute(APIRoute):
    """A route whose JSON bodies are parsed by pydantic: `APIRouter(route_class=JsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with our request class."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


class _Request(Request):
    async def json(self) -> Any:
        """The body. Raises json.JSONDecodeError, which FastAPI turns into a validation error."""
        try:
            return parse_json(await self.body())
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


def parse_json(data: bytes) -> Any:
    """JSON of a body or a line.

    Raises:
        ValueError: it is empty, not UTF-8, not JSON, or holds NaN or a lone surrogate.
    """
    if not data.strip():
        raise ValueError("it is empty; send a JSON object")
    return pydantic_core.from_json(without_mark(data), allow_inf_nan=False)


def as_api_error(errors: Sequence[Any], body: Any) -> ApiError:
    """The first of pydantic's errors in OpenAI's format.

    Args:
        errors: `RequestValidationError.errors()`.
        body: the body at fault.
    """
    first = errors[0]
    kind, message = str(first["type"]), str(first["msg"])
    if kind == "json_invalid":
        return ApiError(400, f"invalid JSON: {first.get('ctx', {}).get('error', message)}", code="invalid_json")
    where = path_of(first["loc"], body)
    if not where and not isinstance(body, dict):
        return ApiError(400, "the body must be a JSON object, sent as Content-Type: application/json")
    remedy = _REMEDY if _OF_CONTENT.fullmatch(where) else ""
    if kind == "missing":
        return ApiError(400, f"{where} is missing{remedy}", code="missing_required_parameter", param=where)
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    text = f"{where or 'the body'}: {message}"[:_MAX_MESSAGE]
    return ApiError(400, f"{text}{remedy}", code=code, param=where or None)


def path_of(location: Sequence[str | int], body: Any) -> str:
    """The path of a field, such as "messages.0.content", without the steps that pydantic adds for unions.

    Args:
        location: pydantic's `loc`.
        body: every step must exist in it, but the last, which may name a missing field.
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
