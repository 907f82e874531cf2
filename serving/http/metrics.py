"""What happened, as numbers: /metrics for Prometheus, and what a route tells of its request.

A route gets a `Usage` as `request.state.usage` and says when the first token came and how many there were; the gate
counts the rest. Labels are bounded: templates of routes, names of models, stable words; never what a client wrote.
Each application has a registry of its own. Whichever ingress replica is asked, it answers for all of them, each
under its own label: Prometheus does not see who is behind the proxy.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds of the histograms: from a page's file to a long answer."""
ENGINE_SECONDS = 5.0
"""How long the engines may take to give their figures."""
_log = logging.getLogger(__name__)
router = APIRouter()


class Usage:
    """What one request took. A route calls the methods; they cost nothing worth mentioning.

    Attributes:
        started: by `time.perf_counter`.
        to_first_token: seconds; None while there was none.
        tokens: (prompt, completion) by model.
        failure: the code of the error that ended a stream which had begun; "" for none.
    """

    __slots__ = ("failure", "started", "to_first_token", "tokens")

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.to_first_token: float | None = None
        self.tokens: dict[str, tuple[int, int]] = {}
        self.failure = ""

    def first_token(self) -> None:
        """The first token goes out to the client now. Later calls change nothing."""
        if self.to_first_token is None:
            self.to_first_token = time.perf_counter() - self.started

    def count(self, model: str, prompt: int, completion: int) -> None:
        """Tokens of a finished, broken or cancelled answer; what several calls say is added up.

        Args:
            model: its name in the configuration, never what a client calls it.
            prompt: tokens read.
            completion: tokens written.
        """
        before = self.tokens.get(model, (0, 0))
        self.tokens[model] = (before[0] + prompt, before[1] + completion)

    def failed(self, code: str) -> None:
        """A stream that had begun with 200 ended in an error. Args: code: a stable word, as of `ApiError.code`."""
        self.failure = code


class Metrics:
    """All that is counted; of one application.

    Attributes:
        registry: of its own.
        open: requests that the gate let in and that are not over.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name, own = "polite_flamingo_", self.registry
        self._requests = Counter(name + "requests", "Requests", ["route", "method", "status"], registry=own)
        self._seconds = Histogram(
            name + "request_seconds", "Until the end of the answer", ["route", "method"], registry=own, buckets=SECONDS
        )
        self._first = Histogram(
            name + "time_to_first_token_seconds",
            "From headers to first token",
            ["route"],
            registry=own,
            buckets=SECONDS,
        )
        self._tokens = Counter(name + "tokens", "Tokens", ["model", "kind"], registry=own)
        self._turned_away = Counter(name + "turned_away", "Requests that the gate refused", ["reason"], registry=own)
        self._broken = Counter(name + "broken_streams", "Streams that ended in an error", ["code"], registry=own)
        self.open = Gauge(name + "open_requests", "Requests let in and not over", registry=own)
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        ProcessCollector(registry=own)

    def turned_away(self, reason: str) -> None:
        """Args: reason: a word of the gate's."""
        self._turned_away.labels(reason).inc()

    def finished(self, route: str, method: str, status: int, seconds: float, usage: Usage) -> None:
        """A request is over, however it ended.

        Args:
            route: the template of its path.
            method: of HTTP.
            status: of the answer; 499 where the client left before it was whole.
            seconds: it took.
            usage: what its route told.
        """
        method = method if method in METHODS else "other"
        found = self._of_route.get((route, method, status))
        if found is None:  # kept, because to find them by their labels costs more than to count
            found = self._requests.labels(route, method, status), self._seconds.labels(route, method)
            self._of_route[route, method, status] = found
        count, took = found
        count.inc()
        took.observe(seconds)
        if usage.to_first_token is not None:
            self._first.labels(route).observe(usage.to_first_token)
        for model, (prompt, completion) in usage.tokens.items():
            self._tokens.labels(model, "prompt").inc(prompt)
            self._tokens.labels(model, "completion").inc(completion)
        if usage.failure:
            self._broken.labels(usage.failure).inc()

    def families(self) -> list[Metric]:
        """All numbers now; may be pickled."""
        return list(self.registry.collect())


class _All(Collector):
    """Every ingress replica's families, told apart by a label, and what the engines said last."""

    def __init__(
        self, ingresses: Mapping[str, Sequence[Metric]], engines: Mapping[str, Mapping[str, float]] | None
    ) -> None:
        self._ingresses, self._engines = ingresses, engines

    def collect(self) -> Iterator[Metric]:
        together: dict[str, Metric] = {}
        for name, families in self._ingresses.items():
            for family in families:
                same = together.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                same.samples += [one._replace(labels={**one.labels, "ingress": name}) for one in family.samples]
        yield from together.values()
        reached = GaugeMetricFamily("polite_flamingo_engines_reached", "Whether the engines gave their figures")
        reached.add_metric([], float(self._engines is not None))
        yield reached
        figures: dict[str, GaugeMetricFamily] = {}
        for engine, numbers in (self._engines or {}).items():
            for figure, number in numbers.items():
                name = "polite_flamingo_engine_" + re.sub(r"\W", "_", figure, flags=re.ASCII)
                if name not in figures:
                    figures[name] = GaugeMetricFamily(name, "See Metrics.summary", labels=["engine"])
                figures[name].add_metric([engine], number)
        yield from figures.values()


def text(ingresses: Mapping[str, Sequence[Metric]], engines: Mapping[str, Mapping[str, float]] | None) -> bytes:
    """In Prometheus' format.

    Args:
        ingresses: families of each ingress replica by its name.
        engines: figures of each by its name; None where they could not be had.
    """
    registry = CollectorRegistry()
    registry.register(_All(ingresses, engines))
    return generate_latest(registry)


@router.get("/metrics", tags=["service"], response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus: requests, tokens, waiting, and every engine's figures."""
    own = request.app.state.metrics.families()
    figures, ingresses = None, {"": own}
    try:
        async with asyncio.timeout(ENGINE_SECONDS):
            ingresses = await request.app.state.backend.ingresses(own)
            figures = await request.app.state.backend.figures()
    except Exception as error:  # the other numbers matter most when the engines do not answer
        _log.warning("the engines gave no figures: %s", type(error).__name__)
    return Response(text(ingresses, figures), media_type=CONTENT_TYPE_LATEST)
