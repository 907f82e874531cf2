"""Blocks and actors as plain callables, without Ray: the fixed schema, split blocks, the shells' delegation."""

from __future__ import annotations

import json
import os
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from actors.base import ActorSettings
from actors.commit import commit_blocks
from actors.rewriting import check_rewritable
from actors.rows import SCHEMA, Block, blocks
from actors.scoring import ScoringActor
from actors.source import ShardDatasource
from polite_flamingo.filters.judge import AXES, JudgeEndpoint
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import BadSample, Image, Quarantined, Sample, Turn
from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine, read_scored
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.storage.visibility import PathUnavailable
from tests.support.build_world import text_row
from tests.support.fake_actors import FakeRewriter, FakeRewriterActor, FakeScoringActor
from tests.support.fake_filter_servers import FakeJudge, serving

GONE = Quarantined(
    key="notes/s0/x", shard="in/a.tar", index=2, reason="bad_json", detail="é\u2028", payload="in/a.tar#x"
)


def picture_row(number: int) -> Sample:
    images = (Image(extension="jpg", data=bytes(range(256)) * number), Image(extension="png", data=b"\0"))
    return Sample(
        key=f"d/s/{number}",
        dataset="d",
        task="change_captioning",
        turns=(Turn(instruction="<image><image>What has changed?", response="nothing"),),
        images=images,
        meta={"note": None, "tags": []},
    )


def block(rows: list[Sample | Quarantined], name: str = "a", first: int = 0, shard_rows: int = 0) -> Block:
    return Block(name=name, shard=f"in/{name}.tar", first=first, shard_rows=shard_rows or len(rows), rows=rows)


def settings(out: Path) -> ActorSettings:
    return ActorSettings(out=location(out), rows_per_call=4, max_failures_in_a_row=8, actors=1)


def test_rows_survive_the_block_bit_for_bit() -> None:
    rows = [picture_row(1), text_row(0, 1), GONE, picture_row(3)]
    table = block(rows).to_table()
    assert table.schema == SCHEMA
    assert blocks(table) == [block(rows)]


def test_blocks_of_text_and_of_pictures_have_one_schema() -> None:
    joined = pa.concat_tables([block([text_row(0, 1)]).to_table(), block([picture_row(1)], "b").to_table()])
    assert [b.name for b in blocks(joined)] == ["a", "b"]


def test_split_shuffled_and_repeated_rows_are_put_in_order() -> None:
    rows: list[Sample | Quarantined] = [text_row(0, n) for n in range(9)]
    table = block(rows).to_table()
    places = [*range(9), 4, 5]
    random.Random(0).shuffle(places)
    assert [b.rows for b in blocks(table.take(places))] == [rows]
    assert [(b.first, len(b.rows)) for b in blocks(table.take([7, 2, 8, 1]))] == [(1, 2), (7, 2)]


def test_parts_of_a_shard_wait_for_each_other(tmp_path: Path) -> None:
    rows: list[Sample | Quarantined] = [text_row(0, n) for n in range(9)]
    rows[5] = Quarantined(key="k", shard="in/a.tar", index=5, reason="bad_json", detail="")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = commit_blocks(block(rows).to_table(), OutputLayout(root=whole), "hash")
    assert done.select(["name", "rows_in"]).to_pylist() == [{"name": "a", "rows_in": 9}]
    assert read_manifest(OutputLayout(root=whole).manifest("a")).quarantined == 1

    split = [block(rows[start:stop], first=start, shard_rows=9) for start, stop in ((6, 9), (0, 4), (2, 6))]
    for part in split[:2]:
        assert commit_blocks(part.to_table(), OutputLayout(root=parts), "hash").num_rows == 0
        assert OutputLayout(root=parts).finished() == []
    assert commit_blocks(split[2].to_table(), OutputLayout(root=parts), "hash").num_rows == 1
    for folder in ("scored", "quarantine", "keys"):
        written = [[p.read_bytes() for p in (out / folder).iterdir()] for out in (whole, parts)]
        assert written[0] == written[1]
    assert OutputLayout(root=parts).parts.names() == []


def test_a_shard_without_a_good_row_still_gets_its_manifest(tmp_path: Path) -> None:
    commit_blocks(block([GONE]).to_table(), OutputLayout(root=tmp_path), "hash")
    layout = OutputLayout(root=tmp_path)
    assert read_scored(layout, "a") == []
    assert read_quarantine(layout, "a") == [GONE]
    manifest = read_manifest(layout.manifest("a"))
    assert (manifest.rows_in, manifest.quarantined, manifest.stats) == (1, 1, {"quarantined": {"bad_json": 1}})


