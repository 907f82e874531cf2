"""What a model consumed: requests, tokens and images, as counts that can be added."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

Used = Literal[
    "requests", "prompt_tokens", "cached_tokens", "generated_tokens", "images", "answers_reused"
]  # fmt: skip
"""`cached_tokens` are those of `prompt_tokens` that came from the model's or the server's cache; `answers_reused` are
those of `requests` that an earlier, interrupted run had already sent."""

USED: tuple[Used, ...] = get_args(Used)

Usage = Counter[str]
"""Name of `USED` -> count."""
