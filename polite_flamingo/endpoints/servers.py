"""Several servers of one model: each request goes to the one with the least to do, and to another if that fails.

How much a server takes is found out (as TCP does): its limit grows with every answer and is halved when it asks to wait
or takes too long. A server that refuses connections is left alone for a while, and then gets one request at a time
until it answers.

A busy (429, 503) or dead server is not the request's fault: a request that finds no other is tried again for
`patience` seconds. If no server has answered any request for so long, they are down.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from polite_flamingo.endpoints.connection import Connection, EndpointDown, Failed, Refused, ServerConfig

PATIENCE = 300.0
"""Seconds: a server that loads a large model again takes minutes."""

Read = TypeVar("Read")


@dataclass
class _Replica:
    """One server.

    Attributes:
        connection: to it.
        limit: requests that it gets at once; a fraction, so that it can grow slowly.
        threshold: up to this, `limit` grows by one with every answer, above it by one with every `limit` answers.
        in_flight: requests that it has.
        cut: when the limit was last reduced.
        free_at: when it may be asked again.
        troubles: how often it was busy or unreachable since its last answer.
    """

    connection: Connection
    limit: float
    threshold: float
    in_flight: int = 0
    cut: float = -math.inf
    free_at: float = 0.0
    troubles: int = 0

    def takes(self, now: float) -> bool:
        return self.free_at <= now and self.in_flight < int(self.limit)


class Servers:
    """A client of several servers of the same model; threads may share it.

    Args:
        urls: base addresses, such as http://127.0.0.1:8000/v1
        config: time limits and retries; `concurrency` is the most that one server gets at once.
        patience: seconds that busy or dead servers are waited for.
        clock: returns seconds; replaced in tests.
    """

    def __init__(
        self,
        urls: Sequence[str],
        config: ServerConfig,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self.config = config
        self.patience = patience
        most = float(config.concurrency)
        self._replicas = [_Replica(Connection(url, config), limit=most, threshold=most) for url in urls]
        self._changed = threading.Condition()
        self._silent_since: float | None = None
        self._failures_in_a_row = 0
        self._down: EndpointDown | None = None
        self._retries = 0

    @property
    def concurrency(self) -> int:
        """The most requests that all servers together get at once."""
        return self.config.concurrency * len(self._replicas)

    def metrics(self) -> dict[str, float]:
        """Return how many tries failed, and how many requests the servers get at once by now."""
        with self._changed:
            limits = sum(int(one.limit) for one in self._replicas)
            return {"failed_tries": self._retries, "requests_at_once": limits}

    def try_out(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Read]) -> dict[str, str]:
        """Ask every server once, to notice a broken one before work begins.

        Returns:
            URL -> problem of each server that does not answer at present; it may come back.

        Raises:
            EndpointDown: none answers, or one rejects the key, the address or the request.
        """
        data, problems = json.dumps(body).encode(), {}
        for replica in self._replicas:
            url = replica.connection.url
            try:
                replica.connection.once(path, data, read)
            except Refused as refused:
                raise EndpointDown(f"{url} does not answer as it should: {refused}", refused.status) from None
            except Failed as failed:
                problems[url] = failed.problem
        if len(problems) == len(self._replicas):
            told = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
            ends = "" if all(url.endswith("/v1") for url in problems) else ", and does its address end in /v1"
            raise EndpointDown(f"no server answers ({told}). Is it running{ends}?")
        return problems

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Read]) -> Read:
        """Send a request to one server after another; return what `read` makes of the JSON object in the response.

        Raises:
            Refused: the request is at fault, or every try failed.
            EndpointDown: the servers are down, or reject every request.
        """
        data, tries, waiting_since = json.dumps(body).encode(), 0, math.inf
        last: _Replica | None = None
        while True:
            replica = last = self._acquire(last)
            started = self._clock()
            try:
                answer = replica.connection.once(path, data, read)
            except Refused:
                self._release(replica, started)
                raise
            except EndpointDown as down:
                self._give_up(down)
            except Failed as failed:
                self._release(replica, started, failed)
                waiting = failed.trouble in ("busy", "unreachable")
                waiting_since = min(waiting_since, started) if waiting else math.inf
                if waiting:
                    self._give_up_if_silent(failed)
                if self._clock() - waiting_since > self.patience:  # others are answered: it may be this request
                    raise Refused(f"{self.patience:g} s: {failed.problem}", failed.status, failed.trouble) from None
                tries += not waiting
                if tries == self.config.attempts:
                    self._count(failed)
                    raise Refused(f"{tries} attempts: {failed.problem}", failed.status, failed.trouble) from None
                if not waiting and tries % len(self._replicas) == 0:  # every server may have had it by now
                    doubled = self.config.pause * 2 ** (tries // len(self._replicas) - 1)
                    time.sleep(min(self.config.longest_pause, max(doubled, failed.wait)))
            except BaseException:
                self._release(replica, started)
                raise
            else:
                self._release(replica, started)
                return answer

    def _acquire(self, last: _Replica | None) -> _Replica:
        """Wait for a server that takes a request; prefer one with little to do to others, and all to `last`."""
        with self._changed:
            while True:
                if self._down:
                    raise EndpointDown(str(self._down), self._down.status)
                now = self._clock()
                takes = [one for one in self._replicas if one.takes(now)]
                if takes:
                    found = min(takes, key=lambda one: (one is last, one.in_flight / one.limit))
                    found.in_flight += 1
                    return found
                later = [one.free_at - now for one in self._replicas if one.free_at > now]
                self._changed.wait(min(later, default=None))

    def _release(self, replica: _Replica, started: float, failed: Failed | None = None) -> None:
        """Learn from the outcome of a request that began at `started`; wake those who wait for a server."""
        with self._changed:
            replica.in_flight -= 1
            now = self._clock()
            trouble = failed.trouble if failed else None
            self._retries += failed is not None
            if trouble in ("busy", "unreachable"):
                self._silent_since = self._silent_since or now
            elif failed is None or failed.status is not None or trouble == "not JSON":
                self._silent_since, replica.troubles = None, 0
            if failed is None:
                self._failures_in_a_row = 0
                growth = 1.0 if replica.limit < replica.threshold else 1.0 / replica.limit
                replica.limit = min(self.config.concurrency, replica.limit + growth)
            elif trouble in ("busy", "slow", "unreachable") and started >= replica.cut:
                replica.cut = now  # requests that began before are of the same congestion
                replica.threshold = max(1.0, replica.limit / 2)
                replica.limit = 1.0 if trouble == "unreachable" else replica.threshold
                if trouble != "slow":
                    pause = max(self.config.pause * 2 ** min(replica.troubles, 16), failed.wait)
                    replica.free_at = now + min(self.config.longest_pause, pause)
                    replica.troubles += 1
            self._changed.notify_all()

    def _count(self, failed: Failed) -> None:
        """Count a request whose tries are used up; too many in a row mean that the servers are broken."""
        with self._changed:
            self._failures_in_a_row += failed.trouble != "not this API"
            broken = self._failures_in_a_row >= self.config.give_up_after
        if broken:
            self._give_up(
                EndpointDown(
                    f"{self._where()} failed {self._failures_in_a_row} requests in a row, each after "
                    f"{self.config.attempts} attempts; the last: {failed.problem}. The same command resumes where it "
                    "stopped",
                    failed.status,
                )
            )

    def _give_up_if_silent(self, failed: Failed) -> None:
        with self._changed:
            silent = self._silent_since is not None and self._clock() - self._silent_since > self.patience
        if silent:
            self._give_up(
                EndpointDown(
                    f"{self._where()}: no answer for {self.patience:g} s; the last: {failed.problem}. Is it running? "
                    "The same command resumes where it stopped",
                    failed.status,
                )
            )

    def _where(self) -> str:
        return " and ".join(one.connection.url for one in self._replicas)

    def _give_up(self, down: EndpointDown) -> NoReturn:
        with self._changed:
            self._down = self._down or down  # if threads fail together, the first reason stands
            self._changed.notify_all()
            raise EndpointDown(str(self._down), self._down.status) from None
