"""JSON bodies of requests: parsed fast and strictly, with errors in OpenAI's format.

A body may hold megabytes of base64 in one string. The standard library takes ten times as long as pydantic to parse it
while all other requests wait; and pydantic rejects lone surrogates, which no tokenizer accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from polite_flamingo.text_files import without_mark
from serving.errors import ApiError, invalid

Model = TypeVar("Model", bound=BaseModel)

_MAX_MESSAGE = 300
"""Characters: some of pydantic's messages repeat the input."""

_CODES = {"missing": "missing_required_parameter"}
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
            return parse_body(await self.body())
        except ApiError as error:
            raise json.JSONDecodeError(error.message, "", 0) from None


def parse_body(data: bytes) -> Any:
    """JSON of a body or a line.

    Raises:
        ApiError: 400: it is empty, not UTF-8, not JSON, or holds NaN or a lone surrogate.
    """
    try:
        if not data.strip():
            raise ValueError("it is empty; send a JSON object")
        return pydantic_core.from_json(without_mark(data), allow_inf_nan=False)
    except ValueError as error:
        raise invalid("", f"invalid JSON: {error}", "invalid_json") from None


def validated(model: type[Model], value: Any, where: str = "") -> Model:
    """Validate a body that FastAPI does not. Raises ApiError 400 that names the first field at fault.

    Args:
        model: a pydantic model.
        value: JSON types.
        where: path of `value` in what the client sent.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise as_api_error({**first, "loc": ("body", *first["loc"])}, value, where) from None


def as_api_error(error: Mapping[str, Any], body: Any, where: str = "") -> ApiError:
    """One of pydantic's errors in OpenAI's format.

    Args:
        error: of `RequestValidationError.errors()`.
        body: the body at fault.
        where: path of `body` in what the client sent.
    """
    kind, message = str(error["type"]), str(error["msg"])
    if kind == "json_invalid":
        return invalid("", error["ctx"]["error"], "invalid_json")
    field = path_of(error["loc"], body)
    if not field and not isinstance(body, dict):
        why = "must be a JSON object"
        return invalid(where, why) if where else invalid("", f"the body {why}, sent as Content-Type: application/json")
    param = ".".join(filter(None, (where, field)))
    remedy = _REMEDY if _OF_CONTENT.fullmatch(param) else ""
    code = "invalid_type" if kind.endswith("_type") else _CODES.get(kind, "invalid_value")
    return invalid(param, f"{message[:_MAX_MESSAGE]}{remedy}", code)


def path_of(location: Sequence[str | int], body: Any) -> str:
    """The path of a field, such as "messages.0.content", without the steps that pydantic adds for unions.

    Args:
        location: FastAPI's `loc`: where the field is ("body", "query"), then its path.
        body: every step must exist in it, but the last, which may name a missing field.
    """
    kind, *steps = location
    if kind != "body":
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
