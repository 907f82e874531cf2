"""Prometheus metrics: /metrics, and what a route reports about its request.

A route gets a `RequestStats` as `request.state.stats`: it reports the first token and the number of tokens, and the
middleware counts the rest. Labels are bounded: route templates, model names, stable words; never what a client wrote.
Each application has a registry of its own. Any ingress replica answers for all of them, each under its own label:
Prometheus cannot see which replicas are behind the proxy.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds of the histograms in seconds: from a file of the page to a long answer."""
ENGINE_TIMEOUT = 5.0
"""Seconds to wait for the metrics of the engines."""
_log = logging.getLogger(__name__)
router = APIRouter()


@dataclass(slots=True)
class RequestStats:
    """What a route reports about its request.

    Attributes:
        started: time of `time.perf_counter`.
        to_first_token: seconds; None before the first token.
        tokens: (prompt, completion) by model.
        failure: the code of the error that ended a stream; "" for none.
    """

    started: float = field(default_factory=time.perf_counter)
    to_first_token: float | None = None
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    failure: str = ""

    def first_token(self) -> None:
        """Report that the first token is sent now. Later calls change nothing."""
        if self.to_first_token is None:
            self.to_first_token = time.perf_counter() - self.started

    def count(self, model: str, prompt: int, completion: int) -> None:
        """Add the tokens of a finished, failed or cancelled answer.

        Args:
            model: its name in the configuration, never what a client calls it.
            prompt: tokens read.
            completion: tokens generated.
        """
        before = self.tokens.get(model, (0, 0))
        self.tokens[model] = (before[0] + prompt, before[1] + completion)

    def failed(self, code: str) -> None:
        """Report a stream that began with 200 and ended in an error. Args: code: a stable word, see `ApiError.code`."""
        self.failure = code


class Metrics:
    """The counters of one application.

    Attributes:
        registry: the application's own.
        open: requests that were let in and have not ended.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"namespace": "polite_flamingo", "registry": self.registry}
        timed = {**own, "buckets": BUCKETS}
        self._requests = Counter("requests", "Requests", ["route", "method", "status"], **own)
        self._seconds = Histogram("request_seconds", "Seconds to the end of the answer", ["route", "method"], **timed)
        self._first = Histogram(
            "time_to_first_token_seconds", "Seconds from headers to first token", ["route"], **timed
        )
        self._tokens = Counter("tokens", "Tokens", ["model", "kind"], **own)
        self._refused = Counter("turned_away", "Requests refused by the middleware", ["reason"], **own)
        self._broken = Counter("broken_streams", "Streams that ended in an error", ["code"], **own)
        self.open = Gauge("open_requests", "Requests under way", **own)
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        ProcessCollector(registry=self.registry)

    def refused(self, reason: str) -> None:
        """Count a request that the middleware refused. Args: reason: see `Refusal`."""
        self._refused.labels(reason).inc()

    def finished(self, route: str, method: str, status: int, seconds: float, stats: RequestStats) -> None:
        """Count a finished request, however it ended.

        Args:
            route: the template of its path.
            method: HTTP method.
            status: HTTP status; 499 if the client left before the response was complete.
            seconds: its duration.
            stats: what its route reported.
        """
        method = method if method in METHODS else "other"
        if (route, method, status) not in self._by_route:  # cached: finding them by label costs more than counting
            by_label = self._requests.labels(route, method, status), self._seconds.labels(route, method)
            self._by_route[route, method, status] = by_label
        requests, histogram = self._by_route[route, method, status]
        requests.inc()
        histogram.observe(seconds)
        if stats.to_first_token is not None:
            self._first.labels(route).observe(stats.to_first_token)
        for model, (prompt, completion) in stats.tokens.items():
            self._tokens.labels(model, "prompt").inc(prompt)
            self._tokens.labels(model, "completion").inc(completion)
        if stats.failure:
            self._broken.labels(stats.failure).inc()

    def families(self) -> list[Metric]:
        """All current values; can be pickled."""
        return list(self.registry.collect())


@dataclass
class _AllReplicas(Collector):
    """The metrics of every ingress replica, each under a label, and the latest of every engine."""

    ingresses: Mapping[str, Sequence[Metric]]
    engines: Mapping[str, Mapping[str, float]] | None

    def collect(self) -> Iterator[Metric]:
        together: dict[str, Metric] = {}
        for name, families in self.ingresses.items():
            for family in families:
                same = together.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                same.samples += [one._replace(labels={**one.labels, "ingress": name}) for one in family.samples]
        yield from together.values()
        reached = float(self.engines is not None)
        yield GaugeMetricFamily(
            "polite_flamingo_engines_reached", "Whether the engines reported their metrics", reached
        )
        gauges: dict[str, GaugeMetricFamily] = {}
        for engine, values in (self.engines or {}).items():
            for metric, value in values.items():
                name = "polite_flamingo_engine_" + re.sub(r"\W", "_", metric, flags=re.ASCII)
                gauge = gauges.setdefault(name, GaugeMetricFamily(name, "See Metrics.summary", labels=["engine"]))
                gauge.add_metric([engine], value)
        yield from gauges.values()


def exposition(ingresses: Mapping[str, Sequence[Metric]], engines: Mapping[str, Mapping[str, float]] | None) -> bytes:
    """Format metrics as Prometheus reads them.

    Args:
        ingresses: metric families by ingress replica.
        engines: values by engine; None where the engines did not answer.
    """
    return generate_latest(_AllReplicas(ingresses, engines))


@router.get("/metrics", tags=["service"], response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus: requests, tokens, queues, and the metrics of every engine."""
    own = request.app.state.metrics.families()
    engines, ingresses = None, {"": own}
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT):
            ingresses = await request.app.state.backend.ingress_metrics(own)
            engines = await request.app.state.backend.engine_metrics()
    except Exception as error:  # the other numbers matter most when the engines do not answer
        _log.warning("the engines reported no metrics: %s", type(error).__name__)
    return Response(exposition(ingresses, engines), media_type=CONTENT_TYPE_LATEST)
