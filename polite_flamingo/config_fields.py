"""The fields of a config dataclass and of its sections, with types, defaults and meanings.

`config.py` uses them to fill configs; `--help` and the tables in the docs are generated from them.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_KINDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigField:
    """A field of a config, or of a section of it.

    Attributes:
        path: dotted name, such as thresholds.sts.
        hint: type hint.
        default: default value; `dataclasses.MISSING` if it is required.
        meaning: description, from the docstring of its class.
        metadata: the dataclass field's metadata.
    """

    path: str
    hint: Any
    default: Any
    meaning: str
    metadata: Mapping[str, Any]

    @property
    def section(self) -> type[Any] | None:
        """Return the dataclass of a section; None for a single value."""
        kinds = [kind for kind in members(self.hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        return kinds[0] if kinds else None


def config_fields(kind: type, at: str = "") -> Iterator[ConfigField]:
    """Yield the fields of a dataclass in order, including sections but not their fields."""
    hints, meaning = _hints(kind), meanings(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        yield ConfigField(
            path=join(at, field.name),
            hint=hints[field.name],
            default=default,
            meaning=meaning.get(field.name, ""),
            metadata=field.metadata,
        )


def all_config_fields(kind: type, at: str = "", base: Any = dataclasses.MISSING) -> Iterator[ConfigField]:
    """Yield the fields of a dataclass and, after each section, the fields in it, with their effective defaults."""
    for one in config_fields(kind, at):
        if isinstance(base, kind):
            one = dataclasses.replace(one, default=getattr(base, one.path.rpartition(".")[2]))
        yield one
        if one.section:
            yield from all_config_fields(one.section, one.path, one.default)


def meanings(kind: type) -> dict[str, str]:
    """Return the description of each field from the docstrings of a dataclass and its base classes."""
    meaning: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        listed = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        found = re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", listed, re.MULTILINE | re.DOTALL)
        meaning |= {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}
    return meaning


def type_words(hint: Any) -> str:
    """Describe a type in words: "a number", "one of v1, v2", "a list"."""
    words = []
    for kind in members(hint):
        origin = typing.get_origin(kind)
        if origin is typing.Literal:
            words.append(f"one of {', '.join(map(str, typing.get_args(kind)))}")
        elif origin in (tuple, list):
            words.append("a list")
        elif origin is dict or dataclasses.is_dataclass(kind):
            words.append("a mapping")
        elif kind is not types.NoneType:
            words.append(_KINDS.get(kind, "a value"))
    return " or ".join(words)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union type; for another type, the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def join(at: str, name: str) -> str:
    """Return the dotted name of a field in a section; "" is the top level."""
    return f"{at}.{name}" if at else name
