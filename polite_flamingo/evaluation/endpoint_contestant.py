"""A contestant behind an OpenAI-compatible chat endpoint: an instruction and its images in, a text out.

Images are sent as data URLs, upright (`endpoints/pictures.py`). No system message is sent, and the temperature is 0;
whatever the server adds is part of the contestant.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from polite_flamingo.endpoints.answers import first_choice, stripped
from polite_flamingo.endpoints.client import EndpointDown, Refused, Server, ServerConfig
from polite_flamingo.endpoints.pictures import content
from polite_flamingo.sample import BadSample, Sample

SIMPLE_QUESTION = "What colour is a clear sky by day? Answer in one word."


class EndpointContestant:
    """Answers samples, several at once.

    Args:
        model: its name on the server.
        url: the server's address, up to /v1.
        max_tokens: longest answer.
        config: retries, time limits and concurrency.

    Attributes:
        down: the error after which nothing more was sent; None while the server is up.
    """

    def __init__(self, model: str, url: str, *, max_tokens: int, config: ServerConfig):
        self._model, self._max_tokens = model, max_tokens
        self._server = Server(url, config)
        self._concurrency = config.concurrency
        self.down: EndpointDown | None = None

    def answer(self, samples: Sequence[Sample]) -> list[str | BadSample | None]:
        """Return one answer per sample, in order, or why there is none; None for samples not sent (the server is down).

        Raises:
            EndpointDown: the server is down and no sample has an answer.
        """

        def answer_one(sample: Sample) -> str | BadSample | None:
            if self.down:
                return None
            try:
                return self._answer(sample)
            except EndpointDown as error:
                self.down = error
                return None
            except BadSample as bad:
                return bad
            except Refused as refused:
                return BadSample("answering_failed", f"{sample.key}: {refused}")

        with ThreadPoolExecutor(self._concurrency) as threads:
            answers = list(threads.map(answer_one, samples))
        if self.down and not any(isinstance(one, str) for one in answers):
            raise self.down
        return answers

    def try_out(self, sample: Sample) -> str | BadSample:
        """Ask for one answer before all others, to notice a broken server early.

        If the server refuses the sample, a simple question is tried: the sample may be at fault.

        Raises:
            EndpointDown: the server does not answer properly; the message says why.
        """
        try:
            return self._answer(sample, attempts=min(2, self._server.config.attempts))
        except BadSample as bad:
            return bad
        except Refused as refused:
            self._server.try_out("/chat/completions", self._body(SIMPLE_QUESTION), first_choice)
            return BadSample("answering_failed", f"{sample.key}: {refused}")

    def _answer(self, sample: Sample, attempts: int | None = None) -> str:
        body = self._body(content(sample.instruction, sample.images))
        return stripped(self._server.post("/chat/completions", body, first_choice, attempts))

    def _body(self, message: str | list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": message}],
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
