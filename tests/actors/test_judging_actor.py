"""What the judges of an evaluation cannot take costs one sample its numbers, and every sample is counted once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.base import ActorSettings
from actors.judging import JudgingActor, JudgingConfig
from actors.rows import Block
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged
from polite_flamingo.evaluation.responses import write_responses
from polite_flamingo.evaluation.results import summarise
from polite_flamingo.faults.bisection import ModelBroken
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import Quarantined, Sample, Turn
from polite_flamingo.storage.location import location
from tests.faults.test_guard import Died, kill_leaves_the_note  # noqa: F401  # a fixture that applies by itself


class Reward:
    """Judges longer answers better; raises or dies if an answer says so."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        for _, answer in pairs:
            if "raise" in answer:
                raise RuntimeError("index out of range")
            if "die" in answer:
                raise Died
        return [len(answer) / 10 for _, answer in pairs]


class Actor(JudgingActor):
    def load(self, config: JudgingConfig) -> Any:
        nli = SimpleNamespace(score=lambda pairs: [[0.0, 1.0, 0.0] for _ in pairs])
        sts = SimpleNamespace(score=lambda pairs: [0.5 for _ in pairs])
        return SimpleNamespace(reward=Reward(), nli=nli, sts=sts)


GONE = Quarantined(key="", shard="in/a.tar", index=1, reason="bad_json", detail="")
ROWS: list[Sample | Quarantined] = [
    Sample(key=f"d/s/{n}", dataset="d", task="text", turns=(Turn(instruction="Say it.", response=f"row {n}"),))
    for n in range(6)
]
ROWS.insert(1, GONE)


def judged(root: Path | str, answers: Mapping[str, str], failures: int = 8) -> dict[str, Any]:
    """Answers of the one contestant -> what the actor leaves, started again wherever its process dies."""
    out = location(root)
    write_responses(out / "responses" / "a.jsonl", answers)
    judging = JudgingConfig(
        scoring=ScoringConfig(), out=out, contestants={"one": str(out / "responses" / "{shard}.jsonl")},
        identities={"a": "identity"}, by="task",
    )  # fmt: skip
    settings = ActorSettings(out=out, rows_per_call=4, max_failures_in_a_row=failures, actors=1)
    table = Block(name="a", shard="in/a.tar", first=0, shard_rows=len(ROWS), rows=ROWS).to_table()
    for _ in range(10):
        try:
            done = Actor(judging, settings)(table)
        except Died:
            continue
        assert done.select(["name", "rows_in"]).to_pylist() == [{"name": "a", "rows_in": len(ROWS)}]
        assert not (out / "journal").names(".json"), "a judged shard leaves no notes"
        return dict(json.loads((out / "judged" / "a.json").read_text()))
    raise AssertionError("it never ends")


@pytest.mark.parametrize(("said", "reason"), [("raise", "judging_failed"), ("die", "killed_worker")])
def test_an_answer_that_the_judges_cannot_take_costs_its_sample_alone(tmp_path: Path, said: str, reason: str) -> None:
    answers = {f"d/s/{n}": f"answer {n}" for n in range(6)}
    undisturbed = Judged.from_json(judged(tmp_path / "good", answers)["judged"])
    record = judged(tmp_path / "bad", answers | {"d/s/2": said})
    found = Judged.from_json(record["judged"])
    assert record["unreadable"] == {"bad_json": 1}
    assert list(record["not_judged"]) == ["d/s/2"] and record["not_judged"]["d/s/2"].startswith(f"{reason}: d/s/2: ")
    assert sorted(found.keys) == undisturbed.keys and len(found.keys) + 1 == len(ROWS)
    assert found.missing == {RAW: {reason: 1}, "one": {reason: 1}}
    for name in (RAW, "one"):
        before = dict(zip(undisturbed.keys, undisturbed.scores[name]["reward"], strict=True))
        assert dict(zip(found.keys, found.scores[name]["reward"], strict=True)) == before | {"d/s/2": None}
    results = summarise(found)
    for given in results.answers.values():
        assert (given.answered, given.missing) == (5, {reason: 1}) and given.answered + 1 == results.samples
    assert REWRITTEN not in results.contestants


def test_answers_and_numbers_may_lie_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    for answers in ({f"d/s/{n}": f"answer {n}" for n in range(6)}, {f"d/s/{n}": f"another {n}" for n in range(5)}):
        assert judged(bucket, answers) == judged(tmp_path, answers), "an answer that is changed is read again"


def test_judges_that_fail_on_everything_end_the_job(tmp_path: Path) -> None:
    answers = {f"d/s/{n}": "raise" for n in range(6)}
    with pytest.raises(ModelBroken, match="3 rows in a row ended in judging_failed"):
        judged(tmp_path, answers, failures=2)
