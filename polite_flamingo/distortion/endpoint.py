"""The terse robot behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, or somebody's service.

Many requests are under way at once. What a busy, broken or refusing server means is for `polite_flamingo/endpoint.py`;
what it will not take fails as a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.conversation import (
    CLOSING,
    asking_messages,
    number_of,
    plain_prompt,
    quoted,
    quoted_after_asking,
)
from polite_flamingo.distortion.speakers import Request
from polite_flamingo.endpoint import Refused, Server
from polite_flamingo.sample import BadSample


class EndpointSpeaker:
    """Asks a server; see `speakers.Speaker`."""

    commands = tuple(COMMANDS)

    def __init__(self, config: DistortionConfig):
        self._config = config
        self._endpoint = config.endpoint
        self._server = Server(config.endpoint.url, config.endpoint)

    @property
    def name(self) -> str:
        """The server's model."""
        return self._endpoint.model

    def say(self, requests: Sequence[Request]) -> list[str | BadSample]:
        """All at once, as many under way as the configuration allows.

        Raises:
            EndpointDown: the server is; requests that are not under way yet are not sent.
        """
        with ThreadPoolExecutor(self._endpoint.concurrency) as threads:
            asked = [threads.submit(self._ask, request) for request in requests]
            try:
                return [one.result() for one in asked]
            finally:
                for one in asked:
                    one.cancel()

    def _ask(self, request: Request) -> str | BadSample:
        chat = self._endpoint.api == "chat"
        path = "/chat/completions" if chat else "/completions"
        try:
            return self._server.post(path, self._body(request), partial(_answer, request=request, chat=chat))
        except Refused as refused:
            return BadSample("distortion_failed", str(refused))

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "max_tokens": self._config.max_new_tokens,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "seed": number_of(request.seed),
        }
        if self._endpoint.api == "chat":
            return {**body, "messages": asking_messages(request)}
        return {**body, "prompt": plain_prompt(request), "stop": list(CLOSING[:2])}


def _answer(answer: dict[str, Any], *, request: Request, chat: bool) -> str:
    """The distorted text of a server's answer; "" where it was cut before the quotation ended."""
    choice = answer["choices"][0]
    text = choice["message"]["content"] if chat else choice["text"]
    if not isinstance(text, str):
        raise TypeError("no text")
    text = text.encode("utf-8", "replace").decode()  # JSON may name halves of surrogate pairs
    cut = choice.get("finish_reason") == "length"
    if chat:
        return "" if cut else quoted_after_asking(text, request.command)
    return quoted(text) if any(mark in text for mark in CLOSING) else "" if cut else text.strip()
