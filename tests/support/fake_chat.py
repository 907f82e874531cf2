"""An OpenAI-compatible chat server with a fake model, on a real port, that misbehaves if a request's text says so.

The last user message of a request may contain one of `Misbehaviour`'s words in square brackets, such as [500]. A word
with a number, as [429 x2], happens that many times to this request; then it is answered. As a program it prints its URL
and counts what it was asked in a file:

    python -m tests.support.fake_chat FILE
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

MODEL = "fake-vl-7b"
REFUSAL = "I'm sorry, but I cannot help with that."
POLITE = "Certainly! In the picture one can see: "


class FakeChat(ThreadingHTTPServer):
    """The server.

    Attributes:
        bodies: every request, in the order of arrival.
        asked: how often each request came, by the digest of its body.
        key: if not empty, the only key that is accepted.
        hold: called before each answer; a test may block in it.
        connections: how many were opened.
        peak: the most requests at once.
    """

    daemon_threads = True
    handler: type[BaseHTTPRequestHandler]
    request_queue_size = 256

    def __init__(self, port: int = 0, model: str = MODEL, answer: Callable[[str], str] | None = None):
        super().__init__(("127.0.0.1", port), self.handler)
        self.model = model
        self.answer = answer or (lambda text: POLITE + text.rpartition("Annotation:")[2].strip() + ".")
        self.bodies: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.key = ""
        self.hold: Callable[[], object] = lambda: None
        self.connections = self.at_once = self.peak = 0
        self.lock = threading.Lock()
        self.sockets: set[socket.socket] = set()
        self.noted: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.connections += 1
            self.sockets.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go away, and some tests break the server on purpose."""

    def die(self) -> None:
        """Close the port and every connection, as a killed process does."""
        self.shutdown()
        self.server_close()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class ChatHandler(BaseHTTPRequestHandler):
    server: FakeChat
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        with self.server.lock:
            self.server.bodies.append(body)
            digest = hashlib.sha256(data).hexdigest()
            self.server.asked[digest] += 1
            before = self.server.asked[digest] - 1
            self.server.at_once += 1
            self.server.peak = max(self.server.peak, self.server.at_once)
            if self.server.noted:
                with self.server.noted.open("a") as file:
                    file.write(digest + "\n")
        try:
            self.server.hold()
            self.reply(body, before)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def reply(self, body: dict[str, Any], before: int) -> None:
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return self.error(401, "wrong key")
        if body["model"] != self.server.model:
            return self.error(404, f"The model `{body['model']}` does not exist.")
        text, images = said(body)
        found = re.search(r"\[([A-Za-z0-9 ]+?)(?: x(\d+))?\](?!.*\[)", text)
        word = found[1] if found and before < int(found[2] or 1_000_000) else ""
        if word.isdigit():
            return self.error(int(word), "the server says why", {"Retry-After": "0"})
        if word == "html":
            return self.send(200, b"<html>busy</html>")
        if word == "half":
            self.send(200, b'{"choices": [{"mess', length=500)
            return self.connection.shutdown(socket.SHUT_RDWR)
        if word == "no picture" and images:
            return self.error(400, "cannot load the image")
        answer, reason = self.server.answer(text), "stop"
        answer = {"prompt": text, "empty": "  ", "refusal": REFUSAL, "100 kB": "word " * 20_001}.get(word, answer)
        answer, reason = (answer[:20], "length") if word == "cut" else (answer, reason)
        answer, reason = ("", "content_filter") if word == "filtered" else (answer, reason)
        if "response_format" in body and word != "no json":
            answer = json.dumps({"polite": answer})
        words = len(text.split())
        return self.send(200, json.dumps({
            "model": "another-13b" if word == "another model" else body["model"],
            "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": answer}}],
            "usage": {
                "prompt_tokens": words + 100 * len(images), "completion_tokens": len(answer.split()),
                "prompt_tokens_details": {"cached_tokens": words // 2},
            },
        }).encode())  # fmt: skip

    def error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps({"error": {"message": message}}).encode(), headers)

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int = 0) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)


FakeChat.handler = ChatHandler


def said(body: dict[str, Any]) -> tuple[str, list[Pillow.Image]]:
    """Return the text of a request's last message, and its pictures, decoded."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content, []
    texts = [part["text"] for part in content if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return "\n".join(texts), [Pillow.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


@contextlib.contextmanager
def fake_chat(**settings: Any) -> Iterator[FakeChat]:
    """Serve in a thread until the block ends."""
    server = FakeChat(**settings)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.die()


if __name__ == "__main__":
    served = FakeChat()
    served.noted = Path(sys.argv[1])
    print(served.url, flush=True)
    served.serve_forever()
