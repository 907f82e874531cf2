"""The line of attributes is the same in training and at inference, and only where it is wanted."""

from __future__ import annotations

import pytest

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.preference.steerlm import WANTED, attribute_line, with_attributes
from polite_flamingo.sample import Quarantined, Turn
from ray_jobs.evaluate_answering import asking
from tests.support.rated_answers import rated

BEST = "helpfulness 4, correctness 4, coherence 4, complexity 4, verbosity 4."
SHORT = "helpfulness 4, correctness 4, coherence 4, complexity 2, verbosity 2."


def test_three_ways_to_ask() -> None:
    sample = rated("d/t/1", {})
    asked = {name: with_attributes(sample, ratings).instruction for name, ratings in WANTED.items()}
    assert asked["none"] == sample.instruction
    assert asked["best"] == f"<image>How many shapes?\nAnswer so that, from 0 to 4, the ratings are: {BEST}"
    assert asked["short"].endswith(SHORT)


def test_means_are_rounded_to_what_a_judge_can_say() -> None:
    assert "helpfulness 3, correctness 4" in attribute_line(dict.fromkeys(ATTRIBUTES, 3.5) | {"helpfulness": 3.4})
    with pytest.raises(KeyError):
        attribute_line({"reward": 1.0})


def test_an_evaluation_asks_in_the_turn_that_is_answered() -> None:
    bad = Quarantined(key="d/t/2", shard="s.tar", index=1, reason="bad_json", detail="")
    talk = rated("d/t/1", {}, pictures=0, before=(Turn(instruction="Hello?", response="Hi."),))
    row, same = asking([talk, bad], ratings=WANTED["short"])
    assert same is bad and not isinstance(row, Quarantined) and len(row.turns) == 1
    assert row.instruction.startswith("Hello?\nAnswer so that") and row.key == talk.key
