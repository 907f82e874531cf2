"""A sample as tokens, ready for any place in a packed row. Rows are filled in `pack.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from polite_flamingo.packing.chat_turns import (
    EncodedTurn,
    ResponseChoice,
    encode,
    exchanges,
    image_numbers,
    prompt_ids,
)
from polite_flamingo.sample import BadSample, Sample

if TYPE_CHECKING:  # the tokenizer imports torch, which `--help` does not need
    from polite_flamingo.flamingo.model.tokenization import Tokenizer

Side = Literal["chosen", "rejected", "anchor", "unrelated"]
"""What a segment of a packed pair holds. "anchor" is the chosen answer to a cropped picture (mDPO), "unrelated" an
answer to another question (the KL term of KTO)."""


@dataclass(frozen=True)
class Tokens:
    """T tokens of a sample: ids, what is supervised, the image that each attends to, and the segment it is in."""

    ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    image_numbers: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PackedPair:
    """A pair in a row.

    Attributes:
        key: the sample's key.
        digest: of the key and all token ids; finds the reference's log-probabilities of just these tokens.
        segments: index of each side (`PackedRow.sample_index`).
    """

    key: str
    digest: str
    segments: dict[Side, int] = field(default_factory=dict)

    def after(self, count: int) -> PackedPair:
        """Return the pair behind `count` other segments."""
        return replace(self, segments={side: index + count for side, index in self.segments.items()})


@dataclass(frozen=True)
class Piece:
    """A sample ready for any place in a row: `opening` begins a conversation, `later` continues one.

    Attributes:
        key: the sample's key.
        opening, later: its tokens in either place.
        images: encoded bytes.
        cut: whether the window cut it.
        segments: parts that do not attend to each other: 1, or more for a pair.
        pair: the segments of a preference pair.
    """

    key: str
    opening: Tokens
    later: Tokens
    images: list[bytes]
    cut: bool
    segments: int = 1
    pair: PackedPair | None = None

    def __len__(self) -> int:
        return len(self.later.ids)


def sample_piece(
    sample: Sample, choice: ResponseChoice, tokenizer: Tokenizer, window: int, bos: str, attention: str, *, joins: bool
) -> Piece:
    """Encode a sample for training on its responses.

    Args:
        sample: the sample.
        choice: which of its texts to use.
        tokenizer: the model's tokenizer.
        window: maximum tokens.
        bos: as `PackingConfig.bos`.
        attention: the model's attention semantics.
        joins: the sample may continue a conversation, and then needs no system message.

    Raises:
        BadSample: no row can hold it.
    """
    sample.validate()
    whole = encode(exchanges(sample, choice), tokenizer, bos)
    turns = within(whole, window)
    if not turns:
        size = len(whole[0].prompt)
        raise BadSample("text_too_long", f"{sample.key}: the prompt has {size} tokens, the window only {window}")
    if not any(turn.learned for turn in turns):
        learned = next(number for number, turn in enumerate(whole) if turn.learned)
        raise BadSample("text_too_long", f"{sample.key}: turn {learned}, the first to learn, lies beyond the window")
    opening = later = tokens_of(turns, tokenizer, attention)
    if joins:
        again = exchanges(sample, choice, first=False)[0]
        prompt = prompt_ids(again, tokenizer, begin=bos == "every")
        later = tokens_of([replace(turns[0], prompt=prompt), *turns[1:]], tokenizer, attention)
    images = [image.data for image in sample.images[: sum(turn.images for turn in turns)]]
    return Piece(sample.key, opening, later, images, cut=sum(map(len, turns)) < sum(map(len, whole)))


def within(turns: Sequence[EncodedTurn], window: int) -> list[EncodedTurn]:
    """Return the turns that fit; the last response may be cut. A prompt with none of its response is dropped."""
    kept: list[EncodedTurn] = []
    room = window
    for turn in turns:
        room -= len(turn.prompt)
        if room < 1:
            break
        kept.append(replace(turn, target=turn.target[:room]))
        room -= len(turn.target)
    return kept


def tokens_of(turns: Sequence[EncodedTurn], tokenizer: Tokenizer, attention: str, segment: int = 0) -> Tokens:
    """Join turns to the tokens of one segment."""
    tokens = Tokens(image_numbers=image_numbers(turns, tokenizer.image_id, attention))
    for turn in turns:
        tokens.ids.extend((*turn.prompt, *turn.target))
        tokens.loss_mask.extend([False] * len(turn.prompt) + [turn.learned] * len(turn.target))
    tokens.segment.extend([segment] * len(tokens.ids))
    return tokens
