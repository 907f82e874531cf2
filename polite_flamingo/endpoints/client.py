"""A JSON request to a server that may be slow, busy, broken or gone, and what came of it.

One request has several attempts: a lost connection, a time-out, an answer that is no JSON and the statuses that mean
"later" are tried again, after a pause that doubles or as long as the server's Retry-After asks for. What the server
refuses for good is the request's own fault (`Refused`); a server that rejects the key or the address, that points
elsewhere, or that fails again and again is down (`EndpointDown`): nothing more is sent to it.

The key comes from an environment variable and goes into one header; it is cut out of whatever the server says, and
redirects, which would carry it elsewhere, are not followed. What is asked and what an answer means is the caller's
business.
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

MOST_BYTES = 16 << 20
"""Of an answer; more is no text."""

LATER = frozenset({408, 409, 425, 429})
"""Statuses, beside those of 500 and more, that another attempt may not meet."""

Read = TypeVar("Read")


class EndpointDown(ConnectionError):
    """Nothing more should be sent; the message says why, and what to do. `status` is HTTP's, None where none came."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """This request failed for good; others may not. `status` is HTTP's, None where none came."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How patiently a server is asked.

    Attributes:
        api_key_variable: the environment variable that holds the key; where it is not set, none is sent.
        concurrency: requests under way at once.
        timeout: seconds for one attempt, from the connection to the last byte.
        attempts: at most, for one request.
        pause: seconds before the second attempt; it doubles with each.
        longest_pause: seconds, whatever the server asks for.
        give_up_after: requests in a row that used up their attempts; then the server counts as down.
    """

    api_key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0
    give_up_after: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError for what could never ask anything."""
        if min(self.concurrency, self.attempts, self.give_up_after) < 1:
            raise ValueError("endpoint: concurrency, attempts and give_up_after must be at least 1")
        if self.timeout <= 0 or self.pause < 0 or self.longest_pause < self.pause:
            raise ValueError("endpoint: needs timeout > 0 and 0 <= pause <= longest_pause")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        """Urllib would send the key's header on, to whichever host the answer names."""


class Server:
    """Asks one server; may be used by many threads at once.

    Args:
        url: its base, such as http://127.0.0.1:8000/v1
        config: how patiently.
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
        """As `post`, before work begins: two attempts at most, and what fails is the server's fault.

        Raises:
            EndpointDown: whatever is wrong, in one line.
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
        """What `read` makes of the server's JSON object.

        Args:
            path: below the server's base, such as /chat/completions.
            body: the request.
            read: takes what is wanted out of an answer. Where it cannot (a LookupError, a TypeError) the request is
                tried again, but a server that answers in JSON is not down.
            attempts: instead of the configuration's.

        Raises:
            Refused: the request is at fault, or its attempts are used up.
            EndpointDown: the server is.
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
                        f"{self.url} points elsewhere (HTTP {error.code}), and is not followed; name the place",
                        error.code,
                    )
                if error.code < 500 and error.code not in LATER:
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
                if time.monotonic() > deadline:  # a server that drips satisfies every time-out of a socket
                    raise TimeoutError(f"no whole answer in {self.config.timeout:g} s")
                if len(found) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES >> 20} MiB came back")
        try:
            answer = json.loads(found)
        except ValueError:
            start = self._without_key(found[:4096].decode("utf-8", "replace"))[:60]
            raise ValueError(f"what came back is not JSON: {start!r}") from None
        if not isinstance(answer, dict):
            raise ValueError("the answer is not a JSON object")
        return answer

    def _key(self) -> str:
        return os.environ.get(self.config.api_key_variable, "").strip()

    def _without_key(self, text: str) -> str:
        """Some servers repeat what they were sent."""
        return text.replace(self._key(), "(the key)") if self._key() else text

    def _count(self, *, failed: bool, problem: str = "") -> None:
        with self._lock:
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
            if self._failures_in_a_row >= self.config.give_up_after:
                self._give_up(
                    f"{self.url} failed {self._failures_in_a_row} requests in a row, each after "
                    f"{self.config.attempts} attempts; the last: {problem}. Is it running? The same command goes on "
                    "where it stopped"
                )

    def _give_up(self, why: str, status: int | None = None) -> NoReturn:
        self._down = self._down or why  # of threads that fail together the first one's reason stands
        raise EndpointDown(self._down, status) from None


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in one short line."""
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
    """Of a Retry-After header; a date, or nonsense, asks for nothing."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
