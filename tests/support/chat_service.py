"""The complete chat service on its own port: a tiny Flamingo with random weights behind uvicorn, without Ray."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
from PIL import Image as Pillow

from polite_flamingo.flamingo.config import EngineConfig, GenerationConfig, RewriterConfig
from serving.backends.base import GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.config import AccessConfig, LimitsConfig, RemoteImagesConfig, ServiceConfig, ServingConfig
from serving.server.app import create_app
from tests.support.patience import PATIENCE
from tests.support.paused_engine import hold
from tests.support.sections import section
from tests.support.stub_service import serving_on_a_port
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

CHAT = "clever-flamingo"


def chat_config(
    tiny: Tiny, *, limits: LimitsConfig | None = None, remote: RemoteImagesConfig | None = None
) -> ServiceConfig:
    model = RewriterConfig(
        flamingo=tiny.config,
        generation=GenerationConfig(max_new_tokens=24, num_beams=1, do_sample=False, no_repeat_ngram_size=0),
        engine=EngineConfig(slots=4),
        device="cpu",
        dtype="float32",
    )
    serving = ServingConfig(
        chat=model,
        limits=limits or LimitsConfig(),
        remote_images=remote or RemoteImagesConfig(),
        access=AccessConfig(log=False),
    )
    return ServiceConfig(rewriter=section(model), serving=serving)


class Watched(LocalBackend):
    """Remembers what was asked."""

    def __init__(self, hosts: Sequence[EngineHost]):
        super().__init__(hosts)
        self.asked: list[GenerationRequest] = []

    def stream(self, request: GenerationRequest) -> Any:
        self.asked.append(request)
        return super().stream(request)


@dataclass(frozen=True)
class ChatService:
    url: str
    backend: Watched
    host: EngineHost
    free: threading.Event

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE, **options)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Pause answers after their first words while inside (`paused_engine.py`)."""
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()

    def engine_metrics(self) -> dict[str, float]:
        return self.host.metrics()[f"{CHAT}/0"]


@contextlib.contextmanager
def running(config: ServiceConfig, model: FlamingoModel) -> Iterator[ChatService]:
    host = EngineHost(CHAT, config.serving.chat, chat=True, model=model, waiting=256, flush_seconds=0.0)
    backend, free = Watched([host]), threading.Event()
    free.set()
    hold(host._engines[0], free)
    try:
        with serving_on_a_port(create_app(config, backend)) as (name, port):
            yield ChatService(f"http://{name}:{port}", backend, host, free)
    finally:
        free.set()
        asyncio.run(backend.aclose())


def picture(shade: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (size, size), (shade, 255 - shade, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*content: Any) -> dict[str, Any]:
    """Return a message of one text, or of parts."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}
