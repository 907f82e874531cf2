"""Access: keys, rates and concurrent requests as clients see them, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from serving.config import AccessConfig
from serving.http.authentication import OPEN_PATHS
from serving.http.keys import Key, KeyRing, new_key, read_keys, write_keys
from serving.http.metrics import Metrics
from serving.http.middleware import AccessMiddleware
from serving.http.rates import SECOND
from tests.support.patience import PATIENCE, wait_until
from tests.support.stub_service import Tried, application, configured, serving_on_a_port

SECRETS = {name: new_key(name) for name in ("plain", "slow", "narrow", "revoked", "expired")}


@dataclass
class Guarded:
    """A server that requires keys."""

    url: str
    keys: Path
    tried: Tried

    def client(self, name: str = "") -> httpx2.Client:
        headers = {"Authorization": f"Bearer {SECRETS[name][0]}"} if name else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE)


@contextlib.contextmanager
def guarded(tmp_path: Path, **access: Any) -> Iterator[Guarded]:
    path = tmp_path / "keys.json"
    changes: dict[str, dict[str, Any]] = {
        "slow": {"requests_per_minute": 2},
        "narrow": {"concurrent_requests": 1},
        "revoked": {"revoked": "2026-01-01T00:00:00+00:00"},
        "expired": {"expires": "2026-01-01T00:00:00+00:00"},
    }
    write_keys(path, [replace(key, **changes.get(name, {})) for name, (_, key) in SECRETS.items()])
    app, tried = application(configured(access=AccessConfig(keys=str(path), **access)))
    with serving_on_a_port(app) as (host, port):
        yield Guarded(f"http://{host}:{port}", path, tried)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as found:
        yield found


@pytest.fixture
def server(one_server: Guarded) -> Guarded:
    one_server.tried.forget()
    return one_server


def test_no_route_but_the_open_ones_answers_without_a_key(server: Guarded) -> None:
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/rewrite", "/metrics", "/health"} <= paths.keys()
        for path, methods in paths.items():
            for method in methods:
                answer = client.request(method, path.replace("{name}", "x"))
                if path in OPEN_PATHS:
                    assert answer.status_code == 200, path
                else:
                    assert answer.status_code == 401, path
                    assert answer.json()["error"]["code"] == "missing_api_key"
                    assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/docs").status_code == client.get("/docs.css").status_code == 200
        assert client.get("/nothing").status_code == 401, "who has no key learns not even what there is"
        assert client.post("/health").status_code == 401, "open to be read, not to be written to"
    assert server.tried.bodies == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic {}",
        "{}",
        "Bearer: {}",
        "Token {}",
        b"Bearer \xff\xfe",
        "Bearer {}x",
        "Bearer pf-{}",
    ],
)
def test_what_is_no_key_of_ours_in_the_right_place_is_turned_away(header: str | bytes, server: Guarded) -> None:
    value = header if isinstance(header, bytes) else header.format(SECRETS["plain"][0]).encode()
    with server.client() as client:
        answer = client.post("/v1/try/echo/x", content=b"x", headers={b"Authorization": value})
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/models", params={"api_key": SECRETS["plain"][0]}).status_code == 401, "never in a URL"


def test_a_key_opens_whatever_the_case_of_its_scheme_and_the_route_knows_whose_it_is(server: Guarded) -> None:
    with server.client() as client:
        for scheme in ("Bearer", "bearer", "BEARER "):
            headers = {"Authorization": f"{scheme} {SECRETS['plain'][0]}"}
            assert client.post("/v1/try/echo/x", headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
    assert set(server.tried.clients) == {SECRETS["plain"][1].id}


def test_the_openai_client_understands_every_way_of_being_turned_away(server: Guarded) -> None:
    def ask(key: str) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1/try", api_key=key, max_retries=0, timeout=PATIENCE) as client:
            client.post("/json", cast_to=object, body={"a": 1})

    ask(SECRETS["plain"][0])
    for name, says in (("revoked", "revoked"), ("expired", "expired")):
        with pytest.raises(openai.AuthenticationError, match=says) as caught:
            ask(SECRETS[name][0])
        assert caught.value.code == "invalid_api_key" and caught.value.request_id.startswith("req_")
    with pytest.raises(openai.AuthenticationError, match="not known"):
        ask("pf-guessed")
    ask(SECRETS["slow"][0])
    ask(SECRETS["slow"][0])
    with pytest.raises(openai.RateLimitError) as limited:
        ask(SECRETS["slow"][0])
    assert limited.value.code == "rate_limit_exceeded" and limited.value.type == "rate_limit_error"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30


def test_open_metrics_are_a_choice(tmp_path: Path) -> None:
    with guarded(tmp_path, open_metrics=True) as server, server.client() as client:
        assert client.get("/metrics").status_code == 200
        assert client.post("/metrics").status_code == 401


def test_limits_are_each_keys_own_and_the_profiles_where_the_file_says_nothing(tmp_path: Path) -> None:
    with guarded(tmp_path, requests_per_minute=3) as server, contextlib.ExitStack() as clients:
        slow, plain = (clients.enter_context(server.client(name)) for name in ("slow", "plain"))
        told = [slow.post("/v1/try/echo/x") for _ in range(3)]
        assert [answer.status_code for answer in told] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in told] == ["1", "0", "0"]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in told} == {"2"}
        assert re.fullmatch(r"(\d+m)?[\d.]+m?s", told[0].headers["x-ratelimit-reset-requests"])
        assert [plain.post("/v1/try/echo/x").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert slow.get("/health").status_code == slow.get("/metrics").status_code == 200, "these cost nothing"


def test_a_key_has_so_many_requests_open_and_no_more(server: Guarded) -> None:
    with server.client("narrow") as narrow, server.client("plain") as plain:
        with narrow.stream("POST", "/v1/try/stream") as answer:
            pieces = answer.iter_raw()
            next(pieces)
            refused = narrow.post("/v1/try/echo/x", content=b"x")
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert "the limit is 1" in refused.json()["error"]["message"]
            assert plain.post("/v1/try/echo/x").status_code == 200, "another key is another matter"
            server.tried.go_on.set()
            assert len(list(pieces)) == 1
        wait_until(lambda: narrow.post("/v1/try/echo/x").status_code == 200)


def test_a_client_that_leaves_gives_its_place_back(server: Guarded) -> None:
    with server.client("narrow") as narrow:
        with narrow.stream("POST", "/v1/try/stream") as answer:
            pieces = answer.iter_raw()
            next(pieces)
        wait_until(lambda: narrow.post("/v1/try/echo/x").status_code == 200)
        wait_until(lambda: server.tried.closed.is_set())


def test_the_key_file_is_replaced_while_the_server_runs(server: Guarded) -> None:
    secret, key = new_key("newcomer")
    before = read_keys(server.keys)
    with server.client("plain") as plain, httpx2.Client(base_url=server.url, timeout=PATIENCE) as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        assert client.post("/v1/try/echo/x").status_code == 401
        kept = [one for one in before if one.id != SECRETS["plain"][1].id]
        write_keys(server.keys, [*kept, key])
        wait_until(lambda: client.post("/v1/try/echo/x").status_code == 200)
        assert plain.post("/v1/try/echo/x").status_code == 401, "a key that is gone from the file"
        write_keys(server.keys, before)
        wait_until(lambda: plain.post("/v1/try/echo/x").status_code == 200)


def test_a_server_without_its_keys_does_not_start(tmp_path: Path) -> None:
    config = configured(access=AccessConfig(keys=str(tmp_path / "keys.json")))
    with pytest.raises(ValueError, match="polite-flamingo keys new"):
        application(config)


class Clocks:
    """A clock in nanoseconds for the rates, and a calendar."""

    def __init__(self) -> None:
        self.now = 0

    def nanoseconds(self) -> int:
        return self.now

    def calendar(self) -> float:
        return self.now / SECOND


def test_retry_after_is_true(tmp_path: Path) -> None:
    """After exactly so many seconds the request is let in, for rates that divide a minute and for those that do not."""
    secret, key = new_key("seven a minute")
    write_keys(tmp_path / "keys.json", [replace(key, requests_per_minute=7)])
    clocks = Clocks()

    async def run() -> None:
        app, _ = application(configured())
        gate = AccessMiddleware(
            app,
            access=configured().serving.access,
            limits=configured().serving.limits,
            metrics=Metrics(),
            keys=KeyRing(tmp_path / "keys.json"),
            body_limits={},
            clock=clocks.nanoseconds,
            calendar=clocks.calendar,
        )
        headers = {"Authorization": f"Bearer {secret}"}
        transport = httpx2.ASGITransport(gate)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            let_in = 0
            for _ in range(40):
                answer = await client.post("/v1/try/echo/x")
                if answer.status_code == 200:
                    let_in += 1
                    continue
                wait = int(answer.headers["retry-after"])
                assert 1 <= wait <= 9, "a seventh of a minute is 8.57 seconds"
                clocks.now += wait * SECOND
                assert (await client.post("/v1/try/echo/x")).status_code == 200
                let_in += 1
            minutes = clocks.now / (60 * SECOND)
            assert 7 <= let_in <= 7 + 7 * minutes

    asyncio.run(run())


def test_a_key_expires_while_the_server_runs(tmp_path: Path) -> None:
    secret, key = new_key("for a minute")
    write_keys(tmp_path / "keys.json", [replace(key, expires="1970-01-01T00:01:00+00:00")])
    clocks = Clocks()

    async def run() -> list[int]:
        app, _ = application(configured())
        gate = AccessMiddleware(
            app,
            access=configured().serving.access,
            limits=configured().serving.limits,
            metrics=Metrics(),
            keys=KeyRing(tmp_path / "keys.json"),
            body_limits={},
            clock=clocks.nanoseconds,
            calendar=clocks.calendar,
        )
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(gate), base_url="http://service") as client:
            client.headers["Authorization"] = f"Bearer {secret}"
            found = []
            for clocks.now in (0, 60 * SECOND - 1, 60 * SECOND):
                found.append((await client.post("/v1/try/echo/x")).status_code)
            return found

    assert asyncio.run(run()) == [200, 200, 401]


def test_nothing_that_a_client_said_is_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prompts, keys, paths, queries and foreign ids all contain a mark, which must not be in any log."""
    mark = "xyzzy-plugh"
    caplog.set_level(logging.DEBUG, "serving")
    caplog.set_level(logging.DEBUG, "uvicorn")
    with guarded(tmp_path) as server, server.client("plain") as client:
        good = {"prompt": mark}
        for path in (
            "/v1/try/json",
            "/v1/try/fail",
            "/v1/try/fail_known",
            f"/v1/try/echo/{mark}",
            f"/v1/{mark}",
            f"/v1/try/json?q={mark}",
        ):
            client.post(path, json=good)
        client.post("/v1/try/json", content=f"{{{mark}".encode(), headers={"content-type": "application/json"})
        with contextlib.suppress(httpx2.HTTPError):
            client.post("/v1/try/fail_late", json=good)
        client.request(f"{mark.upper()}", "/v1/try/json")
        client.post("/v1/try/json", json=good, headers={"Authorization": f"Bearer {mark}"})
        client.post("/v1/try/json", json=good, headers={"X-Request-ID": f"{mark} {mark}", "User-Agent": mark})
        metrics = client.get("/metrics").text
    logged = "\n".join(logging.Formatter("%(name)s %(message)s").format(record) for record in caplog.records)
    written = capfd.readouterr()
    everything = "\n".join((logged, written.out, written.err, metrics)).lower()
    assert "/v1/try/fail_late" in everything and "runtimeerror" in everything, (
        "the failures are there, with their places"
    )
    assert 'raise keyerror(body["prompt"])' in everything, "also what they came of"
    assert 'from keyerror(body["prompt"])' in everything, "and what a route's own error came of"
    assert mark not in everything
    for secret, key in SECRETS.values():
        assert secret.lower() not in everything and key.sha256 not in everything


