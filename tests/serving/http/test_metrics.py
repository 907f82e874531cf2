"""/metrics, read with Prometheus' own parser: it adds up, labels are bounded, and it answers when engines do not."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from serving.config import AccessConfig, LimitsConfig
from serving.http.metrics import Metrics, RequestStats, exposition
from serving.server.app import create_app
from tests.support.patience import PATIENCE
from tests.support.stub_service import FIGURES, StubBackend, application, configured, serving_on_a_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


HERE = "local"
"""What `LocalBackend` and the tests' call the one HTTP process; figures of engines have no such label."""


def parsed(said: str) -> Samples:
    families = list(text_string_to_metric_families(said))
    assert families
    samples = [sample for family in families for sample in family.samples]
    found = {
        (one.name, frozenset({**one.labels, "ingress": one.labels.get("ingress", HERE)}.items())): one.value
        for one in samples
    }
    assert len(found) == len(samples), "no number is told twice"
    return found


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float:
    return samples[name, frozenset({"ingress": HERE, **(labels or {})}.items())]


def total(samples: Samples, name: str) -> float:
    return sum(number for (sample, _), number in samples.items() if sample == name)


def test_requests_add_up_by_route_status_and_time() -> None:
    app, tried = application(configured(limits=LimitsConfig(body_bytes=10)))
    tried.go_on.set()
    with (
        serving_on_a_port(app) as (host, port),
        httpx2.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE) as client,
    ):
        for name in ("a", "b", "c"):
            client.post(f"/v1/try/echo/{name}")
        client.post("/v1/try/stream")
        client.post("/v1/try/stream")
        for path in ("/nothing", "/v1/nothing", "/v1/else"):
            client.get(path)
        client.request("PROPFIND", "/v1/try/json")
        client.post("/v1/try/echo/a", content=b"x" * 11)
        samples = parsed(client.get("/metrics").text)
        again = parsed(client.get("/metrics").text)
    requests = "polite_flamingo_requests_total"
    assert value(samples, requests, {"route": "/v1/try/echo/{name}", "method": "POST", "status": "200"}) == 3
    assert value(samples, requests, {"route": "none", "method": "GET", "status": "404"}) == 3, "one label for all"
    assert value(samples, requests, {"route": "/v1/try/json", "method": "other", "status": "405"}) == 1
    assert total(samples, requests) == total(samples, "polite_flamingo_request_seconds_count") == 10
    assert total(again, requests) == 11, "the scrape itself is counted when it is over"
    assert value(samples, "polite_flamingo_turned_away_total", {"reason": "large_body"}) == 1
    assert value(samples, "polite_flamingo_open_requests") == 0
    stream = {"route": "/v1/try/stream"}
    assert value(samples, "polite_flamingo_time_to_first_token_seconds_count", stream) == 2
    first = value(samples, "polite_flamingo_time_to_first_token_seconds_sum", stream)
    whole = value(samples, "polite_flamingo_request_seconds_sum", stream | {"method": "POST"})
    assert 0 < first <= whole
    model = {"model": "clever-flamingo"}
    assert value(samples, "polite_flamingo_tokens_total", model | {"kind": "prompt"}) == 14
    assert value(samples, "polite_flamingo_tokens_total", model | {"kind": "completion"}) == 4
    assert value(samples, "process_resident_memory_bytes") > 1 << 20


def test_buckets_of_a_histogram_are_cumulative_and_end_with_all() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.02, 0.02, 7.0, 1000.0):
        metrics.finished("/v1/x", "POST", 200, seconds, RequestStats())
    samples = parsed(exposition({HERE: metrics.families()}, {}).decode())
    name, labels = "polite_flamingo_request_seconds", {"route": "/v1/x", "method": "POST"}
    counts = [value(samples, f"{name}_bucket", labels | {"le": le}) for le in ("0.005", "0.025", "5.0", "10.0", "+Inf")]
    assert counts == [1, 3, 3, 4, 5] and value(samples, f"{name}_count", labels) == 5
    assert value(samples, f"{name}_sum", labels) == 1007.041


def test_every_figure_of_every_engine_is_a_gauge() -> None:
    backend = StubBackend()
    app = create_app(configured(), backend)

    async def run() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
            samples = parsed((await client.get("/metrics")).text)
            assert value(samples, "polite_flamingo_engines_reached") == 1
            for engine, figures in FIGURES.items():
                for figure, number in figures.items():
                    assert value(samples, f"polite_flamingo_engine_{figure}", {"engine": engine}) == number
            backend.figures_now = {"clever-flamingo/0@replica-7": {"tokens/second per slot": 2.5}}
            samples = parsed((await client.get("/metrics")).text)
            labels = {"engine": "clever-flamingo/0@replica-7"}
            assert value(samples, "polite_flamingo_engine_tokens_second_per_slot", labels) == 2.5
            assert total(samples, "polite_flamingo_engine_streams") == 0, "an engine that is gone is not told of"
            backend.figures_now = RuntimeError("the prompt was: marker")
            answer = await client.get("/metrics")
            samples = parsed(answer.text)
            assert value(samples, "polite_flamingo_engines_reached") == 0 and "marker" not in answer.text
            assert value(samples, "process_resident_memory_bytes") > 0, "the rest is there"

    asyncio.run(run())


def test_whichever_ingress_replica_is_asked_it_answers_for_all_of_them() -> None:
    backend, elsewhere = StubBackend(), Metrics()
    for _ in range(3):
        elsewhere.finished("/v1/x", "POST", 200, 1.0, RequestStats())
    backend.others = {"ingress-2": pickle.loads(pickle.dumps(elsewhere.families()))}
    app = create_app(configured(), backend)

    async def run() -> Samples:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
            await client.get("/health")
            return parsed((await client.get("/metrics")).text)

    samples = asyncio.run(run())
    requests, labels = "polite_flamingo_requests_total", {"method": "POST", "route": "/v1/x", "status": "200"}
    assert value(samples, requests, labels | {"ingress": "ingress-2"}) == 3
    assert total(samples, requests) == 4
    assert value(samples, "polite_flamingo_open_requests", {"ingress": "ingress-2"}) == 0


def test_a_stream_that_breaks_is_counted_by_its_code() -> None:
    metrics, stats = Metrics(), RequestStats()
    stats.failed("engine_failed")
    stats.first_token()
    first = stats.to_first_token
    stats.first_token()
    assert stats.to_first_token == first is not None, "only the first counts"
    metrics.finished("/v1/chat/completions", "POST", 200, 1.0, stats)
    samples = parsed(exposition({HERE: metrics.families()}, None).decode())
    assert value(samples, "polite_flamingo_broken_streams_total", {"code": "engine_failed"}) == 1


def test_two_applications_in_one_process_count_for_themselves() -> None:
    one, other = (create_app(configured(access=AccessConfig()), StubBackend()) for _ in range(2))

    async def run() -> tuple[Samples, Samples]:
        async with (
            httpx2.AsyncClient(transport=httpx2.ASGITransport(one), base_url="http://service") as first,
            httpx2.AsyncClient(transport=httpx2.ASGITransport(other), base_url="http://service") as second,
        ):
            await first.get("/health")
            return parsed((await first.get("/metrics")).text), parsed((await second.get("/metrics")).text)

    mine, theirs = asyncio.run(run())
    assert (total(mine, "polite_flamingo_requests_total"), total(theirs, "polite_flamingo_requests_total")) == (1, 0)
