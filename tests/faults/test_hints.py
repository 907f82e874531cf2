"""The hint that a job prints when its rows are quarantined."""

from __future__ import annotations

from polite_flamingo.faults.hints import HINTS, hint
from polite_flamingo.sample import REASONS


def test_every_reason_has_one_line_to_look_at_first() -> None:
    assert set(REASONS) <= set(HINTS)
    assert not [text for text in HINTS.values() if "\n" in text or text.endswith(".")]


def test_the_hint_is_that_of_the_commonest_reason() -> None:
    found = hint({"missing_image": 2, "bad_field": 1200})
    assert found.startswith("bad_field (1,200 of 1,202 quarantined): ") and "--images" not in found
    assert "does --images name the right folder?" in hint({"missing_image": 2, "bad_field": 1})
    assert hint({}) == ""