def test_the_log_has_one_line_of_json_for_each_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.access")
    with guarded(tmp_path) as server, server.client("plain") as client:
        server.tried.go_on.set()
        client.post("/v1/try/echo/x", content=b"12345", headers={"X-Request-ID": "one"})
        client.post("/v1/try/stream", headers={"X-Request-ID": "two"})
        client.get("/v1/nothing", headers={"X-Request-ID": "three"})
    lines = {line["request_id"]: line for line in map(json.loads, (record.getMessage() for record in caplog.records))}
    assert lines.keys() == {"one", "two", "three"}
    one, two, three = lines["one"], lines["two"], lines["three"]
    assert (one["method"], one["route"], one["status"]) == ("POST", "/v1/try/echo/{name}", 200)
    assert one["client"] == SECRETS["plain"][1].id and (one["bytes_in"], one["bytes_out"]) == (5, 11)
    assert 0 < two["first_token_seconds"] <= two["seconds"]
    assert (two["prompt_tokens"], two["completion_tokens"]) == (7, 2)
    assert (three["route"], three["status"]) == ("none", 404) and "prompt_tokens" not in three
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["time"])


def test_the_log_can_be_turned_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with guarded(tmp_path, log=False) as server, server.client("plain") as client:
        assert client.post("/v1/try/echo/x").status_code == 200
    assert not [record for record in caplog.records if record.name == "serving.access"]


def test_key_ids_are_not_made_of_keys() -> None:
    secret, key = new_key("x")
    assert isinstance(key, Key) and key.id[4:] not in secret + key.sha256
