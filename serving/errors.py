"""Errors as clients see them, in OpenAI's format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ApiError(Exception):
    """An error response. Can be pickled.

    Attributes:
        status: HTTP status.
        message: one readable line: what, where, what to do. Never holds a prompt or a key.
        type: OpenAI's error type: "invalid_request_error", "authentication_error", "rate_limit_error",
            "overloaded_error", "server_error".
        code: a stable word for programs, such as "context_length_exceeded"; None if the type says enough.
        param: the field at fault, such as "messages.0.content.1.image_url".
        retry_after: seconds after which the same request may succeed; None if it never will.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, JSON types only."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, rounded up, at least 1; for a 504, a request not to retry it.

        OpenAI's clients retry a 504 unless `x-should-retry` says no, and a request that took too long would do so
        again.
        """
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | ({"x-should-retry": "false"} if self.status == 504 else {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep all fields: a plain exception would keep its positional arguments only."""
        return (ApiError, (self.status, self.message, self.type, self.code, self.param, self.retry_after))


@dataclass(eq=False)
class Refusal(Exception):
    """A request that the middleware turns away.

    Attributes:
        reason: its label in the metrics.
        error: the response.
        headers: added to the response.
    """

    reason: str
    error: ApiError
    headers: Mapping[str, str] = field(default_factory=dict)


def invalid(param: str, why: str, code: str = "invalid_value") -> ApiError:
    """A 400 for one field. Args: param: its path, such as "messages.0.content"; "" for the whole body."""
    return ApiError(400, f"{param}: {why}" if param else why, code=code, param=param or None)


def overloaded(message: str, retry_after: float = 1.0) -> ApiError:
    """A 503: the server has no room, and the client may try again later."""
    return ApiError(503, message, "overloaded_error", "overloaded", retry_after=retry_after)


def server_error(message: str, code: str | None = None) -> ApiError:
    """A 500: the fault is ours."""
    return ApiError(500, message, "server_error", code)
