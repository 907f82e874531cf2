"""Contestants of an evaluation: parse `--contestants.NAME` into a checkpoint, an endpoint or a file of answers.

    out/clever/model                      a folder that train wrote; zoo:clever_flamingo is the embedded model
    profiles/tiny.yaml                    the model of a profile's `rewriter` section
    base:profiles/tiny.yaml               the untuned model of its `training.base`
    endpoint:MODEL@http://host:8000/v1    an OpenAI-compatible server; images travel in the request
    recorded:answers.jsonl                one {"key": …, "response": …} per line
    steerlm-best:WHAT, steerlm-short:WHAT any of the models above, asked for good or for good and short answers by the
                                          line of attributes that SteerLM is trained with (`preference/steerlm.py`)

Nothing is loaded or sent here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from polite_flamingo.config import ConfigError, fill, read_yaml
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.hub import resolve
from polite_flamingo.preference.steerlm import WANTED, Wanted
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.user_paths import is_address

FORMS = (
    "a model's folder, zoo:NAME, a profile's .yaml, base:PROFILE.yaml, endpoint:MODEL@URL or recorded:FILE.jsonl; "
    "steerlm-best: or steerlm-short: before a model"
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model that runs on our own engine; see `wanted_by`."""

    flamingo: FlamingoConfig
    wanted: Wanted = "none"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind a server; see `wanted_by`."""

    model: str
    url: str
    wanted: Wanted = "none"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A file of answers."""

    place: Location


Contestant = Checkpoint | Endpoint | Recorded


def wanted_by(contestant: Contestant) -> Mapping[str, float]:
    """Return the ratings that a contestant's prompts ask for, as SteerLM's do; none for most."""
    return {} if isinstance(contestant, Recorded) else WANTED[contestant.wanted]


def contestants_of(lines: Mapping[str, str]) -> dict[str, Contestant]:
    """Parse all contestants, by name.

    Raises:
        ValueError: a name is invalid, a form unknown, or a folder or file missing; the message says which.
    """
    for name in lines:
        if name in (RAW, REWRITTEN) or not re.fullmatch(r"\w[\w+-]{0,79}", name):
            raise ValueError(f"contestants: {name!r} cannot be a name; use letters, digits, _, - and +")
    return {name: _contestant(name, line) for name, line in lines.items()}


def _contestant(name: str, line: str) -> Contestant:
    kind, _, rest = line.partition(":")
    for wanted in ("best", "short"):
        if kind == f"steerlm-{wanted}":
            return _steered(name, rest, wanted)
    if kind == "recorded":
        if not location(rest).exists():
            raise ValueError(f"contestant {name}: the file {rest!r} does not exist")
        return Recorded(place=location(rest))
    if kind == "endpoint":
        model, at, url = rest.partition("@http")  # a model's name may contain an @
        if not (model and at):
            raise ValueError(f"contestant {name}: {line!r} is not endpoint:MODEL@http://host:port/v1")
        return Endpoint(model=model, url=f"http{url}")
    if kind == "base" and Path(rest).is_file():
        return Checkpoint(flamingo=_of_profile(name, Path(rest), "training", "base"))
    if is_address(line):
        return Checkpoint(flamingo=_trained(name, line))
    try:
        path = Path(resolve(line))
    except FileNotFoundError as error:
        raise ValueError(f"contestant {name}: {error}") from None
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Checkpoint(flamingo=_of_profile(name, path, "rewriter", "flamingo"))
    if path.is_dir():
        return Checkpoint(flamingo=_trained(name, str(path.resolve())))
    raise ValueError(f"contestant {name}: {line!r} does not exist and has no known form ({FORMS})")


def _steered(name: str, line: str, wanted: Wanted) -> Contestant:
    found = _contestant(name, line)
    if isinstance(found, Recorded) or found.wanted != "none":
        raise ValueError(f"contestant {name}: steerlm-{wanted}: takes a model or an endpoint, not {line!r}")
    return replace(found, wanted=wanted)


def _trained(name: str, folder: str) -> FlamingoConfig:
    config = FlamingoConfig(folder=folder)
    try:
        opened(config)
    except ValueError as error:
        raise ValueError(f"contestant {name}: {error}") from None
    return config


def _of_profile(name: str, path: Path, section: str, part: str) -> FlamingoConfig:
    try:
        content = read_yaml(path).get(section)
        if not isinstance(content, dict) or part not in content:
            raise ValueError(f"{path} has no section {section}.{part} to name the model")
        found = fill(FlamingoConfig, content[part], f"{section}.{part}")
        opened(found)
    except ValueError as error:
        place = f"{path}: " if isinstance(error, ConfigError) else ""
        raise ValueError(f"contestant {name}: {place}{error}") from None
    return found
