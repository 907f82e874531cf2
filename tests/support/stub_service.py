"""The real application over a stub backend without models, on a real port.

Routes that tests need are added under /v1/try: the middleware must not depend on the routes behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from serving.backends.base import Chunk, GenerationRequest
from serving.config import AccessConfig, BatchesConfig, LimitsConfig, ServiceConfig, ServingConfig
from serving.errors import server_error
from serving.server.app import create_app
from tests.support.patience import PATIENCE
from tests.support.sections import section

FIGURES = {"clever-flamingo/0": {"streams": 3.0, "slots": 8.0}, "polite-flamingo/0": {"streams": 1.0, "slots": 4.0}}


class StubBackend:
    """A `Backend` that only reports its state."""

    def __init__(self) -> None:
        self.figures_now: Mapping[str, dict[str, float]] | Exception = FIGURES
        self.well = True
        self.others: dict[str, list[Any]] = {}

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk(request.model, (1,), "stop", 1)

    async def score(self, samples: Any) -> list[Any]:
        return []

    async def engine_metrics(self) -> dict[str, dict[str, float]]:
        if isinstance(self.figures_now, Exception):
            raise self.figures_now
        return dict(self.figures_now)

    async def ingress_metrics(self, own: list[Any]) -> dict[str, list[Any]]:
        return {"local": own, **self.others}

    async def ready(self) -> bool:
        return self.well


@dataclass
class Tried:
    """What the routes under /v1/try saw."""

    bodies: list[bytes] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    streaming: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Before the next test."""
        self.bodies.clear()
        self.clients.clear()
        for event in (self.streaming, self.closed, self.go_on):
            event.clear()


def configured(
    *, access: AccessConfig | None = None, limits: LimitsConfig | None = None, batches: BatchesConfig | None = None
) -> ServiceConfig:
    models = RewriterConfig(flamingo=FlamingoConfig(folder="none"))
    serving = ServingConfig(chat=models)
    given = {"access": access, "limits": limits, "batches": batches}
    serving = replace(serving, **{name: value for name, value in given.items() if value is not None})
    return ServiceConfig(rewriter=section(models), serving=serving)


def application(config: ServiceConfig, backend: StubBackend | None = None) -> tuple[FastAPI, Tried]:
    app, tried = create_app(config, backend or StubBackend()), Tried()

    @app.post("/v1/try/echo/{name}")
    async def echo(name: str, request: Request) -> dict[str, int]:
        tried.clients.append(request.state.client)
        tried.bodies.append(await request.body())
        return {"bytes": len(tried.bodies[-1])}

    @app.post("/v1/try/json")
    async def json_body(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.post("/v1/try/wait")
    async def wait() -> str:
        tried.streaming.set()
        await asyncio.to_thread(tried.go_on.wait, PATIENCE)
        return "done"

    @app.post("/v1/try/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            try:
                request.state.stats.first_token()
                yield "data: 1\n\n"
                tried.streaming.set()
                while not tried.go_on.is_set():
                    await asyncio.sleep(0.005)
                yield "data: 2\n\n"
            finally:
                request.state.stats.count("clever-flamingo", 7, 2)
                tried.closed.set()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @app.post("/v1/try/fail")
    async def fail(body: dict[str, Any]) -> None:
        try:
            raise KeyError(body["prompt"])
        except KeyError as error:
            raise RuntimeError(f"cannot work on {body['prompt']}") from error

    @app.post("/v1/try/fail_known")
    async def fail_known(body: dict[str, Any]) -> None:
        raise server_error("the model failed; try again", "engine_failed") from KeyError(body["prompt"])

    @app.post("/v1/try/fail_late")
    async def fail_late(body: dict[str, Any]) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            raise RuntimeError(f"cannot go on with {body['prompt']}")

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return app, tried


@contextlib.contextmanager
def serving_on_a_port(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Run uvicorn in a thread; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield "127.0.0.1", listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
