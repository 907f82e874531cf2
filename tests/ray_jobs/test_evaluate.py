"""The job: models of the zoo answer on Ray, a server and a file take part, and nothing is answered twice."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.endpoints.client import EndpointDown, ServerConfig
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling
from polite_flamingo.evaluation.contestants import Endpoint, Recorded
from polite_flamingo.evaluation.judging import RAW, judge
from polite_flamingo.evaluation.results import TaskResult, summarise
from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import write_shard
from ray_jobs import console
from ray_jobs.evaluate import EvaluateConfig, correct, evaluate, fail_without_answers
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained

PROFILE = Path(__file__).parents[2] / "profiles" / "tiny.yaml"


class Server(BaseHTTPRequestHandler):
    """Answers "It is red." to everything except what it is told to fail on."""

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(body)  # type: ignore[attr-defined]
        failing = self.server.failing and self.server.failing in body  # type: ignore[attr-defined]
        answer = json.dumps({"choices": [{"message": {"content": "It is red."}}]}).encode()
        self.send_response(500 if failing else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server() -> Iterator[Any]:
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    found.asked, found.failing = [], ""
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of Shapes, of a question and a change each, one rewritten; a conversation, and a picture cut short."""
    from polite_flamingo.testbed.zoo.evaluate import sample_of
    from polite_flamingo.testbed.zoo.pairs import random_pair

    rng = random.Random(3)
    pairs = [random_pair(rng, task) for task in ("vqa", "change_captioning", "vqa", "captioning")]
    samples = [sample_of(pair, f"shapes/val/{number}") for number, pair in enumerate(pairs)]
    samples[0] = replace(samples[0], rewritten=pairs[0].polite)
    broken = replace(samples[2], key="shapes/val/broken", images=(Image(extension="png", data=b"cut short"),))
    talk = Sample(
        key="shapes/val/talk", dataset="chat", task="dialogue",
        turns=(Turn(instruction="Say hello.", response="Hello."), Turn(instruction="Again.", response="Hello again.")),
    )  # fmt: skip
    write_shard(tmp_path / "in" / "a.tar", [*samples[:2], talk])
    write_shard(tmp_path / "in" / "b.tar", [*samples[2:], broken])
    return tmp_path / "in"


