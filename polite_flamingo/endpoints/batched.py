"""Many items, several per request: what servers make of each, and which of them they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from polite_flamingo.endpoints.config import ServersConfig
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.responses import refuse_other_model, usage_of
from polite_flamingo.endpoints.servers import Servers
from polite_flamingo.usage import Usage, of_model

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Route(Generic[Item, Found]):
    """How items become a request, and its response results.

    Attributes:
        path: below the base URL.
        body: the request for some items, without the model.
        read: the response to so many items -> one result per item, in order; raises any error of Python's
            own (LookupError, TypeError, ValueError …) if it has another form.
        items: most items per request.
    """

    path: str
    body: Callable[[Sequence[Item]], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any], int], list[Found]]
    items: int


class BatchedRequests:
    """A client of the servers of one model; nothing is sent before the first call.

    Args:
        config: the servers.
        section: the section of the profile that names them, such as scoring.sts; its last part names the model.
        extra: further fields of each request; None removes a field.
    """

    def __init__(self, config: ServersConfig, section: str, extra: Mapping[str, Any]):
        self._config, self._section, self._extra = config, section, extra
        self._servers = Servers(config.urls, config, config.patience)
        self._threads = ThreadPoolExecutor(self._servers.concurrency, "scoring")

    def ask(self, route: Route[Item, Found], items: Sequence[Item], usage: Usage) -> list[Found | Refused]:
        """Return what the servers make of each item, in order, or why they refuse it; add what it cost to `usage`,
        under the model's name.

        Raises:
            EndpointDown: the servers are down, or are not what the profile says; the rest is not sent.
        """
        starts = range(0, len(items), route.items)
        batches = [items[start : start + route.items] for start in starts]
        found = [*self._threads.map(partial(self._batch, route), batches)]  # cancels the rest if one raises
        for _, used in found:
            usage.update(of_model(used, self._section.rpartition(".")[2]))
        return [result for results, _ in found for result in results]

    def try_out(self, route: Route[Item, Found], item: Item) -> list[str]:
        """Ask every server about one item, to notice a broken one before work begins.

        Returns:
            Lines to print about servers that do not answer at present.

        Raises:
            EndpointDown: none answers, or one rejects the key, the model or the request.
        """
        problems = self._servers.try_out(route.path, self._body(route, [item]), lambda said: self._read(route, said, 1))
        return [f"{url} does not answer at present: {problem}" for url, problem in problems.items()]

    def _batch(self, route: Route[Item, Found], items: Sequence[Item]) -> tuple[list[Found | Refused], Usage]:
        """Ask about some items at once and, if that is refused, about each alone."""
        usage = Usage(requests=1)
        try:
            read = self._servers.post(
                route.path, self._body(route, items), lambda said: self._read(route, said, len(items))
            )
        except Refused as refused:
            if len(items) == 1:
                return [refused], usage
            alone = [self._batch(route, [item]) for item in items]
            return [result for results, _ in alone for result in results], sum((used for _, used in alone), usage)
        results, used = read
        usage.update(used)
        return [*results], usage

    def _body(self, route: Route[Item, Found], items: Sequence[Item]) -> dict[str, Any]:
        return self._config.request(route.body(items), self._extra)

    def _read(self, route: Route[Item, Found], said: Mapping[str, Any], count: int) -> tuple[list[Found], Mapping]:
        refuse_other_model(said, self._config.model, self._config.answers_as, self._section)
        found = route.read(said, count)
        if len(found) != count:
            raise LookupError(f"{len(found)} results for {count} inputs")
        return found, usage_of(said)


def in_order(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of a response's `data`, by their `index` where they have one."""
    return sorted(said["data"], key=lambda one: one.get("index", 0))
