"""HTTP/1.0 on uvicorn: such clients (nginx by default) do not know chunked bodies; closing the connection ends a body.

uvicorn sends every body of unknown length in chunks, whatever the version of the request, and HAProxy passes requests
on as they come. Behind another server (Ray Serve's own proxy) the middleware collects the body instead and states its
length (`accounting.py`).
"""

from __future__ import annotations

import sys
from typing import Any

from uvicorn.protocols.http import httptools_impl

MARK = "polite_flamingo.unframed"
"""Extension of the ASGI scope: this server sends HTTP/1.0 bodies without chunks."""


class _Cycle(httptools_impl.RequestResponseCycle):
    """One request and its response."""

    _unframed = False

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.scope.setdefault("extensions", {})[MARK] = {}

    async def send(self, message: Any) -> None:
        """ASGI's send. Writes a response of unknown length as it comes."""
        if self.scope["http_version"] == "1.0" and message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                self._unframed = True
                self.chunked_encoding, self.expected_content_length = False, sys.maxsize
        elif self._unframed and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def support_http10() -> None:
    """Make uvicorn servers of this process that parse with httptools send HTTP/1.0 clients unchunked bodies."""
    httptools_impl.RequestResponseCycle = _Cycle  # type: ignore[misc]
