from __future__ import annotations

import dataclasses
import html
import io
import json
import re

import pytest
from PIL import Image as Pillow

from polite_flamingo.filters.thresholds import CHECKS, Thresholds
from polite_flamingo.report.gallery import MAX_SIDE, collect_gallery, readable, thumbnail
from polite_flamingo.report.selection import CHECK_NAMES, REASON_NAMES, STAGE_NAMES, TASK_NAMES, funnel, render
from polite_flamingo.sample import TASKS, Image, Quarantined, Sample, Turn
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import REJECTIONS, WITH_CONVERSATION, Statistics, stage_of
from polite_flamingo.storage.provenance import Annotations
from polite_flamingo.storage.run_info import RunInfo
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained
from tests.support.report_example import RUN, example, shards
from tests.support.scored import conversation, said, scored


@pytest.fixture(scope="module")
def text() -> str:
    statistics, gallery = example(Thresholds(), shards(900))
    return render(statistics, Thresholds(), RUN, gallery)


def test_the_page_is_whole_and_needs_nothing_from_anywhere(text: str) -> None:
    assert_self_contained(text)
    assert not re.search(r"@import|url\(", text)


def test_headings_pictures_and_charts_can_be_read_aloud(text: str) -> None:
    page = Page(text)
    assert_readable_aloud(page)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 2 + len(CHECKS) and all(chart["aria-label"] for chart in charts)
    assert sum(tag == "a" for tag, _ in page.tags) == 7


def test_the_figures_are_those_of_the_statistics(text: str) -> None:
    statistics, _ = example(Thresholds(), shards(900))
    total = statistics.total()
    words = " ".join(Page(text).words.split())
    for value in (total.rows, total.kept, total.rejected.total(), total.quarantined.total()):
        assert f"{value:,}" in words
    steps = funnel(statistics)
    assert [step.stage for step in steps] == ["duplicates", "rules", "sts", "clipscore", "nli"]
    assert steps[0].reaching == total.rows - total.quarantined.total() and steps[-1].left == total.kept
    for reason in total.rejected:
        assert REASON_NAMES[reason] in words
    for shown in (RUN.command, RUN.config_hash, "corrupt_image", "truncated_tar", "just rejected", "just kept"):
        assert shown in words


def test_a_share_of_the_kept_is_the_same_at_the_top_and_in_the_funnel() -> None:
    """Both are shares of the annotations, of which some never became a row."""
    samples = [scored(f"a/b/{number}") for number in range(8)]
    statistics = select_shard(samples, shard="s", thresholds=Thresholds()).statistics
    annotations = Annotations(names=("a",), rows=10, quarantined={"missing_image": 2}, rows_in=8)
    words = " ".join(Page(render(statistics, Thresholds(), RUN, [], annotations)).words.split())
    assert "8 polite responses from 10 annotations" in words and "8 rows in 80.0 %" in words
    assert "8 kept, 80.0 % of 10 annotations" in words and "Kept 8 80.0 %" in words


def test_both_images_of_a_change_are_shown(text: str) -> None:
    cards = [part for part in text.split("<article")[1:] if "spot_the_diff" in part]
    assert cards and all(part.split("</article>")[0].count("<img ") == 2 for part in cards)


def test_a_turn_is_shown_with_the_turns_before_it() -> None:
    talk = conversation("chat/t/1", said(f"<image>What is that? {HOSTILE}"), said("And its size?"))
    statistics = select_shard([talk], shard="s", thresholds=Thresholds()).statistics
    page = Page(render(statistics, Thresholds(), RUN, collect_gallery(statistics, Thresholds(), read=lambda _: [talk])))
    assert "after 1 turn What is that?" in " ".join(page.words.split())
    assert page.open == [] and "script" not in {tag for tag, _ in page.tags}


def test_every_reason_stage_check_and_task_has_a_name_for_people() -> None:
    assert set(REASON_NAMES) == {*REJECTIONS, WITH_CONVERSATION}
    assert {stage_of(reason) for reason in REJECTIONS} == set(STAGE_NAMES)
    assert set(CHECK_NAMES) == {check.name for check in CHECKS} and set(TASK_NAMES) == set(TASKS)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}\u202e\x00\ud83d</p></article>"


