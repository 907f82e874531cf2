"""Builds with other rewriters than a Flamingo, on Ray: a misbehaving server, a wrong key, and no rewriter at all."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.rewriters.config import EndpointConfig, RewriterSection
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_run
from ray_jobs import console, select
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.console import JobFailed
from tests.actors.test_endpoint_actor import usage_of
from tests.rewriters.test_endpoint import BAD_ANSWERS
from tests.support import build_world, fake_actors
from tests.support.build_world import outcome, stats, write_world
from tests.support.fake_chat import MODEL, FakeChat, fake_chat
from tests.support.patience import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def config(source: Path, out: Path, chat: FakeChat, **settings: Any) -> Any:
    quick = {"pause": 0.0, "longest_pause": 0.02, "concurrency": 8, "attempts": 3, "give_up_after": 99}
    endpoint = EndpointConfig(urls=(chat.url,), model=MODEL, **{**quick, **settings})
    section = RewriterSection(kind="endpoint", endpoint=endpoint)
    return replace(build_world.config(source, out, rows_per_call=8), rewriter=section)


def test_every_answer_ends_in_the_right_place(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {word: reason for word, (reason, _) in BAD_ANSWERS.items() if word != "[no picture]"}
    special = {(n % 4, n): word for n, word in enumerate([*bad, "[429 x2]", "[503 x3]"])}
    source, out = write_world(tmp_path / "in", shards=4, rows=12, special=special), tmp_path / "out"
    with fake_chat() as chat:
        job = config(source, out, chat, concurrency=12)
        # After the trial, nobody is answered until more is asked than one shard asks at once.
        chat.hold = lambda: len(chat.bodies) > 1 and wait_until(lambda: len(chat.bodies) > 1 + 8)
        build(job, None, fake_actors.FakeScoringActor)
        expected = {reason: list(bad.values()).count(reason) for reason in bad.values()}
        assert outcome(out) == {"scored": 48 - len(bad), **expected}
        asked = len(chat.bodies)
        build(job, None, fake_actors.FakeScoringActor)
        assert len(chat.bodies) == asked, "a finished build asks nothing"
    layout, usage = OutputLayout(root=out), usage_of(out)
    assert usage["requests"] == 48 - 3 and usage["generated_tokens"] > usage["requests"]
    assert not layout.answers.names()
    printed = capsys.readouterr().out
    assert f"{MODEL} at {chat.url} rewrites" in printed
    run = read_run(layout)
    assert run is not None and run.models[0].role == "rewriter" and run.models[0].name == MODEL


def test_a_server_that_breaks_the_rules_ends_the_job_with_one_line(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = {(0, 3): "[another model]"}
    source, out = write_world(tmp_path / "in", shards=1, rows=12, special=special), tmp_path / "out"
    with fake_chat() as chat:
        chat.key = "right"
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(EndpointDown, match="set the environment variable OPENAI_API_KEY"):
            build(config(source, out, chat), None, fake_actors.FakeScoringActor)
        chat.key = ""
        with pytest.raises(JobFailed, match=r"another-13b answered: name it in rewriter\.endpoint\.model") as failed:
            build(config(source, out, chat), None, fake_actors.FakeScoringActor)
    assert "\n" not in str(failed.value)
    layout = OutputLayout(root=out)
    assert not layout.finished() and not (layout.root / "quarantine").names(), "no row is to blame"
    assert re.search("wrong|right", "".join(path.read_text() for path in out.glob("*.*"))) is None, "the key is nowhere"


def test_any_dataset_can_be_scored_as_it_is(
    demo_folder: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """`build --rewriter.kind none` on Shapes, with the filters' real models."""
    profile, out = str(Path(__file__).parents[2] / "profiles/tiny.yaml"), tmp_path / "out"
    arguments = ["--profile", profile, "--input", str(demo_folder / "ingested"), "--out", str(out)]
    build(console.parse("build", "", BuildConfig, [*arguments, "--rewriter.kind", "none"]))
    found, shown = stats(out), capsys.readouterr().out
    rejected, quarantined = found["rejected"], found["quarantined"]
    assert isinstance(rejected, dict) and isinstance(quarantined, dict)
    assert found["rows_in"] == stats(demo_folder)["rows_in"]
    assert found["kept"] + sum(rejected.values()) + sum(quarantined.values()) == found["rows_in"]  # type: ignore[operator]
    assert found["kept"] and "too_short" in rejected and not rejected.keys() & {"unchanged", "sts_low", "unscored"}
    assert "Nothing was rewritten: the annotations were scored as they are." in shown
    page, card = (out / "report.html").read_text(), (out / "README.md").read_text()
    assert "annotations pass as they are</h1>" in page and "<h4>Rewritten</h4>" not in page
    assert "responses that are annotations as they were, chosen from" in card and "zoo:nli" not in card
    select.job(select.SelectConfig(out=str(out), thresholds=Thresholds(min_words=1, min_characters=1)))
    assert stats(out)["kept"] > found["kept"], "thresholds move as for any build"  # type: ignore[operator]
