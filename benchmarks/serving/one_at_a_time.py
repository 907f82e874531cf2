"""The baseline of the serving benchmark: the shape of the reference's server, made as good as that shape allows.

    python -m benchmarks.serving.one_at_a_time --profile profiles/tiny.yaml --port 8001 --dtype float32 --threads 2

A thread a connection, one answer at a time behind a lock, every prompt logged; each answer by open_flamingo and
transformers' `generate`, images and prompt anew. Unlike the reference's it streams (transformers' own streamer), keeps
connections alive, stays warm, and skips a request whose client has gone: what is measured is the way of serving.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import select
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image as Pillow

from benchmarks.serving.chat_requests import understood
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.engine.beam_search import arguments
from polite_flamingo.images import decoding
from polite_flamingo.packing.chat_turns import conversation_ids
from polite_flamingo.rewriters.flamingo import Rewriter, chatting
from serving.config import ServiceConfig, from_profile

# isort: split
import transformers

LOG = logging.getLogger("one_at_a_time")


class Reference:
    """Answers one conversation at a time."""

    def __init__(self, config: RewriterConfig):
        rewriter = Rewriter(replace(config, engine=replace(config.engine, slots=1, copies=1)), prompt=chatting)
        self._model, self._tokenizer = rewriter.model, rewriter.model.tokenizer
        self._positions = rewriter.positions
        ends = [self._tokenizer.eos_id]
        if self._model.attention == "v2":
            ends.append(self._tokenizer.end_of_chunk_id)
        self._ends = ends
        self._extra = arguments(replace(config.generation, do_sample=False)) | {
            "eos_token_id": ends,
            "pad_token_id": self._tokenizer.pad_id,
        }

    def answer(self, body: dict[str, Any], count: list[int]) -> Iterator[str]:
        """The text as it comes; `count` gets the number of chosen tokens."""
        turns, pictures = understood(body["messages"])
        ids = conversation_ids(turns, self._tokenizer)
        new = body.get("max_tokens") or self._positions - len(ids)
        shown = [Pillow.open(io.BytesIO(data)).convert("RGB") for data in pictures] or [decoding.black()]
        weight = self._model.lang_encoder.get_input_embeddings().weight
        vision_x = torch.stack([self._model.preprocess(one) for one in shown])[None, :, None].to(weight.dtype)
        lang_x = torch.tensor([ids])
        streamer = transformers.TextIteratorStreamer(_Plain(self._tokenizer, self._ends), skip_prompt=True)
        failure: list[BaseException] = []

        def generate() -> None:
            try:
                extra = self._extra | {"max_new_tokens": new, "streamer": streamer}
                out = self._model.generate(vision_x, lang_x, torch.ones_like(lang_x), **extra)
                count.append(out.shape[1] - len(ids))
            except BaseException as error:
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=generate)
        thread.start()
        yield from streamer
        thread.join()
        if failure:
            raise failure[0]


class _Plain:
    """Our tokenizer where transformers' streamer wants one of its own."""

    def __init__(self, tokenizer: Any, ends: list[int]):
        self._tokenizer, self._ends = tokenizer, ends

    def decode(self, ids: Any, **_: Any) -> str:
        """As the streamer calls it."""
        return self._tokenizer.decode([int(token) for token in ids if int(token) not in self._ends])


def handler(reference: Reference) -> type[BaseHTTPRequestHandler]:
    """The class that `http.server` makes an object of for each connection."""
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            """One chat completion, streamed."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time:
                if gone(self.connection):
                    self.close_connection = True
                    return
                LOG.info("prompt: %s", [turn.prompt for turn in understood(body["messages"])[0]])
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                count: list[int] = []
                for text in reference.answer(body, count):
                    if text:
                        self._event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
                usage = {"completion_tokens": count[0]}
                self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
                self._write(b"data: [DONE]\n\n", last=True)

        def _event(self, event: dict[str, Any]) -> None:
            self._write(b"data: " + json.dumps(event).encode() + b"\n\n")

        def _write(self, data: bytes, last: bool = False) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) + (b"0\r\n\r\n" if last else b""))
            self.wfile.flush()

        def do_GET(self) -> None:
            """Health."""
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            LOG.info(format, *args)

    return Handler


def gone(connection: socket.socket) -> bool:
    """Whether the other side has closed."""
    try:
        readable = select.select([connection], [], [], 0)[0]
        return bool(readable) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as clients may open."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """As its parent, but a client that goes away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def start(config: ServiceConfig, port: int) -> Server:
    """A server, ready to `serve_forever`; port 0 takes a free one."""
    reference = Reference(config.serving.chat)
    for _ in reference.answer({"messages": [{"role": "user", "content": "What colour is the circle?"}]}, []):
        pass  # the first calls of torch take longer
    return Server(("127.0.0.1", port), handler(reference))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--override", action="append", default=[], help="NAME=VALUE of the profile")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    overrides = dict(one.split("=", 1) for one in options.override)
    overrides |= {"serving.chat.dtype": options.dtype, "serving.chat.threads": str(options.threads)}
    server = start(from_profile(options.profile, overrides), options.port)
    print(f"READY http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
