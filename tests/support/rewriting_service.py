"""The whole rewriting service in one process: the tiny Flamingo of `tiny_flamingo.py` and the zoo's filters."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx2
from fastapi import FastAPI
from PIL import Image as Pillow

from polite_flamingo.filters.scorer import Scorer, ScoringConfig
from polite_flamingo.flamingo.config import EngineConfig, GenerationConfig, RewriterConfig
from polite_flamingo.sample import Sample
from serving.backends.base import GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.config import LimitsConfig, ServiceConfig, ServingConfig
from serving.server.app import create_app
from tests.support.sections import section
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

SCORING = ScoringConfig(batch_size=8, threads=1)


def service_config(tiny: Tiny, **generation: Any) -> ServiceConfig:
    """Greedy and short unless `generation` says otherwise; both names are the same model."""
    settings: dict[str, Any] = {"max_new_tokens": 24, "num_beams": 1, "do_sample": False, "no_repeat_ngram_size": 0}
    model = RewriterConfig(
        flamingo=tiny.config,
        generation=GenerationConfig(**(settings | generation)),
        engine=EngineConfig(slots=8),
        device="cpu",
        dtype="float32",
    )
    limits = LimitsConfig(rewrites=40, images=4, text_characters=2000)
    return ServiceConfig(rewriter=section(model), serving=ServingConfig(chat=model, limits=limits), scoring=SCORING)


class Watched(LocalBackend):
    """Remembers what was asked."""

    def __init__(self, hosts: Sequence[EngineHost], scorer: Scorer | None):
        super().__init__(hosts, scorer)
        self.asked: list[GenerationRequest] = []
        self.scored: list[list[Sample]] = []

    def stream(self, request: GenerationRequest) -> Any:
        self.asked.append(request)
        return super().stream(request)

    async def score(self, samples: Sequence[Sample]) -> Any:
        self.scored.append(list(samples))
        return await super().score(samples)


@dataclass(kw_only=True)
class Service:
    """The service that a test of the routes calls."""

    app: FastAPI
    backend: Watched
    client: httpx2.AsyncClient


def with_service(
    config: ServiceConfig, model: FlamingoModel, scorer: Scorer | None, use: Callable[[Service], Awaitable[Any]]
) -> Any:
    """Run `use` on a service that lives until it ends."""

    async def run() -> Any:
        name, waiting = config.serving.rewriter_name, config.serving.limits.rewrites  # of one request; no router waits
        host = EngineHost(name, config.rewriter, chat=False, model=model, waiting=waiting, flush_seconds=0.0)
        backend = Watched([host], scorer)
        app = create_app(config, backend)
        try:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
                return await use(Service(app=app, backend=backend, client=client))
        finally:
            await backend.aclose()

    return asyncio.run(run())


def png(shade: int) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Pillow.new("RGB", (24, 24), (shade * 40 % 256, 90, 200 - shade % 100)).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    """Return an image as a browser or the openai client sends it."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def limited(config: ServiceConfig, **limits: Any) -> ServiceConfig:
    """Return the config with other limits."""
    return replace(config, serving=replace(config.serving, limits=replace(config.serving.limits, **limits)))
