"""The candidates for attention in a step of decoding compute the same."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gpu.attention import ATTENTIONS

SIZES = [(3, 4, 2, 100, 12, 1), (2, 3, 3, 64, 32, 3), (5, 4, 4, 130, 16, 1), (1, 1, 1, 1, 8, 1)]
"""Rows, heads, heads of keys, positions, width, heads of biases."""


@pytest.mark.parametrize("name", ["sdpa", "triton"])
@pytest.mark.parametrize("size", SIZES)
def test_a_candidate_finds_what_the_decoder_finds(name: str, size: tuple[int, ...]) -> None:
    if name == "triton" and not torch.cuda.is_available():
        pytest.skip("runs on a GPU")
    device = "cuda" if name == "triton" else "cpu"
    rows, heads, kv_heads, places, width, biases = size
    torch.manual_seed(0)
    cache = torch.randn(2, rows + 4, kv_heads, places + 30, width, device=device)
    keys, values = cache[:, :rows, :, :places]
    query = torch.randn(rows, 1, heads + 2 * kv_heads, width, device=device)[:, :, :heads].transpose(1, 2)
    seen = torch.arange(places, device=device) <= torch.randint(0, places, (rows, 1, 1), device=device)
    bias = torch.randn(rows, biases, places, device=device).masked_fill(~seen, -math.inf)
    values[(~seen[:, 0])[:, None].expand(rows, kv_heads, places)] = 100.0  # what is hidden must not matter
    given = query, keys, values, bias, width**-0.5
    found = ATTENTIONS[name](*given)
    assert found.shape == (rows, 1, heads * width)
    torch.testing.assert_close(found, ATTENTIONS["bmm"](*given), rtol=1e-4, atol=1e-4)
    everything = query, keys, values, None, width**-0.5
    torch.testing.assert_close(ATTENTIONS[name](*everything), ATTENTIONS["bmm"](*everything), rtol=1e-4, atol=1e-4)
