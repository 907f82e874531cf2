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
from polite_flamingo.text_files import is_writable
from serving.chat.images import ImageReference
from serving.chat.protocol import ImagePart, Message, TextPart
from serving.config import LimitsConfig
from serving.errors import ApiError, invalid

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
            raise invalid(param, "only messages of the user may hold images")
        if message.role == "assistant":
            if not turns:
                raise invalid(f"messages.{number}.role", "the first message must be the user's or the system's")
            turns[-1].response = text if turns[-1].response is None else _joined(turns[-1].response, text)
        elif message.role != "user" and not turns:
            system.append(text)
        else:
            if not turns or turns[-1].response is not None:
                turns.append(_Turn(param=param))
            turns[-1].instruction = _joined(turns[-1].instruction, text)
            turns[-1].images += images
    if not turns or turns[-1].response is not None:
        raise invalid("messages", "the last message must be the user's: there is nothing to answer")
    for turn in turns:
        if not turn.instruction.strip():
            raise invalid(turn.param, "the user's message is empty")
    references = tuple(image for turn in turns for image in turn.images)
    if len(references) > limits.images:
        raise _too_many(len(references), "images", limits.images)
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
            raise invalid(param, "must not be null or missing", "missing_required_parameter")
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
    if not is_writable(text):
        raise invalid(param, "lone surrogate; send valid Unicode")
    return text


def _joined(before: str, text: str) -> str:
    """Two messages as one turn. As in training, no line break separates an image from its text."""
    between = "\n" if before and text and not before.endswith(IMAGE_MARK) else ""
    return before + between + text


def _check_limits(messages: Sequence[Message], limits: LimitsConfig) -> None:
    if len(messages) > limits.messages:
        raise _too_many(len(messages), "messages", limits.messages)
    characters = 0
    for message in messages:
        if isinstance(message.content, str):
            characters += len(message.content)
        elif message.content is not None:
            characters += sum(len(part.text) for part in message.content if isinstance(part, TextPart))
    if characters > limits.text_characters:
        raise _too_many(characters, "characters of text", limits.text_characters)


def _too_many(count: int, what: str, limit: int) -> ApiError:
    return invalid("messages", f"{count} {what}; a conversation may have {limit}", "limit_exceeded")
