"""OpenAI's messages -> a conversation in the format of training: exchanges of a human and an assistant, with images.

The training format (`prompts.py`) has one system sentence, then a human and an assistant in turn. Messages come in any
order, so:

- system messages before the first other message follow the system sentence of training, which stays: the models never
  saw a conversation without it. A later system message becomes part of the human's next turn;
- consecutive messages of one side become one turn, a line each;
- the human must begin and have the last word;
- an image stays between the texts where its part stands. Only if no text follows the images of a message do they go
  before its text, as in training: text attends to the images before it;
- text that spells a special token gets parentheses, "(image)", so that it stays text;
- an assistant's message may be empty, as answers can be; a human's turn may not.

Nothing here loads an image (`images.py`) or knows a tokenizer (`chat_turns.conversation_ids` does, and refuses what is
special to that tokenizer alone).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.prompts import SYSTEM, chat_prompt
from polite_flamingo.sample import IMAGE_MARK
from serving.chat.images import ImageReference
from serving.chat.protocol import ImagePart, Message, TextPart
from serving.config import LimitsConfig
from serving.errors import ApiError

_SPECIAL = re.compile(r"<(image|/?s|unk|pad|PAD|\|[^<>|\s]{1,40}\|)>")
"""Special tokens of the tokenizers of such language models, including `<|endofchunk|>`."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation whose images are not loaded yet.

    Attributes:
        exchanges: in order; the target of the last one is "".
        images: in the order of their marks.
    """

    exchanges: tuple[Exchange, ...]
    images: tuple[ImageReference, ...]


@dataclass
class _Turn:
    """A human's instruction, and the assistant's response if there is one."""

    instruction: str = ""
    response: str | None = None
    images: list[ImageReference] = field(default_factory=list)
    param: str = ""


def read_conversation(messages: Sequence[Message], limits: LimitsConfig) -> Conversation:
    """Turn messages into a conversation.

    Raises:
        ApiError: 400, naming the field.
    """
    _check_limits(messages, limits)
    system: list[str] = []
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        param = f"messages.{number}.content"
        text, images = _read_message(message, param)
        if images and message.role != "user":
            raise _refused("only messages of the user may hold images", param)
        if message.role == "assistant":
            if not turns:
                raise _refused("the first message must be the user's or the system's", f"messages.{number}.role")
            turns[-1].response = text if turns[-1].response is None else _joined(turns[-1].response, text)
        elif message.role != "user" and not turns:
            system.append(text)
        else:
            if not turns or turns[-1].response is not None:
                turns.append(_Turn(param=param))
            turns[-1].instruction = _joined(turns[-1].instruction, text)
            turns[-1].images += images
    if not turns or turns[-1].response is not None:
        raise _refused("the last message must be the user's: there is nothing to answer", "messages")
    for turn in turns:
        if not turn.instruction.strip():
            raise _refused("the user's message is empty", turn.param)
    references = tuple(image for turn in turns for image in turn.images)
    if len(references) > limits.images:
        raise _too_much(f"{len(references)} images; a conversation may have {limits.images}", "messages")
    opening = " ".join([SYSTEM, *filter(None, map(str.strip, system))])
    return Conversation(
        exchanges=tuple(
            Exchange(
                prompt=("" if number else opening) + chat_prompt(turn.instruction, first=False),
                target=turn.response or "",
                images=len(turn.images),
            )
            for number, turn in enumerate(turns)
        ),
        images=references,
    )


def plain(text: str) -> str:
    """Text in which nothing is a special token."""
    return _SPECIAL.sub(r"(\1)", text)


def _read_message(message: Message, param: str) -> tuple[str, list[ImageReference]]:
    """A message as text with marks, and the images of the marks."""
    if message.content is None:
        if message.role != "assistant":
            raise ApiError(400, f"{param} is missing", code="missing_required_parameter", param=param)
        return "", []
    if isinstance(message.content, str):
        return plain(_checked(message.content, param)), []
    texts: list[str] = [""]  # between images; joined, because parts must not spell a special token together either
    images = []
    for number, part in enumerate(message.content):
        if isinstance(part, TextPart):
            texts[-1] += _checked(part.text, f"{param}.{number}.text")
        elif isinstance(part, ImagePart):
            images.append(ImageReference(url=part.image_url.url, param=f"{param}.{number}.image_url"))
            texts.append("")
    texts = [plain(text) for text in texts]
    if not any(text.strip() for text in texts[1:]):
        return IMAGE_MARK * len(images) + texts[0], images
    return IMAGE_MARK.join(texts), images


def _checked(text: str, param: str) -> str:
    """The text itself. Raises ApiError for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused("lone surrogate; send valid Unicode", param) from None
    return text


def _joined(before: str, text: str) -> str:
    """Two messages as one turn. As in training, no line break separates an image from its text."""
    between = "\n" if before and text and not before.endswith(IMAGE_MARK) else ""
    return before + between + text


def _check_limits(messages: Sequence[Message], limits: LimitsConfig) -> None:
    if len(messages) > limits.messages:
        raise _too_much(f"{len(messages)} messages; a conversation may have {limits.messages}", "messages")
    characters = 0
    for message in messages:
        if isinstance(message.content, str):
            characters += len(message.content)
        elif message.content is not None:
            characters += sum(len(part.text) for part in message.content if isinstance(part, TextPart))
    if characters > limits.text_characters:
        raise _too_much(
            f"{characters} characters of text; a conversation may have {limits.text_characters}", "messages"
        )


def _refused(why: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {why}", code="invalid_value", param=param)


def _too_much(why: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {why}", code="limit_exceeded", param=param)
