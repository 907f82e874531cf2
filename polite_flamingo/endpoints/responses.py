"""What every server's response says besides the answer: which model gave it, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from polite_flamingo.endpoints.connection import EndpointDown

_MOST_TOKENS = 1 << 40
"""No response costs as many."""


def usage_of(response: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that a response says it cost, by the names of `usage.USED`; empty if it does not say.

    What cannot be a number of tokens is ignored, and cached tokens beyond those of the prompt.
    """
    used = response.get("usage")
    used = used if isinstance(used, dict) else {}
    details = used.get("prompt_tokens_details")
    found = {
        "prompt_tokens": used.get("prompt_tokens"),
        "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else 0,
        "generated_tokens": used.get("completion_tokens"),
    }
    counts = {name: count for name, count in found.items() if type(count) is int and 0 < count < _MOST_TOKENS}
    if "cached_tokens" in counts:
        counts["cached_tokens"] = min(counts["cached_tokens"], counts.get("prompt_tokens", 0))
    return counts


def same_model(asked: str, answered: str) -> bool:
    """Whether two names may be of one model: servers shorten them, and add folders, dates and file types."""
    first, second = (re.split(r"[/\\]", name.casefold())[-1].removesuffix(".gguf") for name in (asked, answered))
    return first in second or second in first


def refuse_other_model(response: Mapping[str, Any], model: str, answers_as: str, section: str) -> None:
    """Raise `EndpointDown` if another model has answered than was asked.

    Args:
        response: the server's.
        model: the name that was asked for.
        answers_as: how the server calls it; empty for the same name.
        section: the section of the profile that names the model.
    """
    answered, expected = response.get("model"), answers_as or model
    if isinstance(answered, str) and answered and not same_model(expected, answered):
        raise EndpointDown(
            f"asked for the model {expected}, and {answered} answered: name it in {section}.model; if the server only "
            f"calls it so, set {section}.answers_as"
        )