def test_the_source_reads_one_block_a_shard_and_notes_where_from(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [picture_row(1), text_row(0, 0)])
    (tmp_path / "bad.tar").write_text("not a tar")
    names = ("a", "bad", "none")
    source = ShardDatasource({name: location(tmp_path / f"{name}.tar") for name in names}, "hash")
    good, bad, absent = source.get_read_tasks(parallelism=1)
    tables = [list(task()) for task in (good, bad)]
    assert [len(found) for found in tables] == [1, 1]
    first, unreadable = blocks(tables[0][0])[0], blocks(tables[1][0])[0]
    assert [row.provenance["index"] for row in first.rows if isinstance(row, Sample)] == [0, 1]
    found = first.rows[0]
    assert isinstance(found, Sample)
    assert found.provenance["config"] == "hash"
    assert len(found.provenance["images_sha256"]) == 2
    assert [row.reason for row in unreadable.rows if isinstance(row, Quarantined)] == ["unreadable_shard"]
    with pytest.raises(PathUnavailable, match=r"none\.tar"):
        list(absent())
    (tmp_path / "a.tar").unlink()  # in the middle of a job
    with pytest.raises(PathUnavailable, match=r"a\.tar"):
        list(good())


def test_the_source_reads_from_a_bucket_what_the_driver_listed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_shard(location(f"{bucket}/in/{name}.tar"), [picture_row(1), text_row(0, 0)])
    shards = shard_names(f"{bucket}/in")
    source = ShardDatasource(shards, "hash")
    sizes = [place.listed.size for place in shards.values() if place.listed]
    assert source.estimate_inmemory_data_size() == sum(sizes) > 0
    monkeypatch.setattr(Bucket, "head", None)  # the listing has said it all
    first, second = (pickle.loads(pickle.dumps(task.read_fn)) for task in source.get_read_tasks(parallelism=1))
    [found] = blocks(next(iter(first())))
    assert (found.name, found.shard, len(found.rows)) == ("a", f"{bucket}/in/a.tar", 2)
    assert found.input is not None and found.input.tag and found.input.is_still_at(shards["a"])
    location(f"{bucket}/in/b.tar").put(bytes(sizes[1]))
    with pytest.raises(PathUnavailable, match=r"in/b\.tar was replaced since the job looked at it"):
        list(second())


def test_workers_are_told_where_a_relative_path_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", [text_row(0, 0)])
    monkeypatch.chdir(tmp_path)
    [task] = ShardDatasource({"a": location("a.tar")}, "hash").get_read_tasks(parallelism=1)
    monkeypatch.chdir("/")  # a worker's working directory is another
    [found] = blocks(next(iter(task())))
    assert found.shard == str(tmp_path / "a.tar")


def test_the_judge_s_answers_are_kept_until_their_shard_is_committed(tmp_path: Path) -> None:
    marks = json.dumps(dict.fromkeys(AXES, 4))
    rows = [replace(text_row(0, number), task="text", rewritten=f"It is number {number}.") for number in range(3)]
    layout = OutputLayout(root=tmp_path)
    with serving(FakeJudge(lambda text, images: marks)) as server:
        judge = JudgeEndpoint(urls=(server.url,), model="qwen")
        config = ScoringConfig(sts=None, nli=None, clip=None, reward=None, judge=judge)
        for _ in range(2):  # the first attempt is killed before its commit
            scored = ScoringActor(config, settings(tmp_path))(block([*rows]).to_table())
        assert len(server.bodies) == 3
    [found] = blocks(scored)
    assert (found.usage["judge.requests"], found.usage["judge.answers_reused"]) == (3, 3)
    assert len(layout.answers.names(".jsonl")) == 1
    commit_blocks(scored, layout, "hash", answers=True)
    assert not layout.answers.names(".jsonl")


def test_actors_delegate_and_quarantine(tmp_path: Path) -> None:
    rows = [text_row(0, 0), GONE, text_row(0, 2, "raise"), text_row(0, 3)]
    rewritten = FakeRewriterActor(None, settings(tmp_path))(block(rows).to_table())  # type: ignore[arg-type]
    scored = blocks(FakeScoringActor(None, settings(tmp_path))(rewritten))[0]  # type: ignore[arg-type]
    assert [type(row) for row in scored.rows] == [Sample, Quarantined, Quarantined, Sample]
    assert scored.rows[1] == GONE
    good = scored.rows[3]
    assert isinstance(good, Sample)
    assert good.rewritten is not None
    assert good.rewritten.startswith("Certainly!")
    assert good.scores["reward"] == 1.0
    assert scored.seconds["rewriting"] > 0
    (figures,) = (tmp_path / "engine").iterdir()
    assert str(os.getpid()) in figures.name
    assert json.loads(figures.read_text()) == FakeRewriter().metrics()


def test_what_no_rewriter_should_see() -> None:
    import dataclasses

    done = dataclasses.replace(text_row(0, 1), rewritten="Certainly!")
    first, second = text_row(0, 1).turns * 2
    half_done = dataclasses.replace(done, turns=(first, dataclasses.replace(second, rewritten="Yes!")), rewritten=None)
    for bad in (done, half_done):
        with pytest.raises(BadSample, match="unsupported"):
            check_rewritable(bad)
    check_rewritable(text_row(0, 1))
    check_rewritable(dataclasses.replace(text_row(0, 1), turns=(first, second)))
    check_rewritable(picture_row(1))  # broken images are the rewriter's to find, which decodes each but once
