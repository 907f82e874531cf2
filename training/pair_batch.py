"""The preference pairs of a batch: which segments of its rows are whose answers. Needs no model.

Shapes: B rows, S tokens, P pairs, G segments of all rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polite_flamingo.packing.pack import PackedRow
from polite_flamingo.packing.pieces import PackedPair, Side

SIDES: tuple[Side, ...] = ("chosen", "rejected", "anchor", "unrelated")
UNRELATED = SIDES.index("unrelated")


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """The pairs of a batch.

    Attributes:
        pairs: the pairs, without those whose picture did not decode.
        segment_BS: each token's segment, counted over all rows; -1 in the padding.
        sides_4P: segment of each side (`SIDES`), -1 where a pair has none.
        tokens_G: number of supervised tokens of each segment.
        reference_4P: the reference's log-probability of each side; None until it is known.
    """

    pairs: tuple[PackedPair, ...]
    segment_BS: Tensor
    sides_4P: Tensor
    tokens_G: Tensor
    reference_4P: Tensor | None = None

    @property
    def chosen_tokens(self) -> Tensor:
        """Number of tokens of the chosen answers (P,)."""
        return self.tokens_G[self.sides_4P[0]]

    @property
    def rejected_tokens(self) -> Tensor:
        """Number of tokens of the rejected answers (P,)."""
        return self.tokens_G[self.sides_4P[1]]


def pair_batch(
    rows: Sequence[PackedRow], sample_index_BS: Tensor, loss_mask_BS: Tensor, broken: Collection[str], device: str
) -> PairBatch:
    """Number the segments of all rows, and find the pairs in them.

    Args:
        rows: rows of pairs.
        sample_index_BS: the rows' sample indices as a tensor on the CPU, -1 in the padding.
        loss_mask_BS: their loss masks, likewise.
        broken: keys of pairs to leave out.
        device: where to put the result.
    """
    sizes = torch.tensor([max(1, len(row.keys)) for row in rows])
    starts_B = sizes.cumsum(0) - sizes
    segment_BS = torch.where(sample_index_BS < 0, -1, sample_index_BS + starts_B[:, None])
    tokens_G = torch.bincount(segment_BS[loss_mask_BS], minlength=int(sizes.sum()))
    pairs = [
        pair.after(start) for row, start in zip(rows, starts_B.tolist(), strict=True) for pair in row.pairs
        if pair.key not in broken
    ]  # fmt: skip
    sides = [[pair.segments.get(side, -1) for pair in pairs] for side in SIDES]
    return PairBatch(
        pairs=tuple(pairs),
        segment_BS=segment_BS.to(device),
        sides_4P=torch.tensor(sides, dtype=torch.int64).to(device),
        tokens_G=tokens_G.to(device),
    )
