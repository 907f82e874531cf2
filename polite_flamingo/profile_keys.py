"""Keys of a profile that its parser would pass over without a word.

jsonargparse names an unknown key by the values that are under it. Where there are none, as in `limts: {}`, it sees
nothing: a user who begins a section, or comments its last line out, would not hear that its name is wrong. All other
mistakes are the parser's to tell.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any


def refuse_empty_strangers(content: Any, config: type) -> None:
    """Raise ValueError for the first key with nothing under it that `config` does not know.

    Args:
        content: of a profile, as YAML gives it.
        config: the dataclass that it fills.
    """
    for path, known in _strangers(content, config, ""):
        near = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Option {path!r} is not accepted{hint}")


def _strangers(value: Any, hint: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    """Such keys, dotted, each with the names that are known in its place."""
    if not isinstance(value, Mapping):
        return
    options = _options(hint)
    classes = [one for one in options if dataclasses.is_dataclass(one)]
    fields = {name: kind for one in classes for name, kind in typing.get_type_hints(one).items()}
    [named] = [typing.get_args(one)[1:] for one in options if typing.get_origin(one) in (dict, Mapping)][:1] or [()]
    for key, under in value.items():
        below = f"{path}.{key}" if path else str(key)
        if key in fields:
            yield from _strangers(under, fields[key], below)
        elif named:  # any name will do
            yield from _strangers(under, named[0], below)
        elif classes and _nothing(under):
            yield below, list(fields)


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the type alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _nothing(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_nothing, value.values()))
