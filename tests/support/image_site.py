"""A local web server of images, for tests of downloads."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.download import Limits, fetch
from tests.support.patience import PATIENCE

PATIENT = Limits(connect=PATIENCE, read=PATIENCE, total=2 * PATIENCE, pause=0.0)


HERE = "127.0.0.1"


Answer = Callable[[BaseHTTPRequestHandler], None]


def picture() -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 6), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Site:
    """A server on 127.0.0.1 whose pages are functions of the handler; remembers what was asked."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, host: str = HERE) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                site.pages.get(self.path.partition("?")[0], plain(404))(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = family

            def handle_error(self, *arguments: Any) -> None:
                pass  # clients that hang up are what is tested

        self.server = Server((host, 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def plain(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def refused(url: object, *hosts: str, limits: Limits = PATIENT) -> BadSample:
    with pytest.raises(BadSample) as caught:
        fetch(url, hosts, limits)
    return caught.value
