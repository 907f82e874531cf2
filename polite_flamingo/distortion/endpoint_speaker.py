"""The terse robot behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, or somebody's service.

Many requests are in flight at once. `endpoints/client.py` handles busy, broken and refusing servers; a request that the
server rejects fails its row.

A chat server is probed once: whether it can continue a started turn, and whether its template has a system role. If
not, it gets a plain question (`llm_prompts.question_messages`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.llm_prompts import (
    CLOSING,
    continuation_messages,
    parse_continuation,
    parse_note,
    plain_prompt,
    question_messages,
)
from polite_flamingo.distortion.speakers import ASKED_PLAINLY, CHAT_WORDINGS, TRIAL, SpeakerRequest, Wording
from polite_flamingo.endpoints.answers import Unfinished, first_choice, without_reasoning
from polite_flamingo.endpoints.client import EndpointDown, Refused, Server
from polite_flamingo.sample import BadSample
from polite_flamingo.seeds import seed_number


class EndpointSpeaker:
    """A speaker that asks a server; see `speakers.Speaker`."""

    commands = tuple(COMMANDS)

    def __init__(self, config: DistortionConfig):
        self._config = config
        self._endpoint = config.endpoint
        self._server = Server(config.endpoint.url, config.endpoint)
        self._wording: Wording | None = None if config.endpoint.api == "chat" else "completion"
        self._probing = threading.Lock()

    @property
    def name(self) -> str:
        """The model of the server."""
        return self._endpoint.model

    @property
    def wording(self) -> Wording:
        """How the server is prompted; a chat server is probed on first use.

        Raises:
            EndpointDown: the server accepts no wording.
        """
        with self._probing:
            if self._wording is None:
                self._wording = self._probe()
        return self._wording

    def try_out(self) -> Wording:
        """Send one request, to notice a broken server before work begins, and return the wording.

        Raises:
            EndpointDown: the server does not answer; the message says why and what to do.
        """
        if self._endpoint.api == "chat":
            return self.wording
        try:
            self._server.try_out("/completions", self._body(TRIAL, "completion"), first_choice)
        except EndpointDown as down:
            hint = "" if "/completions" not in str(down) else (
                "; a server without completions, such as make serve's, takes --distortion.endpoint.api chat"
            )  # fmt: skip
            raise EndpointDown(f"{down}{hint}") from None
        return "completion"

    def say(self, requests: Sequence[SpeakerRequest]) -> list[str | BadSample]:
        """Send all requests, `endpoint.concurrency` at once.

        Raises:
            EndpointDown: the server is down; the remaining requests are not sent.
        """
        wording = self.wording
        with ThreadPoolExecutor(self._endpoint.concurrency) as threads:
            return [*threads.map(partial(self._ask, wording=wording), requests)]  # cancels the rest if one raises

    def _ask(self, request: SpeakerRequest, wording: Wording) -> str | BadSample:
        path = "/completions" if wording == "completion" else "/chat/completions"
        try:
            text = self._server.post(path, self._body(request, wording), first_choice)
        except Refused as refused:
            return BadSample("distortion_failed", str(refused))
        return distorted_text(text, request.command, wording)

    def _probe(self) -> Wording:
        """Return the first wording that works. A server that ignores unknown fields never closes the quotation."""
        refused: list[EndpointDown] = []
        wordings: list[Wording] = [*CHAT_WORDINGS, ASKED_PLAINLY]
        while wordings:
            wording = wordings.pop(0)
            try:
                text = self._server.try_out(
                    "/chat/completions", {**self._body(TRIAL, wording), "temperature": 0}, first_choice
                )
            except EndpointDown as down:
                if down.status not in (400, 422, 500, 501):
                    raise
                refused.append(down)
                continue
            if wording == ASKED_PLAINLY or parse_continuation(without_reasoning(text), TRIAL.command)[1]:
                return wording
            wordings = [ASKED_PLAINLY]
        raise refused[0]

    def _body(self, request: SpeakerRequest, wording: Wording) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "max_tokens": self._config.max_new_tokens,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "seed": seed_number(request.seed),
        }
        if wording == "completion":
            return {**body, "prompt": plain_prompt(request), "stop": list(CLOSING[:2])}
        if wording == ASKED_PLAINLY:
            return {**body, "messages": question_messages(request)}
        begun = continuation_messages(request, system=wording == "begun turn")
        return {**body, "messages": begun, "continue_final_message": True, "add_generation_prompt": False}


def distorted_text(text: str, command: str, wording: Wording) -> str:
    """Return the distorted text in an answer; an empty `Unfinished` if it was cut before the quotation ended."""
    why = text.why if isinstance(text, Unfinished) else None
    text = without_reasoning(text.encode("utf-8", "replace").decode())  # JSON may contain half a surrogate pair
    found, closed = (parse_note(text), False) if wording == ASKED_PLAINLY else parse_continuation(text, command)
    return found if closed or why is None else Unfinished("", why)
