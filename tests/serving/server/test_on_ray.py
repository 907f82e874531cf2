"""The service on Ray Serve: replicas that die, are replaced, are full or drain, and what callers see of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from PIL import Image as Pillow

from polite_flamingo.flamingo.config import EngineConfig, GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.prompts import chat_prompt
from ray_jobs.serve import NAME, ServeConfig, serve_until
from serving.backends.base import GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.config import ReplicasConfig, ScaleConfig, ServingConfig
from serving.errors import ApiError
from tests.support.readme import REPO, python_snippet
from tests.support.sections import section
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:  # it imports ray.serve, before the environment for it is set
    from serving.backends.ray_serve import RayBackend

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

Answer = TypeVar("Answer")

CHAT = "clever-flamingo"
LOOP = asyncio.new_event_loop()
"""One for all tests, in a thread of its own: Serve's handles stay with the loop that used them first."""


@dataclass(frozen=True)
class Service:
    """What runs, and where."""

    config: ServeConfig
    thread: threading.Thread
    stop: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.port}"


@pytest.fixture(scope="module")
def service(tiny: Tiny, ray_session: None) -> Iterator[Service]:
    """Two replicas answer, each with two slots and few waiting places."""
    model = RewriterConfig(
        flamingo=tiny.config,
        generation=GenerationConfig(num_beams=1, do_sample=False, max_new_tokens=400),
        engine=EngineConfig(slots=2),
        device="cpu",
        threads=1,
    )
    little = ReplicasConfig(cpus=0.1)
    serving = ServingConfig(
        chat=model,
        waiting=40,
        flush_seconds=0.02,
        scale=ScaleConfig(
            ingress=little, chat=replace(little, min=2, max=2, queued=100), rewriting=little, scoring=little
        ),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig(rewriter=section(model), serving=serving, port=port)
    stop, failures = threading.Event(), []

    def serving_thread() -> None:
        try:
            serve_until(stop, config)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serving_thread)
    thread.start()
    running = Service(config, thread, stop)
    while not failures and not healthy(running):
        thread.join(0.2)
    assert not failures, failures
    yield running
    stop.set()
    thread.join()
    assert not failures, failures


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    thread = threading.Thread(target=LOOP.run_forever)
    thread.start()
    yield
    LOOP.call_soon_threadsafe(LOOP.stop)
    thread.join()
    LOOP.close()


