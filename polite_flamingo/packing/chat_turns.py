"""Chat turns of a sample, as text and as token ids: the one encoder for training and for serving.

Each prompt and each response is tokenized alone, as the reference does. A response ends with EOS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from polite_flamingo.conversations import is_rewritten, polite_text, polite_turns
from polite_flamingo.prompts import chat_prompt, rewriting_prompt
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, BadSample, Sample
from polite_flamingo.text_files import is_writable

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ResponseChoice:
    """Which text of a sample is the prompt, and which is the target.

    Attributes:
        protocol: "chat": the instruction is answered. "rewriting": the response is a draft to be revised.
        response: the target of a chat: "raw", the annotation, or "rewritten". Rewriting always targets the latter.
    """

    protocol: Literal["chat", "rewriting"] = "chat"
    response: Literal["raw", "rewritten"] = "raw"


AS_ANNOTATED = ResponseChoice()
"""A chat whose targets are the annotations."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One turn as text: a prompt that shows `images`, and a target, which is supervised if `learned`."""

    prompt: str
    target: str
    images: int
    learned: bool = True


def exchanges(sample: Sample, choice: ResponseChoice = AS_ANNOTATED, *, first: bool = True) -> list[Exchange]:
    """Return the turns of a sample as text. Raises `BadSample` if a text is missing or malformed.

    Args:
        sample: a valid sample.
        choice: which text is the prompt, and which is the target.
        first: whether the sample begins a conversation and so needs the system message.
    """
    revised = choice.protocol == "rewriting" or choice.response == "rewritten"
    if revised and not is_rewritten(sample):
        raise BadSample("bad_field", f"{sample.key}: no rewritten text; train on response 'raw', or rewrite it first")
    if choice.protocol == "rewriting" and len(sample.turns) != 1:
        raise BadSample("unsupported", f"{sample.key}: {len(sample.turns)} turns; a rewriter learns single ones")
    found = []
    for number, turn in enumerate(polite_turns(sample)):
        target = polite_text(turn) if revised else turn.response
        if not target.strip():
            raise BadSample("empty_response", f"{sample.key}: nothing to learn in turn {number}")
        if len(target) > MAX_TEXT_CHARACTERS:
            raise BadSample("text_too_long", f"{sample.key}: {len(target)} characters, at most {MAX_TEXT_CHARACTERS}")
        if not is_writable(target):
            raise BadSample("bad_field", f"{sample.key}: half of a surrogate pair in the rewritten text")
        opens = first and number == 0
        prompt = (
            rewriting_prompt(turn.instruction, turn.response, first=opens)
            if choice.protocol == "rewriting"
            else chat_prompt(turn.instruction, first=opens)
        )
        images = turn.instruction.count(IMAGE_MARK)
        found.append(Exchange(prompt=prompt, target=target, images=images, learned=turn.learned))
    return found


@dataclass(frozen=True)
class EncodedTurn:
    """An exchange as token ids; `target` ends with EOS unless it was cut."""

    prompt: list[int]
    target: list[int]
    images: int
    learned: bool = True

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def encode(turns: Sequence[Exchange], tokenizer: Tokenizer, bos: str) -> list[EncodedTurn]:
    """Return the token ids of a conversation from its beginning.

    Args:
        turns: the turns in order.
        tokenizer: the model's tokenizer.
        bos: as `PackingConfig.bos`.

    Raises:
        BadSample: a text spells out a special token, which would end it early or shift the images that text attends to.
    """
    every = bos == "every"
    return [
        EncodedTurn(
            prompt_ids(turn, tokenizer, begin=every or number == 0),
            [*_ids(turn.target, tokenizer, begin=every, images=0), tokenizer.eos_id],
            turn.images,
            turn.learned,
        )
        for number, turn in enumerate(turns)
    ]


def conversation_ids(turns: Sequence[Exchange], tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of a conversation before its last response, exactly as in a training row.

    Args:
        turns: the turns in order; the target of the last one is ignored.
        tokenizer: the model's tokenizer.

    Raises:
        BadSample: a text spells out a special token.
    """
    before = encode(turns[:-1], tokenizer, "first")
    ids = [token for turn in before for token in (*turn.prompt, *turn.target)]
    return ids + prompt_ids(turns[-1], tokenizer, begin=len(turns) == 1)


def prompt_ids(turn: Exchange, tokenizer: Tokenizer, *, begin: bool) -> list[int]:
    """Return the token ids of a prompt, after BOS if `begin` is set. Raises `BadSample` as `encode` does."""
    return _ids(turn.prompt, tokenizer, begin=begin, images=turn.images)


def _ids(text: str, tokenizer: Tokenizer, *, begin: bool, images: int) -> list[int]:
    ids = tokenizer.encode(text, begin=False)
    special = Counter(token for token in ids if token in tokenizer.special_ids)
    ends = special.pop(tokenizer.end_of_chunk_id, 0)  # one after each image, or none, depending on the protocol
    if special.pop(tokenizer.image_id, 0) != images or special or ends > images:
        raise BadSample("bad_field", f"a text spells out a special token: {text[-80:]!r}")
    return [*tokenizer.begin_ids, *ids] if begin else ids


def image_numbers(turns: Sequence[EncodedTurn], image_id: int, attention: str) -> list[int]:
    """Return the image that each token of one sample attends to, numbered as in `attention.image_numbers`; 0 is none.

    v2: text attends to the last image before it, in whichever turn. v1: text attends to the next image of its own turn,
    and to none after the last. (Counted over the whole sample, a v1 response would attend to the image of the next
    turn, which does not exist yet when the response is generated.)
    """
    numbers: list[int] = []
    before = 0
    for turn in turns:
        seen = before
        for token in (*turn.prompt, *turn.target):
            seen += token == image_id
            ahead = seen + (token != image_id)
            numbers.append(seen if attention == "v2" else ahead if ahead <= before + turn.images else 0)
        before += turn.images
    return numbers
