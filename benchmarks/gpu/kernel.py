"""The Triton kernel of `attention.py`. Importing it needs Triton, which comes with torch for CUDA.

Not yet run on a GPU, only by Triton's interpreter on a CPU.
"""

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def attend(  # type: ignore[no-untyped-def]  # Triton reads the types
    query, keys, values, bias, found, scale, places, group,
    query_row, query_head, row, head, place, bias_row, bias_head,
    heads, width, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Attend with one program per row and query head: softmax over the positions in one pass, in float32.

    Args:
        query: pointer to the first element, as are the next ones.
        keys: with strides `row`, `head`, `place`, 1, like the values.
        values: likewise.
        bias: minus infinity masks a position; with strides `bias_row`, `bias_head`, 1.
        found: (B, 1, heads width), contiguous.
        scale: of the scores.
        places: positions.
        group: query heads per key head.
        query_row: stride.
        query_head: stride.
        row: stride.
        head: stride.
        place: stride.
        bias_row: stride.
        bias_head: stride, 0 if all heads share the bias.
        heads: of queries.
        width: of a head.
        BLOCK: positions read at once.
        WIDTH: `width` rounded up to a power of two.
    """
    at_row = tl.program_id(0).to(tl.int64)  # a cache has more elements than fit in 32 bits
    at_head = tl.program_id(1)
    e = tl.arange(0, WIDTH)
    inside = e < width
    asked = (
        tl.load(query + at_row * query_row + at_head * query_head + e, mask=inside, other=0.0).to(tl.float32) * scale
    )
    start = at_row * row + (at_head // group).to(tl.int64) * head
    bias += at_row * bias_row + at_head * bias_head
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    sums = tl.zeros([WIDTH], tl.float32)
    for first in range(0, places, BLOCK):
        here = first + tl.arange(0, BLOCK)
        added = tl.load(bias + here, mask=here < places, other=float("-inf")).to(tl.float32)
        seen = added > float("-inf")
        if tl.max(seen.to(tl.int32), 0) > 0:
            wanted = seen[:, None] & inside[None, :]
            offsets = start + here[:, None].to(tl.int64) * place + e[None, :]
            key = tl.load(keys + offsets, mask=wanted, other=0.0).to(tl.float32)
            value = tl.load(values + offsets, mask=wanted, other=0.0).to(tl.float32)
            scores = tl.sum(key * asked[None, :], 1) + added
            higher = tl.maximum(highest, tl.max(scores, 0))
            kept = tl.exp(highest - higher)
            shares = tl.exp(scores - higher)
            sums = sums * kept + tl.sum(shares[:, None] * value, 0)
            total = total * kept + tl.sum(shares, 0)
            highest = higher
    tl.store(found + (at_row * heads + at_head) * width + e, (sums / total).to(found.dtype.element_ty), mask=inside)
