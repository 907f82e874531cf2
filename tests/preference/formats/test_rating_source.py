"""Rows of HelpSteer's format become prompts with rated answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.preference.formats.rating_source import SOURCE
from polite_flamingo.preference.pairing import Pair, PairingConfig, pair_of
from polite_flamingo.sample import Sample
from polite_flamingo.sources.records.source import SourceOptions
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import spoiled


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


def row(prompt: Any, response: str, *ratings: float, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, **dict(zip(ATTRIBUTES, ratings, strict=False)), **more}


def read(raw: Raw, *rows: Any, **extra: str) -> tuple[list[Sample], list[Any]]:
    raw.image("a.jpg")
    file = raw.json("train.json", list(rows))
    return both(SOURCE.read(SourceOptions(annotations=(file,), images=raw.images, extra=extra)))


def test_answers_of_a_prompt_come_together_wherever_they_stand(raw: Raw) -> None:
    rows = [row("Why?", "So.", 3, 4, 4, 1, 1), row("How?", "Thus.", 2, 2, 2, 1, 1), row("Why?", "No.", 0, 1, 2, 1, 1)]
    [why, how], bad = read(raw, *rows)
    assert not bad and [one.text for one in why.candidates] == ["So.", "No."] and why.response == "So."
    assert (why.question, how.question, len(how.candidates)) == ("Why?", "How?", 1)
    [rating] = why.candidates[1].ratings
    assert (rating.judge, list(rating.values.values())) == ("people", [0, 1, 2, 1, 1])
    assert [one.number for one in why.candidates] == [0, 1]
    found = pair_of(why, PairingConfig(judge="people"))
    assert isinstance(found, Pair) and found.chosen.candidate.text == "So."


def test_further_turns_are_told_by_helpsteer2_s_marks_or_by_messages(raw: Raw) -> None:
    marked = "Hi<extra_id_1>Assistant\nHello.<extra_id_1>User\nWhy?"
    told = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    samples, bad = read(
        raw, row(marked, "So.", 4), row(told, "So.", 4), row("Why?", "So.", 4, history=[["Hi", "Hello."]])
    )
    assert not bad and len(samples) == 3
    for sample in samples:
        assert [(turn.instruction, turn.response, turn.learned) for turn in sample.turns] == [
            ("Hi", "Hello.", False), ("Why?", "So.", True),
        ]  # fmt: skip


def test_pictures_judges_and_models_are_kept(raw: Raw) -> None:
    pictured = {"images": ["a.jpg"], "judge": "gemini", "model": "llava", "reason": "It is right."}
    rows = [row("Why?", "So.", 4, 4, 4, **pictured), row("Why?", "No.", reward=-1.5, images=["a.jpg"])]
    [sample], bad = read(raw, *rows, judge="skywork")
    assert not bad and len(sample.images) == 1 and sample.instruction == "<image>Why?"
    first, second = sample.candidates
    assert (first.model, first.ratings[0].judge, first.ratings[0].reason) == ("llava", "gemini", "It is right.")
    assert (second.ratings[0].judge, second.ratings[0].values) == ("skywork", {"reward": -1.5})


def test_a_row_that_is_no_rated_answer_costs_only_itself(raw: Raw) -> None:
    good = row("Why?", "So.", 4, 4)
    bad = [
        row("Why?", " ", 4), row("Why?", "No."), row("Why?", "No.", 5), row("Why?", "No.", -1),
        {"prompt": "Why?", "helpfulness": 4}, {"response": "No.", "helpfulness": 4}, row("Why?", "No.", True), "text",
    ]  # fmt: skip
    samples, quarantined = read(raw, *bad, good)
    assert [len(sample.candidates) for sample in samples] == [1]
    assert sorted(row.reason for row in quarantined) == sorted(
        ["empty_response", "missing_annotation", *["bad_field"] * 6]
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_row_is_an_answer_or_quarantined(raw: Raw, data: st.DataObject) -> None:
    good = [row(f"Why {number // 2}?", f"So {number}.", 4, number % 5) for number in range(6)]
    records, places = data.draw(spoiled(good))
    samples, quarantined = read(raw, *records)
    answers = {one.text for sample in samples for one in sample.candidates}
    assert {f"So {number}." for number in range(6) if number not in places} <= answers
    assert sum(len(sample.candidates) for sample in samples) + len(quarantined) <= 6
