"""HTTP/1.0 on uvicorn: such a client (nginx by default is one) knows no chunks, its body ends with the connection.

uvicorn frames every body of unknown length in chunks, whatever the version of the request; and HAProxy hands the
request on as it came. Where somebody else's server stands in front (Ray Serve's own proxy), the gate gathers the body
and says its length instead.
"""

from __future__ import annotations

import sys
from typing import Any

from uvicorn.protocols.http import httptools_impl

MARK = "polite_flamingo.unframed"
"""Extension of the scope: this server leaves the bodies of HTTP/1.0 unframed."""


class _Cycle(httptools_impl.RequestResponseCycle):
    """One request and its answer."""

    _unframed = False

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.scope.setdefault("extensions", {})[MARK] = {}

    async def send(self, message: Any) -> None:
        """ASGI's. An answer without a length is written as it comes."""
        if self.scope["http_version"] == "1.0" and message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                self._unframed = True
                self.chunked_encoding, self.expected_content_length = False, sys.maxsize
        elif self._unframed and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def leave_old_bodies_unframed() -> None:
    """From now on, for the servers of this process that speak through httptools."""
    httptools_impl.RequestResponseCycle = _Cycle  # type: ignore[misc]
