"""A conversation is judged turn by turn; the rule says what is left of it, and samples and turns are counted apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from polite_flamingo.conversations import polite_turns
from polite_flamingo.filters.thresholds import KeepTurns, Thresholds
from polite_flamingo.report.gallery import collect_gallery
from polite_flamingo.report.selection import funnel, render
from polite_flamingo.sample import Sample, Turn
from polite_flamingo.selection.card import card
from polite_flamingo.selection.select_shard import Selection, select_shard
from polite_flamingo.storage.duplicates import digest
from polite_flamingo.storage.export_record import uniform_record
from polite_flamingo.storage.json_exports import llava_record, records_of
from polite_flamingo.storage.run_info import RunInfo
from tests.support.scored import conversation, said, scored

WRONG: dict[str, Any] = {"nli": [3.0, 0.0, 0.0]}
CONTEXT = Turn(instruction="Look: <image>", response="I see.", learned=False)


def select(*samples: Sample, **thresholds: Any) -> Selection:
    return select_shard(samples, shard="s", thresholds=Thresholds(**thresholds))


def talk(*turns: Turn, images: int = 1) -> Sample:
    return conversation("llava/train/7", *turns, images=images)


MIXED = talk(said("<image>What is it?", **WRONG), said("Its colour?"), said("Big?", **WRONG), said("Round?"))


@pytest.mark.parametrize(
    ("rule", "left"),
    [("drop", ["<image>Its colour?", "Round?"]), ("cut", []), ("all", [])],
)
def test_the_rule_says_which_turns_stay(rule: KeepTurns, left: list[str]) -> None:
    selection = select(MIXED, keep_turns=rule)
    assert [turn.instruction for sample in selection.kept for turn in sample.turns] == left
    assert all(sample.validate() is sample for sample in selection.kept)
    [record] = selection.records
    assert (record["keep"], record["reason"]) == (bool(left), "" if left else "nli_contradiction")
    assert [turn["turn"] for turn in record["turns"]] == [0, 1, 2, 3]


def test_a_conversation_is_cut_before_its_first_failing_turn() -> None:
    whole = talk(said("<image>What is it?"), CONTEXT, said("Its colour?"), said("Big?", **WRONG), said(), images=2)
    [kept] = select(whole, keep_turns="cut").kept
    assert [turn.instruction for turn in kept.turns] == ["<image>What is it?", "Look: <image>", "Its colour?"]
    assert kept.turns[1] == CONTEXT and len(kept.images) == 2
    counts = select(whole, keep_turns="cut").statistics.total()
    assert counts.turns == {"kept": 2, "nli_contradiction": 1, "with_conversation": 1}


def test_the_images_of_a_dropped_turn_go_on_to_the_next_and_those_of_the_last_go() -> None:
    first = talk(said("<image>A?", **WRONG), said("<image>B?"), said("C?"), images=2)
    [kept] = select(first).kept
    assert [turn.instruction for turn in kept.turns] == ["<image><image>B?", "C?"] and kept.images == first.images
    last = talk(said("<image>A?"), said("<image>B?", **WRONG), images=2)
    [kept] = select(last).kept
    assert [turn.instruction for turn in kept.turns] == ["<image>A?"] and kept.images == last.images[:1]
    context_last = talk(said("<image>A?"), CONTEXT, images=2)
    [kept] = select(context_last).kept
    assert len(kept.turns) == 1 and kept.images == context_last.images[:1]


def test_the_turns_that_stay_are_numbered_and_one_alone_is_a_sample_of_one_turn() -> None:
    [kept] = select(MIXED).kept
    assert kept.provenance["turns"] == [1, 3]
    assert "turns" not in select(talk(said("<image>A?"), said("B?"))).kept[0].provenance
    [alone] = select(talk(said("<image>A?", **WRONG), said("B?"))).kept
    assert alone.provenance["turns"] == [1] and [turn.instruction for turn in alone.turns] == ["<image>B?"]
    expected = said("B?")
    assert (alone.rewritten, alone.turns[0].rewritten) == (expected.rewritten, None)
    assert expected.scores.items() <= alone.scores.items() and polite_turns(alone)[0].rewritten == expected.rewritten
    assert uniform_record(alone)["rewritten"] == expected.rewritten
    assert llava_record(alone, ["a.png"])["conversations"][1]["value"] == expected.rewritten


def test_a_turn_without_a_text_is_dropped_with_its_reason() -> None:
    failed = Turn(instruction="Say it.", response="no", failed="rewriting_failed")
    selection = select(talk(said("<image>A?"), failed))
    assert [len(sample.turns) for sample in selection.kept] == [1]
    assert selection.statistics.total().turns == {"kept": 1, "turn_failed": 1}
    selection = select(talk(said("<image>A?"), failed), keep_turns="all")
    assert selection.records[0]["reason"] == "turn_failed"
    assert [step.stage for step in funnel(selection.statistics) if step.removed] == ["turn_failed"]


def test_a_score_of_the_whole_conversation_holds_for_each_turn() -> None:
    again = replace(talk(said("<image>What is it?"), said()), scores={"near_text": 0.9})
    assert select(again).kept and select(again, near_text=0.8).records[0]["reason"] == "near_duplicate"


def test_an_answer_that_was_polite_already_may_stay_unchanged() -> None:
    same = {"same_text": True, "rouge_l": 1.0}
    polite, terse = said("<image>A?", reward_raw=1.0, **same), said("B?", reward_raw=-2.0, **same)
    assert select(talk(polite, terse)).kept == []
    [kept] = select(talk(polite, terse), polite_already=0.5).kept
    assert [turn.instruction for turn in kept.turns] == ["<image>A?"]


def test_samples_and_turns_are_counted_apart() -> None:
    samples = [MIXED, replace(MIXED, key="llava/train/8"), scored("vqa_v2/train/1"), scored("vqa_v2/train/2", **WRONG)]
    statistics = select_shard(samples, shard="s", thresholds=Thresholds()).statistics
    total = statistics.total()
    assert (total.rows, total.kept, total.rejected.total()) == (4, 3, 1)
    assert (total.conversations, total.turns) == (2, {"kept": 4, "nli_contradiction": 4})
    assert statistics.curves["nli_margin"].scores.total == 10, "each turn has its scores"
    assert statistics.reward_kept.total == 5
    duplicate = select_shard([MIXED], shard="t", thresholds=Thresholds(), duplicates=frozenset({digest(MIXED.key)}))
    assert duplicate.statistics.total().turns == {"duplicate_key": 4} and not duplicate.kept


def test_the_page_and_the_card_show_turns() -> None:
    statistics = select(MIXED).statistics
    gallery = collect_gallery(statistics, Thresholds(), read=lambda _: [MIXED])
    assert {one.key for group in gallery for one in group.cards} == {f"llava/train/7/turn{n}" for n in range(4)}
    run = RunInfo(title="Talks", command="build", started="2026-11-30T00:00:00+00:00", seconds={}, config_hash="x")
    page = render(statistics, Thresholds(), run, gallery)
    assert (
        "4 turns = 2 kept + 2 contradicts the answer." in " ".join(page.split()) and "2 turns of conversations" in page
    )
    text = card(statistics, Thresholds(), run)
    assert "Turns of conversations: 4 = 2 kept + 2 nli\\_contradiction." in text


def test_exports_hold_the_whole_conversation() -> None:
    [kept] = select(talk(said("<image>What is it?"), CONTEXT, said("Its colour?"), images=2)).kept
    record = llava_record(kept, ["a.png", "b.png"])
    assert [(one["from"], one["value"]) for one in record["conversations"]] == [
        ("human", "<image>\nWhat is it?"), ("gpt", "The circle that you see is red."),
        ("human", "Look: <image>"), ("gpt", "I see."),
        ("human", "Its colour?"), ("gpt", "The circle that you see is red."),
    ]  # fmt: skip
    lines = records_of([kept], "s")
    assert len(lines["llava"].splitlines()) == 1 and len(lines["pf1m"].splitlines()) == 2


@pytest.mark.parametrize("rule", ["cut", "all"])
def test_the_gallery_calls_only_those_turns_kept_that_are(rule: KeepTurns) -> None:
    """A turn that passes may go with its conversation."""
    talked = talk(said("<image>What is it?"), said("Its colour?", **WRONG), said("Round?"))
    selection = select(talked, keep_turns=rule)
    kept = {f"{talked.key}/turn{turn['turn']}" for turn in selection.records[0]["turns"] if turn["keep"]}
    gallery = collect_gallery(selection.statistics, Thresholds(keep_turns=rule), read=lambda _: [talked])
    assert {one.key for group in gallery for one in group.cards if one.kept} == kept
