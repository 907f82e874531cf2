"""Requests of OpenAI's chat protocol, as far as it is supported.

Known fields are as strict as OpenAI's: types are not coerced, ranges are enforced, and a field that asks for something
that is not supported is refused by name (`NEUTRAL`), never silently dropped. Fields that change no answer (`IGNORED`)
and unknown fields are ignored, as other servers do: clients and evaluators send every server the extensions of all of
them, and clients newer than the server must keep working.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.errors import invalid

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
"""Fields that would change the answer, and the values besides null that have no effect."""

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
"""The same in a message: clients that send an answer back include them as null."""

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
MAX_PARTS = 1000


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(_Part):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """The URL of an image."""

    url: str = Field(
        description="`data:image/…;base64,…`, or an http(s) URL where the server allows it.",
        examples=["data:image/png;base64,iVBORw0KGgo…"],
    )
    detail: Any = Field(None, description="Ignored: every image is resized to the model's input size.")


class ImagePart(_Part):
    """An image, in a message of the user."""

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


_Stop = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    Annotated[_Stop, Tag("(text)")] | Annotated[list[_Stop], Field(max_length=MAX_STOPS), Tag("(list)")],
    _union(f"string or a list of at most {MAX_STOPS}"),
]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = Field(None, description="May be null, or missing, only in an assistant's message.")
    name: Any = Field(None, description="Ignored.")


class StreamOptions(BaseModel):
    """What a stream contains besides the text."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool | None = Field(None, description="End with a chunk that has the usage and no choices.")


def _document(schema: dict[str, Any]) -> None:
    """Add the fields that are refused or ignored."""
    for name, values in NEUTRAL.items():
        only = "Not supported: only values that have no effect are accepted."
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
    """A conversation to continue, and how."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra=_document)
    model: str = Field(description="A model of /v1/models that chats.", examples=["clever-flamingo"])
    messages: list[Message] = Field(
        min_length=1,
        description="The conversation; the last message is the user's. docs/serving.md shows how it becomes a prompt.",
        examples=[[{"role": "user", "content": [_IMAGE, {"type": "text", "text": "What colour is this?"}]}]],
    )
    stream: bool | None = Field(None, description="Send the answer in chunks, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0, and anything below 0.001, is greedy. Default: the model's own."
    )
    top_p: float | None = Field(None, ge=0, le=1, description="Default: the model's own.")
    top_k: int | None = Field(None, ge=-1, description="vLLM's extension; 0 and -1 mean all tokens.")
    max_tokens: int | None = Field(
        None, ge=1, description="Maximum length; the answer also ends with the context. Default: the model's own."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`; give only one.")
    stop: Stops | None = Field(None, description="Strings that end the answer; they are not part of it.")
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="The same seed and request give the same answer; choice i uses seed + i.",
    )
    n: int | None = Field(None, ge=1, description="Number of answers.")


def refuse_unsupported(request: ChatRequest) -> None:
    """Raise ApiError for a field that asks for something that is not supported."""
    _refuse(request.model_extra or {}, NEUTRAL, "")
    for number, message in enumerate(request.messages):
        _refuse(message.model_extra or {}, _NEUTRAL_OF_MESSAGE, f"messages.{number}.")


def _refuse(given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for name in given.keys() & neutral.keys():
        value = given[name]
        if value is not None and not any(_same(value, one) for one in neutral[name]):
            raise invalid(f"{where}{name}", "not supported here; leave it out", "unsupported_parameter")


def _same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; unlike Python, JSON distinguishes true from 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
