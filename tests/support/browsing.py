"""The page in a real browser, in front of the real application over tiny models, on a real port.

A test gets a `Visit`: a fresh tab whose console, requests and policy violations are watched, and the `Directed`
backend behind it, which a test can pause, make fail, or give answers to. Playwright's loop stays in the thread that
started it, so these fixtures end with each module: other tests call `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from polite_flamingo.sample import Sample
from serving.backends.base import Chunk, GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.config import AccessConfig, ServiceConfig
from serving.errors import ApiError
from serving.server.app import create_app
from tests.support.patience import PATIENCE
from tests.support.paused_engine import hold
from tests.support.rewriting_service import service_config
from tests.support.stub_service import serving_on_a_port
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt install chromium)")

SCORES = {
    "words": 9, "characters": 48, "same_text": False, "rouge_l": 0.2, "repetition": 0.0, "reward_raw": -3.5,
    "reward": 4.25, "sts": 0.71, "clip_paragraphs": [31.5], "nli": [-2.0, 3.0, 0.5],
}  # fmt: skip
"""What `Numbers` gives unless a test changes it: every filter keeps it."""


class Numbers:
    """Scores without models: the judge is the real one."""

    def __init__(self) -> None:
        self.scores: dict[str, Any] = dict(SCORES)

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        return [dict(self.scores) for _ in samples]


class Directed(LocalBackend):
    """The tiny engines, or the words of `says`; both pause after the first words while `free` is not set."""

    def __init__(self, hosts: Sequence[EngineHost], numbers: Numbers):
        super().__init__(hosts, numbers)
        self.hosts, self.numbers, self.free = hosts, numbers, threading.Event()
        for host in hosts:
            for engine in host._engines:
                hold(engine, self.free)
        self.reset()

    def reset(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.says: list[str] = []
        self.refuses: list[ApiError] = []
        self.fails: ApiError | None = None
        self.numbers.scores = dict(SCORES)
        self.free.set()

    @property
    def open_streams(self) -> int:
        return sum(engine.open_streams for host in self.hosts for engine in host._engines)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.asked.append(request)
        if self.refuses:
            raise self.refuses.pop(0)
        said = ""
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                yield piece
                if self.fails:
                    raise self.fails
                said += piece.text
                while said.strip() and not self.free.is_set():
                    await asyncio.sleep(0.005)

    async def _pieces(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if not self.says:
            async with aclosing(super().stream(request)) as pieces:
                async for piece in pieces:
                    yield piece
        for number, text in enumerate(self.says):
            yield Chunk(text, (1,), "stop" if number == len(self.says) - 1 else "", 5)


@dataclass
class Visit:
    """A tab with the page, and what it noticed. `calm` is checked at the end of every test."""

    page: Page
    url: str
    backend: Directed
    config: ServiceConfig
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("console", lambda said: self._heard(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.addresses.append(request.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):  # an HTTP error is no bug
            self.complaints.append(text)

    def go(self, where: str = "") -> Visit:
        """To the page, until its script has come to its end: it knows the service's limits then."""
        self.page.goto(self.url + where)
        self.page.evaluate("() => import('/page/page.js')")
        return self

    def send(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.keyboard.press("Enter")

    def wait_for_answer(self, number: int = 1) -> str:
        """The text of the `number`th answer, when it is whole."""
        answers = self.page.locator(".message.assistant:not(.busy)")
        answers.nth(number - 1).wait_for()
        return answers.nth(number - 1).locator(".text").inner_text()

    def give_files(self, how: str, files: list[tuple[str, str, bytes]]) -> None:
        """Drop or paste files: (name, type, bytes)."""
        self.page.evaluate(
            """([how, files]) => {
                const transfer = new DataTransfer();
                for (const [name, type, bytes] of files)
                    transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
                const told = { bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer };
                if (how === "paste") document.activeElement.dispatchEvent(new ClipboardEvent("paste", told));
                else for (const kind of ["dragenter", "dragover", "drop"])
                    document.body.dispatchEvent(new DragEvent(kind, told));
            }""",
            [how, [(name, kind, list(data)) for name, kind, data in files]],
        )

    def calm(self) -> None:
        assert self.complaints == []
        strange = [one for one in self.addresses if not one.startswith((self.url, "data:", "blob:"))]
        assert strange == [], "the page sent requests to other hosts"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1000 * PATIENCE)
        yield started
        started.close()


@dataclass(frozen=True)
class Stage:
    """What a module's tests share."""

    browser: Browser
    backend: Directed
    config: ServiceConfig
    url: str

    @contextmanager
    def visit(self, *, access: AccessConfig | None = None, **context: Any) -> Iterator[Visit]:
        """Open a fresh tab; with `access`, on its own service with that access."""
        if access is not None:
            config = replace(self.config, serving=replace(self.config.serving, access=access))
            with serving_on_a_port(create_app(config, self.backend)) as (host, port):
                guarded = replace(self, config=config, url=f"http://{host}:{port}/")
                with guarded.visit(**context) as visit:
                    yield visit
            return
        self.backend.reset()
        tab = self.browser.new_context(**{"reduced_motion": "reduce", **context})
        visit = Visit(tab.new_page(), self.url, self.backend, self.config)
        visit.watch()
        yield visit
        visit.calm()
        self.backend.free.set()
        tab.close()


@pytest.fixture(scope="module")
def stage(browser: Browser, tiny: Tiny, model_v2: FlamingoModel) -> Iterator[Stage]:
    config = service_config(tiny)
    config = replace(config, serving=replace(config.serving, access=AccessConfig(log=False)))
    hosts = [
        EngineHost(name, config.rewriter, chat=chat, model=model_v2, flush_seconds=0.0)
        for name, chat in ((config.serving.chat_name, True), (config.serving.rewriter_name, False))
    ]
    backend = Directed(hosts, Numbers())
    with serving_on_a_port(create_app(config, backend)) as (host, port):
        yield Stage(browser, backend, config, f"http://{host}:{port}/")


@pytest.fixture
def visit(stage: Stage) -> Iterator[Visit]:
    with stage.visit() as visit:
        yield visit.go()
