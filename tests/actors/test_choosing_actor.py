"""Multiple choice in an evaluation: a question that a model cannot take loses only its own numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.base import ActorSettings
from actors.choosing import ChoosingActor, ChoosingConfig
from actors.rows import Block
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.choice_records import ChoiceRecords
from polite_flamingo.evaluation.choices import ChoicesConfig
from polite_flamingo.evaluation.contestants import Checkpoint, Contestant, Endpoint
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.preference.steerlm import WANTED
from polite_flamingo.sample import BadSample, Quarantined, Sample, Turn
from polite_flamingo.storage.location import location
from ray_jobs.evaluate_answering import Evaluation
from ray_jobs.evaluate_choosing import multiple_choice, unasked
from ray_jobs.evaluate_config import EvaluateConfig, EvaluationConfig
from tests.faults.test_guard import Died, kill_leaves_the_note  # noqa: F401  # a fixture that applies by itself

FLAMINGO = FlamingoConfig(folder="zoo:clever_flamingo")


class Model:
    """Likes long texts; raises or dies if a question says so."""

    def __init__(self) -> None:
        self.asked: list[Sample] = []

    def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> list[tuple[float, int] | BadSample]:
        found: list[tuple[float, int] | BadSample] = []
        for sample, text in asked:
            self.asked.append(sample)
            if "raise" in sample.instruction:
                raise RuntimeError("index out of range")
            if "die" in sample.instruction:
                raise Died
            found.append(BadSample("text_too_long", "too long") if "long" in sample.instruction else (len(text), 1))
        return found


class Actor(ChoosingActor):
    def load(self, config: ChoosingConfig) -> Any:
        return Model()


def question(number: int, instruction: str = "Which?", **meta: object) -> Sample:
    turns = (Turn(instruction=instruction, response="Answer: right"),)
    return Sample(key=f"d/s/{number}", dataset="d", task="vqa", turns=turns, meta=meta)


CHOICES = ["right", "wrong as well"]
ROWS: list[Sample | Quarantined] = [
    question(0, choices=CHOICES),
    Quarantined(key="", shard="in/a.tar", index=1, reason="bad_json", detail=""),
    question(2),  # no choices
    question(3, choices=["wrong", "false"]),
    question(4, "Which? (raise)", choices=CHOICES),
    question(5, "Which? (die)", choices=CHOICES),
    question(6, "Which? (long)", choices=CHOICES),
    question(7, choices=["right", "no"]),
]


def choosing(root: Path, **changes: Any) -> tuple[ChoiceRecords, list[Sample]]:
    """What the actor leaves, started again wherever its process dies, and what its last model was asked."""
    out = location(root)
    config = ChoosingConfig(
        model=RewriterConfig(flamingo=FLAMINGO), choices=ChoicesConfig(by="mean"), ratings={}, folder=out,
        identities={"a": "identity"},
    )  # fmt: skip
    settings = ActorSettings(out=out, rows_per_call=4, max_failures_in_a_row=8, actors=1)
    table = Block(name="a", shard="in/a.tar", first=0, shard_rows=len(ROWS), rows=ROWS).to_table()
    for _ in range(10):
        actor = Actor(replace(config, **changes), settings)
        try:
            actor(table)
        except Died:
            continue
        return ChoiceRecords.from_json((out / "a.json").read_text()), actor.model.asked  # type: ignore[attr-defined]
    raise AssertionError("it never ends")


def test_every_question_has_its_numbers_or_a_reason(tmp_path: Path) -> None:
    found, _ = choosing(tmp_path)
    reasons = {key: one.reason if isinstance(one, BadSample) else "" for key, one in found.scored.items()}
    assert reasons == {
        "d/s/0": "", "d/s/4": "answering_failed", "d/s/5": "killed_worker", "d/s/6": "text_too_long", "d/s/7": "",
    }  # fmt: skip
    assert found.scored["d/s/0"] == ((5.0, 1), (13.0, 1)) and found.options.keys() == found.scored.keys()
    assert {key: bad.reason for key, bad in found.refused.items()} == {"d/s/3": "bad_field"}


def test_a_contestant_that_is_steered_sees_its_line(tmp_path: Path) -> None:
    _, asked = choosing(tmp_path, ratings=WANTED["short"])
    assert asked and all("verbosity 2." in sample.instruction for sample in asked)


def evaluation(tmp_path: Path, by: Any) -> Evaluation:
    config = EvaluateConfig(
        input="in", out=str(tmp_path),
        evaluation=EvaluationConfig(choices=ChoicesConfig(by=by), resampling=Resampling(draws=20)),
    )  # fmt: skip
    contestants: dict[str, Contestant] = {
        "model": Checkpoint(flamingo=FLAMINGO), "served": Endpoint(model="m", url="http://127.0.0.1:9/v1")
    }  # fmt: skip
    shards = {"a": location(tmp_path / "a.tar")}
    identities = {"model": "1", "served": "2"}
    return Evaluation(config=config, contestants=contestants, shards=shards, identities=identities)


def test_models_are_asked_once_and_servers_are_left_out(tmp_path: Path) -> None:
    digests = {"a": "digest"}
    job = evaluation(tmp_path, "sum")
    todo = unasked(job, digests)
    assert list(todo) == ["model"] and list(todo["model"]) == ["a"]
    choosing(tmp_path / "choices" / "model", identities=todo["model"])
    assert unasked(job, digests) == unasked(evaluation(tmp_path, "mean"), digests) == {}
    assert unasked(evaluation(tmp_path, "letter"), digests), "letters are another question"
    assert unasked(job, {"a": "changed"})
    assert unasked(evaluation(tmp_path, "off"), digests) == {} and multiple_choice(evaluation(tmp_path, "off")) is None
    found = multiple_choice(job)
    assert found is not None and found.left_out == ("served",) and found.refused == {"bad_field": 1}
    picks = found.results["model"]
    assert (picks.accuracy.value, picks.accuracy.n, picks.chance) == (0.5, 2, 0.5)
    assert picks.longest == 1.0 and picks.longest_right == 0.5
    assert picks.missing == {"answering_failed": 1, "killed_worker": 1, "text_too_long": 1}
    assert json.loads((tmp_path / "choices" / "model" / "a.json").read_text())["identity"] == todo["model"]["a"]
