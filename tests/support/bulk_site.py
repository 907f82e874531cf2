"""Fixtures of bulk jobs: the service on a port, a runner of tiny builds, and the official client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from serving.backends.local import LocalBackend
from serving.batches.runner import BatchRunner
from serving.batches.store import BatchStore
from serving.config import AccessConfig, ServiceConfig
from serving.http.keys import new_key, write_keys
from serving.server.app import create_app
from tests.support.patience import PATIENCE, wait_until
from tests.support.run_batches import bulk_config, runner


def line(custom_id: str, raw: str = "a plain row", **body: Any) -> str:
    asked = {"instruction": "Say it nicely.", "raw": raw} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/rewrite", "body": asked})


class Site:
    """A service on a port, with two keys."""

    def __init__(self, config: ServiceConfig, folder: Path, other: Site | None = None):
        """Args: folder: of the file of keys. other: a service that uses this file already."""
        if other is None:
            made = {name: new_key(name) for name in ("ann", "bob")}
            write_keys(folder / "keys.json", [key for _, key in made.values()])
            self.secrets = {name: secret for name, (secret, _) in made.items()}
        else:
            self.secrets = other.secrets
        access = AccessConfig(keys=str(folder / "keys.json"), log=False)
        self.config = replace(config, serving=replace(config.serving, access=access))
        self.store = BatchStore(config.serving.batches)
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(self.config, LocalBackend([])), port=0, log_level="error", lifespan="off")
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/v1"

    def client(self, key: str = "ann") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.secrets[key], max_retries=0, timeout=PATIENCE)


@contextlib.contextmanager
def site(config: ServiceConfig, folder: Path, other: Site | None = None) -> Iterator[Site]:
    """A service without a runner; see `Site`."""
    made = Site(config, folder, other)
    thread = threading.Thread(target=made.server.run)
    thread.start()
    try:
        wait_until(lambda: made.server.started)
        yield made
    finally:
        made.server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("bulk")
    with site(bulk_config(folder / "jobs", file_bytes=50_000), folder) as made:
        yield made


def upload(client: openai.OpenAI, *lines: str | bytes, **changes: Any) -> Any:
    data = b"\n".join(one.encode() if isinstance(one, str) else one for one in lines)
    return client.files.create(**({"file": ("lines.jsonl", data), "purpose": "batch"} | changes))


def start(client: openai.OpenAI, file: Any, **changes: Any) -> Any:
    wanted = {"input_file_id": file.id, "endpoint": "/v1/rewrite", "completion_window": "24h"}
    return client.batches.create(**(wanted | changes))


def run(config: ServiceConfig, until: Callable[[], bool], made: BatchRunner | None = None) -> None:
    """Run a runner while inside."""

    async def work() -> None:
        batches = made or runner(config)
        batches.start()
        try:
            deadline = time.monotonic() + PATIENCE
            while not until():
                assert batches.failure is None
                assert time.monotonic() < deadline, "it never happened"
                await asyncio.sleep(0.02)
        finally:
            await batches.stop()

    asyncio.run(work())


def read(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    """Return the lines of a result file."""
    return [json.loads(one) for one in client.files.content(file).text.splitlines()] if file else []


def ended(client: openai.OpenAI, *jobs: Any) -> Callable[[], bool]:
    words = ("completed", "failed", "cancelled", "expired")
    return lambda: all(client.batches.retrieve(job.id).status in words for job in jobs)


def accounted(client: openai.OpenAI, job: Any, names: set[str | None]) -> tuple[Any, list[Any], list[Any]]:
    """Assert that each line is in exactly one result file, and that the counts agree."""
    job = client.batches.retrieve(job.id)
    good, bad = read(client, job.output_file_id), read(client, job.error_file_id)
    assert sorted(str(one["custom_id"]) for one in good + bad) == sorted(map(str, names))
    numbers = [one["line"] for one in good + bad]
    assert len(numbers) == len(set(numbers))
    counts = job.request_counts
    assert (counts.completed, counts.failed, counts.total) == (len(good), len(bad), len(good) + len(bad))
    return job, good, bad
