"""JSON requests to a server that may be slow, busy, broken or gone.

A request is retried after a lost connection, a time-out, a response that is not JSON, or a status that means "later";
the pause doubles each time, or is as long as the server's Retry-After. A request that the server rejects for good
raises `Refused`. A server that rejects the key or the address, redirects, or fails repeatedly is down (`EndpointDown`),
and gets no more requests.

The key comes from an environment variable and goes into one header. It is removed from whatever the server says, and
redirects are not followed, because they would carry it to another host.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

MAX_BYTES = 16 << 20
"""Maximum bytes of a response."""

RETRIED = frozenset({408, 409, 425, 429})
"""Statuses that are retried, besides those from 500."""

Read = TypeVar("Read")


class EndpointDown(ConnectionError):
    """The server is down; the message says why, and what to do. `status` is HTTP's, None without a response."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """This request failed for good; others may not. `status` is HTTP's, None without a response."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Time limits, retries and concurrency of requests to a server.

    Attributes:
        api_key_variable: environment variable that holds the key; if it is not set, no key is sent.
        concurrency: concurrent requests.
        timeout: seconds per attempt, from connecting to the last byte.
        attempts: tries per request, including the first.
        pause: seconds before the first retry; doubles with each.
        longest_pause: maximum pause in seconds, whatever the server asks for.
        give_up_after: failed requests in a row after which the server counts as down.
    """

    api_key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0
    give_up_after: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for invalid numbers."""
        if min(self.concurrency, self.attempts, self.give_up_after) < 1:
            raise ValueError("endpoint: concurrency, attempts and give_up_after must be at least 1")
        if self.timeout <= 0 or self.pause < 0 or self.longest_pause < self.pause:
            raise ValueError("endpoint: needs timeout > 0 and 0 <= pause <= longest_pause")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        """Follow no redirect: urllib would send the key's header to whichever host the response names."""


class Server:
    """A client of one server; threads may share it.

    Args:
        url: base URL, such as http://127.0.0.1:8000/v1
        config: timeouts and retries.
    """

    def __init__(self, url: str, config: ServerConfig):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint: {url[:80]!r} must begin with http:// or https://")
        self.url = url.rstrip("/")
        self.config = config
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._down = ""

    def try_out(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Read]) -> Read:
        """Like `post`, to check the server before work begins: two tries at most.

        Raises:
            EndpointDown: whatever goes wrong, in one line.
        """
        try:
            return self.post(path, body, read, attempts=min(2, self.config.attempts))
        except Refused as refused:
            raise EndpointDown(f"{self.url} does not answer as it should: {refused}{self._hint(refused)}",
                               refused.status) from None  # fmt: skip

    def _hint(self, refused: Refused) -> str:
        if refused.status is not None:
            return ""
        known = "" if self.url.endswith("/v1") else ", and does its address end in /v1"
        return f". Is it running{known}?"

    def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Read], attempts: int | None = None
    ) -> Read:
        """Send a request, and return what `read` makes of the JSON object in the response.

        Args:
            path: below the base URL, such as /chat/completions.
            body: the request.
            read: extracts the result. If it raises LookupError or TypeError the request is retried, but a server that
                answers in JSON does not count as down.
            attempts: overrides the configuration.

        Raises:
            Refused: the request is at fault, or every try failed.
            EndpointDown: the server is down.
        """
        problem, wait, alive = "", 0.0, False
        status: int | None = None
        attempts = attempts or self.config.attempts
        for attempt in range(attempts):
            if attempt:
                time.sleep(min(self.config.longest_pause, wait))
            if self._down:
                raise EndpointDown(self._down)
            wait = self.config.pause * 2**attempt
            try:
                answer = read(self._once(path, body))
                self._count(failed=False)
                return answer
            except urllib.error.HTTPError as error:
                status = error.code
                with error:
                    problem = f"HTTP {error.code}: {self._without_key(_message(error))}"
                if error.code == 404:
                    known = "" if self.url.endswith("/v1") else "; does its address end in /v1?"
                    self._give_up(f"{self.url} knows no {path}, or not this model ({problem}){known}", 404)
                if error.code in (401, 403):
                    self._give_up(
                        f"{self.url} rejects the request's key (HTTP {error.code}); set the environment variable "
                        f"{self.config.api_key_variable}",
                        error.code,
                    )
                if error.code < 400:
                    self._give_up(
                        f"{self.url} redirects (HTTP {error.code}), which is not followed; give the final address",
                        error.code,
                    )
                if error.code < 500 and error.code not in RETRIED:
                    self._count(failed=False)
                    raise Refused(problem, status) from None
                wait = max(wait, _seconds(error.headers.get("Retry-After")))
            except EndpointDown:
                raise
            except (LookupError, TypeError) as error:
                said = self._without_key(str(error))
                problem, alive, status = f"not an answer of this API ({type(error).__name__}: {said})", True, 200
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                status = None
                problem = self._without_key(str(getattr(error, "reason", "") or error) or type(error).__name__)
        self._count(failed=not alive, problem=problem)
        raise Refused(f"{attempts} attempts: {problem}", status)

    def _once(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + self.config.timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}{path}", data=json.dumps(body).encode(), headers=headers)
        with self._opener.open(request, timeout=self.config.timeout) as response:
            found = b""
            while piece := response.read1(1 << 16):
                found += piece
                if time.monotonic() > deadline:  # a server that sends byte by byte never hits the socket's time-out
                    raise TimeoutError(f"no complete response within {self.config.timeout:g} s")
                if len(found) > MAX_BYTES:
                    raise ValueError(f"the response has more than {MAX_BYTES >> 20} MiB")
        try:
            answer = json.loads(found)
        except ValueError:
            start = self._without_key(found[:4096].decode("utf-8", "replace"))[:60]
            raise ValueError(f"the response is not JSON: {start!r}") from None
        if not isinstance(answer, dict):
            raise ValueError("the response is not a JSON object")
        return answer

    def _key(self) -> str:
        return os.environ.get(self.config.api_key_variable, "").strip()

    def _without_key(self, text: str) -> str:
        """Remove the key, which some servers repeat."""
        return text.replace(self._key(), "(the key)") if self._key() else text

    def _count(self, *, failed: bool, problem: str = "") -> None:
        with self._lock:
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
            if self._failures_in_a_row >= self.config.give_up_after:
                self._give_up(
                    f"{self.url} failed {self._failures_in_a_row} requests in a row, each after "
                    f"{self.config.attempts} attempts; the last: {problem}. Is it running? The same command resumes "
                    "where it stopped"
                )

    def _give_up(self, why: str, status: int | None = None) -> NoReturn:
        self._down = self._down or why  # if threads fail together, the first reason stands
        raise EndpointDown(self._down, status) from None


def _message(error: urllib.error.HTTPError) -> str:
    """Return the server's error message in one short line."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        found = json.loads(text)["error"]
        text = found["message"] if isinstance(found, dict) else found
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:200] or str(error.reason)


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 for a date or nonsense."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
