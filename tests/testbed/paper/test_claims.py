"""Verdicts come from the numbers: other numbers, other verdicts."""

from __future__ import annotations

import dataclasses

import pytest

from polite_flamingo.testbed.paper.claims import CLAIMS, findings
from polite_flamingo.testbed.paper.results import PaperResults
from polite_flamingo.testbed.study.claims import Claim, Finding, verdict
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
    assert list(usual) == [claim.key for claim in CLAIMS] and len(usual) == 23


def test_what_the_numbers_say_is_shown(usual: dict[str, Finding]) -> None:
    for key in ("rewriting", "seeing", "raw_impolite", "raw_tax", "stage_2_down", "stage_3_up", "second_unchanged"):
        assert usual[key].verdict == "shown" and usual[key].agreeing == 3, key
    assert usual["win"].verdict == "shown", "above a half"


def test_what_the_numbers_contradict_disagrees(contrary: dict[str, Finding]) -> None:
    for key in ("raw_impolite", "stage_3_up", "win", "no_tax"):
        assert contrary[key].verdict == "disagrees" and contrary[key].agreeing == 0, key
    assert contrary["rewriting"].verdict == "shown", "it is none of that model's numbers"


def claim(sign: int, against: float = 0.0) -> Claim:
    wanted = {0: "tower", 1: "seeing", -1: "twice"}[sign]
    return dataclasses.replace(next(one for one in CLAIMS if one.key == wanted), against=against)


@pytest.mark.parametrize(
    ("sign", "low", "high", "expected"),
    [
        (1, 0.01, 0.08, "shown"),
        (1, -0.08, -0.01, "disagrees"),
        (1, -0.02, 0.025, "no effect"),
        (1, 0.005, 0.02, "no effect"),
        (1, -0.02, 0.08, "open"),
        (-1, -0.08, -0.01, "shown"),
        (-1, 0.01, 0.08, "disagrees"),
        (0, -0.2, 0.02, "shown"),
        (0, 0.04, 0.08, "disagrees"),
        (0, -0.2, 0.08, "open"),
        (1, None, None, "open"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(sign, low, high, expected) -> None:
    assert claim(sign).measure.margin == 0.03
    assert verdict(claim(sign), low, high) == expected
    if low is not None and sign:
        assert verdict(claim(sign, against=0.5), 0.5 + low, 0.5 + high) == expected


def test_one_seed_leaves_everything_open() -> None:
    assert {finding.verdict for finding in findings(example_results(seeds=1, samples=10))} == {"open"}


def test_claims_without_their_models_are_left_out() -> None:
    results = example_results(samples=10)
    few = dataclasses.replace(
        results,
        roles={role: name for role, name in results.roles.items() if role in ("base", "clever")},
        seeds=tuple(dataclasses.replace(seed, rewrites={}) for seed in results.seeds),
    )
    assert [finding.claim.key for finding in findings(few)] == ["seeing", "seeing_out", "win"]
