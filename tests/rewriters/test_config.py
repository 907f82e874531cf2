"""The section `rewriter` of a profile: old profiles stay valid, and each kind needs only what it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from polite_flamingo.config import fill, load, to_yaml
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.rewriters.config import EndpointConfig, Example, PromptConfig, RewriterSection
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.fingerprint import config_hash

REPO = Path(__file__).parents[2]
ENDPOINT = {"kind": "endpoint", "endpoint": {"model": "m", "urls": ["http://a/v1"]}}


def section(**content: Any) -> RewriterSection:
    return fill(RewriterSection, content, "rewriter")


@pytest.mark.parametrize("profile", ["tiny.yaml", "openflamingo-9b-v1.yaml"])
def test_a_profile_without_a_kind_is_a_flamingos(profile: str) -> None:
    content = yaml.safe_load((REPO / "profiles" / profile).read_text())["rewriter"]
    model = section(**content).of_flamingo()
    assert model.flamingo.attention == content["flamingo"]["attention"]
    assert model.generation.max_new_tokens == content["generation"].get("max_new_tokens", 1024)


def test_an_endpoint_needs_no_flamingo_and_survives_config_yaml(tmp_path: Path) -> None:
    found = section(**ENDPOINT)
    assert found.flamingo is None and found.endpoint.model == "m"
    (tmp_path / "config.yaml").write_text(to_yaml({"rewriter": found}))
    again = load(BuildConfig, str(tmp_path / "config.yaml"), {"input": "i", "out": "o"})
    assert again.rewriter == found
    examples = [{"instruction": "i", "annotation": "a", "polite": "p"}]
    assert section(kind="endpoint", endpoint={"model": "m", "prompt": {"examples": examples}}).endpoint.prompt == (
        PromptConfig(examples=(Example(instruction="i", annotation="a", polite="p"),))
    )


def test_the_example_profile_is_whole() -> None:
    found = load(BuildConfig, str(REPO / "profiles/endpoint.yaml"), {"input": "i", "out": "o"})
    content = yaml.safe_load((REPO / "profiles/endpoint.yaml").read_text())
    assert found.rewriter.kind == "endpoint" and found.rewriter.flamingo is None
    assert content.keys() == {"rewriter", "scoring", "thresholds", "pools"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "no section `rewriter.flamingo`"),
        ({"kind": "endpoint"}, "name its model in rewriter.endpoint.model"),
        ({"kind": "vllm"}, "name the model in rewriter.vllm.model"),
        ({"kind": "vllm", "vllm": {"model": "m", "engine": {"model": "n"}}}, "not in engine"),
        ({"kind": "other"}, "rewriter.kind: must be one of flamingo, endpoint, vllm, none, got 'other'"),
        ({**ENDPOINT, "endpoint": {"model": "m", "urls": ["host:80"]}}, "urls must begin with http"),
        ({**ENDPOINT, "endpoint": {"model": "m", "urls": []}}, "at least one server"),
        ({**ENDPOINT, "endpoint": {"model": "m", "max_tokens": 0}}, "max_tokens must be at least 1"),
        ({**ENDPOINT, "endpoint": {"model": "m", "extra": {"stream": True}}}, "extra must not set stream"),
        ({**ENDPOINT, "endpoint": {"model": "m", "extra": {"api_key": "sk-1"}}}, "extra must not hold a key"),
        ({**ENDPOINT, "endpoint": {"model": "m", "extra": {"h": {"X-Api-Key": "sk-1"}}}}, "extra must not hold a key"),
        ({**ENDPOINT, "endpoint": {"prompt": {"template": "{annotation}"}}}, "must contain {instruction}"),
        ({**ENDPOINT, "endpoint": {"prompt": {"system": "Speak {tongue}"}}}, "{tongue} is unknown; known are instruct"),
        (
            {**ENDPOINT, "endpoint": {"prompt": {"system": "Answer {annotation}"}}},
            "{annotation} stands in prompt.templ",
        ),
        (
            {**ENDPOINT, "endpoint": {"prompt": {"template": "{instruction} {annotation} {instruction}"}}},
            "{instruction} must occur once",
        ),
        ({**ENDPOINT, "endpoint": {"prompt": {"system": "<image>"}}}, "images stand where the instruction has them"),
        ({**ENDPOINT, "endpoint": {"prompt": {"language": " "}}}, "must name a language, or be same"),
        ({**ENDPOINT, "endpoint": {"prompt": {"examples": [{"polite": "x"}]}}}, "required: .*instruction"),
    ],
)
def test_a_mistake_is_one_line(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        section(**content)
    assert "\n" not in str(refused.value)


def test_only_a_flamingo_can_be_served() -> None:
    with pytest.raises(ValueError, match="kind is endpoint, but serve needs a Flamingo"):
        section(**ENDPOINT).of_flamingo("serve")


def identity(**content: Any) -> str:
    return config_hash(section(**content), ScoringConfig(), {}, rows_per_call=32)


def test_what_decides_an_endpoints_texts_is_its_identity_and_where_it_runs_is_not() -> None:
    def of(**endpoint: Any) -> str:
        return identity(kind="endpoint", endpoint={"model": "m", **endpoint})

    plain = of()
    for name, value in {
        "urls": ["http://b/v1"], "concurrency": 3, "timeout": 5, "attempts": 2, "patience": 1, "answers_as": "m2",
        "api_key_variable": "K",
    }.items():  # fmt: skip
        assert of(**{name: value}) == plain, name
    assert identity(**ENDPOINT, generation={"max_new_tokens": 7}) == plain, "a Flamingo's setting"
    found = {
        of(**{name: value})
        for name, value in {
            "model": "n", "pictures": False, "max_side": 512, "structured": True, "max_tokens": 9, "seed": 1,
            "temperature": 1, "top_p": 0.5, "extra": {"top_k": 1},
        }.items()
    }  # fmt: skip
    prompts = {"system": "Hello", "examples": [], "template": "{instruction}{annotation}", "language": "German"}
    found |= {of(prompt={name: value}) for name, value in prompts.items()}
    assert len(found) == 13 and plain not in found
    vllm = {
        identity(kind="vllm", vllm={"model": "m", **more})
        for more in ({}, {"lora": "l"}, {"engine": {"dtype": "float16"}}, {"engine": {"tensor_parallel_size": 2}})
    }
    assert len(vllm) == 3 and plain not in vllm, "how the engine uses the machine decides nothing"
    assert identity(kind="none") == identity(kind="none", generation={"max_new_tokens": 7}) != plain


def test_the_key_is_in_no_config() -> None:
    assert "key" not in to_yaml(EndpointConfig(model="m")).replace("api_key_variable: OPENAI_API_KEY", "")
