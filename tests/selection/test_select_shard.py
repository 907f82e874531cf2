from __future__ import annotations

import dataclasses
import json
import random

import pytest

from polite_flamingo.filters.judge import AXES
from polite_flamingo.filters.thresholds import CHECKS, Check, Thresholds
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import MAX_PICKS, Statistics
from polite_flamingo.storage.duplicates import digest
from tests.support.scored import scored, world

TEXT = "A red circle.\n\nIn addition, a dog sleeps.\n\nThe wall is green."


def split(samples: list[Sample], size: int, thresholds: Thresholds | None = None) -> list[Statistics]:
    return [
        select_shard(samples[i : i + size], shard=f"s{i:05d}", thresholds=thresholds or Thresholds()).statistics
        for i in range(0, len(samples), size)
    ]


def merged(parts: list[Statistics]) -> Statistics:
    total = Statistics()
    for part in parts:
        total.merge(part)
    return total


def test_a_hallucinated_paragraph_is_removed_and_remembered() -> None:
    sample = scored("coco/train/1", "captioning", TEXT, clip_paragraphs=[25.0, 12.5, 17.0])
    selection = select_shard([sample], shard="s", thresholds=Thresholds())
    [kept] = selection.kept
    assert kept.rewritten == "A red circle.\n\nThe wall is green."
    assert kept.scores["filtered_paragraphs"] == [[12.5, "In addition, a dog sleeps."]]
    assert kept.scores["paragraph_clip_scores"] == [25.0, 17.0]
    assert sample.rewritten == TEXT and "filtered_paragraphs" not in sample.scores, "the ledger's sample is untouched"
    assert {**kept.scores, **sample.scores} == kept.scores, "scores are added, never overwritten"
    assert selection.statistics.dataset("coco").paragraphs_removed == 1


def test_nothing_is_noted_of_paragraphs_where_there_is_one_only() -> None:
    for settings in ({}, {"clip_single": True}):
        sample = scored("coco/train/1", "captioning", "A red circle.", clip_paragraphs=[25.0])
        [kept] = select_shard([sample], shard="s", thresholds=Thresholds(**settings)).kept
        assert kept.rewritten == "A red circle." and "paragraph_clip_scores" not in kept.scores


def test_a_sample_without_a_good_paragraph_goes() -> None:
    sample = scored("coco/train/1", "captioning", TEXT, clip_paragraphs=[16.9, 1.0, -3.0])
    selection = select_shard([sample], shard="s", thresholds=Thresholds())
    assert selection.kept == [] and selection.records[0]["reason"] == "clip_low"


def test_scores_that_do_not_fit_the_text_are_an_error() -> None:
    sample = scored("coco/train/1", "captioning", TEXT, clip_paragraphs=[25.0, 12.0])
    with pytest.raises(ValueError, match="3 paragraphs but 2 CLIPScores"):
        select_shard([sample], shard="s", thresholds=Thresholds())


def test_a_key_of_an_earlier_shard_is_rejected_before_any_filter() -> None:
    samples = [scored("a/b/1"), scored("a/b/2"), scored("a/b/3", words=1)]
    duplicates = frozenset({digest("a/b/2"), digest("a/b/3")})
    selection = select_shard(samples, shard="s", thresholds=Thresholds(), duplicates=duplicates)
    assert [record["reason"] for record in selection.records] == ["", "duplicate_key", "duplicate_key"]
    assert [sample.key for sample in selection.kept] == ["a/b/1"]


def test_every_sample_leaves_one_record_with_all_its_verdicts() -> None:
    samples = world(400)
    selection = select_shard(samples, shard="s", thresholds=Thresholds())
    assert [record["key"] for record in selection.records] == [sample.key for sample in samples]
    assert json.loads(json.dumps(selection.records)) == selection.records
    kept = {sample.key: sample for sample in selection.kept}
    assert 200 < len(kept) < 400
    for record in selection.records:
        assert record["keep"] == all(verdict["keep"] for verdict in record["verdicts"]) == (record["key"] in kept)
        assert record["keep"] or record["reason"]
        if record["keep"]:
            assert kept[record["key"]].scores["verdicts"] == record["verdicts"]


