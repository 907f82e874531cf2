"""The cost of the middleware per request: CPU microseconds, beside the same application without it.

    python -m benchmarks.serving.middleware [--requests 5000] [--rounds 9]

The applications are called as an ASGI server calls them, with the headers of the openai client, a body of 500 bytes and
an answer of two messages; no socket and no FastAPI route is measured. Rounds alternate, and the fastest counts, because
other load on the machine can only add. Lines of the access log are formatted and written to /dev/null.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.config import AccessConfig, LimitsConfig
from serving.http.keys import KeyRing, new_key, write_keys
from serving.http.metrics import Metrics
from serving.http.middleware import AccessMiddleware

Headers = list[tuple[bytes, bytes]]


class _Route:
    path = "/v1/chat/completions"


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """The application without the middleware."""
    scope["route"] = _Route
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def contestants(folder: Path) -> dict[str, tuple[ASGIApp, Headers]]:
    """Applications and their clients' headers, by name."""
    secret, key = new_key("benchmark")
    write_keys(folder / "keys.json", [replace(key, requests_per_minute=10**9, concurrent_requests=100)])
    ring = KeyRing(folder / "keys.json")

    def guarded(keys: KeyRing | None, **access: Any) -> AccessMiddleware:
        return AccessMiddleware(
            respond, access=AccessConfig(**access), limits=LimitsConfig(), metrics=Metrics(), keys=keys, body_limits={}
        )

    usual = [
        (b"host", b"127.0.0.1:8000"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"OpenAI/Python"),
        *((b"x-stainless-" + name, b"something") for name in (b"lang", b"os", b"arch", b"runtime", b"async")),
    ]
    small, large = [*usual, (b"content-length", b"500")], [*usual, (b"content-length", b"99999999999")]
    known, unknown = (b"authorization", b"Bearer " + secret.encode()), (b"authorization", b"Bearer pf-unknown")
    return {
        "without the middleware": (respond, small),
        "no keys, no log": (guarded(None, log=False), small),
        "no keys, log": (guarded(None), small),
        "key and rate, no log": (guarded(ring, log=False), [*small, known]),
        "key and rate, log": (guarded(ring), [*small, known]),
        "turned away: unknown key": (guarded(ring), [*small, unknown]),
        "turned away: large body": (guarded(ring), [*large, known]),
    }


async def microseconds(app: ASGIApp, headers: Headers, requests: int) -> float:
    """Return the CPU microseconds of one request."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 500, "more_body": False}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": _Route.path, "query_string": b"", "root_path": ""}
    started = time.process_time()
    for _ in range(requests):
        await app({**scope, "headers": list(headers), "state": {}}, receive, send)
    return (time.process_time() - started) / requests * 1e6


async def measure(folder: Path, requests: int, rounds: int) -> dict[str, float]:
    """Return the best of all rounds, by application."""
    found = contestants(folder)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (app, headers) in found.items():
            times[name].append(await microseconds(app, headers, requests))
    return {name: min(several) for name, several in times.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000, help="requests per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    options = parser.parse_args()
    log = logging.getLogger("serving")
    log.setLevel(logging.INFO)
    log.propagate = False
    with Path(os.devnull).open("w") as nowhere, tempfile.TemporaryDirectory() as folder:
        log.addHandler(logging.StreamHandler(nowhere))
        best = asyncio.run(measure(Path(folder), options.requests, options.rounds))
    for name, found in best.items():
        print(f"{name:28}{found:8.1f} µs")


if __name__ == "__main__":
    main()
