"""`polite-flamingo audit` from shards on a disk to a page and an exit status."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from polite_flamingo.sample import Sample
from polite_flamingo.storage.shards import write_shard
from ray_jobs import audit
from tests.preference.audit.test_planted_faults import pairs_of
from tests.support import planted_judges as planted

QUICK = ("--audit.resampling.draws", "20")


def shards(folder: Path, samples: Sequence[Sample]) -> str:
    """Two shards of samples."""
    folder.mkdir()
    for number in (0, 1):
        write_shard(folder / f"s{number}.tar", samples[number::2])
    return str(folder)


def run(out: Path, *more: str) -> int:
    return audit.main(["--out", str(out), *QUICK, *more])


def test_a_clean_judge_passes_with_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = planted.rated(60, planted.clean, reference=True)
    rated, pairs = shards(tmp_path / "rated", samples), shards(tmp_path / "pairs", pairs_of(samples))
    others = [dataclasses.replace(one, key=f"eval/{one.key}") for one, _ in planted.prompts(20, seed=5)]
    kept_out = shards(tmp_path / "eval", [dataclasses.replace(one, candidates=()) for one in others])
    assert run(tmp_path / "out", "--rated", rated, "--pairs", pairs, "--evaluation", kept_out) == 0
    said = capsys.readouterr().out
    assert "audit: passes" in said and "240 answers to 60 prompts" in said and "leaks" in said
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["verdict"] == "pass" and record["judge"] == "judge" and record["reference"] == "rule"
    assert record["counts"]["pairs"] == record["counts"]["pairs_of_rated_answers"] == len(pairs_of(samples))
    assert record["checks"]["leaks"]["verdict"] == record["checks"]["duplicates"]["verdict"] == "pass"
    assert "Nothing found that speaks against" in (tmp_path / "out" / "audit.html").read_text()


def test_flipped_labels_end_with_status_1_and_stand_in_the_gallery(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = shards(tmp_path / "pairs", pairs_of(planted.rated(60, planted.clean), flips=0.25))
    assert run(tmp_path / "out", "--pairs", pairs, "--audit.shown", "4") == 1
    said = capsys.readouterr().out
    assert "audit: fails (margins)" in said and "rejected answer is rated higher 25.0 %" in said
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert len(record["suspicious"]) == 4 and all(
        "rates the rejected" in one["reasons"][0] for one in record["suspicious"]
    )
    page = (tmp_path / "out" / "audit.html").read_text()
    assert all(one["key"] in page for one in record["suspicious"])
    assert run(tmp_path / "out", "--pairs", pairs, "--audit.limits.reversed.fail", "0.6") == 0, "limits can be moved"


def test_bad_rows_are_counted_and_do_not_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = Path(shards(tmp_path / "pairs", pairs_of(planted.rated(40, planted.clean))))
    whole = (pairs / "s1.tar").read_bytes()
    (pairs / "s1.tar").write_bytes(whole[: len(whole) // 2])
    assert run(tmp_path / "out", "--pairs", str(pairs)) == 0
    assert "not read" in (said := capsys.readouterr().out) and "1 truncated_tar" in said
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["failed_rows"] == {"truncated_tar": 1}


def test_mistakes_are_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        try:
            assert run(tmp_path / "out", *arguments) == 2
        except SystemExit as stopped:
            assert stopped.code == 2
        said = capsys.readouterr().err
        assert said.count(os.linesep) == 1
        return said

    plain = shards(tmp_path / "plain", [dataclasses.replace(one, candidates=()) for one, _ in planted.prompts(4)])
    assert "give rated answers (--rated), pairs (--pairs), or both" in error()
    assert "no sample has rated answers or a rejected one" in error("--rated", plain)
    rated = shards(tmp_path / "rated", planted.rated(4, planted.clean))
    assert "'gpt' rated nothing here; the judges are judge" in error("--rated", rated, "--audit.judge", "gpt")
    assert "cannot be read as labels" in error("--rated", rated, "--labels", str(tmp_path / "none.jsonl"))
    assert "least: must be at least 2" in error("--rated", rated, "--audit.limits.least", "1")
