"""Multi-turn augmentation: packs samples into rows that fill a window, with a loss mask and each token's image number.

A row of one short sample is mostly padding, and a model that never sees two images in a conversation never learns which
one is meant. So the paper fills the window with further samples as later turns [PF, section 4.1]. Differences here:

- an epoch holds every sample exactly once, and no sample is cut because of those before it. The reference samples with
  replacement and cuts the row at the window, in the middle of a response if need be;
- a sample with more images than a row may hold is skipped and counted. The reference drops its last images and keeps
  their `<image>` tags, which then attend evenly to all images in the row;
- rows may be filled by best fit, and samples may share a row without attending to each other (`join="isolated"`);
- text attends only to images of its own sample;
- a turn with `Turn.learned` False is context: it is not supervised;
- a preference pair takes several places of a row (`pairs.py`).

What cannot be packed is counted with its reason (`Skipped`). `bin_packing.py` decides which samples share a row.
Nothing here decodes an image, shuffles shards or builds a tensor (`training/` does).

[PF] arXiv 2307.01003; the reference is `InstructionDataset` of ChenDelong1999/instruct_flamingo.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from polite_flamingo.packing.bin_packing import FILLS
from polite_flamingo.packing.chat_turns import AS_ANNOTATED, ResponseChoice
from polite_flamingo.packing.pairs import PairChoice, pair_piece
from polite_flamingo.packing.pieces import PackedPair, Piece, sample_piece
from polite_flamingo.sample import BadSample, Sample

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


Choice = ResponseChoice | PairChoice

ALIKE = 64
"""How many rows of similar length follow each other with `group_by_length`: a few micro-batches."""


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How rows are filled.

    Attributes:
        window: maximum tokens per row. Paper: 1024; 196 in stage 2.
        max_images: maximum images per row. Paper: 10; 3 in stage 2.
        fill: "random": in shuffled order, as in the paper; "best_fit": nearly as few rows as possible; "alone": one
            sample per row.
        join: "multi_turn": samples are turns of one conversation, as in the paper, with one system message, and each
            attends to those before it. "isolated": samples do not attend to each other, so a row trains as its samples
            would one by one.
        bos: "first": one BOS at the start of a conversation. "every": one before each prompt and each response as well,
            the latter supervised, which is what the reference's tokenizer calls produce.
        group_by_length: let rows of similar length follow each other, so that a micro-batch needs little
            padding; otherwise rows come in random order.
    """

    window: int = 1024
    max_images: int = 10
    fill: Literal["random", "best_fit", "alone"] = "random"
    join: Literal["multi_turn", "isolated"] = "multi_turn"
    bos: Literal["first", "every"] = "first"
    group_by_length: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if rows could hold nothing."""
        if self.window < 2:
            raise ValueError("packing: window must be at least 2 tokens; the paper's are 1024 and 196")
        if self.max_images < 0:
            raise ValueError("packing: max_images must not be negative (0 leaves only text)")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample that is not in any row; `reason` is one of `sample.REASONS` or "too_many_images"."""

    key: str
    reason: str
    detail: str


