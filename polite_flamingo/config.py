"""Load settings: YAML and `--section.field value` become frozen dataclasses.

It is the only loader: of jobs, the server, mixtures, contestants and folders of trained models. It has three rules:

    an unknown name is refused, at any depth, suggesting the name that was probably meant
    a value of the wrong type is refused in one line, such as "thresholds.sts: must be a number, got 'abc'"
    a setting that is not given keeps its default, also in a section that is given in part

One profile serves every job. A job reads the sections that are fields of its config and skips the other `SECTIONS`;
nothing else is skipped, so every setting is used or refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from polite_flamingo.config_fields import ConfigField, all_config_fields, config_fields, join, members, type_words
from polite_flamingo.text_files import HasBytes, NotText, read_text

Config = TypeVar("Config")

SECTIONS = (
    "rewriter",
    "scoring",
    "thresholds",
    "prices",
    "pools",
    "distortion",
    "training",
    "workers",
    "evaluation",
    "serving",
    "sampling",
    "judge",
    "audit",
)
"""Top-level keys of a profile that a job skips unless its config has a field of that name."""

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class ConfigError(ValueError):
    """A setting that is unknown, missing or wrong; `path` is its dotted name."""

    def __init__(self, path: str, message: str):
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


def load(kind: type[Config], path: str | HasBytes, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load a config from a profile.

    Args:
        kind: its dataclass.
        path: a YAML file; sections of other jobs are skipped.
        overrides: values by dotted names, such as {"serving.access.keys": "keys.json"}.

    Raises:
        ValueError: the file, a name or a value does not fit; one line that names the file.
    """
    content = read_yaml(path)
    try:
        changes = [nested(name, value) for name, value in (overrides or {}).items()]
        return fill(kind, merged(own_sections(kind, content), *changes))
    except ValueError as error:
        raise ValueError(f"profile {path}: {error}") from None