class Stopped(Exception):
    """The test has seen enough."""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job that ends where it would start to judge."""

    def stop(*arguments: object) -> None:
        raise Stopped

    monkeypatch.setattr("ray_jobs.evaluate.judge_on_ray", stop)
    monkeypatch.setattr("ray_jobs.evaluate.running_ray", lambda pools: contextlib.nullcontext())


def config(shards: Path, contestants: dict[str, str], *arguments: str) -> EvaluateConfig:
    given = [f"--contestants.{name}={line}" for name, line in contestants.items()]
    out = str(shards.parent / "out")
    parsed = console.parse(
        "evaluate", "", EvaluateConfig,
        ["--profile", str(PROFILE), "--input", str(shards), "--out", out, "--rewriter.generation.max_new_tokens=8",
         *given, *arguments],
    )  # fmt: skip
    quick = ServerConfig(attempts=1, pause=0.0, concurrency=2, give_up_after=3)
    evaluation = replace(parsed.evaluation, server=quick, resampling=Resampling(draws=50))
    return replace(parsed, evaluation=evaluation)


def results(shards: Path) -> dict[str, Any]:
    return dict(json.loads((shards.parent / "out" / "results.json").read_text()))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_forms_of_contestants_take_part_and_are_asked_once(
    shards: Path, server: Any, ray_session: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shards.parent / "said.jsonl"
    said.write_text('{"key": "shapes/val/0", "response": ""}\n{"key": "elsewhere", "response": "x"}\n')
    contestants = {
        "polite": str(PROFILE),
        "served": f"endpoint:some-model@http://127.0.0.1:{server.server_port}/v1",
        "recorded": f"recorded:{said}",
    }
    job = config(shards, contestants, "--text_only=polite")
    evaluate(job)
    found, out = results(shards), shards.parent / "out"
    assert found["contestants"] == ["raw annotation", "rewritten annotation", "polite", "served", "recorded"]
    assert found["samples"] == 6 and set(found["tasks"]) == {"vqa", "change_captioning", "dialogue", "captioning"}
    given = found["answers"]
    assert given["polite"]["answered"] == 5 and given["polite"]["missing"] == {"corrupt_image": 1}
    assert given["served"]["missing"] == {"corrupt_image": 1}
    assert (given["recorded"]["answered"], given["recorded"]["empty"]) == (1, 1)
    assert given["recorded"]["missing"] == {"no_response": 5} == given["rewritten annotation"]["missing"]
    assert found["wins"]["rates"]["rewritten annotation"]["raw annotation"]["value"] == 1.0
    assert found["wins"]["rates"]["polite"]["served"]["n"] == 5
    assert set(found["tax"]["reward"]) == {"served", "recorded"}
    level = found["controlled"]["polite"]["served"]
    assert level["rate"]["n"] == 5 and 0 <= level["rate"]["value"] <= 1 and level["slope"]["value"] is not None
    assert found["tasks"]["dialogue"]["words"]["served"] == 3.0
    text = (out / "report.html").read_text()
    assert_self_contained(text)
    assert_readable_aloud(Page(text))
    assert "1 corrupt_image" in (out / "results.md").read_text()
    printed = capsys.readouterr().out
    assert "recorded: 1 recorded answers are for samples that are not in the input" in printed
    assert "6 in 4 tasks; fewer than 100, so the figures are rough" in printed

    monkeypatch.setattr("ray_jobs.evaluate.running_ray", None)  # starting Ray would raise
    first, before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}, len(server.asked)
    evaluate(job)
    assert results(shards) == found and len(server.asked) == before
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == first


def test_an_endpoint_is_asked_again_only_for_what_it_failed_on(shards: Path, server: Any, no_ray: None) -> None:
    job = config(shards, {"served": f"endpoint:m@http://127.0.0.1:{server.server_port}/v1"})
    file = shards.parent / "out" / "responses" / "served" / "a.jsonl"
    server.failing = "Say hello"
    with pytest.raises(Stopped):
        evaluate(job)
    assert (
        file.read_text().count('"response": "It is red."') == 2 and '"failed": "answering_failed"' in file.read_text()
    )
    server.failing, before = "", len(server.asked)
    with pytest.raises(Stopped):
        evaluate(job)
    assert file.read_text().count('"response": "It is red."') == 3
    assert len(server.asked) == before + 1 and "Say hello" in server.asked[-1]
    assert "Again." not in "".join(server.asked), "of a conversation the first turn is asked"


def test_a_steerlm_contestant_is_another_one_than_the_model_without_its_line(
    shards: Path, server: Any, no_ray: None
) -> None:
    line = f"endpoint:m@http://127.0.0.1:{server.server_port}/v1"
    with pytest.raises(Stopped):
        evaluate(config(shards, {"plain": line, "steered": f"steerlm-short:{line}"}))
    short = [one for one in server.asked if "complexity 2, verbosity 2." in one]
    assert 2 * len(short) == len(server.asked) > 0
    with pytest.raises(ValueError, match="contestant steered: another model, or the same with other settings"):
        evaluate(config(shards, {"plain": line, "steered": line}))


def test_answers_may_lie_in_a_bucket(shards: Path, server: Any, no_ray: None, bucket: str) -> None:
    said = location(f"{bucket}/said.jsonl")
    said.put('{"key": "shapes/val/0", "response": "Red."}\n')
    line = f"endpoint:m@http://127.0.0.1:{server.server_port}/v1"
    left = []
    for out in (str(shards.parent / "out"), f"{bucket}/out"):
        job = replace(config(shards, {"served": line, "recorded": f"recorded:{said}"}), out=out)
        for _ in range(2):
            with pytest.raises(Stopped):
                evaluate(job)
        folder = location(out) / "responses"
        left.append({name: (folder / name).read_bytes() for name in folder.names()})
    assert left[0] == left[1] and len(left[0]) == 5
    assert len(server.asked) == 2 * 5, "the second time, only the picture that cannot be sent is tried"
    with pytest.raises(ValueError, match="another model"):
        evaluate(replace(job, contestants={"served": line.replace("m@", "other@")}))


def test_endpoints_are_tried_out_before_any_work(shards: Path, server: Any, no_ray: None) -> None:
    """A second server that does not answer is noticed before the first one gets all samples."""
    lines = {
        "served": f"endpoint:m@http://127.0.0.1:{server.server_port}/v1",
        "gone": f"endpoint:m@http://127.0.0.1:{closed_port()}/v1",
    }
    with pytest.raises(EndpointDown, match=r"contestant gone: .* Is it running"):
        evaluate(config(shards, lines))
    assert len(server.asked) == 1
    with pytest.raises(Stopped):
        evaluate(config(shards, {"served": lines["served"]}))
    assert len(server.asked) == 5, "the first answer was kept; one picture cannot be sent"


@pytest.mark.parametrize("said", ["no_response", "answering_failed"])
def test_a_contestant_without_any_answer_ends_in_status_1_and_a_report(said: str) -> None:
    turn = Turn(instruction="a", response="b")
    samples = [Sample(key=f"s{n}", dataset="d", task="captioning", turns=(turn,)) for n in range(2)]
    answers: Any = {} if said == "no_response" else {one.key: BadSample("answering_failed", "") for one in samples}
    fake = SimpleNamespace(score=lambda pairs: [0.0 for _ in pairs])
    judges: Any = SimpleNamespace(reward=fake, nli=fake, sts=fake)
    results = summarise(judge(samples, {"m": answers}, judges), resampling=Resampling(draws=10))
    with pytest.raises(console.AllFailed, match=f"m has no answer to any of 2 samples: 2 {said}"):
        fail_without_answers(results, {"m": Recorded(place=location("said.jsonl"))})
    fail_without_answers(results, {RAW: Recorded(place=location("said.jsonl"))})


def test_a_contestant_without_any_whole_answer_ends_in_status_1_too() -> None:
    """Six of six empty had been "preferred 83.3 %" once: no figure of such a contestant means anything."""
    turn = Turn(instruction="What colour is it?", response="red")
    samples = [Sample(key=f"s{n}", dataset="d", task="captioning", turns=(turn,)) for n in range(3)]
    said = {"s0": "", "s1": "what COLOUR is it", "s2": Unfinished("It is", "error")}
    fake = SimpleNamespace(score=lambda pairs: [0.0 for _ in pairs])
    judges: Any = SimpleNamespace(reward=fake, nli=fake, sts=fake)
    results = summarise(judge(samples, {"m": said}, judges), resampling=Resampling(draws=10))
    told = r"m has no whole answer to any of 3 samples: 1 of 3 answers are empty, 1 aborted .*, 1 that repeat"
    with pytest.raises(console.AllFailed, match=told):
        fail_without_answers(results, {"m": Endpoint(model="m", url="http://127.0.0.1:9/v1")})
    fail_without_answers(results, {"m": Recorded(place=location("said.jsonl"))})


def test_another_model_under_the_same_name_and_other_input_are_refused(shards: Path, server: Any, no_ray: None) -> None:
    line = f"endpoint:MODEL@http://127.0.0.1:{server.server_port}/v1"
    job = config(shards, {"served": line})
    with pytest.raises(Stopped):
        evaluate(job)
    with pytest.raises(ValueError, match=r"contestant served: another model.*give it another name"):
        evaluate(replace(job, contestants={"served": line.replace("MODEL", "OTHER")}))
    with pytest.raises(ValueError, match="contestant served: another model"):
        evaluate(replace(job, contestants={"served": str(PROFILE)}))
    write_shard(
        shards / "a.tar", [Sample(key="x", dataset="d", task="text", turns=(Turn(instruction="a", response="b"),))]
    )
    with pytest.raises(
        ValueError,
        match=r"shards has changed since .* was made: .*a\.tar; give another --out, or --fresh",
    ):
        evaluate(job)


def test_mistakes_end_in_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = config(shards, {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "said.jsonl").write_text("{}\n")
    port = closed_port()
    cases = {
        "gpt-4' does not exist and has no known form": replace(job, contestants={"x": "gpt-4"}),
        "text_only names 'nobody', which is none of raw annotation": replace(job, text_only="nobody"),
        "has no .tar shard": replace(job, input=str(tmp_path / "empty")),
        "does not exist": replace(job, input=str(tmp_path / "nowhere")),
        "give --profile FILE": replace(job, contestants={"x": str(PROFILE)}, rewriter=None),
        "line 1: each line must be like": replace(job, contestants={"x": f"recorded:{tmp_path}/said.jsonl"}),
        "Is it running": replace(job, contestants={"x": f"endpoint:m@http://127.0.0.1:{port}/v1"}),
    }
    for message, mistaken in cases.items():
        with pytest.raises((ValueError, OSError), match=message) as error:
            evaluate(mistaken)
        assert "\n" not in str(error.value)


def test_correct_answers_are_counted_over_the_tasks_that_have_them() -> None:
    def task(accuracy: dict[str, Estimate]) -> TaskResult:
        return TaskResult(samples=4, means={"accuracy": accuracy} if accuracy else {}, left_out={})

    right, wrong = Estimate(value=0.5, low=0.2, high=0.8, n=4), Estimate(value=0.0, low=0.0, high=0.0, n=2)
    tasks = {"vqa": task({"clever": right}), "text": task({"clever": wrong}), "captioning": task({})}
    found = SimpleNamespace(tasks=tasks)
    assert correct(found, "clever") == (2.0, 6) and correct(found, "nobody") == (0, 0)  # type: ignore[arg-type]


def closed_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_the_command_line_takes_any_number_of_contestants(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text(yaml.safe_dump({"evaluation": {"by": "dataset", "server": {"attempts": 2}}}))
    found = console.parse(
        "evaluate", "", EvaluateConfig,
        ["--profile", str(profile), "--input", "in", "--contestants.a", "out/a", "--contestants.b=endpoint:m@http://h/v1"],
    )  # fmt: skip
    assert found.contestants == {"a": "out/a", "b": "endpoint:m@http://h/v1"} and found.rewriter is None
    assert found.evaluation.by == "dataset" and found.evaluation.server.attempts == 2