def run(scenario: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run_coroutine_threadsafe(scenario, LOOP).result()


def healthy(service: Service) -> bool:
    try:
        with urllib.request.urlopen(f"{service.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(number: int, tokens: int = 120) -> GenerationRequest:
    """Each another question, drawn at high temperature: a tiny model's greedy answers are all alike."""
    prompt = chat_prompt(f"What is number {number}?")
    return GenerationRequest(
        model=CHAT,
        exchanges=(Exchange(prompt=prompt, target="", images=0),),
        params=SamplingParams(max_new_tokens=tokens, temperature=1.0, seed=number),
    )


def backend() -> RayBackend:
    from ray import serve

    from serving.backends.ray_serve import RayBackend

    chat, scoring, board = (serve.get_deployment_handle(name, NAME) for name in ("chat", "scoring", "board"))
    return RayBackend({CHAT: chat}, scoring, board)


async def answer(of: RayBackend | EngineHost, wanted: GenerationRequest, begun: asyncio.Event | None = None) -> str:
    text = ""
    async with aclosing(of.stream(wanted)) as chunks:
        async for chunk in chunks:
            text += chunk.text
            if begun is not None:
                begun.set()
    return text


def test_answers_are_those_of_the_engine_alone(service: Service) -> None:
    async def both() -> tuple[list[str], list[str]]:
        on_ray = backend()
        host = EngineHost(CHAT, service.config.serving.chat, chat=True)
        alone = [await answer(host, ask(number)) for number in range(6)]
        await host.aclose()
        return alone, list(await asyncio.gather(*(answer(on_ray, ask(number)) for number in range(6))))

    alone, served = run(both())
    assert served == alone and len(set(alone)) == 6


def test_the_client_of_the_readme_gets_an_answer(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "serve --profile profiles/tiny.yaml --port $(PORT)" in (REPO / "Makefile").read_text()
    snippet = python_snippet("OpenAI")
    (picture,) = re.findall(r'open\("(out/demo/.+?)", "rb"\)', snippet)
    (tmp_path / picture).parent.mkdir(parents=True)
    Pillow.new("RGB", (96, 96), "white").save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    assert snippet.count("http://127.0.0.1:8000/v1") == 1
    exec(snippet.replace("http://127.0.0.1:8000", service.url), {})
    assert capsys.readouterr().out.strip()


def replicas(name: str) -> list[int]:
    """Process ids of a deployment's replicas, of this test's Ray."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            ours = f"PYTEST_CURRENT_RUN={os.getpid()}".encode() in environment
            if command.startswith(f"ray::ServeReplica:{NAME}:{name}".encode()) and ours:
                found.append(int(folder.name))
    return sorted(found)


def test_a_replica_killed_under_load_costs_nobody_an_answer(service: Service) -> None:
    """Its open answers are generated again elsewhere, and continue where they were."""

    async def scenario() -> tuple[list[str], list[str]]:
        on_ray = backend()
        whole = [await answer(on_ray, ask(number, 300)) for number in range(12)]
        begun = asyncio.Event()
        asked = [asyncio.create_task(answer(on_ray, ask(number, 300), begun)) for number in range(12)]
        await begun.wait()
        os.kill(replicas("chat")[0], signal.SIGKILL)
        return whole, list(await asyncio.gather(*asked))

    whole, after = run(scenario())
    assert after == whole


def test_who_leaves_gives_his_slot_back(service: Service) -> None:
    """Engines stop generating for a client that left. A tiny one may finish first, so several clients leave."""

    async def cancelled() -> float:
        return sum(figures["cancelled_requests"] for figures in (await on_ray.engine_metrics()).values())

    async def scenario() -> None:
        before = await cancelled()
        for number in range(200):
            async with aclosing(on_ray.stream(ask(number, 400))) as chunks:
                await anext(chunks)
            if number >= 8 and await cancelled() > before:
                break
        else:
            raise AssertionError("no engine was told that its reader left")
        while any(figures["streams"] for figures in (await on_ray.engine_metrics()).values()):
            await asyncio.sleep(0.2)  # the test's time-out ends this where a slot is never given back

    on_ray = backend()
    run(scenario())


def test_more_than_there_is_room_for_is_turned_away_and_the_rest_is_answered(service: Service) -> None:
    async def scenario() -> list[object]:
        on_ray = backend()
        return list(await asyncio.gather(*(answer(on_ray, ask(n)) for n in range(400)), return_exceptions=True))

    outcomes = run(scenario())
    answered = [one for one in outcomes if isinstance(one, str)]
    refused = [one for one in outcomes if isinstance(one, ApiError)]
    assert len(answered) + len(refused) == 400
    assert len(answered) >= 40 and refused
    assert {(one.status, one.code) for one in refused} == {(503, "overloaded")}
    assert all(one.retry_after for one in refused)


def test_a_new_version_replaces_the_old_one_and_nobody_notices(service: Service) -> None:
    from ray import serve

    from serving.server.deployments import build

    serving = service.config.serving
    chat = replace(serving.chat, engine=replace(serving.chat.engine, slots=3))
    newer = replace(service.config.service, serving=replace(serving, chat=chat))
    before = set(replicas("chat"))

    async def scenario() -> list[str]:
        on_ray, done = backend(), asyncio.Event()
        texts: list[str] = []

        async def client(number: int) -> None:
            while not done.is_set():
                texts.append(await answer(on_ray, ask(number)))

        clients = [asyncio.create_task(client(number)) for number in range(4)]
        await asyncio.to_thread(lambda: serve.run(build(newer), name=NAME, route_prefix="/"))
        done.set()
        await asyncio.gather(*clients)
        return texts

    texts = run(scenario())
    assert len(texts) > 8 and len(set(texts)) == 4
    assert not before & set(replicas("chat"))


def test_being_stopped_it_finishes_what_it_is_answering(service: Service) -> None:
    async def scenario() -> tuple[str, str]:
        on_ray = backend()
        whole = await answer(on_ray, ask(3, 400))
        begun = asyncio.Event()
        last = asyncio.create_task(answer(on_ray, ask(3, 400), begun))
        await begun.wait()
        service.stop.set()
        return whole, await last

    whole, last = run(scenario())
    assert last == whole
    service.thread.join()
    assert not healthy(service)
