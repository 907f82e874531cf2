"""Multi-turn augmentation: samples become rows of a full window, with a loss mask and the image each token attends.

A row of one short sample is mostly padding, and a model that never sees two images in a conversation never learns which
one is meant. So the paper fills the window with further samples as later turns [PF, section 4.1]. What differs here:

- no sample is drawn twice or left out in an epoch, and none is cut because others came before it. The reference draws
  with replacement and cuts the row at the window, in the middle of a response if need be;
- a sample with more images than a row may hold is left out and counted. The reference drops its last images and keeps
  their `<image>` tags, which then attend evenly to all images of the row;
- rows may be filled by best fit, and samples may share a row without seeing each other (`join="isolated"`);
- text attends images of its own sample only, whatever shares the row;
- a turn that is not to be learned (`Turn.learned`) is read and not supervised.

What cannot be packed is counted with its reason (`Skipped`). Which samples share a row is decided in `bin_packing.py`.
Nothing here decodes an image, shuffles shards or builds a tensor (`training/`).

[PF] arXiv 2307.01003; the reference is `InstructionDataset` of ChenDelong1999/instruct_flamingo.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from polite_flamingo.packing.bin_packing import FILLS
from polite_flamingo.prompts import chat_prompt, rewriting_prompt
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, BadSample, Sample

if TYPE_CHECKING:  # it imports torch, which a command's --help need not
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


ALIKE = 64
"""Rows of about the same length that follow each other, where they do: some micro-batches."""


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How rows are filled.

    Attributes:
        window: tokens of a row, at most. Paper: 1024, in stage 2 196.
        max_images: of a row, at most. Paper: 10, in stage 2 3.
        fill: "random": in shuffled order, as the paper; "best_fit": nearly as few rows as possible; "alone": one sample
            a row.
        join: "multi_turn": samples are turns of one conversation, as the paper: one system message, each sees what was
            said before. "isolated": each sample is a conversation of its own, so that a row trains as its samples do
            one by one.
        bos: "first": one where a conversation begins. "every": one before each prompt and each response as well, the
            latter supervised, which is what the reference's tokenizer calls gave.
        group_by_length: rows of about the same length follow each other, so that those of a micro-batch pad each other
            little, also where images fill rows before tokens do; else rows come in any order.
    """

    window: int = 1024
    max_images: int = 10
    fill: Literal["random", "best_fit", "alone"] = "random"
    join: Literal["multi_turn", "isolated"] = "multi_turn"
    bos: Literal["first", "every"] = "first"
    group_by_length: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for rows that could hold nothing."""
        if self.window < 2:
            raise ValueError("packing: window must be at least 2 tokens; the paper's are 1024 and 196")
        if self.max_images < 0:
            raise ValueError("packing: max_images must not be negative (0 leaves only text)")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What of a sample is the prompt and what is learned.

    Attributes:
        protocol: "chat": the instruction is answered. "rewriting": the response, a draft, is revised.
        response: that a chat learns: "raw", the annotation, or "rewritten". Rewriting always learns the latter.
    """

    protocol: Literal["chat", "rewriting"] = "chat"
    response: Literal["raw", "rewritten"] = "raw"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One turn as text: what is said (`target`), how many images the prompt shows, whether the target is learned."""

    prompt: str
    target: str
    images: int
    learned: bool = True


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample that is in no row; `reason` is one of `sample.REASONS` or "too_many_images"."""

    key: str
    reason: str
    detail: str


@dataclass(kw_only=True)
class Row:
    """One row, lists of T entries but for the last two.

    Attributes:
        ids: token ids.
        loss: whether predicting this very token is supervised.
        media: number of the image that the position attends: 1 is the row's first, 0 is none.
        turn: number of the sample, 0 for the row's first.
        images: encoded bytes, in the order of the `<image>` tokens.
        keys: of the samples, in order.
    """

    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)
    media: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Packed:
    """Rows, and what became of samples that are not whole in them.

    Attributes:
        window: of the rows.
        rows: in a random order; see `PackingConfig.group_by_length`.
        cut: keys of samples longer than the window, whose end is missing.
        skipped: samples that are in no row.
    """

    window: int
    rows: list[Row] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Of all rows, without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained(self) -> int:
        """Supervised tokens."""
        return sum(sum(row.loss) for row in self.rows)

    @property
    def padding(self) -> float:
        """Share of the rows that is padding if each is padded to the window; 0 without rows."""
        return 1 - self.tokens / (self.window * len(self.rows)) if self.rows else 0.0

    def reasons(self) -> dict[str, int]:
        """How many samples were skipped for each reason."""
        return dict(Counter(one.reason for one in self.skipped))