def read_yaml(path: str | HasBytes) -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises `ValueError`, which names the file."""
    try:
        content = yaml.load(read_text(Path(path) if isinstance(path, str) else path), _UniqueKeys)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
        raise ValueError(f"{path} {why}") from None
    except NotText as error:
        raise ValueError(str(error)) from None
    except yaml.constructor.ConstructorError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, a number of 5,000 digits
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path} is not YAML: it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold settings by name, in sections such as `rewriter:`")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no mapping has a key twice; YAML's own loader keeps the last and drops the others silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def own_sections(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a profile without the sections of other jobs."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in content:
        if name not in known and name not in SECTIONS:
            raise _unknown(kind, "", str(name), list(dict.fromkeys([*known, *SECTIONS])))
    return {name: value for name, value in content.items() if name in known}


def nested(path: str, value: Any) -> dict[str, Any]:
    """Turn a dotted name and its value into nested mappings."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def differing(first: Any, second: Any, at: str = "") -> list[str]:
    """Return the dotted names of the settings that differ; of a section that only one has, its name alone."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return [] if first == second else [at]
    names = sorted({*first, *second})
    return [one for name in names for one in differing(first.get(name), second.get(name), join(at, str(name)))]


def merged(content: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; later values win."""
    result = dict(content)
    for change in changes:
        for name, value in change.items():
            before = result.get(name)
            if isinstance(before, Mapping) or isinstance(value, Mapping):
                before, value = _from_yaml(before), _from_yaml(value)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def fill(kind: type[Config], content: Any, at: str = "", base: Config | None = None) -> Config:
    """Return an instance of a dataclass.

    Args:
        kind: the dataclass.
        content: values by field. Strings are converted to the field's type: the command line gives strings.
        at: dotted name of the section, for messages.
        base: source of values that are not given, instead of the defaults of `kind`.

    Raises:
        ConfigError: a name is unknown, a value is missing or does not fit.
    """
    content = {} if content is None else _from_yaml(content)
    if not isinstance(content, Mapping):
        raise ConfigError(at, f"must be a section of settings, got {_shown(content)}")
    known = {one.path: one for one in config_fields(kind)}
    values = {name: getattr(base, name) for name in known} if base is not None else {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise _unknown(kind, at, str(key), list(known))
        default = values.get(name, known[name].default)
        values[name] = _convert(known[name].hint, value, join(at, name), default)
    missing = [name for name, one in known.items() if name not in values and one.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(at, _missing([known[name] for name in missing]))
    try:
        return kind(**values)
    except ValueError as error:
        raise _placed(at, str(error)) from None


def to_yaml(config: Any) -> str:
    """Format a config, or configs by section, as YAML in the form of a profile."""
    plain = json.loads(json.dumps(config, default=dataclasses.asdict))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _convert(hint: Any, value: Any, at: str, default: Any = dataclasses.MISSING) -> Any:
    """Convert a value to the type of its field. Raises `ConfigError`."""
    kinds = [kind for kind in members(hint) if kind is not types.NoneType]
    if types.NoneType in members(hint) and value in (None, "null"):
        return None
    if str in kinds and len(kinds) > 1:  # a string or a section
        value = _from_yaml(value)
        kinds = [kind for kind in kinds if (kind is str) != isinstance(value, Mapping)]
    [kind] = kinds
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return fill(kind, value, at, default if isinstance(default, kind) else None)  # type: ignore[arg-type]
    if origin in (tuple, list):
        value = _from_yaml(value)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(at, f"must be a list such as [a, b], got {_shown(value)}")
        return origin(_convert(arguments[0], item, f"{at}[{number}]") for number, item in enumerate(value))
    if origin is dict:
        value = {} if value is None else _from_yaml(value)
        if not isinstance(value, Mapping):
            raise ConfigError(at, f"must be NAME=VALUE or a mapping, got {_shown(value)}")
        return {str(name): _convert(arguments[1], item, join(at, str(name))) for name, item in value.items()}
    if origin is typing.Literal:
        if value in arguments:
            return value
    else:
        with_text = _from_text(kind, value) if isinstance(value, str) else value
        if kind is float and isinstance(with_text, int) and not isinstance(with_text, bool):
            with_text = float(with_text) if abs(with_text) < 1 << 1000 else math.inf
        if isinstance(with_text, float) and not math.isfinite(with_text):
            raise ConfigError(at, f"must be {type_words(hint)}, got {_shown(value)}")
        if kind is Any or type(with_text) is kind:
            return with_text
    raise ConfigError(at, f"must be {type_words(hint)}, got {_shown(value)}{_quotes(kind, value)}")


def _from_text(kind: Any, text: str) -> Any:
    """Convert a string to a number, a boolean or a path; return it unchanged if that fails."""
    try:
        return _WORDS.get(text.lower(), text) if kind is bool else kind(text) if kind in (int, float, Path) else text
    except ValueError:
        return text


def _from_yaml(value: Any) -> Any:
    """Parse a string that spells a list or a mapping; return anything else unchanged."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return yaml.load(value, _UniqueKeys)
        except (yaml.YAMLError, ValueError, RecursionError):
            return value
    return value


def _unknown(kind: type, at: str, key: str, known: Sequence[str]) -> ConfigError:
    """Return the error for an unknown key, suggesting a similar one or the same key in a section below."""
    near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    deeper = [one.path for one in all_config_fields(kind, at) if one.path.endswith(f".{key}")]
    meant = join(at, near[0]) if near else " or ".join(deeper[:3])
    return ConfigError(
        join(at, key), f"unknown; did you mean {meant}?" if meant else f"unknown; known are {', '.join(known)}"
    )


def _missing(fields: Sequence[ConfigField]) -> str:
    values = [one.path for one in fields if not one.section]
    sections = [f"`{one.path}`" for one in fields if one.section]
    parts = [f"required: {', '.join(values)}"] if values else []
    return "; ".join([*parts, *([f"no section {' and '.join(sections)}"] if sections else [])])


def _placed(at: str, message: str) -> ConfigError:
    """Return a dataclass's own error with the place of the value, unless the message begins with it."""
    head, colon, rest = message.partition(": ")
    if colon and head in at.split("."):
        return ConfigError(at, rest)
    return ConfigError("" if at and message.startswith(at.split(".")[0]) else at, message)


def _quotes(kind: Any, value: Any) -> str:
    return " (put it in quotes)" if kind is str and isinstance(value, int | float) else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
