"""Ways to attend in a step of decoding, one query a row: candidates for `decoder.single_query_attention` on a GPU.

- `bmm` is the decoder's own, two batched products. Every row reads as many positions as the longest row has.
- `sdpa` is torch's fused kernel; it reads as much.
- `triton` reads what its row may see: blocks of positions that the bias hides are skipped. In a mix of lengths that is
  a fraction.

The benchmark compares them; which becomes the decoder's on a GPU is for a measurement to say. Triton comes with torch
for CUDA, and is imported only where it is asked for.

Shapes: B rows, H heads, G heads of keys, L positions, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from polite_flamingo.flamingo.model.layers import single_query_attention

BLOCK = 64
"""Positions that a program of the Triton kernel reads at once."""


def torchs_kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """`scaled_dot_product_attention`."""
    mask = None if bias is None else bias[:, :, None]
    grouped = query.shape[1] != keys.shape[1]
    found = F.scaled_dot_product_attention(query, keys, values, mask, scale=scale, enable_gqa=grouped)
    return found.transpose(1, 2).flatten(2)


def seen_alone(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """A Triton kernel that reads the positions which the bias does not hide."""
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


LOOKS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]] = {
    "bmm": single_query_attention,
    "sdpa": torchs_kernel,
    "triton": seen_alone,
}
"""By the names of the command line. Queries (B, H, 1, E), keys and values (B, G, L, E), biases (B, H or 1, L) or none,
the scale of the scores -> (B, 1, H E)."""
