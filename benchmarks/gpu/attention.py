"""Attention of a decode step, with one query per row: candidates for `layers.single_query_attention` on a GPU.

- `bmm` is the decoder's, two batched products. Every row reads as many positions as the longest row has.
- `sdpa` is torch's fused kernel; it reads as much.
- `triton` reads only what its row may see: it skips blocks of positions that the bias masks. With rows of different
  lengths that is a fraction.

A measurement on a GPU has to decide which one the decoder uses there. Triton comes with torch for CUDA and is imported
only on use.

Shapes: B rows, H heads, G key heads, L positions, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from polite_flamingo.flamingo.model.layers import single_query_attention

BLOCK = 64
"""Number of positions that a Triton program reads at once."""


def fused_kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Call `scaled_dot_product_attention`."""
    mask = None if bias is None else bias[:, :, None]
    grouped = query.shape[1] != keys.shape[1]
    found = F.scaled_dot_product_attention(query, keys, values, mask, scale=scale, enable_gqa=grouped)
    return found.transpose(1, 2).flatten(2)


def triton_kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Call the Triton kernel, which skips masked positions."""
    from benchmarks.gpu.kernel import attend

    rows, heads, _, width = query.shape
    if bias is None:
        bias = query.new_zeros(1, 1, keys.shape[2]).expand(rows, 1, -1)
    found = torch.empty(rows, 1, heads * width, dtype=query.dtype, device=query.device)
    assert keys.stride() == values.stride() and keys.stride(3) == query.stride(3) == bias.stride(2) == 1
    attend[rows, heads](
        query, keys, values, bias, found, scale, keys.shape[2], heads // keys.shape[1],
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        bias.stride(0), bias.stride(1) if bias.shape[1] > 1 else 0, heads, width,
        BLOCK=BLOCK, WIDTH=1 << (width - 1).bit_length(),
    )  # fmt: skip
    return found


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]] = {
    "bmm": single_query_attention,
    "sdpa": fused_kernel,
    "triton": triton_kernel,
}
"""By name. From queries (B, H, 1, E), keys and values (B, G, L, E), biases (B, H or 1, L) or None, and the scale of the
scores to (B, 1, H E)."""