def test_rows_in_are_kept_rejected_or_quarantined() -> None:
    samples = world(500)
    statistics = merged(split(samples, 70))
    statistics.count_quarantined(
        Quarantined(key=f"vqa_v2/train/{n}", shard="s.tar", index=n, reason="corrupt_image", detail="x")
        for n in range(9)
    )
    statistics.count_quarantined([Quarantined(key="", shard="t.tar", index=0, reason="truncated_tar", detail="x")])
    total = statistics.total()
    assert total.rows == 510 == total.kept + sum(total.rejected.values()) + sum(total.quarantined.values())
    assert sum(counts.rows for counts in statistics.datasets.values()) == 510
    assert set(total.rejected) >= {"unchanged", "repetition", "too_short", "sts_low", "nli_contradiction"}
    assert statistics.datasets["(unknown)"].rows == 1
    assert len(statistics.quarantine["corrupt_image"]) == MAX_PICKS


def test_statistics_do_not_depend_on_how_rows_are_cut_into_shards_or_merged() -> None:
    samples = world(600)
    one = select_shard(samples, shard="s", thresholds=Thresholds()).statistics.to_json()
    parts = split(samples, 45)
    random.Random(3).shuffle(parts)
    many = merged(parts).to_json()
    places = many.pop("picks"), one.pop("picks")
    assert many == one
    without_shards = [
        {slot: [(p["rank"], p["key"]) for p in picks] for slot, picks in found.items()} for found in places
    ]
    assert without_shards[0] == without_shards[1]


def test_statistics_stay_small() -> None:
    small, large = (merged(split(world(rows), 100)) for rows in (800, 2400))
    assert len(json.dumps(large.to_json())) < 1.5 * len(json.dumps(small.to_json()))
    assert all(len(picks) <= MAX_PICKS for picks in large.picks.values())


def test_statistics_survive_json() -> None:
    statistics = merged(split(world(300), 100))
    statistics.count_quarantined([Quarantined(key="a/b/1", shard="s", index=3, reason="bad_json", detail="no <b>")])
    record = json.loads(json.dumps(statistics.to_json()))
    assert Statistics.from_json(record) == statistics


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_what_if_curve_says_what_another_selection_would_keep(check: Check) -> None:
    """For each threshold: move it, select again, and compare with what the first selection's curve foretold."""
    samples = world(500)
    base = merged(split(samples, 250))
    curve = base.curves[check.name]
    fixed = base.total().kept - curve.kept
    assert curve.kept == curve.deciding.satisfying(check.comparison, getattr(Thresholds(), check.name))
    values = {
        "min_words": [1, 9, 15], "min_characters": [1, 40, 70], "max_words": [5, 12, 300], "max_characters": [50, 100],
        "unchanged": [0.2, 0.5, 1.0], "repetition": [0.02, 0.1, 0.9], "sts": [0.0, 0.55, 0.9],
        "clip": [5.0, 20.0, 26.25],
        "nli_margin": [-3.0, 1.5, 4.0],
        "nli_entailment": [-3.0, 0.0, 3.0],
        "near_text": [0.2, 0.8], "near_image": [0.5, 0.93], **{f"judge_{axis}": [1, 3, 5] for axis in AXES},
    }  # fmt: skip
    moved = set()
    for value in values[check.name]:
        again = merged(split(samples, 250, dataclasses.replace(Thresholds(), **{check.name: value})))
        assert again.total().kept == fixed + curve.deciding.satisfying(check.comparison, value)
        moved.add(again.total().kept)
    assert len(moved) > 1, "the thresholds tried must make a difference"


def test_the_gallery_shows_both_sides_of_a_threshold_and_the_worst() -> None:
    values = [0.05, 0.2, 0.3999, 0.37, 0.41, 0.40, 0.9, 0.1, 0.35, 0.39, 0.42, 0.6]
    samples = [scored(f"coco/t/{n}", "classification", sts=value) for n, value in enumerate(values)]
    samples.append(scored("coco/t/two-faults", "classification", sts=0.3998, words=1))
    picks = select_shard(samples, shard="s", thresholds=Thresholds()).statistics.picks
    by_key = {sample.key: sample.scores["sts"] for sample in samples}
    assert [by_key[p.key] for p in picks["under/sts"]] == [0.3999, 0.39, 0.37, 0.35], "its only fault, nearest first"
    assert [by_key[p.key] for p in picks["over/sts"]] == [0.40, 0.41, 0.42, 0.6]
    assert [by_key[p.key] for p in picks["worst/sts_low"]] == [0.05, 0.1, 0.2, 0.35]
    assert [p.key for p in picks["worst/too_short"]] == ["coco/t/two-faults"]
    assert len(picks["kept/coco"]) == MAX_PICKS
