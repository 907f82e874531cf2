"""`polite-flamingo vote`: what it reads, what it refuses, and what becomes of the votes."""

from __future__ import annotations

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.evaluation.judging import RAW, Judged
from polite_flamingo.evaluation.responses import write_responses
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.preference.votes.battles import Battle
from polite_flamingo.preference.votes.log import Action, VoteLog
from polite_flamingo.preference.votes.reading import Gathered, Wanted, gather
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import write_run
from polite_flamingo.storage.shards import write_shard
from ray_jobs import agreement, select
from ray_jobs.resumable_job import begin_run
from ray_jobs.vote import addresses, link_token, main
from tests.ray_jobs.test_select import commit
from tests.support.made_samples import make_sample
from tests.support.voting import answered, cast, rewritten


def run(source: Path, out: Path, *options: str) -> int:
    return main(["--input", str(source), "--out", str(out), "--results", *options])


def vote(out: Path, battles: list[Battle], voter: str, actions: list[Action]) -> None:
    out.mkdir(exist_ok=True)
    log = VoteLog(out / "votes.jsonl")
    for battle, action in zip(battles, actions, strict=True):
        log.append(cast(battle, voter, action))
    log.close()


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build with a judge, which marks the texts of odd numbers down."""
    layout = OutputLayout(root=tmp_path / "build")
    write_run(layout, begin_run("hash", {}, ""))
    rows = []
    for number in range(12):
        mark = 1 if number % 2 else 5
        sample = rewritten(number, reward=mark - 3)
        marks = {f"judge_{axis}": mark for axis in ("relevance", "correctness", "formatting", "visual_dependency")}
        rows.append(replace(sample, scores={**sample.scores, **marks, "words": 9, "characters": 40}))
    commit(layout, "s0", rows[:7])
    commit(layout, "s1", rows[7:])
    select.select(layout, Thresholds())
    return tmp_path / "build"


def test_votes_on_a_build_become_ratings_agreement_and_labels_that_agreement_reads(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = gather(Wanted(source=str(build)))
    assert (found.shards, found.rows, found.quarantined, found.without, found.possible) == ((2, 2), 14, 2, 0, 12)
    odd = [int(battle.key.split("/")[-1]) % 2 for battle in found.battles]
    vote(tmp_path / "votes", found.battles, "Ann", ["second" if one else "first" for one in odd])
    assert run(build, tmp_path / "votes") == 0
    said = capsys.readouterr().out
    assert "12 of 1 voter, on 12 pairs; fewer than 100" in said
    assert "judge and people" in said and "100.0 % (100.0 to 100.0) agree, kappa 1.00 (1.00 to 1.00), n = 12" in said
    record = json.loads((tmp_path / "votes" / "results.json").read_text())
    assert {one["rater"]: one["share"]["value"] for one in record["agreements"]} == {
        "judge": 1.0, "reward model": 1.0, "NLI": 0.5,
    }  # fmt: skip
    labels = tmp_path / "votes" / "labels.jsonl"
    assert sum(json.loads(line)["keep"] for line in labels.read_text().splitlines()) == 6
    assert agreement.main(["--out", str(build), "--labels", str(labels)]) == 0
    assert "lowest mark and people: keep" in capsys.readouterr().out
    [keep] = [one for one in json.loads((build / "agreement.json").read_text())["agreements"] if "keep" in one["other"]]
    assert keep["kappa"]["value"] == 1.0 and keep["kappa"]["n"] == 12


def evaluation(folder: Path, samples: list[Sample]) -> Path:
    """An evaluation of three models; the reward model gives them 3, 2 and 1, and base failed on one sample."""
    names, failed = ("clever", "base", "tiny"), samples[0].key
    for name in names:
        (folder / "responses" / name).mkdir(parents=True)
        said = {one.key: f"<think>hm</think>{name} says {one.key}" for one in samples}
        answers = said | ({failed: BadSample("refused", "it does not want to")} if name == "base" else {})
        write_responses(folder / "responses" / name / "0.jsonl", answers)
    scores = {
        name: {"reward": [None if name == "base" and one.key == failed else float(3 - place) for one in samples]}
        for place, name in enumerate(names)
    }
    judged = Judged(
        contestants=names, keys=[one.key for one in samples], tasks=["vqa"] * len(samples), scores=scores,
        missing={}, unscored={},
    )  # fmt: skip
    (folder / "judged").mkdir()
    (folder / "judged" / "0.json").write_text(json.dumps({"identity": "x", "judged": judged.to_json()}))
    (folder / "results.json").write_text(json.dumps({"contestants": [RAW, *names]}))
    return folder


def test_the_answers_of_an_evaluation_meet_each_other_with_their_rewards(tmp_path: Path) -> None:
    samples = [make_sample(number, 1, rewritten=False) for number in range(10)]
    write_shard(tmp_path / "in" / "0.tar", samples)
    out = evaluation(tmp_path / "evaluation", samples)
    found = gather(Wanted(source=str(tmp_path / "in"), answers=str(out)))
    assert (found.possible, found.without) == (9 * 3 + 1, 0)
    for battle in found.battles:
        assert "<think>" not in battle.first.text and battle.first.text.startswith(battle.first.name)
        assert (battle.margins["reward model"] > 0) == (battle.first.name < battle.second.name) or "base" in (
            battle.first.name, battle.second.name,
        )  # fmt: skip
    by_quality = {"clever": 3.0, "base": 2.0, "tiny": 1.0}
    assert all(
        battle.margins["reward model"] == by_quality[battle.first.name] - by_quality[battle.second.name]
        for battle in found.battles
    )


def test_shards_of_every_kind_are_counted_row_by_row(tmp_path: Path) -> None:
    pair = replace(make_sample(1, 1), rejected="A wrong text.")
    rows = [pair, answered(2, {"a": 1, "b": 2}), rewritten(3), make_sample(4, 0, rewritten=False)]
    write_shard(tmp_path / "in" / "0.tar", rows)
    (tmp_path / "in" / "1.tar").write_bytes((tmp_path / "in" / "0.tar").read_bytes()[:700])
    found = gather(Wanted(source=str(tmp_path / "in")))
    assert sorted(battle.kind for battle in found.battles) == ["answers", "pairs", "rewriting"]
    assert (found.rows, found.quarantined, found.without) == (5, 1, 1)

    def only(show: str) -> Gathered:
        return gather(Wanted(source=str(tmp_path / "in"), show=show))

    assert [battle.key for battle in only("pairs").battles] == [pair.key]
    assert sorted(battle.key for battle in only("rewriting").battles) == [pair.key, rows[2].key]


def test_of_many_shards_only_as_many_are_read_as_the_choice_needs(tmp_path: Path) -> None:
    for shard in range(8):
        write_shard(tmp_path / "in" / f"{shard}.tar", [rewritten(shard * 10 + number) for number in range(10)])
    found = gather(Wanted(source=str(tmp_path / "in"), count=2))
    assert found.shards == (8, 4) and len(found.battles) == 2
    other = gather(Wanted(source=str(tmp_path / "in"), count=2, seed=1))
    assert [one.id for one in other.battles] != [one.id for one in found.battles]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--input", "none"], "none"),
        (["--input", "raw"], "holds no two different texts to choose between: 0 rows with a pair, 2 without, 0 unread"),
        (["--answers", "raw"], "answers: raw holds no results of an evaluation; run polite-flamingo evaluate first"),
        (["--show", "all"], "show: must be one of rewriting, pairs, answers"),
        (["--show", "pairs", "--answers", "x"], "with answers, only answers can be shown"),
        (["--pairs", "0"], "pairs: must be at least 1"),
        (["--port", "70000"], "port: must be from 0"),
        (["--out", "s3://bucket/votes"], "is a bucket, which cannot append votes"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_be_voted_on_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "good" / "0.tar", [rewritten(1)])
    write_shard(tmp_path / "raw" / "0.tar", [make_sample(number, 0, rewritten=False) for number in range(2)])
    try:
        status: object = main(["--input", "good", "--out", "votes", *options])
    except SystemExit as error:  # a setting is impossible
        status = error.code
    assert status == 2
    said = capsys.readouterr().err
    assert problem in said and said.count("\n") == 1


def test_a_taken_port_and_a_second_server_on_the_same_votes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in" / "0.tar", [rewritten(1)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--input", str(tmp_path / "in"), "--out", str(tmp_path / "votes"), "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    with exclusive(tmp_path / "votes"):
        assert run(tmp_path / "in", tmp_path / "votes") == 2
    assert "another job is writing to" in capsys.readouterr().err


def test_the_token_stays_the_same_is_nobody_elses_and_is_made_again_where_it_was_revoked(tmp_path: Path) -> None:
    token = link_token(tmp_path)
    assert link_token(tmp_path) == token
    assert token not in (tmp_path / "keys.json").read_text()
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in ("token", "keys.json"))
    (tmp_path / "keys.json").write_text('{"keys": []}')
    assert link_token(tmp_path) != token


def test_only_an_open_host_is_offered_to_other_machines() -> None:
    assert addresses("127.0.0.1") == [("page", "127.0.0.1")] and addresses("::1") == [("page", "[::1]")]
    assert addresses("0.0.0.0")[0] == ("page", "127.0.0.1")