def pack(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    config: PackingConfig,
    attention: Literal["v1", "v2"],
    rng: random.Random,
    reading: Reading | Sequence[Reading] = Reading(),
) -> Packed:
    """Every sample in exactly one row, or skipped. A pure function of its arguments and of the state of `rng`.

    Args:
        samples: packed together.
        tokenizer: of the model.
        config: how.
        attention: semantics of the model: decides which image a token attends.
        rng: orders samples, rows, and the samples within a row.
        reading: of all samples, or of each.
    """
    readings = [reading] * len(samples) if isinstance(reading, Reading) else reading
    packed = Packed(window=config.window)
    pieces = []
    for sample, read in zip(samples, readings, strict=True):
        if len(sample.images) > config.max_images:
            detail = f"{len(sample.images)} images, a row holds {config.max_images}"
            packed.skipped.append(Skipped(key=sample.key, reason="too_many_images", detail=detail))
            continue
        try:
            piece = _piece(sample, read, tokenizer, config, attention)
        except BadSample as bad:
            packed.skipped.append(Skipped(key=sample.key, reason=bad.reason, detail=bad.detail))
            continue
        if piece.cut:
            packed.cut.append(sample.key)
        pieces.append(piece)
    rng.shuffle(pieces)
    # What a sample is longer by as the first of its row; at a boundary of words it may differ by a token.
    extra = max((len(piece.opening.ids) - len(piece) for piece in pieces), default=0)
    bins = FILLS[config.fill](pieces, config.window - extra, config.max_images)
    for members in bins:
        rng.shuffle(members)  # else best fit would always show the longest first
    rng.shuffle(bins)
    packed.rows = [_row(members) for members in bins]
    if config.group_by_length:
        packed.rows.sort(key=lambda row: len(row.ids))
        blocks = [packed.rows[start : start + ALIKE] for start in range(0, len(packed.rows), ALIKE)]
        rng.shuffle(blocks)
        packed.rows = [row for block in blocks for row in block]
    assert all(len(row.ids) <= config.window and len(row.images) <= config.max_images for row in packed.rows)
    return packed


def exchanges(sample: Sample, reading: Reading = Reading(), *, first: bool = True) -> list[Exchange]:
    """The turns of a sample as text. Raises `BadSample` where a text is missing or no text.

    Args:
        sample: valid.
        reading: what is the prompt and what is learned.
        first: whether the conversation begins with this sample and so needs the system message.
    """
    revised = reading.protocol == "rewriting" or reading.response == "rewritten"
    if revised and len(sample.turns) != 1:
        raise BadSample(
            "unsupported", f"{sample.key}: {len(sample.turns)} turns; only a single one has a rewritten text"
        )
    if revised and sample.rewritten is None:
        raise BadSample("bad_field", f"{sample.key}: no rewritten text; train on response 'raw', or rewrite it first")
    found = []
    for number, turn in enumerate(sample.turns):
        target = (sample.rewritten or "") if revised else turn.response
        if not target.strip():
            raise BadSample("empty_response", f"{sample.key}: nothing to learn in turn {number}")
        if len(target) > MAX_TEXT_CHARACTERS:
            raise BadSample("text_too_long", f"{sample.key}: {len(target)} characters, at most {MAX_TEXT_CHARACTERS}")
        if any("\ud800" <= letter <= "\udfff" for letter in target):
            raise BadSample("bad_field", f"{sample.key}: half of a surrogate pair in the rewritten text")
        opens = first and number == 0
        prompt = (
            rewriting_prompt(turn.instruction, turn.response, first=opens)
            if reading.protocol == "rewriting"
            else chat_prompt(turn.instruction, first=opens)
        )
        images = turn.instruction.count(IMAGE_MARK)
        found.append(Exchange(prompt=prompt, target=target, images=images, learned=turn.learned))
    return found


@dataclass(frozen=True)
class EncodedTurn:
    """An exchange as ids: `target` ends with EOS unless it was cut."""

    prompt: list[int]
    target: list[int]
    images: int
    learned: bool = True

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def encode(turns: Sequence[Exchange], tokenizer: Tokenizer, bos: str) -> list[EncodedTurn]:
    """Ids of a conversation from its beginning, each prompt and each target encoded alone, as the reference does.

    Args:
        turns: in order.
        tokenizer: of the model.
        bos: as `PackingConfig.bos`.

    Raises:
        BadSample: a text spells out a special token: it would end early, shift which image is seen, or teach it.
    """
    every = bos == "every"
    return [
        EncodedTurn(
            _prompt(turn, tokenizer, begin=every or number == 0),
            [*_ids(turn.target, tokenizer, begin=every, images=0), tokenizer.eos_id],
            turn.images,
            turn.learned,
        )
        for number, turn in enumerate(turns)
    ]