@dataclass(kw_only=True)
class PackedRow:
    """One row of T tokens; all lists except the last two have T entries.

    Attributes:
        ids: token ids.
        loss_mask: whether predicting this token is supervised.
        image_numbers: number of the image that the position attends to: 1 is the row's first, 0 is none.
        sample_index: index of the token's sample in the row; each side of a pair counts as a sample here.
        images: encoded bytes, in the order of the `<image>` tokens; the sides of a pair share theirs.
        keys: key of the sample at each index.
        pairs: the preference pairs in the row, if it consists of pairs.
    """

    ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    image_numbers: list[int] = field(default_factory=list)
    sample_index: list[int] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pairs: list[PackedPair] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Number of samples in the row; a pair is one."""
        return len(self.pairs) or len(self.keys)


@dataclass(kw_only=True)
class Packed:
    """Packed rows, and the samples that were cut or skipped.

    Attributes:
        window: size of the window in tokens.
        rows: the rows in random order; see `PackingConfig.group_by_length`.
        cut: keys of samples that were truncated at the window.
        skipped: samples that are not in any row.
    """

    window: int
    rows: list[PackedRow] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Number of tokens in all rows, without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained(self) -> int:
        """Number of supervised tokens."""
        return sum(sum(row.loss_mask) for row in self.rows)

    @property
    def padding(self) -> float:
        """Share of the rows that is padding if each is padded to the window; 0 without rows."""
        return 1 - self.tokens / (self.window * len(self.rows)) if self.rows else 0.0

    def reasons(self) -> dict[str, int]:
        """Count the skipped samples by reason."""
        return dict(Counter(one.reason for one in self.skipped))


def pack(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    config: PackingConfig,
    attention: Literal["v1", "v2"],
    rng: random.Random,
    choice: Choice | Sequence[Choice] = AS_ANNOTATED,
) -> Packed:
    """Pack every sample into exactly one row, or skip it. A pure function of its arguments and of the state of `rng`.

    Args:
        samples: the samples to pack together.
        tokenizer: the model's tokenizer.
        config: how to pack.
        attention: the model's attention semantics, which decide which image a token attends to.
        rng: orders samples, rows, and the samples within a row.
        choice: which texts of the samples to use: one for all, or one per sample.
    """
    choices = [choice] * len(samples) if isinstance(choice, ResponseChoice | PairChoice) else choice
    packed = Packed(window=config.window)
    pieces = []
    for sample, chosen in zip(samples, choices, strict=True):
        images = len(sample.images) * (chosen.pictures if isinstance(chosen, PairChoice) else 1)
        if images > config.max_images:
            detail = f"{images} images, but a row holds at most {config.max_images}"
            packed.skipped.append(Skipped(key=sample.key, reason="too_many_images", detail=detail))
            continue
        try:
            piece = _piece(sample, chosen, tokenizer, config, attention)
        except BadSample as bad:
            packed.skipped.append(Skipped(key=sample.key, reason=bad.reason, detail=bad.detail))
            continue
        if piece.cut:
            packed.cut.append(sample.key)
        pieces.append(piece)
    rng.shuffle(pieces)
    # How much longer a sample is as the first of its row; at a word boundary it may differ by a token.
    extra = max((len(piece.opening.ids) - len(piece) for piece in pieces), default=0)
    bins = FILLS[config.fill](pieces, config.window - extra, config.max_images)
    for members in bins:
        rng.shuffle(members)  # otherwise best fit would always put the longest first
    rng.shuffle(bins)
    packed.rows = [_row(members) for members in bins]
    if config.group_by_length:
        packed.rows.sort(key=lambda row: len(row.ids))
        blocks = [packed.rows[start : start + ALIKE] for start in range(0, len(packed.rows), ALIKE)]
        rng.shuffle(blocks)
        packed.rows = [row for block in blocks for row in block]
    assert all(len(row.ids) <= config.window and len(row.images) <= config.max_images for row in packed.rows)
    return packed


def _piece(sample: Sample, choice: Choice, tokenizer: Tokenizer, config: PackingConfig, attention: str) -> Piece:
    """Encode a sample. Raises `BadSample` if no row can hold it."""
    if isinstance(choice, PairChoice):
        return pair_piece(sample, choice, tokenizer, config.window, config.bos, attention)
    joins = config.join == "multi_turn" and config.fill != "alone"
    return sample_piece(sample, choice, tokenizer, config.window, config.bos, attention, joins=joins)


def _row(members: Sequence[Piece]) -> PackedRow:
    row = PackedRow()
    for place, piece in enumerate(members):
        tokens = piece.later if place else piece.opening
        before = len(row.keys)
        row.ids += tokens.ids
        row.loss_mask += tokens.loss_mask
        row.image_numbers += [number + len(row.images) if number else 0 for number in tokens.image_numbers]
        row.sample_index += [before + index for index in tokens.segment]
        row.images += piece.images
        row.keys += [piece.key] * piece.segments
        if piece.pair is not None:
            row.pairs.append(piece.pair.after(before))
    return row
