"""oneDNN compiles for each number of rows and keeps the result, so an engine must not use every possible number."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model.layers import by_rows, rounded
from tests.support.engine_requests import PICTURES
from tests.support.tiny_flamingo import Tiny


class Sizes(TorchFunctionMode):
    """Records the numbers of rows that oneDNN is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Any, set[int]] = {F.linear: set(), F.gelu: set(), torch.bmm: set()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.rows and (args[0].dtype == torch.bfloat16 or func is F.gelu):
            self.rows[func].add(args[0].numel() // args[0].shape[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_engine_asks_for_few_sizes_whatever_the_prompts(tiny: Tiny, dtype: torch.dtype) -> None:
    model = tiny.load().to(dtype)
    engine = Engine(model, EngineConfig(slots=12, prefixes=0, prefill_tokens=200), stop_token_ids=[])
    rng = random.Random(0)
    words = [token for token in range(3, 40) if token != model.tokenizer.image_id]
    lengths = [rng.randrange(1, 70) for _ in range(30)]

    def ask() -> None:
        made = []
        for number, length in enumerate(lengths):
            shown = number % 3 > 0
            ids = [*[model.tokenizer.image_id] * shown, *rng.choices(words, k=length)]
            images = [PICTURES[number % 7]] * shown
            made.append(Request(ids=ids, images=images, params=SamplingParams(max_new_tokens=1 + number % 4)))
        engine.generate(made)
        assert all(request.error is None for request in made)

    ask()  # from now on all images are known: the vision tower's sizes are bounded otherwise
    with Sizes() as sizes:
        ask()
    asked = sizes.rows[F.gelu] | sizes.rows[F.linear] | {rows // engine.decoder.heads for rows in sizes.rows[torch.bmm]}
    assert not {rows for rows in asked if rounded(rows) != rows}
    assert len(sizes.rows[F.gelu]) > 4, "prompts of so many lengths come in several sizes"
    assert bool(sizes.rows[F.linear]) == (dtype == torch.bfloat16), "float32 is multiplied by others"


def test_few_sizes_cover_all_and_waste_little() -> None:
    assert len({rounded(rows) for rows in range(1, 2049)}) < 40
    for rows in range(1, 5000):
        assert rows <= rounded(rows) < max(rows + 4, 1.25 * rows)
        assert rounded(rounded(rows)) == rounded(rows)


def test_added_rows_change_nothing_and_are_taken_away() -> None:
    x = torch.arange(2.0 * 9 * 3).view(2, 9, 3)
    seen = []

    def function(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows.flatten(0, -2)))
        return torch.cat([rows, -rows], dim=-1)

    assert torch.equal(by_rows(function, x, rounding=True), torch.cat([x, -x], dim=-1))
    assert torch.equal(by_rows(function, x, rounding=False), torch.cat([x, -x], dim=-1))
    assert seen == [20, 18]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_an_odd_number_decode_where_attention_is_torchs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("polite_flamingo.flamingo.model.layers.compiled", lambda x: False)
    engine = Engine(tiny.load().to(dtype), EngineConfig(slots=3), stop_token_ids=[])
    made = [Request(ids=[5, 6, 7 + number], params=SamplingParams(max_new_tokens=4)) for number in range(3)]
    engine.generate(made)
    assert [len(request.tokens) for request in made] == [4, 4, 4]