def conversation_ids(turns: Sequence[Exchange], tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation whose last turn is to be answered, as a row of training holds them up to that answer.

    Args:
        turns: in order; the last one's target is not looked at.
        tokenizer: of the model.

    Raises:
        BadSample: a text spells out a special token.
    """
    before = encode(turns[:-1], tokenizer, "first")
    ids = [token for turn in before for token in (*turn.prompt, *turn.target)]
    return ids + _prompt(turns[-1], tokenizer, begin=len(turns) == 1)


def _prompt(turn: Exchange, tokenizer: Tokenizer, *, begin: bool) -> list[int]:
    return _ids(turn.prompt, tokenizer, begin=begin, images=turn.images)


def _ids(text: str, tokenizer: Tokenizer, *, begin: bool, images: int) -> list[int]:
    ids = tokenizer.encode(text, begin=False)
    special = Counter(token for token in ids if token in tokenizer.special_ids)
    ends = special.pop(tokenizer.end_of_chunk_id, 0)  # one after each image, or none in some protocols
    if special.pop(tokenizer.image_id, 0) != images or special or ends > images:
        raise BadSample("bad_field", f"a text spells out a special token: {text[-80:]!r}")
    return [*tokenizer.begin_ids, *ids] if begin else ids


def image_numbers(turns: Sequence[EncodedTurn], image_id: int, attention: str) -> list[int]:
    """The image that each token of one sample attends, as `flamingo.attention.image_numbers` counts; 0 is none.

    v2: text attends the last image before it, in whichever turn it was shown. v1: text attends the next image of its
    own turn, and none after the turn's last. (Counted over the sample instead, a v1 response would attend the image of
    the next turn, which is not there yet when the response is written.)
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


@dataclass(frozen=True)
class _Tokens:
    """A sample in one of its two forms."""

    ids: list[int]
    loss: list[bool]
    media: list[int]


@dataclass(frozen=True)
class _Piece:
    """A sample ready for any place in a row: `opening` begins a conversation, `later` continues one."""

    key: str
    opening: _Tokens
    later: _Tokens
    images: list[bytes]
    cut: bool

    def __len__(self) -> int:
        return len(self.later.ids)


def _piece(sample: Sample, reading: Reading, tokenizer: Tokenizer, config: PackingConfig, attention: str) -> _Piece:
    """Raises `BadSample` for what no row can hold."""
    sample.validate()
    whole = encode(exchanges(sample, reading), tokenizer, config.bos)
    turns = _within(whole, config.window)
    if not turns:
        size = len(whole[0].prompt)
        raise BadSample("text_too_long", f"{sample.key}: a prompt of {size} tokens, the window is {config.window}")
    if not any(turn.learned for turn in turns):
        learned = next(number for number, turn in enumerate(whole) if turn.learned)
        raise BadSample("text_too_long", f"{sample.key}: turn {learned}, the first to learn, lies behind the window")
    opening = later = _tokens(turns, tokenizer, attention)
    if config.join == "multi_turn" and config.fill != "alone":
        again = exchanges(sample, reading, first=False)[0]
        prompt = _prompt(again, tokenizer, begin=config.bos == "every")
        later = _tokens([replace(turns[0], prompt=prompt), *turns[1:]], tokenizer, attention)
    images = [image.data for image in sample.images[: sum(turn.images for turn in turns)]]
    return _Piece(sample.key, opening, later, images, cut=sum(map(len, turns)) < sum(map(len, whole)))


def _within(turns: Sequence[EncodedTurn], window: int) -> list[EncodedTurn]:
    """The turns that fit, the last response perhaps cut: a prompt without any of its response teaches nothing."""
    kept: list[EncodedTurn] = []
    room = window
    for turn in turns:
        room -= len(turn.prompt)
        if room < 1:
            break
        kept.append(replace(turn, target=turn.target[:room]))
        room -= len(turn.target)
    return kept


def _tokens(turns: Sequence[EncodedTurn], tokenizer: Tokenizer, attention: str) -> _Tokens:
    ids: list[int] = []
    loss: list[bool] = []
    for turn in turns:
        ids += [*turn.prompt, *turn.target]
        loss += [False] * len(turn.prompt) + [turn.learned] * len(turn.target)
    return _Tokens(ids, loss, image_numbers(turns, tokenizer.image_id, attention))


def _row(members: Sequence[_Piece]) -> Row:
    row = Row()
    for number, piece in enumerate(members):
        tokens = piece.later if number else piece.opening
        row.ids += tokens.ids
        row.loss += tokens.loss
        row.media += [media + len(row.images) if media else 0 for media in tokens.media]
        row.turn += [number] * len(tokens.ids)
        row.images += piece.images
        row.keys.append(piece.key)
    return row