def test_text_from_a_dataset_cannot_leave_its_place() -> None:
    sample = dataclasses.replace(
        scored("evil/t/1", "captioning", f"{HOSTILE}\n\n{HOSTILE} again", clip_paragraphs=[25.0, 3.0]),
        turns=(Turn(instruction=f"<image>{HOSTILE}", response=HOSTILE),),
        dataset=HOSTILE,
    )
    statistics = select_shard([sample], shard="s", thresholds=Thresholds()).statistics
    statistics.count_quarantined(
        [Quarantined(key=f"{HOSTILE}/x", shard=HOSTILE, index=0, reason="bad_json", detail=HOSTILE, payload=HOSTILE)]
    )
    gallery = collect_gallery(statistics, Thresholds(), read=lambda name: [sample])
    run = RunInfo(title=HOSTILE, command=HOSTILE, started="2026-01-01T00:00:00+00:00", config=HOSTILE)
    page = Page(render(statistics, Thresholds(), run, gallery))
    assert page.open == [] and page.unmatched == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(attributes["src"].startswith("data:image/webp") for tag, attributes in page.tags if tag == "img")
    assert "alert(1)" in page.words and "{{ 7*7 }}" in page.words and "49" not in re.findall(r"\d+", page.words)


def test_a_run_of_nothing_has_a_page_too() -> None:
    run = RunInfo(title="Nothing", command="x", started="2026-01-01T00:00:00+00:00")
    page = Page(render(Statistics(), Thresholds(), run, []))
    assert page.open == [] and "No sample was scored" in page.words


def test_a_run_where_everything_is_rejected_or_quarantined() -> None:
    samples = [scored(f"a/b/{n}", words=1) for n in range(3)]
    statistics = select_shard(samples, shard="s", thresholds=Thresholds()).statistics
    gallery = collect_gallery(statistics, Thresholds(), read=lambda name: samples)
    words = Page(render(statistics, Thresholds(), RUN, gallery)).words
    assert "100 %" in words and {group.kind for group in gallery} == {"threshold", "worst"}


def test_the_page_stays_small(text: str) -> None:
    assert len(text) < 1_500_000
    assert len(json.dumps(text)) > 50_000


def test_pictures_are_shrunk_and_remade() -> None:
    buffer = io.BytesIO()
    Pillow.effect_noise((2000, 1000), 80).save(buffer, "JPEG", comment=b"secret comment")
    small = thumbnail(buffer.getvalue())
    assert (small.width, small.height) == (MAX_SIDE, MAX_SIDE // 2)
    assert small.uri.startswith("data:image/webp;base64,") and len(small.uri) < 100_000
    assert thumbnail(b"no picture").problem == "corrupt_image"


def test_an_undecodable_picture_is_named_on_its_card() -> None:
    sample = dataclasses.replace(scored("a/b/1"), images=(Image(extension="png", data=b"no picture"),))
    statistics = select_shard([sample], shard="s", thresholds=Thresholds()).statistics
    gallery = collect_gallery(statistics, Thresholds(), read=lambda name: [sample])
    assert "corrupt_image" in Page(render(statistics, Thresholds(), RUN, gallery)).words


def test_a_card_says_why_its_rouge_l_is_lower_than_its_score() -> None:
    sample = scored("a/b/1", same_text=True, rouge_l=0.89)
    statistics = select_shard([sample], shard="s", thresholds=Thresholds()).statistics
    [card] = collect_gallery(statistics, Thresholds(), read=lambda name: [sample])[0].cards
    assert card.reason == "unchanged" and {("wording", "unchanged"), ("Rouge-L", "0.89")} <= {*card.numbers}


def test_texts_are_cut_to_what_can_be_read() -> None:
    assert len(readable("long " * 10_000)) < 600 and readable("long " * 10_000).endswith(" …")
    assert readable("a\x00b\x1bc\nd") == "abc\nd"
    html.escape(readable("\ud83d")).encode()


def test_the_gallery_reads_only_the_shards_it_needs_and_each_once() -> None:
    found = shards(1500, size=15)
    asked: list[str] = []

    def read(name: str) -> list[Sample]:
        asked.append(name)
        return found[name]

    statistics = Statistics()
    for name, samples in found.items():
        statistics.merge(select_shard(samples, shard=name, thresholds=Thresholds()).statistics)
    gallery = collect_gallery(statistics, Thresholds(), read=read)
    assert len(asked) == len(set(asked)) < len(found)
    assert {group.kind for group in gallery} == {"kept", "threshold", "worst"}
    for group in gallery:
        assert all(card.kept == (group.kind == "kept" or card.side == "over") for card in group.cards)


def test_a_shard_that_lost_a_sample_is_named() -> None:
    statistics = select_shard([scored("a/b/1")], shard="gone", thresholds=Thresholds()).statistics
    with pytest.raises(ValueError, match=r"'gone'.*'a/b/1'"):
        collect_gallery(statistics, Thresholds(), read=lambda name: [])


def test_a_caption_with_a_paragraph_without_a_score_is_shown() -> None:
    sample = scored("coco/a/1", "captioning", "It is red.\n\nIt is round.", clip_paragraphs=[None, 20.0])
    statistics = select_shard([sample], shard="s", thresholds=Thresholds()).statistics
    [group] = collect_gallery(statistics, Thresholds(), read=lambda _: [sample])
    assert [(card.reason, len(card.paragraphs)) for card in group.cards] == [("unscored", 1)]
