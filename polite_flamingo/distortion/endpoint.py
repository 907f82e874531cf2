"""The terse robot behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, or somebody's service.

Many requests are under way at once. One that meets a busy or broken server (429, 5xx, a cut connection, garbage, no
answer in time) is sent again after a pause that doubles; one that the server will never take (400, 413, 422) fails as a
row; a server that refuses us (401, 403, 404, a redirect) or fails again and again ends the work, as no other row would
fare better. The key is read from the environment, sent in the header only, and cut out of whatever the server says.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp

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
from polite_flamingo.sample import BadSample

MOST_BYTES = 4 << 20
"""Of an answer; a server that sends more is not answering."""
_AGAIN = (408, 409, 425, 429)
_NEVER = (400, 413, 422)


class EndpointDown(RuntimeError):
    """The server refuses us, or has failed so often that it counts as down; nothing more is sent to it."""


class _Again(Exception):
    """This attempt failed and another may not; `after` is the pause that the server asks for, 0 where it does not."""

    def __init__(self, detail: str, after: float = 0.0):
        super().__init__(detail)
        self.after = after


class EndpointSpeaker:
    """Asks a server; see `speakers.Speaker`."""

    commands = tuple(COMMANDS)

    def __init__(self, config: DistortionConfig):
        self._config = config
        self._endpoint = config.endpoint
        self._key = os.environ.get(config.endpoint.api_key_variable, "").strip()
        self._failures_in_a_row = 0
        self._down = ""

    @property
    def name(self) -> str:
        """The server's model."""
        return self._endpoint.model

    def say(self, requests: Sequence[Request]) -> list[str | BadSample]:
        """All at once, as many under way as the configuration allows.

        Raises:
            EndpointDown: see the module.
        """
        with ThreadPoolExecutor(1) as thread:  # a loop of its own: an actor may be running one in this thread
            return thread.submit(asyncio.run, self._say(requests)).result()

    async def _say(self, requests: Sequence[Request]) -> list[str | BadSample]:
        gate = asyncio.Semaphore(self._endpoint.concurrency)
        timeout = aiohttp.ClientTimeout(total=self._endpoint.timeout)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:

            async def one(request: Request) -> str | BadSample:
                async with gate:
                    return await self._patiently(session, request)

            tasks = [asyncio.create_task(one(request)) for request in requests]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _patiently(self, session: aiohttp.ClientSession, request: Request) -> str | BadSample:
        """One request, as often as it takes or is allowed."""
        detail = ""
        for attempt in range(self._endpoint.attempts):
            if self._down:
                raise EndpointDown(self._down)
            try:
                answer = await self._ask(session, request)
                self._failures_in_a_row = 0
                return answer
            except BadSample as bad:
                self._failures_in_a_row = 0
                return bad
            except _Again as again:
                detail = str(again)
                if attempt + 1 < self._endpoint.attempts:
                    pause = again.after or self._endpoint.pause * 2**attempt * random.uniform(0.8, 1.2)
                    await asyncio.sleep(min(pause, self._endpoint.longest_pause))
        self._failures_in_a_row += 1
        detail = f"{self._endpoint.attempts} attempts failed, the last one: {detail}"
        if self._failures_in_a_row >= self._endpoint.give_up_after:
            self._give_up(f"{self._failures_in_a_row} requests in a row failed; {detail}")
        return BadSample("distortion_failed", detail)

    def _give_up(self, why: str) -> None:
        self._down = f"{self._endpoint.url}: {self._without_key(why)}"
        raise EndpointDown(self._down)

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> str:
        """One attempt. Raises `_Again`, `BadSample` or `EndpointDown`."""
        chat = self._endpoint.api == "chat"
        url = f"{self._endpoint.url.rstrip('/')}/{'chat/completions' if chat else 'completions'}"
        try:
            async with session.post(url, json=self._body(request), allow_redirects=False) as response:
                body = await _read(response)
                status, after = response.status, response.headers.get("Retry-After", "")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _Again(self._without_key(f"{type(error).__name__} {error}".strip())) from None
        if status == 200:
            return _answer(body, request, chat=chat)
        said = self._without_key(f"{status} {body[:300].decode('utf-8', 'replace')}".strip())
        if status in _NEVER:
            raise BadSample("distortion_failed", f"the server will not take it: {said}")
        if status in _AGAIN or status >= 500:
            raise _Again(said, float(after) if after.isdecimal() else 0.0)
        self._give_up(f"the server refuses: {said}")
        raise AssertionError

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

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MOST_BYTES:
            raise _Again(f"the answer is longer than {MOST_BYTES} bytes")
    return body


def _answer(body: bytes, request: Request, *, chat: bool) -> str:
    """The distorted text of a server's answer; "" where it was cut before the quotation ended."""
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["message"]["content"] if chat else choice["text"]
        if not isinstance(text, str):
            raise TypeError(f"the text is {type(text).__name__}")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _Again(f"not an answer of this API ({type(error).__name__}): {body[:80]!r}") from None
    text = text.encode("utf-8", "replace").decode()  # JSON may name halves of surrogate pairs
    cut = choice.get("finish_reason") == "length"
    if chat:
        return "" if cut else quoted_after_asking(text, request.command)
    return quoted(text) if any(mark in text for mark in CLOSING) else "" if cut else text.strip()
