"""The compiled CPU kernels, compared with the same arithmetic in torch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model import cpu_kernels
from polite_flamingo.flamingo.model.decoder import _alibi_slopes
from polite_flamingo.flamingo.model.layers import RmsNorm
from tests.support.engine_requests import fresh, prompts, stop_token_ids_of

ROWS, LAYERS, CAPACITY, POSITIONS = 5, 2, 23, 64
NOTHING = torch.empty(0, 0)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def turned(x: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """(…, heads, E) at positions (…)."""
    if not len(cos):
        return x
    low, high = x.chunk(2, dim=-1)
    return x * cos[positions][..., None, :] + torch.cat((-high, low), dim=-1) * sin[positions][..., None, :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 6), (6, 2, 48), (1, 1, 2)])
@pytest.mark.parametrize("rotary", [True, False])
def test_a_step_stores_and_attends(dtype: torch.dtype, heads: int, kv_heads: int, width: int, rotary: bool) -> None:
    generator = torch.Generator().manual_seed(heads + width)
    cache = torch.randn(2, LAYERS, ROWS + 1, kv_heads, CAPACITY, width, generator=generator).to(dtype)
    qkv = torch.randn(ROWS, heads + 2 * kv_heads, width, generator=generator).to(dtype)
    positions = torch.tensor([0, 22, 7, 3, 12])
    shared = torch.tensor([0, 5, 0, 3, 12])
    for row, count in enumerate(shared.tolist()):  # those rows must hold what the last row holds
        cache[:, :, row, :, :count] = cache[:, :, ROWS, :, :count]
    cos, sin = torch.randn(2, POSITIONS, width, generator=generator) if rotary else (NOTHING, NOTHING)
    cos, sin = (torch.cat((part[:, : width // 2],) * 2, dim=1) for part in (cos, sin)) if rotary else (cos, sin)
    slopes = torch.empty(0, 1) if rotary else _alibi_slopes(heads)[:, None]

    layer, scale = 1, 1 / math.sqrt(width)
    query, key, value = qkv.float().split((heads, kv_heads, kv_heads), dim=1)
    query, key = turned(query, positions, cos, sin), turned(key, positions, cos, sin)
    expected_cache = cache.clone()
    expected_cache[:, layer, torch.arange(ROWS), :, positions] = torch.stack((key, value), dim=1).to(dtype)
    expected = []
    for row, here in enumerate(positions.tolist()):
        keys, values = expected_cache[:, layer, row, :, : here + 1].float().repeat_interleave(heads // kv_heads, dim=1)
        scores = (query[row, :, None] @ keys.transpose(1, 2))[:, 0] * scale
        if not rotary:
            scores = scores + slopes * (torch.arange(here + 1) - here)
        expected.append((scores.softmax(dim=-1)[:, None] @ values)[:, 0])
        if shared[row]:  # overwritten, so that they can be read from the last row only
            cache[:, layer, row, :, : shared[row]] = 1e3
            expected_cache[:, layer, row, :, : shared[row]] = 1e3

    found = torch.empty(ROWS, heads, width, dtype=dtype)
    cpu_kernels.attend_step(
        cpu_kernels.array(qkv), cpu_kernels.array(cache), layer, positions.numpy(), ROWS, shared.numpy(), cos.numpy(),
        sin.numpy(), slopes.numpy(), scale, cpu_kernels.array(found),
    )  # fmt: skip
    torch.testing.assert_close(found.float(), torch.stack(expected), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(cache, expected_cache, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_prompts_are_stored_where_they_belong(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    heads, kv_heads, width, length = 4, 2, 8, 6
    cache = torch.zeros(2, LAYERS, ROWS, kv_heads, CAPACITY, width, dtype=dtype)
    qkv = torch.randn(2, length, heads + 2 * kv_heads, width, generator=generator).to(dtype)
    positions = torch.stack((torch.arange(length), torch.arange(length) + 9))
    rows = torch.tensor([3, 1])
    cos, sin = torch.randn(2, POSITIONS, width // 2, generator=generator).repeat(1, 1, 2)
    query = torch.empty(2, heads, length, width, dtype=dtype)
    cpu_kernels.store(
        cpu_kernels.array(qkv), cpu_kernels.array(cache), 0, rows.numpy(), positions.numpy(), cos.numpy(), sin.numpy(),
        cpu_kernels.array(query),
    )  # fmt: skip
    wanted = turned(qkv[:, :, : heads + kv_heads].float(), positions, cos, sin).to(dtype)
    torch.testing.assert_close(query.transpose(1, 2), wanted[:, :, :heads], atol=1e-2, rtol=1e-2)
    for number, row in enumerate(rows.tolist()):
        kept = cache[:, 0, row, :, positions[number]].transpose(1, 2)
        torch.testing.assert_close(kept[0], wanted[number, :, heads:], atol=1e-2, rtol=1e-2)
        assert torch.equal(kept[1], qkv[number, :, heads + kv_heads :])
    assert (cache != 0).sum() == 2 * 2 * length * kv_heads * width, "and nowhere else"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_torchs(dtype: torch.dtype) -> None:
    module = torch.nn.RMSNorm(12, eps=1e-3)
    module.weight.data = torch.randn(12)
    module = module.to(dtype)
    module.variance_epsilon = 1e-3  # as transformers calls it
    x = torch.randn(3, 4, 12) * 5
    expected = F.rms_norm(x, (12,), module.weight.float(), 1e-3)
    found = RmsNorm(module)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bfloat16_is_rounded_as_torch_rounds_it(numbers: list[float]) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)[:, None]
    cache = torch.zeros(2, 1, 1, 1, len(x), 1, dtype=torch.bfloat16)
    qkv = x[None].repeat(1, 1, 3)[..., None]  # one head of one number, float32, into a cache of bfloat16
    cpu_kernels.store(
        cpu_kernels.array(qkv), cpu_kernels.array(cache), 0, np.zeros(1, int), np.arange(len(x))[None], NOTHING.numpy(),
        NOTHING.numpy(), cpu_kernels.array(torch.empty(1, 1, len(x), 1)),
    )  # fmt: skip
    assert torch.equal(cache[0, 0, 0, 0], x.to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_bfloat16_says_nearly_what_float32_says(kind: str, attention: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind).load(attention=attention)
    wanted = [replace(one, params=SamplingParams(max_new_tokens=1)) for one in prompts(model, 12, seed=3)]

    def logits() -> torch.Tensor:
        engine = Engine(model, EngineConfig(slots=12), stop_token_ids=stop_token_ids_of(model))
        prefill, found = engine.decoder.prefill, []
        engine.decoder.prefill = lambda *given: found.append(prefill(*given)) or found[-1].clone()  # type: ignore[method-assign, func-returns-value]
        engine.generate(fresh(wanted))
        return torch.cat(found).float()

    exact = logits()
    model.to(torch.bfloat16)
    rounded = logits()
    assert not torch.equal(rounded, exact)
    difference = (rounded - exact)[:, :-5].norm() / exact[:, :-5].norm()
    assert difference < 0.03
