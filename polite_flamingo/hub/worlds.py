"""The small worlds that models know, found by the models' names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from polite_flamingo.hub import resolve
from polite_flamingo.storage.location import location
from polite_flamingo.storage.user_paths import is_address
from polite_flamingo.world import FILE, World


def world_of(names: Iterable[str]) -> World | None:
    """Return the world that models know, by their names in a profile; None if none has a `world.json`.

    If the models have different worlds, return the first model's, with the models that share it.

    Raises:
        ValueError: a `world.json` is invalid.
    """
    found: World | None = None
    models: list[str] = []
    for name in names:
        place = location(name if is_address(name) else resolve(name))
        file = (place if place.head() is None else place.parent) / FILE
        try:
            world = World.from_json(json.loads(file.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a valid world ({error}): it needs name, what and words") from None
        found = found or world
        if world.name == found.name and (folder := _folder_name(name)) not in models:
            models.append(folder)
    return dataclasses.replace(found, models=tuple(models)) if found else None


def _folder_name(name: str) -> str:
    """Return the model's folder: `zoo:flamingo/flamingo.safetensors` and `zoo:flamingo` are the same model."""
    return name.rpartition("/")[0] if name.endswith(".safetensors") else name
