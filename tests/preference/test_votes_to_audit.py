"""People vote through the page; what it writes is what the audit reads, also when pairs are made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.pairing import PairingConfig
from polite_flamingo.preference.votes.log import VoteLog
from polite_flamingo.preference.votes.poll import Poll
from polite_flamingo.preference.votes.reading import Wanted, gather
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs import audit, pair, vote
from serving.votes.app import create_app
from tests.support.rated_answers import rated

PROMPTS = 40
ANSWERS = {"Good": (4, 4, 4, 1, 0), "Long and wrong": (1, 0, 3, 1, 4), "Bad": (0, 0, 0, 1, 1)}
RESAMPLING = Resampling(draws=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "rated" / "a.tar", [rated(f"a/b/{number}", ANSWERS) for number in range(PROMPTS)])
    return tmp_path


def paired(folder: Path, name: str, **settings: Any) -> str:
    pairing = PairingConfig(rule="worst", **settings)
    pair.pair(pair.PairConfig(input=str(folder / "rated"), out=str(folder / name), pairing=pairing))
    return str(folder / name / "pairs")


def voted(source: str, out: Path) -> list[dict[str, Any]]:
    """Ann prefers the good answer, if there is one, and Bob the longer text; return the lines of labels.jsonl."""
    out.mkdir()
    log = VoteLog(out / "votes.jsonl")
    client = TestClient(create_app(Poll(gather(Wanted(source=source)).battles, log), instruction="", keys=None))

    def post(route: str, **body: Any) -> Any:
        answer = client.post(f"/v1/votes{route}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    for voter, liked in (("Ann", lambda text: text == "Good"), ("Bob", len)):
        state = post("/next", voter=voter)
        while shown := state["pair"]:
            choice = "left" if liked(shown["left"]) > liked(shown["right"]) else "right"
            state = post("", voter=voter, battle=shown["id"], choice=choice)
    log.close()
    vote.job(vote.VoteConfig(input=source, out=str(out), results=True, resampling=RESAMPLING))
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def people(folder: Path, pairs: str = "") -> tuple[dict[str, float], list[str]]:
    """Return the figures of the check of people, and what it lacks."""
    config = audit.AuditConfig(
        out=str(folder / "audit"), rated=str(folder / "rated"), pairs=pairs,
        labels=str(folder / "votes" / "labels.jsonl"), audit=AuditSettings(near=False, resampling=RESAMPLING),
    )  # fmt: skip
    audit.job(config)
    found = json.loads((folder / "audit" / "audit.json").read_text())["checks"]["people"]
    return {one["name"]: one["found"]["value"] for one in found["measures"]}, found["missing"]


def test_votes_on_pairs_reach_the_audit_and_stay_true_when_pairs_are_made_again(folder: Path) -> None:
    first = paired(folder, "pairs")
    lines = voted(first, folder / "votes")
    assert len(lines) == 2 * PROMPTS
    assert all({line["first"], line["second"]} == {0, 2} for line in lines), "candidates by number, not sides"
    assert all(line[line["vote"]] == 0 for line in lines), "both voters find Good better than Bad, which is shorter"
    everything = {
        "choices of the judge": 1.0, "labels of the pairs": 1.0, "people among themselves": 1.0,
        "pairs that people would keep": 1.0,
    }  # fmt: skip
    assert people(folder, first) == (everything, [])
    flipped = paired(folder, "flipped", flips=1.0)
    found, _ = people(folder, flipped)
    assert found["labels of the pairs"] == -1.0 and found["pairs that people would keep"] == 0.0
    assert found["choices of the judge"] == 1.0, "the votes are on answers, which have not changed"


def test_votes_on_answers_reach_the_audit_without_pairs(folder: Path) -> None:
    lines = voted(str(folder / "rated"), folder / "votes")
    assert len(lines) == 2 * 3 * PROMPTS and {type(line["first"]) for line in lines} == {int}
    found, missing = people(folder)
    assert 0 < found["choices of the judge"] < 1 and not missing, "Bob likes length"


def test_sides_of_pairs_without_candidates_are_named(folder: Path) -> None:
    source = paired(folder, "pairs")
    bare = [replace(row, candidates=()) for row in read_shard(folder / "pairs" / "pairs" / "a.tar")]  # type: ignore[arg-type]
    write_shard(folder / "bare" / "a.tar", bare)  # type: ignore[arg-type]
    lines = voted(str(folder / "bare"), folder / "votes")
    assert all(line[line["vote"]] == "chosen" for line in lines)
    assert people(folder, source)[0]["labels of the pairs"] == 1.0
