"""`polite-flamingo compare` reads two finished builds and writes one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Quarantined
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.run_info import write_run
from ray_jobs import select
from ray_jobs.compare import main
from ray_jobs.resumable_job import begin_run
from tests.support.scored import world


def built(folder: Path, *, shards: int = 2, suffix: str = "", **thresholds: float) -> Path:
    layout = OutputLayout(root=folder)
    write_run(layout, begin_run("hash", {}, ""))
    for number in range(shards):
        lost = Quarantined(
            key=f"vqa_v2/train/lost{number}{suffix}", shard="s.tar", index=0, reason="corrupt_image", detail="x"
        )
        rows = [replace(row, key=f"{row.key}{suffix}") for row in world(20, seed=number)]
        commit_shard(
            layout, f"s{number}", [*rows, lost],
            lambda good, bad: Manifest(
                shard="s.tar", rows_in=good + bad, scored=good, quarantined=bad, config_hash="hash",
                usage={"rewriting.generated_tokens": 1000},
            ),
        )  # fmt: skip
    select.select(layout, Thresholds(**thresholds))
    return folder


def test_two_builds_are_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = built(tmp_path / "one"), built(tmp_path / "other", shards=3, sts=0.7)
    page = tmp_path / "page.html"
    assert main([str(first), str(second), "--to", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "42 / 63" in printed and "50.0 % (50.0 to 50.0) of texts" in printed and "other has 1 shard that" in printed
    text = page.read_text()
    assert "Only the first build keeps these" in text and "Only the second build" not in text
    assert "Their selections have other thresholds: <code>sts</code>" in text
    assert "data:image/webp" in text and "http" not in text.replace("http-equiv", "")


def test_what_is_not_a_pair_of_builds_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = built(tmp_path / "one", shards=1)
    assert main([str(first), str(tmp_path / "none")]) == 2
    assert "none holds no finished selection" in capsys.readouterr().err
    other = built(tmp_path / "other", shards=1)
    whole = (other / "stats.json").read_text()
    stats = {name: value for name, value in json.loads(whole).items() if name != "cost"}
    (other / "stats.json").write_text(json.dumps(stats))
    assert main([str(first), str(other)]) == 2
    assert f"is of an earlier version; run polite-flamingo select --out {other}" in capsys.readouterr().err
    (other / "stats.json").write_text(whole)
    elsewhere = built(tmp_path / "elsewhere", shards=1, suffix="b")
    assert main([str(first), str(elsewhere)]) == 2
    assert "no text in common" in capsys.readouterr().err
    (other / "manifests" / "s0.json").rename(other / "manifests" / "t0.json")
    assert main([str(first), str(other)]) == 2
    assert "no shard in common" in capsys.readouterr().err


def test_the_file_that_is_damaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = built(tmp_path / "one", shards=1), built(tmp_path / "other", shards=1)
    [tar], verdicts = (other / "scored").glob("*.tar"), other / "verdicts" / "s0.jsonl"
    for file in (verdicts, tar):
        whole = file.read_bytes()
        file.write_bytes(whole[:700])
        assert main([str(first), str(other)]) == 2
        assert f"error: {file} is damaged" in capsys.readouterr().err
        file.write_bytes(whole)
    verdicts.unlink()
    assert main([str(first), str(other)]) == 2
    assert f"error: {verdicts} is missing; run polite-flamingo select again" in capsys.readouterr().err
