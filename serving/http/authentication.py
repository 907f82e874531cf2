"""Who may send a request: API keys, paths that need none, and web pages of other origins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.config import AccessConfig
from serving.errors import ApiError, Refusal
from serving.http.keys import KeyRing

OPEN_PATHS = frozenset(("/", "/health", "/docs", "/docs.css", "/openapi.json", "/favicon.ico"))
"""Paths that anybody may GET, besides those below `OPEN_PREFIX`. All others need a key, even unknown ones."""
OPEN_PREFIX = "/page/"
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True)
class Client:
    """The sender of a request.

    Attributes:
        id: id of its key; "" if the server has no keys.
        requests_per_minute: 0 for no limit.
        concurrent_requests: 0 for no limit.
    """

    id: str
    requests_per_minute: int
    concurrent_requests: int


class Authenticator:
    """Identifies the sender of a request by its headers alone."""

    def __init__(self, access: AccessConfig, keys: KeyRing | None, calendar: Callable[[], float] = time.time):
        """Configure access.

        Args:
            access: default limits, and origins that may call.
            keys: None lets everybody in.
            calendar: returns seconds since 1970, for keys that expire.
        """
        self._keys, self._calendar, self._open_metrics = keys, calendar, access.open_metrics
        self._origins = frozenset(origin.encode() for origin in access.origins)
        self._anonymous = Client("", access.requests_per_minute, access.concurrent_requests)

    def is_open(self, method: str, path: str) -> bool:
        """Whether this request needs no key and counts towards no limit."""
        open_path = path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or (path == "/metrics" and self._open_metrics)
        return open_path and method in _SAFE_METHODS

    def identify(self, method: str, headers: Headers) -> Client:
        """The client behind a request. Raises Refusal: no valid key, or a web page of another origin."""
        default = self._anonymous
        if self._keys is None:
            if method not in _SAFE_METHODS:
                self._check_origin(headers)
            return default
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        secret = value.strip()
        if scheme.lower() != b"bearer" or not secret:
            raise _unauthorized("no_key", "send an API key: `Authorization: Bearer KEY`", "missing_api_key")
        key = self._keys.find(secret)
        if key is None:
            raise _unauthorized("wrong_key", "this API key is not known here")
        if (state := key.state(self._calendar())) != "active":
            raise _unauthorized(f"{state}_key", f"this API key is {state}; ask for another")
        rate, concurrent = key.requests_per_minute, key.concurrent_requests
        return Client(
            key.id,
            default.requests_per_minute if rate is None else rate,
            default.concurrent_requests if concurrent is None else concurrent,
        )

    def _check_origin(self, headers: Headers) -> None:
        """Without keys, any web page open in a user's browser could use a server that only this user can reach."""
        origin = headers.get(b"origin")
        if origin is None or origin in self._origins or b"*" in self._origins:
            return
        site = headers.get(b"sec-fetch-site")  # browsers leave it out on plain http
        if site in (b"same-origin", b"none") or (not site and origin.partition(b"://")[2] == headers.get(b"host")):
            return
        message = "web pages of other origins may not call this server; `serving.access.origins` lists those that may"
        raise Refusal("other_origin", ApiError(403, message, "permission_error", "origin_not_allowed"))


def _unauthorized(reason: str, message: str, code: str = "invalid_api_key") -> Refusal:
    return Refusal(reason, ApiError(401, message, "authentication_error", code))
