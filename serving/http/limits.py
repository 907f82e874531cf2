"""Limits of requests: bytes of headers and body, requests per minute, requests at once.

Counts and rates belong to this process: each ingress replica keeps its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from serving.config import AccessConfig
from serving.errors import ApiError, Refusal, overloaded
from serving.http.authentication import Client, Headers
from serving.http.rates import SECOND, Account, duration

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 << 10
"""Maximum bytes of a request's headers and URL together; OpenAI's clients send less than 2 KiB."""
RATE_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")


def check_headers(count: int, headers: Headers, url_bytes: int) -> None:
    """Raise Refusal for headers that are too many or too large. Args: url_bytes: size of path and query."""
    if count > MAX_HEADERS or sum(map(len, headers.values())) + url_bytes > MAX_HEADER_BYTES:
        message = f"headers and URL may have {MAX_HEADER_BYTES:,} bytes in all"
        raise Refusal("large_headers", ApiError(431, message))


def check_encoding(headers: Headers) -> None:
    """Raise Refusal for a compressed body."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        message = "compressed bodies are not accepted; send the body uncompressed, without Content-Encoding"
        raise Refusal("packed_body", ApiError(415, message, code="unsupported_encoding"))


def check_length(headers: Headers, limit: int) -> None:
    """Raise Refusal for a body whose announced length exceeds `limit` bytes."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > limit:
        raise body_too_large(limit)


def body_too_large(limit: int) -> Refusal:
    """Return the refusal of a body with more than `limit` bytes."""
    message = f"the body of this request may have {limit:,} bytes"
    return Refusal("large_body", ApiError(413, message, code="body_too_large"))


class RateLimiter:
    """Counts each client's open requests and its requests per minute."""

    def __init__(self, access: AccessConfig, clock: Callable[[], int] = time.monotonic_ns):
        """Args: access: the limit for all clients together; clock: returns nanoseconds."""
        self._max_open, self._clock = access.open_requests, clock
        self._accounts: dict[str, Account] = {}
        self._open = 0

    def admit(self, client: Client) -> tuple[Account, Mapping[str, str]]:
        """Count a request in.

        Returns:
            The client's account, for `release`, and the response's rate-limit headers.

        Raises:
            Refusal: a limit is reached; nothing is counted.
        """
        if self._max_open and self._open >= self._max_open:
            message = f"the server has {self._max_open} requests open and takes no more; try again later"
            raise Refusal("busy", overloaded(message))
        account = self._accounts.setdefault(client.id, Account(None, 0))
        account.set_limits(client.requests_per_minute, client.concurrent_requests)
        if account.at_once and account.open >= account.at_once:
            raise _rate_limited("at_once", f"too many requests at once: the limit is {account.at_once}", 1)
        headers: Mapping[str, str] = {}
        if (bucket := account.bucket) is not None:
            now = self._clock()
            wait = bucket.take(now)
            values = str(bucket.limit), str(bucket.left(now)), duration(bucket.until_full(now))
            headers = dict(zip(RATE_HEADERS, values, strict=True))
            if wait:
                message = f"too many requests: the limit is {bucket.limit} a minute; try again in {duration(wait)}"
                raise _rate_limited("rate", message, wait / SECOND, headers)
        account.open += 1
        self._open += 1
        return account, headers

    def release(self, account: Account) -> None:
        """Count a request out that `admit` counted in."""
        account.open -= 1
        self._open -= 1


def _rate_limited(reason: str, message: str, retry_after: float, headers: Mapping[str, str] | None = None) -> Refusal:
    error = ApiError(429, message, "rate_limit_error", "rate_limit_exceeded", retry_after=retry_after)
    return Refusal(reason, error, headers or {})
