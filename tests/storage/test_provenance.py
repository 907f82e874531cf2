"""Counts begin at the annotation files: what ingest quarantined or left out is in summary, card and page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.provenance import Annotations
from polite_flamingo.storage.run_info import read_run, read_stats, write_run
from polite_flamingo.storage.shards import read_shard
from ray_jobs import console, select, selection_summary
from ray_jobs.replay_ledger import declare, readable_rows, settle
from ray_jobs.resumable_job import begin_run, with_ingests
from tests.support.page_reader import Page
from tests.support.scored import draw, scored


def ingested(folder: Path, name: str, rows: int = 10, missing: int = 3, count: int | None = None) -> None:
    """A table of `rows` questions of which `missing` name a picture that is not there; shards of 2."""
    photos = folder.parent / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    (photos / "there.png").write_bytes(draw("red", "circle"))
    pictures = ["gone.png" if number < missing else "there.png" for number in range(rows)]
    lines = [f"{number},{picture},What is this?,a circle" for number, picture in enumerate(pictures)]
    table = folder.parent / f"{name}.csv"
    table.write_text("\n".join(["id,image,instruction,response", *lines]) + "\n")
    options = SourceOptions(annotations=(table,), images=photos)
    ingest(IngestConfig(source="table", name=name, options=options, out=folder, samples_per_shard=2), count=count)


def rewritten(row: Sample | Quarantined) -> Sample | Quarantined:
    if isinstance(row, Quarantined):
        return row
    return dataclasses.replace(row, rewritten="It is a red circle.", scores=scored(row.key).scores)


def built(out: Path, source: str, failing: Sequence[str] = ()) -> dict[str, Any]:
    """What a build of these shards leaves, without its models; rows whose key ends like `failing` are quarantined."""
    layout, shards = OutputLayout(root=out), shard_names(source)
    run = read_run(layout) or begin_run("hash", {}, "")
    write_run(layout, with_ingests(run, shards.values()))
    for name, path in shards.items():
        layout.manifest(name).delete()  # as to make a shard again
        commit(layout, name, path, failing)
    select.select(layout, Thresholds())
    return read_stats(layout)


def commit(layout: OutputLayout, name: str, path: Path, failing: Sequence[str] = ()) -> None:
    rows = [rewritten(row) for row in read_shard(path)]
    for index, row in enumerate(rows):
        if row.key.endswith(tuple(failing)) and failing:
            detail = Quarantined(key=row.key, shard=str(path), index=index, reason="rewriting_failed", detail="no")
            rows[index] = detail

    def manifest(scored: int, quarantined: int) -> Manifest:
        sum_ = scored + quarantined
        return Manifest(shard=str(path), rows_in=sum_, scored=scored, quarantined=quarantined, config_hash="hash")

    commit_shard(layout, name, rows, manifest)


def test_every_annotation_record_is_in_the_summary_the_card_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingested(tmp_path / "in", "mine")
    ingested(tmp_path / "in", "yours", rows=8, missing=0, count=4)
    found = built(tmp_path / "out", str(tmp_path / "in"), failing=["/5"])
    origin = found["annotations"]
    assert origin["names"] == ["mine", "yours"]
    assert (origin["rows"], origin["rows_in"], found["rows_in"]) == (18, 11, 11)
    assert (origin["quarantined"], origin["left_out"], origin["not_read"]) == ({"missing_image": 3}, 4, 0)
    assert found["kept"] + sum(found["quarantined"].values()) + 3 + 4 == 18
    selection_summary.print_summary(OutputLayout(root=tmp_path / "out"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:7] == [
        "annotations 18 of mine, yours", "quarantined 3 at ingest", "missing_image 3",
        "left out 4 by sampling at ingest", "rows in 11 in 6 shards", lines[6],
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from 18 raw annotations" in card and "3 were quarantined (missing\\_image 3); 4 were left out" in card
    words = " ".join(Page((tmp_path / "out" / "report.html").read_text()).words.split())
    assert "responses from 18 annotations" in words and "missing_image 3" in words
    assert "18 annotations of mine, yours = 11 rows + 3 quarantined at ingest + 4 left out." in words


def test_a_part_of_the_shards_is_a_part_of_the_annotations(tmp_path: Path) -> None:
    ingested(tmp_path / "in", "mine")
    ingested(tmp_path / "in", "yours")
    some = built(tmp_path / "out", str(tmp_path / "in" / "mine-0000[12].tar"))
    assert some["annotations"] == Annotations(
        names=("mine",), rows=10, quarantined={"missing_image": 3}, not_read=4, rows_in=3
    ).to_json() | {"names": ["mine"]}
    layout = OutputLayout(root=tmp_path / "out")
    run = read_run(layout)
    assert run is not None
    write_run(layout, with_ingests(run, shard_names(str(tmp_path / "in")).values()))
    select.select(layout, Thresholds())
    begun = read_stats(layout)["annotations"]
    assert (begun["rows"], begun["not_read"], begun["rows_in"]) == (20, 11, 3), "a build that has not come to yours"
    rest = built(tmp_path / "out", str(tmp_path / "in"))["annotations"]
    assert (rest["rows"], rest["not_read"], rest["rows_in"]) == (20, 0, 14)


def test_shards_of_several_folders_and_of_no_ingest_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b", "c"):
        ingested(tmp_path / "in" / folder, "mine")
    (tmp_path / "in" / "c" / "ingest" / "mine.json").unlink()
    found = built(tmp_path / "out", str(tmp_path / "in"))
    assert (found["annotations"]["rows"], found["annotations"]["rows_in"], found["rows_in"]) == (20, 14, 21)
    selection_summary.print_summary(OutputLayout(root=tmp_path / "out"))
    assert "21 in 12 shards, 7 of them of no known ingest" in capsys.readouterr().out
    (tmp_path / "in" / "a" / "ingest" / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a/ingest/mine\.json is not the result of an ingest .*rows_in"):
        built(tmp_path / "again", str(tmp_path / "in"))


def test_a_damaged_shard_is_not_read_and_what_is_replayed_is(tmp_path: Path) -> None:
    ingested(tmp_path / "in", "mine")
    shard = tmp_path / "in" / "mine-00002.tar"
    whole, layout = shard.read_bytes(), OutputLayout(root=tmp_path / "out")
    shard.write_bytes(b"")
    found = built(tmp_path / "out", str(tmp_path / "in"))
    assert (found["rows_in"], found["annotations"]["not_read"]) == (6, 1), "a whole shard counts as one row"
    shard.write_bytes(whole)
    for name, path in [declare(layout, again) for again in readable_rows(layout, [])]:
        commit(layout, name, path)
    settle(layout)
    select.select(layout, Thresholds())
    found = read_stats(layout)
    assert (found["rows_in"], found["annotations"]["not_read"], found["annotations"]["rows_in"]) == (7, 0, 7)


def test_an_ingest_done_again_since_is_not_that_of_the_shards(tmp_path: Path) -> None:
    ingested(tmp_path / "in", "mine")
    built(tmp_path / "out", str(tmp_path / "in"))
    result = tmp_path / "in" / "ingest" / "mine.json"
    record = json.loads(result.read_text())
    result.write_text(json.dumps(record | {"rows_in": 6, "written": 3}))
    assert built(tmp_path / "out", str(tmp_path / "in"))["annotations"]["rows"] == 0


def test_nothing_but_quarantine_is_a_failure_with_its_hint_and_nothing_kept_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingested(tmp_path / "in", "mine")
    layout = OutputLayout(root=tmp_path / "out")
    built(tmp_path / "out", str(tmp_path / "in"), failing=[str(number) for number in range(10)])
    with pytest.raises(
        console.AllFailed, match=r"all 7 rows were quarantined: rewriting_failed \(7 of 7 quarantined\): "
    ):
        selection_summary.conclude(layout)
    built(tmp_path / "out", str(tmp_path / "in"))
    selection_summary.conclude(layout)
    assert "nothing was kept" not in capsys.readouterr().out
    select.job(select.SelectConfig(out=str(tmp_path / "out"), thresholds=Thresholds(min_words=100)))
    assert "nothing was kept: every row that could be read was rejected, most often as too_short (7)" in (
        capsys.readouterr().out
    )
