"""What a dataset cost: tokens, images and device time by model, and money if the profile has prices.

Each shard's manifest carries what the models consumed for it (`usage.py`), so the sums are those of the finished
shards, however often a job was killed and resumed. The time for which a machine starts, loads models or waits is not in
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from polite_flamingo.usage import Usage

MILLION = 1_000_000
_HOUR = 3_600_000
"""Milliseconds."""

PRICED = ("rewriting", "sampling", "judge", "sts", "nli", "clip", "reward")
"""The models that may be behind endpoints, by their names in `usage.Usage`."""


@dataclass(frozen=True, kw_only=True)
class TokenPrices:
    """Prices of one model behind an endpoint.

    Attributes:
        prompt: price of a million prompt tokens.
        cached: of a million of them that came from the server's cache; not set means the same as `prompt`.
        generated: of a million generated tokens.
        images: of a thousand images, where a server charges them beside the prompt's tokens.
    """

    prompt: float = 0.0
    cached: float | None = None
    generated: float = 0.0
    images: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what is no price."""
        _check_prices(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What is paid for. Without prices, costs are reported in tokens and hours only.

    Attributes:
        currency: stands before every sum of money.
        gpu_hour: price of a GPU for an hour.
        cpu_hour: price of a logical CPU for an hour.
        tokens: prices by model: rewriting, sampling, judge, sts, nli, clip, reward (those that are endpoints).
    """

    currency: str = "$"
    gpu_hour: float = 0.0
    cpu_hour: float = 0.0
    tokens: dict[str, TokenPrices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what is no price, and for the name of no model, which would cost nothing."""
        _check_prices({"gpu_hour": self.gpu_hour, "cpu_hour": self.cpu_hour})
        if strange := self.tokens.keys() - {*PRICED}:
            raise ValueError(f"tokens: {min(strange)} is no model behind an endpoint; known are {', '.join(PRICED)}")

    @property
    def known(self) -> bool:
        """Whether anything has a price."""
        return bool(self.gpu_hour or self.cpu_hour or any(any(asdict(one).values()) for one in self.tokens.values()))


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one model, or pool of actors, consumed; `money` is 0 without prices."""

    model: str
    requests: int
    answers_reused: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    images: int
    gpu_hours: float
    cpu_hours: float
    money: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What all models consumed, in the order of use: one entry per model or pool."""

    models: tuple[ModelCost, ...] = ()
    prices: Prices = field(default_factory=Prices)

    @property
    def money(self) -> float:
        """The sum of money."""
        return sum(model.money for model in self.models)

    def per_million(self, kept: int) -> float | None:
        """Return the money for a million kept samples; None if none was kept."""
        return self.money * MILLION / kept if kept else None

    def total(self, name: str) -> float:
        """Return the sum of one of `ModelCost`'s numbers."""
        return sum(getattr(model, name) for model in self.models)

    def to_json(self, kept: int) -> dict[str, Any]:
        """Convert to JSON types. Args: kept: number of kept samples."""
        return {
            "models": [asdict(model) for model in self.models],
            "money": self.money,
            "per_million_kept": self.per_million(kept),
            "prices": asdict(self.prices),
        }


def _check_prices(prices: Mapping[str, float | None]) -> None:
    for name, price in prices.items():
        if price is not None and price < 0:
            raise ValueError(f"{name}: a price must be a number from 0, not {price}")


def cost_of(usage: Mapping[str, int], prices: Prices) -> Cost:
    """Return the cost of what was consumed.

    Args:
        usage: "MODEL.NAME" -> count, where NAME is one of `usage.USED`.
        prices: of the profile.
    """
    by_model: dict[str, Usage] = {}
    for name, count in usage.items():
        model, _, what = name.rpartition(".")
        by_model.setdefault(model, Usage())[what] += count
    models = tuple(_model_cost(model, found, prices) for model, found in sorted(by_model.items(), key=_order))
    return Cost(models=models, prices=prices)


def cost_from(record: Mapping[str, Any], prices: Prices) -> Cost:
    """Read what `Cost.to_json` wrote. Args: prices: in the record, loaded."""
    return Cost(models=tuple(ModelCost(**model) for model in record["models"]), prices=prices)


def _model_cost(model: str, used: Usage, prices: Prices) -> ModelCost:
    price = prices.tokens.get(model, TokenPrices())
    cached_price = price.prompt if price.cached is None else price.cached
    gpu_hours, cpu_hours = used["gpu_milliseconds"] / _HOUR, used["cpu_milliseconds"] / _HOUR
    tokens = (
        (used["prompt_tokens"] - used["cached_tokens"]) * price.prompt
        + used["cached_tokens"] * cached_price
        + used["generated_tokens"] * price.generated
    )
    return ModelCost(
        model=model,
        requests=used["requests"], answers_reused=used["answers_reused"],
        prompt_tokens=used["prompt_tokens"], cached_tokens=used["cached_tokens"],
        generated_tokens=used["generated_tokens"], images=used["images"],
        gpu_hours=gpu_hours, cpu_hours=cpu_hours,
        money=tokens / MILLION + used["images"] * price.images / 1000
        + gpu_hours * prices.gpu_hour + cpu_hours * prices.cpu_hour,
    )  # fmt: skip


def _order(item: tuple[str, Usage]) -> tuple[int, str]:
    first = ("rewriting", "scoring")
    return first.index(item[0]) if item[0] in first else len(first), item[0]
