"""Select again, and it says what changed: what came in and went out, by reason and by dataset, or that nothing did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Sample
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.run_info import read_stats, write_run
from ray_jobs import select
from ray_jobs.resumable_job import begin_run
from ray_jobs.select import SelectConfig
from tests.support.page_reader import Page
from tests.support.scored import conversation, said, scored, world


def commit(layout: OutputLayout, name: str, samples: list[Sample]) -> None:
    def manifest(scored: int, quarantined: int) -> Manifest:
        return Manifest(
            shard=f"/in/{name}.tar", rows_in=scored, scored=scored, quarantined=quarantined, config_hash="h"
        )

    layout.manifest(name).delete()  # of a shard that is made again
    commit_shard(layout, name, samples, manifest)


@pytest.fixture
def layout(tmp_path: Path) -> OutputLayout:
    made = OutputLayout(root=tmp_path / "out")
    write_run(made, begin_run("hash", {}, ""))
    samples = world(60)
    commit(made, "s0", samples[:30])
    commit(made, "s1", samples[30:])
    return made


def kept(layout: OutputLayout) -> dict[str, str]:
    """The keys that a selection keeps, with their datasets, as its own verdicts say."""
    records = [record for name in layout.finished() for record in select._verdicts(layout, name)]
    return {record["key"]: record["dataset"] for record in records if record["keep"]}


def again(layout: OutputLayout, capsys: pytest.CaptureFixture[str], **thresholds: Any) -> list[str]:
    """Select, and the lines of what is printed of the change."""
    select.job(SelectConfig(out=str(layout.root), thresholds=Thresholds(**thresholds)))
    found = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    title = "changes since the previous selection"
    return found[found.index(title) + 1 :] if title in found else []


def test_what_came_in_and_went_out_is_printed_and_kept(
    layout: OutputLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(layout, capsys) == [], "the first selection has none before it"
    before = kept(layout)
    lines = again(layout, capsys, sts=0.7, nli_margin=-20.0)
    now = kept(layout)
    came, went = now.keys() - before.keys(), before.keys() - now.keys()
    assert came and went
    assert lines[0] == "thresholds sts 0.4 -> 0.7, nli_margin 0 -> -20"
    assert lines[1] == f"kept {len(before)} -> {len(now)} ({len(came)} came in, {len(went)} went out)"
    assert f"kept -> sts_low {len(went)}" in lines and f"nli_contradiction -> kept {len(came)}" in lines
    for name in {*before.values(), *now.values()}:
        ins, outs = sum(now[key] == name for key in came), sum(before[key] == name for key in went)
        old, new = list(before.values()).count(name), list(now.values()).count(name)
        assert (f"{name} {old} -> {new} ({ins} in, {outs} out)" in lines) == bool(ins or outs)
    changed = read_stats(layout)["changed"]
    assert changed["moves"]["kept -> sts_low"] == len(went) == sum(changed["went_out"].values())
    words = " ".join(Page(layout.report.read_text()).words.split())
    assert "Changes since the previous selection" in words and lines[0].removeprefix("thresholds ") in words


def test_nothing_changed_is_said_whether_or_not_a_threshold_moved(
    layout: OutputLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    again(layout, capsys)
    count = len(kept(layout))
    same = f"changed nothing: the same {count} samples are kept"
    assert again(layout, capsys) == ["thresholds the same", same]
    assert again(layout, capsys, max_words=599) == ["thresholds max_words 600 -> 599", same]


def test_a_paragraph_less_is_a_change_too(layout: OutputLayout, capsys: pytest.CaptureFixture[str]) -> None:
    """Its sample is kept before and after."""
    commit(layout, "s0", [scored("coco/a/1", "captioning", "It is red.\n\nIt is round.", clip_paragraphs=[30.0, 20.0])])
    commit(layout, "s1", [scored("vqa/a/1")])
    again(layout, capsys)
    assert again(layout, capsys, clip=25.0)[1:] == ["kept 2 -> 2 (0 came in, 0 went out)", "paragraphs removed 0 -> 1"]


def test_shards_that_came_since_are_new(layout: OutputLayout, capsys: pytest.CaptureFixture[str]) -> None:
    again(layout, capsys)
    count = len(kept(layout))
    commit(layout, "s2", [scored("vqa/late/1"), scored("vqa/late/2", words=1)])
    assert again(layout, capsys) == [
        "thresholds the same", f"kept {count} -> {count + 1} (1 came in, 0 went out)", "new samples 2",
        "vqa 0 -> 1 (1 in, 0 out)",
    ]  # fmt: skip


def test_after_a_selection_that_was_not_finished_there_is_nothing_to_compare_with(
    layout: OutputLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    again(layout, capsys)
    layout.stats.delete()
    assert again(layout, capsys, sts=0.9) == []


def test_a_turn_less_is_a_change_too(layout: OutputLayout, capsys: pytest.CaptureFixture[str]) -> None:
    """Its conversation is kept before and after."""
    low, high = {"nli": [0.0, 1.0, 0.0]}, {"nli": [0.0, 9.0, 0.0]}
    commit(layout, "s0", [conversation("llava/a/1", said("<image>A?", **low), said("B?", **high))])
    commit(layout, "s1", [scored("vqa/a/1", **high)])
    again(layout, capsys)
    assert again(layout, capsys, nli_margin=5.0)[1:] == [
        "kept 2 -> 2 (0 came in, 0 went out)", "turns of conversations 0 came in, 1 went out",
    ]  # fmt: skip
