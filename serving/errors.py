"""What a client is told when something is wrong: one exception, in OpenAI's words and format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class ApiError(Exception):
    """An answer that is an error. Survives pickling between processes.

    Attributes:
        status: of HTTP.
        message: one readable line: what, where, what to do. Never holds a prompt or a key.
        type: OpenAI's class of it: "invalid_request_error", "authentication_error", "rate_limit_error",
            "overloaded_error", "server_error".
        code: a stable word for programs, such as "context_length_exceeded"; None where the type says all.
        param: the field at fault, such as "messages.0.content.1.image_url".
        retry_after: seconds after which the same request may succeed; None where it never will.
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
        """Retry-After in whole seconds, rounded up, at least 1, where there is one.

        What took too long would again: OpenAI's clients repeat a 504 unless `x-should-retry` tells them not to.
        """
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | ({"x-should-retry": "false"} if self.status == 504 else {})

    def __reduce__(self) -> tuple[Any, ...]:
        """All fields: a plain exception would keep its positional arguments only."""
        return (ApiError, (self.status, self.message, self.type, self.code, self.param, self.retry_after))


def overloaded(message: str, retry_after: float = 1.0) -> ApiError:
    """The server has no room; the client may try again later."""
    return ApiError(503, message, "overloaded_error", "overloaded", retry_after=retry_after)


def server_error(message: str, code: str | None = None) -> ApiError:
    """Our fault."""
    return ApiError(500, message, "server_error", code)
