"""The command `pair`: shards of rated answers in, four sets of shards out, every prompt accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.candidates import Rating
from polite_flamingo.sample import Sample
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs.pair import main
from tests.support.rated_answers import rated

GOOD, POOR, BAD = [4, 4, 4, 2, 2], [3, 4, 4, 2, 2], [0, 0, 1, 2, 2]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of twenty prompts each: 16 give a pair, two are too close, one has one answer, one is in both."""
    folder = tmp_path / "rated"
    for shard in range(2):
        rows = [rated(f"d/t/{shard}-{n}", {"two": GOOD, "three": BAD}) for n in range(16)]
        rows += [rated(f"d/t/{shard}-{n}", {"two": GOOD, "2": POOR}) for n in (16, 17)]
        rows += [rated(f"d/t/{shard}-18", {"two": GOOD}), rated("d/t/twice", {"two": GOOD, "three": BAD})]
        write_shard(folder / f"s{shard}.tar", rows)
    return folder


def stats(out: Path) -> dict[str, Any]:
    return json.loads((out / "stats.json").read_text())


def samples(folder: Path) -> list[Sample]:
    rows = [row for path in sorted(folder.glob("*.tar")) for row in read_shard(path)]
    assert all(isinstance(row, Sample) for row in rows)
    return rows  # type: ignore[return-value]


def pair(shards: Path, out: Path, *more: str) -> int:
    return main(["--input", str(shards), "--out", str(out), *more])


def test_pairs_and_the_other_sets_are_shards(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert pair(shards, out) == 0
    found = stats(out)
    assert (found["prompts"], found["pairs"], found["too_close"], found["failed"]) == (40, 33, 4, 3)
    assert found["reasons"] == {"too_close": 4, "too_few_answers": 2, "duplicate_key": 1} and found["judge"] == "rule"
    assert found["mean_score"] == {"chosen": 12, "rejected": 1} and found["chosen_longer"] == 0.5
    pairs = samples(out / "pairs")
    assert len(pairs) == 33 and {(one.rewritten, one.rejected) for one in pairs} == {("two", "three")}
    assert pairs[0].images == rated("d", {}).images and len(pairs[0].candidates) == 2
    assert [len(samples(out / name)) for name in ("rejection", "steerlm", "sft")] == [39, 76, 39]
    lines = [json.loads(line) for path in (out / "unpaired").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == 7 and all(line["detail"] for line in lines)
    said = capsys.readouterr().out
    for words in ("40, rated by rule", "chosen 12.00, rejected 1.00", "too close          4", "duplicate_key    1"):
        assert words in said, said


def test_flips_and_fractions_are_exact_and_repeatable(shards: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        assert pair(shards, tmp_path / name, "--pairing.fraction", "0.5", "--pairing.flips", "0.25") == 0
        runs.append(samples(tmp_path / name / "pairs"))
    assert runs[0] == runs[1]
    found = stats(tmp_path / "a")
    assert (found["pairs"], found["left_out"], found["flipped"]) == (16, 17, 4)
    flipped = [one for one in runs[0] if one.provenance["pair"]["flipped"]]
    assert len(flipped) == 4 and {one.rewritten for one in flipped} == {"three"}
    whole = tmp_path / "whole"
    assert pair(shards, whole) == 0 and {one.key for one in runs[0]} < {one.key for one in samples(whole / "pairs")}


def test_another_margin_in_the_same_folder_replaces_everything(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pair(shards, out) == 0
    assert pair(shards, out, "--pairing.margin", "1") == 0
    assert stats(out)["pairs"] == 37 and len(samples(out / "pairs")) == 37
    first = (out / "stats.json").read_bytes()
    assert pair(shards, out, "--pairing.margin", "1") == 0 and (out / "stats.json").read_bytes() == first


def test_what_it_cannot_do_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, empty, several = tmp_path / "mine", tmp_path / "empty", tmp_path / "several"
    (mine / "pairs").mkdir(parents=True)
    (mine / "pairs/precious.tar").write_bytes(b"mine")
    write_shard(empty / "s.tar", [rated("d/t/1", {"two": [], "three": []})])
    sample = rated("d/t/1", {"two": GOOD, "three": BAD})
    both = [
        type(one)(text=one.text, ratings=(*one.ratings, Rating(judge="reward", values={"reward": 1.0})))
        for one in sample.candidates
    ]
    write_shard(several / "s.tar", [type(sample)(**{**vars(sample), "candidates": tuple(both)})])
    for arguments, status, words in (
        ((shards, mine), 2, "holds other files (pairs/precious.tar)"),
        ((empty, tmp_path / "1"), 2, "has no rated answer; run polite-flamingo rate first"),
        ((several, tmp_path / "2"), 2, "has ratings by reward, rule: choose one with --pairing.judge NAME"),
        ((shards, tmp_path / "3", "--pairing.judge", "gpt"), 2, "'gpt' rated nothing"),
        ((shards, tmp_path / "4", "--pairing.margin", "13"), 1, "none of 40 prompts gives a pair: 37 too_close"),
        ((several, tmp_path / "5", "--pairing.judge", "reward"), 1, "none of 1 prompts gives a pair: 1 equal_scores"),
    ):
        assert pair(*arguments) == status  # type: ignore[arg-type]
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert (mine / "pairs/precious.tar").read_bytes() == b"mine"
