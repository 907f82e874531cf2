"""A function that a profile names: how code of one small world reaches the product, which never imports it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any


def named_function(setting: str, name: str) -> Callable[..., Any]:
    """Return the function that a setting names as MODULE:FUNCTION. Raises `ValueError` if there is none."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{setting} {name!r} cannot be loaded ({error}); give MODULE:FUNCTION") from None
    if not callable(found):
        raise ValueError(f"{setting} {name!r} is not a function; give MODULE:FUNCTION")
    return found  # type: ignore[no-any-return]  # a profile's word for it
