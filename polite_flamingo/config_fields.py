"""What can be set: the fields of a config dataclass and of its sections, with types, defaults and meanings.

`config.py` fills them; `--help` and the tables of the docs are made of them.
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
        path: its dotted name, such as thresholds.sts.
        hint: its type.
        default: `dataclasses.MISSING` where it must be given.
        meaning: from the docstring of its class.
        metadata: of the dataclass field.
    """

    path: str
    hint: Any
    default: Any
    meaning: str
    metadata: Mapping[str, Any]

    @property
    def section(self) -> type[Any] | None:
        """The dataclass of a section; None for a single value."""
        kinds = [kind for kind in members(self.hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        return kinds[0] if kinds else None


def config_fields(kind: type, at: str = "") -> Iterator[ConfigField]:
    """The fields of a dataclass, sections included, in order."""
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
    """The fields of a dataclass and, after each section, those in it, with the defaults that hold there."""
    for one in config_fields(kind, at):
        if base not in (dataclasses.MISSING, None):
            one = dataclasses.replace(one, default=getattr(base, one.path.rpartition(".")[2]))
        yield one
        if one.section:
            yield from all_config_fields(one.section, one.path, one.default)


def meanings(kind: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of those that it extends say of each field."""
    meaning: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        listed = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        found = re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", listed, re.MULTILINE | re.DOTALL)
        meaning |= {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}
    return meaning


def type_words(hint: Any) -> str:
    """A type as a person says it: "a number", "one of v1, v2", "a list"."""
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
    """The members of a union type, else the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def join(at: str, name: str) -> str:
    """The dotted name of a field in a section; "" is the top."""
    return f"{at}.{name}" if at else name
