"""A key that is not known is named even where nothing stands under it, and what is known may be empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from polite_flamingo.profile_keys import refuse_empty_strangers
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.evaluate import EvaluateConfig
from ray_jobs.train import TrainConfig
from serving.config import ServiceConfig


@dataclass(frozen=True, kw_only=True)
class Leaf:
    number: int = 0
    free: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaf: Leaf = field(default_factory=Leaf)
    maybe: Leaf | None = None
    named: dict[str, str | Leaf] = field(default_factory=dict)
    also: Mapping[str, Leaf] | None = None


@pytest.mark.parametrize(
    "content",
    [
        {}, None, {"leaf": {}}, {"maybe": {}}, {"named": {}}, {"named": {"any": {}}}, {"also": {"any": {"free": {}}}},
        {"leaf": {"free": {"any": {}}}}, {"leaf": None}, {"leaf": {"nmber": 1}},
    ],
)  # fmt: skip
def test_what_is_known_and_what_the_parser_tells_by_itself_passes(content: Any) -> None:
    refuse_empty_strangers(content, Tree)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"leef": {}}, "'leef' is not accepted; did you mean 'leaf'?"),
        ({"leaf": {"other": {"deep": {}}}}, "'leaf.other' is not accepted$"),
        ({"maybe": {"nmber": {}}}, "'maybe.nmber' is not accepted; did you mean 'number'?"),
        ({"named": {"any": {"nmber": {}}}}, "'named.any.nmber' is not accepted; did you mean 'number'?"),
        ({"also": {"any": {"x": {}}}}, "'also.any.x' is not accepted$"),
    ],
)
def test_a_key_that_is_not_known_is_named(content: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        refuse_empty_strangers(content, Tree)


@pytest.mark.parametrize("config", [BuildConfig, EvaluateConfig, TrainConfig, ServiceConfig])
@pytest.mark.parametrize("profile", sorted((Path(__file__).parents[1] / "profiles").glob("*.yaml")), ids=str)
def test_every_section_of_a_profile_is_looked_into(config: type, profile: Path) -> None:
    content = yaml.safe_load(profile.read_text())
    for section in [name for name in content if name in config.__dataclass_fields__]:
        if isinstance(content[section], dict) and (config, section) != (ServiceConfig, "pools"):  # kept as it stands
            refuse_empty_strangers({section: content[section]}, config)
            with pytest.raises(ValueError, match=f"{section}.nonsense"):
                refuse_empty_strangers({section: content[section] | {"nonsense": {}}}, config)
