"""The one loader: every setting of every profile arrives in every job that reads it, and every mistake is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from polite_flamingo.config import SECTIONS, fill, load, merged, nested, read_yaml, to_yaml
from polite_flamingo.config_fields import ConfigField, all_config_fields, config_fields
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.distort import DistortConfig
from ray_jobs.evaluate import EvaluateConfig
from ray_jobs.paper import PaperConfig
from ray_jobs.rate import RateConfig
from ray_jobs.sample import SampleConfig
from ray_jobs.select import SelectConfig
from ray_jobs.serve import ServeConfig
from ray_jobs.train import TrainConfig
from serving.config import ServiceConfig

REPO = Path(__file__).parents[1]
PROFILES = ["tiny.yaml", "openflamingo-9b-v1.yaml"]

READS: dict[type, set[str]] = {
    BuildConfig: {"rewriter", "scoring", "thresholds", "prices", "pools"},
    SelectConfig: {"thresholds", "prices"},
    DistortConfig: {"distortion", "pools"},
    SampleConfig: {"sampling", "prices", "pools"},
    RateConfig: {"judge", "prices", "pools"},
    TrainConfig: {"training", "workers"},
    EvaluateConfig: {"rewriter", "scoring", "evaluation", "pools"},
    PaperConfig: {"rewriter", "scoring", "thresholds", "pools", "distortion", "training"},
    ServeConfig: {"rewriter", "scoring", "thresholds", "pools", "serving"},
    ServiceConfig: {"rewriter", "scoring", "thresholds", "pools", "serving"},
}
"""The sections that each job reads, as docs/architecture.md has it."""

GIVEN: dict[type, list[str]] = {
    BuildConfig: ["--input", "in", "--out", "out"],
    SelectConfig: ["--out", "out"],
    DistortConfig: ["--input", "in", "--out", "out"],
    SampleConfig: ["--input", "in", "--out", "out"],
    RateConfig: ["--input", "in", "--out", "out"],
    TrainConfig: ["--stage", "polite", "--data.pairs", "in", "--out", "out"],
    EvaluateConfig: ["--input", "in"],
    PaperConfig: [],
    ServeConfig: [],
}


def changed(one: ConfigField, value: Any) -> Any:
    """Return another valid value of the same type."""
    if one.path in ("rewriter.kind", "sampling.kind", "judge.kind"):
        return value  # another one needs other sections: tests/rewriters/test_config.py
    if one.path == "training.stages.dpo.packing.join":
        return value  # the other one is refused
    if one.path == "judge.max_cost":
        return value  # it needs a price: tests/preference/test_jobs.py
    if one.path == "prices.tokens":
        return value  # sections by name of a model: tests/test_cost.py
    if one.path == "scoring.languages":
        return value  # names of models only: tests/filters/test_languages.py
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        return {**value, "another": 1}
    if bound(one):
        return value + 100
    if isinstance(value, int):
        return 1 - value if one.path.endswith("gpus") and "workers" in one.path else value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, tuple) and one.path.endswith("examples"):
        return ()
    if one.path.endswith("preference.loss"):
        return ("robust",)
    if one.path.endswith("preference.weights"):
        return (2.0,)  # one for each loss
    if isinstance(value, tuple):
        return (
            (*value, "http://another")
            if one.path.endswith("urls")
            else ("lora",)
            if "omits" in one.path or "tune" in one.path
            else (*value, "another")
        )
    if getattr(one.hint, "__origin__", None) is Literal:
        return next(other for other in one.hint.__args__ if other != value)
    if one.path.endswith("api_key_variable"):
        return f"{value}_CHANGED"
    return 0.125 if value is None else f"{value or 'http://a'}-changed"


def bound(one: ConfigField) -> bool:
    """Whether it is the most replicas or actors, which cannot stay where the least is raised."""
    return one.path.rpartition(".")[2] in ("max", "max_actors")


def at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def leaves(config: Any, kind: type) -> Iterator[tuple[ConfigField, Any]]:
    """Yield every value in a config and its sections, with its field."""
    for one in all_config_fields(kind):
        if one.path.partition(".")[0] in SECTIONS:
            above = parts(one.path.rpartition(".")[0]) if "." in one.path else []
            if all(is_dataclass(at(config, part)) for part in above):  # not None, nor a name in place of a section
                value = at(config, one.path)
                if not one.section or isinstance(value, str):
                    yield one, value


def parts(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:number]) for number in range(1, len(names) + 1)]


def loaded(kind: type, path: Path) -> Any:
    return (
        load(kind, path)
        if kind is ServiceConfig
        else console.parse("x", "", kind, ["--profile", str(path), *GIVEN[kind]])
    )


@pytest.mark.parametrize("kind", READS)
def test_a_job_reads_the_sections_that_are_documented(kind: type) -> None:
    assert {one.path for one in config_fields(kind)} & set(SECTIONS) == READS[kind]


def halves(config: Any, kind: type) -> Iterator[dict[str, Any]]:
    """Other values for one half of the settings, then for the other."""
    found = list(leaves(config, kind))
    for half in (found[::2], found[1::2]):
        yield {one.path: changed(one, value) for one, value in found if (one, value) in half or bound(one)}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", READS)
def test_every_setting_of_a_profile_arrives_in_every_job_that_reads_it(
    kind: type, profile: str, tmp_path: Path
) -> None:
    before = loaded(kind, REPO / "profiles" / profile)
    assert {one.path.partition(".")[0] for one, _ in leaves(before, kind)} == READS[kind]
    for wanted in halves(before, kind):
        content = yaml.safe_load((REPO / "profiles" / profile).read_text())
        plain = [nested(path, list(value) if isinstance(value, tuple) else value) for path, value in wanted.items()]
        if "distortion" in READS[kind]:  # whoever speaks has a model
            content = merged(content, {"distortion": {"local": {"model": "m"}, "endpoint": {"model": "m"}}})
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(merged(content, *plain)))
        after = loaded(kind, tmp_path / "changed.yaml")
        assert {path: at(after, path) for path in wanted} == wanted


@pytest.mark.parametrize("name", ["tiny.yaml", "clever-9b.yaml"])
def test_every_override_of_a_deployment_arrives(name: str) -> None:
    given = yaml.safe_load((REPO / "serving" / name).read_text())["applications"][0]["args"]
    for wanted in halves(load(ServiceConfig, REPO / given["profile"], given["set"]), ServiceConfig):
        config = load(ServiceConfig, REPO / given["profile"], {**given["set"], **wanted})
        assert {path: at(config, path) for path in wanted} == wanted


@pytest.mark.parametrize("kind", READS)
def test_any_setting_that_is_misspelt_is_named_with_the_right_one(kind: type) -> None:
    """At any depth, also where nothing stands below the name."""
    for one in all_config_fields(kind):
        if one.path.partition(".")[0] in SECTIONS:
            for value in ("1", {}):
                with pytest.raises(ValueError) as refused:
                    fill(kind, nested(one.path + one.path[-1], value))
                assert str(refused.value) == f"{one.path}{one.path[-1]}: unknown; did you mean {one.path}?"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    number: int = 0
    share: float = 0.5
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("number must not be negative")


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str = ""
    yes: bool = False
    one_of: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    leaf: Leaf = Leaf(number=7)
    maybe: Leaf | None = None
    named: dict[str, str | Leaf] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"leef": {}}, "leef: unknown; did you mean leaf?"),
        ({"leaf": {"other": {}}}, "leaf.other: unknown; known are number, share, free"),
        ({"share": 1}, "share: unknown; did you mean leaf.share or maybe.share?"),
        ({"maybe": {"nmber": {}}}, "maybe.nmber: unknown; did you mean maybe.number?"),
        ({"named": {"any": {"nmber": 1}}}, "named.any.nmber: unknown; did you mean named.any.number?"),
        ({"leaf": {"number": "abc"}}, "leaf.number: must be a whole number, got 'abc'"),
        ({"leaf": {"number": 1.5}}, "leaf.number: must be a whole number, got 1.5"),
        ({"leaf": {"number": True}}, "leaf.number: must be a whole number, got True"),
        ({"leaf": {"share": "abc"}}, "leaf.share: must be a number, got 'abc'"),
        ({"leaf": {"number": -1}}, "leaf: number must not be negative"),
        ({"leaf": {"share": ".nan"}}, "leaf.share: must be a number, got '.nan'"),
        ({"leaf": {"share": "nan"}}, "leaf.share: must be a number, got 'nan'"),
        ({"leaf": {"share": 10**400}}, f"leaf.share: must be a number, got 1{'0' * 56}…"),
        ({"leaf": "{number: 1, number: 2}"}, "leaf: must be a section of settings, got '{number: 1, number: 2}'"),
        ({"leaf": 5}, "leaf: must be a section of settings, got 5"),
        ({"yes": "perhaps"}, "yes: must be true or false, got 'perhaps'"),
        ({"one_of": "c"}, "one_of: must be one of a, b, got 'c'"),
        ({"names": "a"}, "names: must be a list such as [a, b], got 'a'"),
        ({"names": [1]}, "names[0]: must be a string, got 1 (put it in quotes)"),
        ({"named": "a"}, "named: must be NAME=VALUE or a mapping, got 'a'"),
    ],
)
def test_a_mistake_is_one_plain_line(content: Any, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        fill(Tree, content)
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, Tree()),
        ({"leaf": None}, Tree()),
        ({"leaf": {"share": 1}}, Tree(leaf=Leaf(number=7, share=1.0))),  # the number is the tree's, not the leaf's
        ({"leaf": "{share: 0.1}"}, Tree(leaf=Leaf(number=7, share=0.1))),
        ({"leaf": {"share": "1e-3"}}, Tree(leaf=Leaf(number=7, share=0.001))),
        ({"maybe": {}}, Tree(maybe=Leaf())),
        ({"maybe": "null"}, Tree()),
        ({"named": {"x": "a", "y": {"number": "3"}}}, Tree(named={"x": "a", "y": Leaf(number=3)})),
        ({"names": "[a, b]", "yes": "true"}, Tree(names=("a", "b"), yes=True)),
        ({"name": "12", "one-of": "b"}, Tree(name="12", one_of="b")),
    ],
)
def test_what_is_given_is_converted_and_the_rest_keeps_its_default(content: Any, expected: Tree) -> None:
    assert fill(Tree, content) == expected
    assert fill(Tree, yaml.safe_load(to_yaml(expected))) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rewriter: {}\nthresholds: {sts: 0.5}\nthresholds: {clip: 3}\n", ", line 3: 'thresholds' is given twice"),
        ("thresholds:\n  sts: 0.1\n  clip: 3\n  sts: 0.9\n", ", line 4: 'sts' is given twice"),
        ("[" * 1500, " is not YAML: it is nested too deeply"),
        ("thresholds: {sts: 2020-13-45}", " is not YAML: month must be in 1..12"),
        ("thresholds: {sts: [}", " is not YAML: while parsing a flow node"),
    ],
)
def test_a_file_that_says_two_things_or_none_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(text)
    with pytest.raises(ValueError) as refused:
        read_yaml(tmp_path / "profile.yaml")
    assert str(refused.value).startswith(f"{tmp_path / 'profile.yaml'}{says}")


def test_anchors_and_merge_keys_are_yaml_too(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "profile.yaml")["b"] == {"x": 1, "y": 3}


def test_later_values_win_and_the_others_stay() -> None:
    content: Mapping[str, Any] = {"a": {"x": 1, "y": 2}, "b": [1], "c": "{x: 1}"}
    assert merged(content, {"a": {"y": 3}}, {"b": [2]}, {"c": {"y": 2}}, {"a": "{z: 4}"}) == {
        "a": {"x": 1, "y": 3, "z": 4}, "b": [2], "c": {"x": 1, "y": 2}
    }  # fmt: skip


def test_the_order_of_profiles_and_options_decides(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("thresholds: {sts: 0.1, clip: 1}\n")
    two.write_text("thresholds: {sts: 0.2}\ntraining: {whatever: 1}\n")
    arguments = ["--out", "o", "--profile", str(one), f"--profile={two}", "--thresholds.clip_single"]
    found = console.parse("select", "", SelectConfig, [*arguments, "--thresholds.sts=0.3"]).thresholds
    assert (found.sts, found.clip, found.clip_single) == (0.3, 1.0, True)
    assert console.parse("select", "", SelectConfig, ["--thresholds.sts", "0.3", *arguments]).thresholds.sts == 0.2


def test_no_default_of_a_section_can_be_changed_by_filling_it() -> None:
    before = dataclasses.replace(Tree())
    fill(Tree, {"leaf": {"number": 1}, "named": {"a": "b"}})
    assert Tree() == before
