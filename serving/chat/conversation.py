"""Messages -> the conversation that a model was trained on: exchanges of a human and an assistant, and their images.

The training protocol (`prompts.py`) knows one system sentence, then a human and an assistant in turn. OpenAI's messages
come in any order, so:

- what a client's system messages say before the first other message follows the trained system sentence, which stays:
  the models never saw a conversation without it. One that comes later is read as part of the human's next turn;
- messages of one side in a row are one turn, a line each;
- the human begins and has the last word; anything else is refused;
- an image stands where its part stands between the texts. Only where no text follows the images of a message do they go
  before its text, as in all of training: text sees the images before it;
- text that spells a special token is written with parentheses, "(image)", so that it stays text;
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
from serving.chat.images import Shown
from serving.chat.protocol import ImagePart, Message, TextPart
from serving.config import LimitsConfig
from serving.errors import ApiError

_SPECIAL = re.compile(r"<(image|/?s|unk|pad|PAD|\|[^<>|\s]{1,40}\|)>")
"""Special tokens of the tokenizers that language models of this kind have, `<|endofchunk|>` among them."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What the models are asked, but for the images' bytes.

    Attributes:
        exchanges: in order; the last one's target is "".
        images: in the order of the marks.
    """

    exchanges: tuple[Exchange, ...]
    images: tuple[Shown, ...]


@dataclass
class _Turn:
    """A human's instruction, and the assistant's response where there is one."""

    instruction: str = ""
    response: str | None = None
    images: list[Shown] = field(default_factory=list)
    param: str = ""


def read_conversation(messages: Sequence[Message], limits: LimitsConfig) -> Conversation:
    """The conversation that messages make.

    Raises:
        ApiError: 400, naming the field.
    """
    _check_limits(messages, limits)
    system: list[str] = []
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        param = f"messages.{number}.content"
        text, images = _read(message, param)
        if images and message.role != "user":
            raise _refused("only the user's messages may hold images", param)
        if message.role == "assistant":
            if not turns:
                raise _refused("the first message must be the user's, or the system's", f"messages.{number}.role")
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
            raise _refused("the user's message says and shows nothing", turn.param)
    shown = tuple(image for turn in turns for image in turn.images)
    if len(shown) > limits.images:
        raise _too_much(f"{len(shown)} images; a conversation may show {limits.images}", "messages")
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
        images=shown,
    )


def plain(text: str) -> str:
    """A text in which nothing is a special token."""
    return _SPECIAL.sub(r"(\1)", text)


def _read(message: Message, param: str) -> tuple[str, list[Shown]]:
    """A message as text with marks, and the images of the marks."""
    if message.content is None:
        if message.role != "assistant":
            raise ApiError(400, f"{param} is missing", code="missing_required_parameter", param=param)
        return "", []
    if isinstance(message.content, str):
        return plain(_whole(message.content, param)), []
    pieces: list[str] = [""]  # texts between images: what parts spell together must not become a special token either
    images = []
    for number, part in enumerate(message.content):
        if isinstance(part, TextPart):
            pieces[-1] += _whole(part.text, f"{param}.{number}.text")
        elif isinstance(part, ImagePart):
            images.append(Shown(url=part.image_url.url, param=f"{param}.{number}.image_url"))
            pieces.append("")
    texts = [plain(piece) for piece in pieces]
    if not any(text.strip() for text in texts[1:]):
        return IMAGE_MARK * len(images) + texts[0], images
    return IMAGE_MARK.join(texts), images


def _whole(text: str, param: str) -> str:
    """The text, if it can be written at all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused("half of a surrogate pair, which is no text", param) from None
    return text


def _joined(before: str, text: str) -> str:
    """One turn of two messages; between an image and its text training has no line break."""
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
