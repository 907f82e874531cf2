"""Attention semantics: which image each position sees, in v1 and v2.

open_flamingo's cross-attention gives position p the image number `cumsum(media_locations)[p]` (1 = first image, 0 =
none, beyond the last image = uniform over all). **v2** (open_flamingo 2.0.1) passes the mask of `<image>` tokens, so
text sees the image before it. **v1** (the published Polite and Clever Flamingo) looks *forward*: text sees the next
image, and text after the last image sees none. For v1 we pass the differences of the desired numbers, whose running sum
gives the numbers.

Within a packed row, `isolation` keeps samples from attending to each other's text.
"""

from __future__ import annotations

from typing import Literal

import torch

Attention = Literal["v1", "v2"]


def image_numbers(is_image_BT: torch.Tensor, attention: Attention) -> torch.Tensor:
    """Return the number of the image each position sees (1 = first, 0 = none), counted within this call's tokens.

    Args:
        is_image_BT: True at `<image>` tokens, (batch, tokens).
        attention: "v1" or "v2".

    Returns:
        (batch, tokens), int64. A number above the count of image slots means uniform attention over all slots.
    """
    seen_BT = is_image_BT.cumsum(dim=-1)
    if attention == "v2":
        return seen_BT
    upcoming_BT = torch.where(is_image_BT, seen_BT, seen_BT + 1)
    return torch.where(upcoming_BT > seen_BT[:, -1:], torch.zeros_like(upcoming_BT), upcoming_BT)


def as_locations(numbers_BT: torch.Tensor) -> torch.Tensor:
    """Return integers whose running sum is `numbers_BT`, open_flamingo's `media_locations`."""
    return torch.diff(numbers_BT, dim=-1, prepend=torch.zeros_like(numbers_BT[:, :1]))


def isolation(sample_index_BS: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mask that separates the samples of a row, and positions (B, S) counted from the start of each sample.

    Args:
        sample_index_BS: index of each token's sample; a sample's tokens are next to each other.
        dtype: dtype of the mask.

    Returns:
        The mask (B, 1, S, S) is added to attention scores. It is not boolean, because MPT and LLaMA read booleans in
        opposite ways; both understand 0 and the lowest number of the dtype.
    """
    size = sample_index_BS.shape[1]
    causal_SS = torch.ones(size, size, dtype=torch.bool, device=sample_index_BS.device).tril()
    seen_BSS = (sample_index_BS[:, :, None] == sample_index_BS[:, None, :]) & causal_SS
    mask = torch.zeros(seen_BSS.shape, dtype=dtype, device=sample_index_BS.device).masked_fill(
        ~seen_BSS, torch.finfo(dtype).min
    )
    place_S = torch.arange(size, device=sample_index_BS.device)
    begins_BS = torch.diff(sample_index_BS, dim=1, prepend=sample_index_BS[:, :1] - 1) != 0
    start_BS = torch.where(begins_BS, place_S, 0).cummax(dim=1).values
    return mask[:, None], place_S - start_BS
