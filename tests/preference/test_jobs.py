"""The jobs around sampling and rating: each prompt comes out once, nothing is paid twice, trouble is one line."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.cost import Prices, TokenPrices
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.preference.judges.config import JudgeEndpoint, JudgeSection
from polite_flamingo.preference.rating import count_ratings
from polite_flamingo.preference.sampling import PolicyEndpoint, SamplingSection
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    commit_shard,
    read_manifest,
    read_quarantine,
    read_scored,
)
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.testbed.shapes.exam import prompts
from ray_jobs import rate as rate_job
from ray_jobs import sample as sample_job
from ray_jobs.console import AllFailed, JobFailed
from ray_jobs.rate import RateConfig, rate, rate_or_estimate
from ray_jobs.sample import SampleConfig, sample
from tests.preference.test_rule_judge import RULE
from tests.support.build_world import text_row
from tests.support.fake_chat import MODEL, fake_chat
from tests.support.fake_filter_servers import serving
from tests.support.fake_rule_judge import JUDGE, FakeRuleJudge
from tests.support.rated_shapes import with_answers

QUICK: dict[str, Any] = {"pause": 0.0, "longest_pause": 0.01, "attempts": 2, "patience": 0.0}
PRICES = Prices(tokens={"judge": TokenPrices(prompt=1.0, generated=6.0)})
POOL = PoolConfig(cpus=0.5, rows_per_call=4)
POOLS = PoolsConfig(sampling=POOL, rating=POOL, max_failures_in_a_row=6)


def sampling(source: Path, out: Path, url: str, **settings: Any) -> SampleConfig:
    endpoint = PolicyEndpoint(urls=(url,), model=MODEL, **QUICK)
    section = SamplingSection(**{"kind": "endpoint", "endpoint": endpoint, **settings})
    return SampleConfig(input=str(source), out=str(out), sampling=section, pools=POOLS)


def judging(source: Path, out: Path, url: str, **settings: Any) -> RateConfig:
    endpoint = JudgeEndpoint(urls=(url,), model=JUDGE, concurrency=2, **QUICK)
    section = JudgeSection(**{"endpoint": endpoint, "audit": 0.0, **settings})
    return RateConfig(input=str(source), out=str(out), judge=section, prices=PRICES, pools=POOLS)


def ruling(source: Path, out: Path) -> RateConfig:
    return RateConfig(input=str(source), out=str(out), judge=JudgeSection(kind="rule", rule=RULE), pools=POOLS)


def rows_of(layout: OutputLayout) -> tuple[list[Sample], Counter[str], int]:
    """Return the samples, the reasons of quarantine, and the number of rows that came in; each key is there once."""
    names = layout.finished()
    samples = [one for name in names for one in read_scored(layout, name)]
    failed = [row for name in names for row in read_quarantine(layout, name)]
    keys = [key for key in (*(one.key for one in samples), *(row.key for row in failed)) if key]
    assert len(keys) == len(set(keys))
    return samples, Counter(row.reason for row in failed), sum(read_manifest(layout.manifest(n)).rows_in for n in names)


def write(folder: Path, shards: Sequence[Sequence[Sample]]) -> Path:
    for number, rows in enumerate(shards):
        write_shard(folder / f"s{number}.tar", rows)
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prompts_become_answers_and_answers_become_ratings_each_once(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [prompts(part, 6) for part in ("in", "text", "second")]
    source = write(tmp_path / "in", [*shapes, [text_row(3, n, "a row") for n in range(2)]])
    spoilt = replace(
        shapes[0][0], turns=(replace(shapes[0][0].turns[0], instruction="<image>Now [500]"),), key="exam/x/1"
    )
    write_shard(source / "s4.tar", [spoilt, replace(shapes[0][1], key="exam/x/2")])
    said = itertools.count()
    out = tmp_path / "sampled"
    with fake_chat() as chat:
        chat.answer = lambda text: f"The circle is {('red', 'blue', 'green')[next(said) % 3]}."
        sample(sampling(source, out, chat.url, answers=3))
        asked = len(chat.bodies)
        sample(sampling(source, out, chat.url, answers=3))
        assert len(chat.bodies) == asked, "a job that is done asks nothing, not even whether the server is there"
    layout = sample_job.layout_of(str(out))
    samples, reasons, rows_in = rows_of(layout)
    assert (len(samples), reasons, rows_in) == (21, Counter(answering_failed=1), 22)
    assert all(len(one.candidates) == 3 and one.provenance["sampling"]["model"] == MODEL for one in samples)
    assert {len(one.turns) for one in samples} == {1, 2} and not list((out / "answers").rglob("*.jsonl"))
    stats = json.loads((out / "stats.json").read_text())
    assert stats["answers"]["given"] == 63 and stats["usage"]["sampling.requests"] == 66
    assert "63, " in capsys.readouterr().out

    rated = tmp_path / "rated"
    rate(ruling(out / "samples", rated))
    found, reasons, rows_in = rows_of(rate_job.layout_of(str(rated)))
    assert (len(found), reasons, rows_in) == (19, Counter(unsupported=2), 21), "the rows from elsewhere have no scene"
    assert all([rating.judge for rating in one.ratings] == ["rule"] for row in found for one in row.candidates)
    before = {one.key: one for one in samples}
    for row in found:
        plain = replace(row, candidates=tuple(replace(one, ratings=()) for one in row.candidates))
        assert plain == before[row.key], "nothing else has changed"
    assert "rule: correctness" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_has_cost_enough_stops_and_goes_on_without_paying_twice(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = with_answers(size=24)
    source, out = write(tmp_path / "in", [rows[start : start + 8] for start in (0, 8, 16)]), tmp_path / "rated"
    with serving(FakeRuleJudge(rows, spoilt=0.3)) as server:
        assert isinstance(server, FakeRuleJudge)
        config = judging(source, out, server.url, max_cost=0.0125, orders=2)
        with pytest.raises(JobFailed, match=r"judge\.max_cost \$0\.0125; what was paid for is kept"):
            rate(config)
        paid = len(server.bodies) - 1  # the first is the trial
        assert 6 <= paid <= 12, "never more than the limit pays for"
        rate(replace(config, judge=replace(config.judge, max_cost=None)))
        again = [count for count in server.asked.values() if count > 1]
        assert sum(again) - len(again) == 1, "only the trial is asked twice"
        layout = rate_job.layout_of(str(out))
        found, reasons, rows_in = rows_of(layout)
        assert len(found) + reasons.total() == rows_in == 24
        stats = json.loads((out / "stats.json").read_text())
        assert stats["usage"]["judge.requests"] == len(server.bodies) - 2, "the sum is what was paid"
        assert f"${(len(server.bodies) - 2) / 1000:.2f}" in capsys.readouterr().out
        write_shard(source / "s3.tar", [replace(rows[0], key="exam/in/new")])
        server.names = (f"{JUDGE}-v2",)
        with pytest.raises(ConnectionError, match="the judge has changed"):
            rate(judging(source, out, server.url, orders=2))

        before = len(server.bodies)
        server.names = (JUDGE,)
        rate_or_estimate(replace(judging(source, tmp_path / "other", server.url, orders=2), estimate=6))
        assert 0 < len(server.bodies) - before < 30 and "forecast for 4 shards" in capsys.readouterr().out
        estimate = json.loads((tmp_path / "other/estimate/estimate.json").read_text())
        assert estimate["judge.requests"]["value"] == pytest.approx(48, rel=0.4) and estimate["money"]["value"] > 0


def test_own_answers_are_refused_before_anything_is_paid_for(tmp_path: Path) -> None:
    rows = with_answers(size=2)
    own = [replace(row, candidates=tuple(replace(one, model=JUDGE) for one in row.candidates)) for row in rows]
    source = write(tmp_path / "in", [own])
    with serving(FakeRuleJudge(own)) as server:
        with pytest.raises(ValueError, match="would judge its own answers, which it prefers"):
            rate(judging(source, tmp_path / "out", server.url))
        assert len(server.bodies) == 1, "the trial alone"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "endpoint"}, "judge: kind is endpoint: name its model"),
        ({"kind": "rule"}, "judge: kind is rule: name its function"),
        ({"kind": "rule", "rule": RULE, "orders": -1}, "judge: needs orders >= 0"),
        ({"kind": "rule", "rule": RULE, "audit": 1.5}, "judge: needs orders >= 0"),
        ({"kind": "rule", "rule": RULE, "max_cost": 0.0}, "judge: max_cost must be above 0"),
    ],
)
def test_impossible_judges_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        JudgeSection(**settings)


def test_a_limit_of_cost_needs_a_price() -> None:
    section = JudgeSection(endpoint=JudgeEndpoint(model=JUDGE), max_cost=1.0)
    with pytest.raises(ValueError, match=r"judge\.max_cost needs the price"):
        RateConfig(input="in", out="out", judge=section)
    RateConfig(input="in", out="out", judge=section, prices=PRICES)


def test_another_judge_is_another_job_and_where_it_runs_is_not() -> None:
    def identity(**settings: Any) -> str:
        endpoint = JudgeEndpoint(**{"model": JUDGE, **settings.pop("endpoint", {})})
        return rate_job.job_of(
            RateConfig(input="in", out="out", judge=JudgeSection(**{"endpoint": endpoint, **settings}), prices=PRICES)
        ).identity

    same = identity()
    for harmless in (
        {"endpoint": {"urls": ("http://elsewhere/v1",)}}, {"endpoint": {"timeout": 5.0}}, {"max_cost": 3.0},
        {"allow_same_model": True},
    ):  # fmt: skip
        assert identity(**harmless) == same
    others: list[dict[str, Any]] = [
        {"orders": 2}, {"samples": 2}, {"audit": 0.5}, {"blind": True}, {"seed": 1},
        {"endpoint": {"model": "x"}}, {"endpoint": {"pictures": False}}, {"endpoint": {"reference": True}},
        {"endpoint": {"temperature": 0.5}}, {"endpoint": {"logprobs": True}}, {"kind": "rule", "rule": RULE},
    ]  # fmt: skip
    assert len({same, *(identity(**other) for other in others)}) == 1 + len(others)


def test_nothing_rated_is_a_failure_that_says_why(tmp_path: Path) -> None:
    layout = rate_job.layout_of(str(tmp_path))
    job = rate_job.job_of(ruling(tmp_path, tmp_path))
    row = Quarantined(key="a/b/c", shard="s0", index=0, reason="unsupported", detail="a/b/c: no scene in its meta")
    commit_shard(
        layout, "s0", [row],
        lambda scored, quarantined: Manifest(
            shard="s0", rows_in=1, scored=scored, quarantined=quarantined, config_hash="x",
            stats={"quarantined": {"unsupported": 1}, **count_ratings([row])},
        ),
    )  # fmt: skip
    with pytest.raises(AllFailed, match=r"not one of 1 rows was rated: unsupported.*no scene"):
        job.fail_without("rated", job.summarise("rated"))


def test_fresh_asks_the_judge_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = judging(tmp_path, out, "http://127.0.0.1:9/v1")
    job, kept = rate_job.job_of(config), [out / "answers" / "s0.jsonl", out / "judge.json"]
    for file in (*kept, out / "config.yaml"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    with job.locked():
        assert all(file.exists() for file in kept), "what was paid for is kept"
    with job.locked(fresh=True):
        assert not any(file.exists() for file in kept)
