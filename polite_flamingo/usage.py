"""What the models consumed: requests, tokens, images and device time, as counts that can be added.

A model adds plain names (`USED`). The actor that holds it puts the name of its pool before them ("rewriting.requests"),
unless the model is one of several and has named itself ("judge.requests"). All counts are integers, so that sums do not
depend on the order of the shards.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

Used = Literal[
    "requests", "answers_reused", "prompt_tokens", "cached_tokens", "generated_tokens", "images",
    "gpu_milliseconds", "cpu_milliseconds",
]  # fmt: skip
"""`cached_tokens` are those of `prompt_tokens` that came from the model's or the server's cache; `answers_reused` are
those of `requests` that an earlier, interrupted run had already sent; device time is an actor's, while it works."""

USED: tuple[Used, ...] = get_args(Used)

Usage = Counter[str]
"""Name -> count."""


def of_model(usage: Usage, model: str) -> Usage:
    """Return the usage with the model's name before each name that has none."""
    return Usage({name if "." in name else f"{model}.{name}": count for name, count in usage.items()})
