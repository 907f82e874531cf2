"""Costs are sums over manifests, by model, in tokens, hours and, with prices, money."""

from __future__ import annotations

from typing import Any

import pytest

from polite_flamingo.config import fill
from polite_flamingo.cost import Prices, TokenPrices, cost_of
from polite_flamingo.formatting import money
from polite_flamingo.usage import Usage, of_model

USAGE = {
    "scoring.cpu_milliseconds": 3_600_000,
    "judge.prompt_tokens": 1_000_000,
    "rewriting.prompt_tokens": 3_000_000, "rewriting.cached_tokens": 1_000_000, "rewriting.generated_tokens": 500_000,
    "rewriting.requests": 1000, "rewriting.images": 2000, "rewriting.gpu_milliseconds": 1_800_000,
}  # fmt: skip


def test_what_is_consumed_is_reported_by_model_in_the_order_of_use() -> None:
    cost = cost_of(USAGE, Prices())
    assert [model.model for model in cost.models] == ["rewriting", "scoring", "judge"]
    assert (cost.models[0].gpu_hours, cost.models[1].cpu_hours, cost.total("prompt_tokens")) == (0.5, 1.0, 4_000_000)
    assert cost.money == 0 and not cost.prices.known


def test_money_is_tokens_pictures_and_hours_at_their_prices() -> None:
    tokens = {
        "rewriting": TokenPrices(prompt=1.0, cached=0.1, generated=4.0, images=0.5),
        "judge": TokenPrices(prompt=3),
    }
    cost = cost_of(USAGE, Prices(gpu_hour=2.0, cpu_hour=0.1, tokens=tokens))
    rewriting = 2 * 1.0 + 1 * 0.1 + 0.5 * 4.0 + 2 * 0.5 + 0.5 * 2.0
    assert [model.money for model in cost.models] == pytest.approx([rewriting, 0.1, 3.0])
    assert cost.per_million(500_000) == pytest.approx(2 * (rewriting + 3.1)) and cost.per_million(0) is None


def test_cached_tokens_cost_what_others_do_unless_they_have_a_price() -> None:
    prices = Prices(tokens={"rewriting": TokenPrices(prompt=1.0)})
    assert cost_of(USAGE, prices).money == pytest.approx(3.0)


def test_prices_come_from_a_profile() -> None:
    content = {"currency": "EUR", "tokens": {"rewriting": {"prompt": 0.15, "generated": 0.6}}}
    assert fill(Prices, content).tokens["rewriting"] == TokenPrices(prompt=0.15, generated=0.6)


def test_a_model_names_itself_or_is_named_by_its_pool() -> None:
    usage = Usage({"requests": 2, "judge.requests": 1})
    assert of_model(usage, "scoring") == {"scoring.requests": 2, "judge.requests": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"tokens": {"rewriter": {"prompt": 1}}}, "tokens: rewriter is no model behind an endpoint; known are rewriti"),
        ({"tokens": {"judge": {"prompt": -1}}}, "prompt: a price must be a number from 0, not -1"),
        ({"gpu_hour": -3}, "gpu_hour: a price must be a number from 0, not -3"),
    ],
)
def test_what_is_no_price_is_refused(content: dict[str, Any], says: str) -> None:
    """A misspelt model would cost nothing."""
    with pytest.raises(ValueError, match=says):
        fill(Prices, content, "prices")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "$0.00"), (0.0042, "$0.0042"), (1.234, "$1.23"), (12345.6, "$12,345.60")]
)
def test_sums_are_readable(value: float, text: str) -> None:
    assert money(value, "$") == text
