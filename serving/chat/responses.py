"""Responses of OpenAI's chat protocol, as the OpenAPI document describes them.

`completion.py` builds responses from plain dicts and strings, which is faster; a test holds them to these models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorBody(BaseModel):
    """An error."""

    message: str = Field(description="One line: what is wrong, where, what to do.")
    type: str = Field(examples=["invalid_request_error", "rate_limit_error", "overloaded_error", "server_error"])
    param: str | None = Field(description="The field at fault.", examples=["messages.0.content.1.image_url"])
    code: str | None = Field(description="A stable word for programs.", examples=["context_length_exceeded"])


class ErrorResponse(BaseModel):
    """An error response."""

    error: ErrorBody


class Usage(BaseModel):
    """Tokens. An image counts as one token of the prompt; the completion's are those of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, completion: int) -> Usage:
        """The usage of so many tokens."""
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


Finish = Literal["stop", "length"]


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Finish


class _Response(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str = Field(description="Changes when the configuration of the model does.")


class ChatCompletion(_Response):
    """A response in one piece."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: Usage


class ChunkDelta(BaseModel):
    """What was generated since the chunk before."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A part of one answer."""

    index: int
    delta: ChunkDelta
    logprobs: None
    finish_reason: Finish | None


class ChatChunk(_Response):
    """One event of a stream."""

    model_config = ConfigDict(extra="forbid")
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When this server started, as Unix time.")
    owned_by: str


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[Model]


_ERRORS: dict[int | str, str] = {
    400: "The request is invalid; `error.param` names the field.",
    401: "The API key is missing or unknown.",
    404: "There is no such model.",
    413: "The body is too large.",
    429: "The key's rate limit is reached; Retry-After says when to try again.",
    500: "The server failed.",
    503: "The server has no room at the moment; Retry-After says when to try again.",
    504: "The answer took longer than the server allows; `x-should-retry: false` tells clients not to retry.",
    "4XX": "The request is invalid in another way.",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description} for status, description in _ERRORS.items()
}
"""Errors that any route may return, for the OpenAPI document."""
