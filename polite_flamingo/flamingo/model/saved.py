"""The folder of a trained Flamingo: `flamingo.yaml` describes the model, with the tuned weights beside it.

The folder names its base (a zoo name, a hub name, a path) and holds only what was tuned: `tuned.safetensors`, `lora/`.
In the YAML, a name that starts with "./" is inside the folder, so the folder can be moved, also to a bucket.

This module loads no weights (`checkpoint.load_flamingo` does) and imports no torch, so a driver can read a folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from polite_flamingo.config import ConfigError, fill, read_yaml
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.hub import resolve
from polite_flamingo.storage.local_copy import local_copy
from polite_flamingo.storage.location import location
from polite_flamingo.storage.user_paths import is_address

FILE = "flamingo.yaml"
INSIDE = "./"


def write_config(folder: Path, config: FlamingoConfig) -> str:
    """Return the text of `flamingo.yaml`; paths inside `folder` become relative to it."""
    plain = dataclasses.asdict(config)
    del plain["folder"]

    def portable(name: str) -> str:
        inside = name and Path(name).is_relative_to(folder)
        return INSIDE + Path(name).relative_to(folder).as_posix() if inside else name

    return yaml.safe_dump(_with_strings(plain, portable), sort_keys=False)


def opened(config: FlamingoConfig) -> FlamingoConfig:
    """Return the config of the folder that `config` names, or `config` itself if it names none.

    Raises:
        ValueError: training did not write the folder, or its file does not fit this version.
    """
    if not config.folder:
        return config
    folder = location(config.folder if is_address(config.folder) else resolve(config.folder))
    if (folder / FILE).head() is None:
        raise ValueError(f"{folder} is not a trained model: it has no {FILE} (polite-flamingo train writes OUT/model)")

    def absolute(name: str) -> str:
        return str(folder / name.removeprefix(INSIDE)) if name.startswith(INSIDE) else name

    try:
        return fill(FlamingoConfig, _with_strings(read_yaml(local_copy(folder / FILE)), absolute))
    except ConfigError as error:
        raise ValueError(f"{folder / FILE}: {error}") from None


def _with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with every string changed."""
    match value:
        case dict():
            return {key: _with_strings(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_with_strings(item, change) for item in value]
        case _:
            return change(value) if isinstance(value, str) else value
