"""Preference pairs in packed rows: both sides in the same row, each a segment with its own positions and attention.

The sides show the same picture, which the row holds once. A pair whose sides do not fit the window together has all of
them cut to the same length, so that neither wins by what the window left of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polite_flamingo.conversations import polite_text
from polite_flamingo.packing.chat_turns import EncodedTurn, encode, exchanges
from polite_flamingo.packing.pieces import PackedPair, Piece, Side, Tokens, tokens_of, within
from polite_flamingo.sample import BadSample, Sample

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PairChoice:
    """What to pack of a pair.

    Attributes:
        sides: the segments of each pair (`PreferenceConfig.sides`).
        unrelated: an answer to another question, for the side of that name; "" if there is none.
    """

    sides: tuple[Side, ...] = ("chosen", "rejected")
    unrelated: str = ""

    @property
    def pictures(self) -> int:
        """How often the row holds each image of the pair: whole, and cropped for the anchor."""
        return 2 if "anchor" in self.sides else 1


def chosen_answer(sample: Sample) -> str:
    """Return the better answer of a pair. Raises `BadSample` if the sample is not a pair of two different answers."""
    chosen = sample.rewritten if sample.rewritten is not None else sample.turns[-1].rewritten
    if chosen is None or sample.rejected is None:
        raise BadSample("bad_field", f"{sample.key}: not a pair of answers; polite-flamingo pair makes shards of pairs")
    for name, text in (("chosen", chosen), ("rejected", sample.rejected)):
        if not text.strip():
            raise BadSample("empty_response", f"{sample.key}: the {name} answer is empty")
    if chosen.strip() == sample.rejected.strip():
        raise BadSample("bad_field", f"{sample.key}: the chosen and the rejected answer are equal")
    return chosen


def pair_piece(
    sample: Sample, choice: PairChoice, tokenizer: Tokenizer, window: int, bos: str, attention: str
) -> Piece:
    """Encode a pair.

    Args:
        sample: the pair; its earlier turns are context.
        choice: which sides.
        tokenizer: the model's tokenizer.
        window: maximum tokens of all sides together.
        bos: as `PackingConfig.bos`.
        attention: the model's attention semantics.

    Raises:
        BadSample: it is not a pair of different answers, or no row can hold it.
    """
    chosen = chosen_answer(sample)
    texts: dict[Side, str] = {"chosen": chosen, "rejected": sample.rejected or ""}
    if "anchor" in choice.sides and sample.images:
        texts["anchor"] = chosen
    if "unrelated" in choice.sides and choice.unrelated:
        texts["unrelated"] = choice.unrelated
    whole = {side: _encoded(sample, text, tokenizer, bos) for side, text in texts.items()}
    limit = common_limit([_size(turns) for turns in whole.values()], window)
    turns = {side: within(found, limit) for side, found in whole.items()}
    if any(len(turns[side]) < len(whole[side]) for side in turns):
        raise BadSample("text_too_long", f"{sample.key}: no room for the answers, the window has {window} tokens")
    if turns["chosen"][-1].target == turns["rejected"][-1].target:
        raise BadSample("text_too_long", f"{sample.key}: the answers differ only beyond the window of {window} tokens")
    tokens = Tokens()
    for segment, (side, found) in enumerate(turns.items()):
        part = tokens_of(found, tokenizer, attention, segment)
        shift = len(sample.images) if side == "anchor" else 0
        tokens.ids.extend(part.ids)
        tokens.loss_mask.extend(part.loss_mask)
        tokens.image_numbers.extend(number + shift if number else 0 for number in part.image_numbers)
        tokens.segment.extend(part.segment)
    images = [image.data for image in sample.images]
    if "anchor" in texts:
        from polite_flamingo.images.cropping import cropped  # here, because `--help` does not need Pillow

        images += [cropped(data, seed=f"{sample.key}/{number}") for number, data in enumerate(images)]
    cut = any(_size(turns[side]) < _size(whole[side]) for side in turns)
    digest = hashlib.sha256(json.dumps([sample.key, tokens.ids, tokens.segment]).encode()).hexdigest()[:32]
    segments = {side: segment for segment, side in enumerate(turns)}
    pair = PackedPair(key=sample.key, digest=digest, segments=segments)
    return Piece(sample.key, tokens, tokens, images, cut=cut, segments=len(turns), pair=pair)


def common_limit(sizes: Sequence[int], window: int) -> int:
    """Return the length to which all are cut so that together they fit; what is shorter leaves its room to the rest."""
    room = window
    for number, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - number)
        if size > share:
            return share
        room -= size
    return max(sizes)


def answered(sample: Sample, answer: str) -> Sample:
    """Return the conversation that ends with `answer`, the only response that is supervised."""
    *before, last = sample.turns
    context = [replace(turn, response=polite_text(turn), rewritten=None, learned=False) for turn in before]
    return replace(
        sample, turns=(*context, replace(last, response=answer, rewritten=None, learned=True)), rewritten=None
    )


def _encoded(sample: Sample, answer: str, tokenizer: Tokenizer, bos: str) -> list[EncodedTurn]:
    return encode(exchanges(answered(sample, answer).validate()), tokenizer, bos)


def _size(turns: Sequence[EncodedTurn]) -> int:
    return sum(map(len, turns))
