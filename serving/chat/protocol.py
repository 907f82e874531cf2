"""OpenAI's chat protocol as far as it is spoken here: what a request may hold, and what an answer looks like.

As strict as OpenAI where a field is known: types are not guessed, ranges are kept, and a field that would change the
answer in a way that is not built is refused by name (`NEUTRAL`), never passed over in silence. Fields that change no
answer (`IGNORED`) and fields that nobody knows are ignored, as other servers of this protocol do: clients and
evaluators send each server the extensions of all of them, and one that is newer than the server must go on working.

The models document the service and check what comes in. Answers are built of plain dicts in `chat.py`: the models of
answers are their documentation, which a test holds them to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.errors import ApiError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's and others'
    "add_generation_prompt": (True,),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "echo": (False,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "use_beam_search": (False,),
}
"""Fields that would change the answer, and the values besides null with which they change nothing."""

IGNORED = (
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
)  # fmt: skip
"""OpenAI's fields that change no answer."""

_NEUTRAL_OF_MESSAGE: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_call_id": (),
    "tool_calls": ([],),
}
"""The same, of a message: an answer that a client sends back holds them with null."""

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
MAX_PARTS = 1000


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Where an image is."""

    url: str = Field(
        description="`data:image/…;base64,…`, or where the server allows it an http(s) URL.",
        examples=["data:image/png;base64,iVBORw0KGgo…"],
    )
    detail: Any = Field(None, description="Ignored: every image is seen at the model's own size.")


class ImagePart(_Part):
    """An image. Messages of the user may hold them."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _kind(value: Any) -> str | None:
    return "(text)" if isinstance(value, str) else "(list)" if isinstance(value, list) else None


def _union(what: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="text_or_list_type", custom_error_message=f"must be a {what}")


Content = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("(list)")],
    _union("string or a list of parts"),
]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = Field(None, description="May be null, or missing, only in an assistant's message.")
    name: Any = Field(None, description="Ignored.")


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool | None = Field(None, description="A last chunk without choices tells the usage.")


def _document(schema: dict[str, Any]) -> None:
    """Name the fields that are refused or ignored."""
    for name, values in NEUTRAL.items():
        only = "Not supported: only values that ask for nothing are accepted."
        schema["properties"][name] = {"enum": [None, *values], "description": only}
    for name in IGNORED:
        schema["properties"][name] = {"description": "Accepted and ignored."}


_IMAGE = {
    "type": "image_url",
    "image_url": {
        "url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mO8I6fBgA0wMe"
        "AAg1MCAOgIATJu8fvMAAAAAElFTkSuQmCC",
    },
}


class ChatRequest(BaseModel):
    """A conversation that is to be continued, and how."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra=_document,
    )
    model: str = Field(description="One of /v1/models that chats.", examples=["clever-flamingo"])
    messages: list[Message] = Field(
        min_length=1,
        description="From the beginning; the last is the user's. See docs/serving.md for how they become a prompt.",
        examples=[[{"role": "user", "content": [_IMAGE, {"type": "text", "text": "What colour is this?"}]}]],
    )
    stream: bool | None = Field(None, description="The answer comes in pieces, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 is greedy, and so is what is below 0.001. The model's own by default."
    )
    top_p: float | None = Field(None, ge=0, le=1, description="The model's own by default.")
    top_k: int | None = Field(None, ge=-1, description="vLLM's extension; 0 and -1 are all tokens.")
    max_tokens: int | None = Field(
        None, ge=1, description="Of the answer, at most: it ends where the context does. The model's own by default."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`; give one.")
    stop: (
        Annotated[
            Annotated[str, Field(max_length=MAX_STOP_CHARACTERS), Tag("(text)")]
            | Annotated[
                list[Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]],
                Field(max_length=MAX_STOPS),
                Tag("(list)"),
            ],
            _union(f"string or a list of at most {MAX_STOPS}"),
        ]
        | None
    ) = Field(None, description="Texts that end the answer; they are not part of it.")
    seed: int | None = Field(
        None,
        ge=-(2**63),
        le=2**63 - 1,
        description="The same seed and request give the same text; choice number i takes seed + i.",
    )
    n: int | None = Field(None, ge=1, description="Answers to one request.")


def refuse_unsupported(request: ChatRequest) -> None:
    """Raises ApiError for a field that asks for what is not built."""
    _refuse(request.model_extra or {}, NEUTRAL, "")
    for number, message in enumerate(request.messages):
        _refuse(message.model_extra or {}, _NEUTRAL_OF_MESSAGE, f"messages.{number}.")


def _refuse(given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for name in given.keys() & neutral.keys():
        value = given[name]
        if value is not None and not any(_same(value, one) for one in neutral[name]):
            raise ApiError(
                400,
                f"{where}{name} is not supported here; leave it out",
                code="unsupported_parameter",
                param=f"{where}{name}",
            )


def _same(value: Any, other: Any) -> bool:
    """Equal also to JSON, which unlike Python tells true from 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str = Field(description="One readable line: what, where, what to do.")
    type: str = Field(examples=["invalid_request_error", "rate_limit_error", "overloaded_error", "server_error"])
    param: str | None = Field(description="The field at fault.", examples=["messages.0.content.1.image_url"])
    code: str | None = Field(description="A stable word for programs.", examples=["context_length_exceeded"])


class ErrorResponse(BaseModel):
    """An answer that is an error, in OpenAI's format."""

    error: ErrorBody


class Usage(BaseModel):
    """What a request cost. An image counts as one token of the prompt, each choice's tokens as the answer's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


Finish = Literal["stop", "length"]


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """Whole answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Changes when the configuration of the model does.")
    choices: list[Choice]
    usage: Usage


class ChunkDelta(BaseModel):
    """What came since the chunk before."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: ChunkDelta
    logprobs: None
    finish_reason: Finish | None


class ChatChunk(BaseModel):
    """One event of a stream."""

    model_config = ConfigDict(extra="forbid")
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When this server started, as Unix time.")
    owned_by: str


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


_WRONG: dict[int | str, str] = {
    400: "The request is at fault; `error.param` names the field.",
    401: "No key, or none that is known.",
    404: "There is no such model.",
    413: "The body is too large.",
    429: "More requests than the key may make; Retry-After says when to come back.",
    500: "The server failed.",
    503: "The server has no room now; Retry-After says when to come back.",
    504: "The answer took longer than the server allows; `x-should-retry: false` tells clients not to ask again.",
    "4XX": "The request is at fault in another way.",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description} for status, description in _WRONG.items()
}
"""What any route may answer, for the document."""
