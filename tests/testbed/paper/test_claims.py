"""Verdicts come from the numbers: other numbers, other verdicts."""

from __future__ import annotations

import dataclasses

import pytest

from polite_flamingo.testbed.paper.claims import CLAIMS, Finding, findings
from polite_flamingo.testbed.paper.results import PaperResults
from tests.support.paper_example import example_results


def by_key(results: PaperResults) -> dict[str, Finding]:
    return {finding.claim.key: finding for finding in findings(results)}


@pytest.fixture(scope="module")
def usual() -> dict[str, Finding]:
    return by_key(example_results(samples=20, noise=0.02))


@pytest.fixture(scope="module")
def contrary() -> dict[str, Finding]:
    """Clever Flamingo is rude: its reward is 8 lower."""
    return by_key(example_results(samples=20, noise=0.02, shift=-8.0))


def test_every_claim_has_a_verdict_where_all_models_are_there(usual: dict[str, Finding]) -> None:
    assert list(usual) == [claim.key for claim in CLAIMS] and len(usual) == 18


def test_what_the_numbers_say_is_shown(usual: dict[str, Finding]) -> None:
    for key in ("rewriting", "seeing", "raw_impolite", "raw_tax", "stage_2_down", "stage_3_up", "second_unchanged"):
        assert usual[key].verdict == "shown" and usual[key].agreeing == 3, key
    assert usual["win"].verdict == "shown", "above a half"


def test_what_the_numbers_contradict_disagrees(contrary: dict[str, Finding]) -> None:
    for key in ("raw_impolite", "stage_3_up", "win", "no_tax"):
        assert contrary[key].verdict == "disagrees" and contrary[key].agreeing == 0, key
    assert contrary["rewriting"].verdict == "shown", "it is none of that model's numbers"


def test_between_is_not_shown_and_says_whether_these_models_agree(usual: dict[str, Finding]) -> None:
    twice = usual["twice"]
    assert twice.spread.low < 0 < twice.spread.high and twice.verdict == "not shown"
    assert not twice.within_agrees


def test_no_loss_is_a_loss_within_the_margin() -> None:
    margin = by_key(example_results(samples=20, noise=0.0))["no_tax"].margin
    assert margin == pytest.approx(0.2, abs=0.02), "a tenth of what rewriting gains"
    polite = by_key(example_results(samples=20, noise=0.02, shift=1.0))["no_tax"]
    assert polite.spread.high < margin and polite.verdict == "shown"


def test_one_seed_shows_nothing() -> None:
    assert {finding.verdict for finding in findings(example_results(seeds=1, samples=10))} == {"not shown"}


def test_claims_without_their_models_are_left_out() -> None:
    results = example_results(samples=10)
    few = dataclasses.replace(
        results,
        roles={role: name for role, name in results.roles.items() if role in ("base", "clever")},
        seeds=tuple(dataclasses.replace(seed, rewrites={}) for seed in results.seeds),
    )
    assert [finding.claim.key for finding in findings(few)] == ["seeing", "seeing_out", "win"]
