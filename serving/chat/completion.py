"""Chunks of the engines -> the response to a chat request: one JSON object, or server-sent events.

A `Choice` is a chunk and the number of the answer that it belongs to; the n answers to one request are generated at
once. An event is text between a head and a tail that are made once per stream: at hundreds of streams, formatting
events is most of what the ingress does.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from serving.backends.base import Backend, Chunk, GenerationRequest
from serving.chat.responses import Usage
from serving.errors import ApiError, overloaded, server_error
from serving.http.metrics import RequestStats

Choice = tuple[int, Chunk]


async def generate(backend: Backend, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Choice]:
    """The chunks of all answers as they come. Closing it cancels them all, and so does the first that fails."""
    if len(requests) == 1:
        async with aclosing(_complete(backend, requests[0])) as chunks:
            async for chunk in chunks:
                yield 0, chunk
        return
    merged: asyncio.Queue[tuple[int, Chunk | Exception]] = asyncio.Queue(maxsize=len(requests))

    async def follow(number: int) -> None:
        try:
            async with aclosing(_complete(backend, requests[number])) as chunks:
                async for chunk in chunks:
                    await merged.put((number, chunk))
        except Exception as error:  # raised below
            await merged.put((number, error))

    tasks = [asyncio.ensure_future(follow(number)) for number in range(len(requests))]
    unfinished = len(requests)
    try:
        while unfinished:
            number, found = await merged.get()
            if isinstance(found, Exception):
                raise found
            unfinished -= bool(found.finish_reason)
            yield number, found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _complete(backend: Backend, request: GenerationRequest) -> AsyncGenerator[Chunk]:
    """The chunks of one answer. Raises ApiError if it ends without "stop" or "length"."""
    async with aclosing(backend.stream(request)) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason not in ("", "stop", "length"):
                break
            yield chunk
            if chunk.finish_reason:
                return
    raise overloaded(f"{request.model} is shutting down and did not finish this answer; try again")


class ChatResponse:
    """Formats the answers to one request.

    Attributes:
        model: their author.
    """

    def __init__(self, model: str, fingerprint: str, answers: int, stats: RequestStats):
        """Begin a response with a new id. Args: stats: gets the first token's time and the token counts."""
        self.model, self._answers, self._stats = model, answers, stats
        self._prompt_tokens = self._completion_tokens = 0
        self._common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    async def whole(self, choices: AsyncGenerator[Choice]) -> dict[str, Any]:
        """The response in one piece, see `ChatCompletion`."""
        texts: list[list[str]] = [[] for _ in range(self._answers)]
        finishes = [""] * self._answers
        try:
            async with aclosing(choices):
                async for number, chunk in choices:
                    self._count(chunk)
                    texts[number].append(chunk.text)
                    finishes[number] = chunk.finish_reason
        finally:
            self._report()
        answers = [
            {
                "index": number,
                "message": {"role": "assistant", "content": "".join(text), "refusal": None},
                "logprobs": None,
                "finish_reason": finish,
            }
            for number, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return {**self._common, "object": "chat.completion", "choices": answers, "usage": self._usage()}

    async def events(
        self, first: Choice, choices: AsyncGenerator[Choice], deadline: float | None, timeout: ApiError, *, usage: bool
    ) -> AsyncGenerator[bytes]:
        """The response as server-sent events, see `ChatChunk`.

        Args:
            first: was awaited already, so that an early error has an HTTP status of its own.
            choices: those after it; closed at the end.
            deadline: by the event loop's clock.
            timeout: the error that ends the stream then.
            usage: end with a chunk that has the usage.
        """
        head = json.dumps({**self._common, "object": "chat.completion.chunk"}, separators=(",", ":"))[:-1]
        head = f'data: {head},"choices":['
        tail = '],"usage":null}\n\n' if usage else "]}\n\n"

        def event(number: int, delta: str, finish: str = "null") -> str:
            choice = f'{{"index":{number},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
            return f"{head}{choice}{tail}"

        text = "".join(event(number, '{"role":"assistant","content":""}') for number in range(self._answers))
        current: Choice | None = first
        try:
            async with aclosing(choices):
                while current:
                    number, chunk = current
                    self._count(chunk)
                    if chunk.text:
                        text += event(number, f'{{"content":{json.dumps(chunk.text)}}}')
                    if chunk.finish_reason:
                        text += event(number, "{}", f'"{chunk.finish_reason}"')
                    if text and not (chunk.finish_reason and self._answers == 1):  # else it is sent with the end
                        yield text.encode()
                        text = ""
                    async with asyncio.timeout_at(deadline):
                        current = await anext(choices, None)
        except (ApiError, TimeoutError) as error:
            failed = error if isinstance(error, ApiError) else timeout
            self._stats.failed(failed.code or failed.type)
            yield f"{text}data: {json.dumps(failed.body())}\n\n".encode()
            return
        except Exception:
            failed = server_error("the server failed while it answered; try again", "internal_error")
            yield f"{text}data: {json.dumps(failed.body())}\n\n".encode()
            raise
        finally:
            self._report()
        if usage:
            text += f'{head}],"usage":{json.dumps(self._usage())}}}\n\n'
        yield f"{text}data: [DONE]\n\n".encode()

    def _count(self, chunk: Chunk) -> None:
        self._stats.first_token()
        self._prompt_tokens = chunk.prompt_tokens
        self._completion_tokens += len(chunk.tokens)

    def _usage(self) -> dict[str, int]:
        return Usage.of(self._prompt_tokens, self._completion_tokens).model_dump()

    def _report(self) -> None:
        self._stats.count(self.model, self._prompt_tokens, self._completion_tokens)
