"""JSON requests to a server that may be slow, busy, broken or gone.

A request is retried after a lost connection, a time-out, a response that is not JSON, or a status that means "later";
the pause doubles each time, or is as long as the server's Retry-After. A request that the server rejects for good
raises `Refused`. A server that rejects the key or the address, redirects, or fails repeatedly is down (`EndpointDown`),
and gets no more requests.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from polite_flamingo.endpoints.connection import Connection, EndpointDown, Failed, Refused, ServerConfig

__all__ = ["EndpointDown", "Refused", "Server", "ServerConfig"]

Read = TypeVar("Read")


class Server:
    """A client of one server; threads may share it.

    Args:
        url: base URL, such as http://127.0.0.1:8000/v1
        config: timeouts and retries.
    """

    def __init__(self, url: str, config: ServerConfig):
        self._connection = Connection(url, config)
        self.url = self._connection.url
        self.config = config
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
            read: extracts the result. If it fails because the response has another form, the request is retried, but a
                server that answers in JSON does not count as down.
            attempts: overrides the configuration.

        Raises:
            Refused: the request is at fault, or every try failed.
            EndpointDown: the server is down.
        """
        attempts = attempts or self.config.attempts
        data, failed = json.dumps(body).encode(), Failed("failed", "")
        for attempt in range(attempts):
            if attempt:
                wait = max(self.config.pause * 2 ** (attempt - 1), failed.wait)
                time.sleep(min(self.config.longest_pause, wait))
            if self._down:
                raise EndpointDown(self._down)
            try:
                answer = self._connection.once(path, data, read)
                self._count(failed=False)
                return answer
            except Refused:
                self._count(failed=False)
                raise
            except EndpointDown as down:
                self._give_up(str(down), down.status)
            except Failed as error:
                failed = error
        self._count(failed=failed.trouble != "not this API", problem=failed.problem)
        raise Refused(f"{attempts} attempts: {failed.problem}", failed.status)

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
