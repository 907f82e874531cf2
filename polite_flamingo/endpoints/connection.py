"""One HTTP request to a server, and what became of it: an answer, or an error that says whose fault it is.

Connections are kept open and used again (urllib3), since opening one costs several round trips. Proxies come from the
environment. Nothing is tried again here (`client.py`, `servers.py`).

The key comes from an environment variable and goes into one header. It is removed from whatever the server says, and
redirects are not followed, because they would carry it to another host.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

MAX_BYTES = 16 << 20
"""Maximum bytes of a response."""

RETRIED = frozenset({408, 409, 425, 429})
"""Statuses that are retried, besides those from 500."""

BUSY = frozenset({429, 502, 503, 504, 529})
"""Statuses of a server that has too much to do, or of a proxy whose server is gone; 529 is Anthropic's."""

CONNECT_SECONDS = 30.0
"""Seconds for a connection to be accepted, if the time-out leaves so many."""

Read = TypeVar("Read")


class EndpointDown(ConnectionError):
    """The server is down; the message says why, and what to do. `status` is HTTP's, None without a response."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """This request failed for good; others may not.

    Attributes:
        status: HTTP's; None without a response.
        trouble: of the last try, if each might have got an answer (`Trouble`); "" if the server rejects the request.
    """

    def __init__(self, message: str, status: int | None = None, trouble: str = ""):
        super().__init__(message)
        self.status, self.trouble = status, trouble


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
        if not re.fullmatch(r"\w+", self.api_key_variable):
            raise ValueError("endpoint: api_key_variable must name an environment variable; it is not the key itself")
        if self.timeout <= 0 or self.pause < 0 or self.longest_pause < self.pause:
            raise ValueError("endpoint: needs timeout > 0 and 0 <= pause <= longest_pause")


Trouble = Literal["busy", "slow", "unreachable", "failed", "not JSON", "not this API"]
"""Why a try got no answer, though a later one may: the server asks to wait, takes too long, accepts no connection,
breaks down on it, or answers in something else than JSON, or in JSON of another form."""


class Failed(Exception):
    """One try got no answer; another one may.

    Attributes:
        trouble: its kind.
        problem: one line.
        status: HTTP's; None without a response.
        wait: seconds that the server asks to wait.
    """

    def __init__(self, trouble: Trouble, problem: str, status: int | None = None, wait: float = 0.0):
        super().__init__(problem)
        self.trouble, self.problem, self.status, self.wait = trouble, problem, status, wait


class Connection:
    """Connections to one server, and the key for it; threads may share it. It tries once, and never again.

    Args:
        url: base URL, such as http://127.0.0.1:8000/v1
        config: time limits, and where the key is.
    """

    def __init__(self, url: str, config: ServerConfig):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint: {url[:80]!r} must begin with http:// or https://")
        self.url = url.rstrip("/")
        self.config = config
        self._pool = _connections(self.url, config.concurrency)

    def once(self, path: str, body: bytes, read: Callable[[dict[str, Any]], Read]) -> Read:
        """Try a request once.

        Args:
            path: below the base URL, such as /chat/completions.
            body: the request as JSON.
            read: extracts the result from the JSON object in the response; a list comes as its `data`.

        Raises:
            Failed: there is no answer, but a later try may get one.
            Refused: the request is at fault.
            EndpointDown: the server rejects the key or the address, wants to be paid, or redirects: it would reject
                every request.
        """
        try:
            found = self._found(path, body)
        except (EndpointDown, Refused):
            raise
        except urllib3.exceptions.HTTPError as error:
            raise Failed(_trouble(error), self._without_key(_words(error))) from None
        except (OSError, ValueError) as error:
            trouble: Trouble = "slow" if isinstance(error, TimeoutError) else "failed"
            raise Failed(trouble, self._without_key(str(error) or type(error).__name__)) from None
        try:
            answer = json.loads(found)
        except (ValueError, RecursionError):
            start = self._without_key(found[:4096].decode("utf-8", "replace"))[:60]
            raise Failed("not JSON", f"the response is not JSON: {start!r}") from None
        if isinstance(answer, list):
            answer = {"data": answer}  # TEI's routes answer with bare lists
        if not isinstance(answer, dict):
            raise Failed("not JSON", "the response is not a JSON object")
        try:
            return read(answer)
        except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
            said = self._without_key(str(error))[:200]
            raise Failed("not this API", f"not an answer of this API ({type(error).__name__}: {said})", 200) from None

    def _found(self, path: str, body: bytes) -> bytes:
        """Send a request and return the body of a good response; raise like `once` for another status."""
        deadline = time.monotonic() + self.config.timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            if not (key.isascii() and key.isprintable()):  # an error of the library's would show it
                variable = self.config.api_key_variable
                raise EndpointDown(f"the environment variable {variable} holds what no key has: give one line of ASCII")
            headers["Authorization"] = f"Bearer {key}"
        patience = urllib3.Timeout(connect=min(CONNECT_SECONDS, self.config.timeout), read=self.config.timeout)
        response = self._pool.request(
            "POST", f"{self.url}{path}", body=body, headers=headers, timeout=patience,
            preload_content=False, redirect=False, retries=False,
        )  # fmt: skip
        whole = False
        try:
            found, limit = bytearray(), MAX_BYTES if response.status < 300 else 1 << 16
            while piece := response.read1(1 << 16):
                found += piece
                if time.monotonic() > deadline:  # a server that sends byte by byte never hits the socket's time-out
                    raise TimeoutError(f"no complete response within {self.config.timeout:g} s")
                if len(found) > limit:
                    if response.status >= 300:
                        break
                    raise OSError(f"the response has more than {MAX_BYTES >> 20} MiB")
            else:
                whole = True
        except (OSError, urllib3.exceptions.HTTPError):
            if response.status < 300:
                raise
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()
        if response.status >= 300:
            self._refuse(path, response.status, bytes(found), response.headers.get("Retry-After"), response.reason)
        return bytes(found)

    def _refuse(self, path: str, status: int, said: bytes, later: str | None, reason: str | None) -> NoReturn:
        """Raise what a response without an answer means."""
        text = self._without_key(said.decode("utf-8", "replace"))  # before it is cut, perhaps in the key
        problem = f"HTTP {status}: {_message(text, self._without_key(reason or ''))}"
        if status == 404:
            known = "" if self.url.endswith("/v1") else "; does its address end in /v1?"
            raise EndpointDown(f"{self.url} knows no {path}, or not this model ({problem}){known}", 404)
        if status in (401, 403):
            raise EndpointDown(
                f"{self.url} rejects the request's key (HTTP {status}); set the environment variable "
                f"{self.config.api_key_variable}",
                status,
            )
        if status == 402:  # of no row: all later ones would be refused too
            raise EndpointDown(f"{self.url} wants to be paid ({problem}); then the same command resumes", 402)
        if status < 400:
            raise EndpointDown(
                f"{self.url} redirects (HTTP {status}), which is not followed; give the final address", status
            )
        if status < 500 and status not in RETRIED:
            raise Refused(problem, status)
        raise Failed("busy" if status in BUSY else "failed", problem, status, _seconds(later))

    def _key(self) -> str:
        return os.environ.get(self.config.api_key_variable, "").strip()

    def _without_key(self, text: str) -> str:
        """Remove the key, which some servers repeat."""
        return text.replace(self._key(), "(the key)") if self._key() else text


def _connections(url: str, at_once: int) -> urllib3.PoolManager:
    """Return a pool that keeps `at_once` connections, through the environment's proxy if it has one for this host."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", maxsize=at_once)
    return urllib3.PoolManager(maxsize=at_once)


def _trouble(error: urllib3.exceptions.HTTPError) -> Trouble:
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.NewConnectionError):
        return "unreachable"
    return "slow" if isinstance(error, urllib3.exceptions.TimeoutError) else "failed"


def _words(error: urllib3.exceptions.HTTPError) -> str:
    """Return what went wrong, without the library's names of its own objects."""
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return "no response in time"
    cause = error.__cause__ or next((one for one in error.args[::-1] if isinstance(one, BaseException)), None)
    return " ".join(str(cause if isinstance(cause, OSError) else error).split())[:200] or type(error).__name__


def _message(text: str, reason: str) -> str:
    """Return the server's error message in one short line."""
    try:
        found = json.loads(text)["error"]
        text = found["message"] if isinstance(found, dict) else found
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return " ".join(str(text).split())[:200] or reason


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 for a date or nonsense."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
