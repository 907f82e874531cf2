"""The paper on alignment: verdicts follow the numbers, length stands beside them, the page stands alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polite_flamingo.testbed.alignment.claims import CLAIMS, COLUMNS, PUBLISHED, findings
from polite_flamingo.testbed.alignment.measures import at_equal_length, level, numbers, rank_correlation
from polite_flamingo.testbed.alignment.page import by_length, render, to_markdown
from polite_flamingo.testbed.alignment.results import ROLES, AlignmentResults
from polite_flamingo.testbed.study.page import measured
from tests.support.alignment_example import example_results
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained


@pytest.fixture(scope="module")
def results() -> AlignmentResults:
    return example_results()


def test_every_model_is_in_a_claim_or_in_a_curve_and_every_claim_names_its_evidence() -> None:
    needed = {role for claim in CLAIMS for role in claim.needs}
    assert {*ROLES} - needed == {"steerlm_short", "steerlm_none", "scale_50", "scale_75"}
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) and all(claim.paper for claim in CLAIMS)
    assert all(len(figures) == len(COLUMNS) for _, figures in PUBLISHED)


def test_verdicts_turn_with_the_numbers(results: AlignmentResults) -> None:
    def verdicts(found: AlignmentResults) -> dict[str, str]:
        return {one.claim.key: one.verdict for one in findings(found)}

    usual = verdicts(results)
    shown = ("tax", "dpo_text", "dpo_score", "dpo_win", "dpo_equal_length", "rejection_sft", "flips_75", "reward_up")
    assert {usual[key] for key in shown} == {"shown"}
    assert usual["flips_start"] == "disagrees", "three quarters of flips cost more than the margin"
    contrary = verdicts(example_results(right={"dpo": 0.4}))
    against = ("dpo_text", "dpo_score", "dpo_win", "dpo_equal_length", "dpo_accuracy", "rejection", "scale")
    assert {contrary[key] for key in against} == {"disagrees"}


def test_a_win_counts_scores_and_the_rate_at_equal_length_takes_out_what_length_explains(
    results: AlignmentResults,
) -> None:
    won_SQ = numbers(results, "dpo", "win")
    assert {*np.unique(won_SQ)} == {0.0, 0.5, 1.0}
    assert numbers(results, "start", "win").mean() == 0.5
    raw, controlled = level(results, "dpo", "win"), at_equal_length(results, "dpo").rate
    assert raw.value is not None and controlled.value is not None
    assert raw.value > 0.5 and 0.5 < controlled.value < 1


def test_length_is_compared_with_the_ranking_of_methods(results: AlignmentResults) -> None:
    assert rank_correlation([1, 2, 3], [5, 6, 9]) == pytest.approx(1) and rank_correlation([1, 2, 3], [3, 2, 1]) == -1
    assert "over 5 models: score of 12, in domain: 1.00; text, accuracy: 0.90" in by_length(results)


def test_the_page_stands_alone_and_says_what_was_computed(results: AlignmentResults) -> None:
    page = render(results)
    assert_self_contained(page)
    assert_readable_aloud(Page(page))
    text = " ".join(Page(page).words.split())
    for finding in findings(results):
        assert finding.claim.text in text and measured(finding).split(" ±")[0] in text
    assert "SteerLM, asked for short ones" in text and "LLaVA-RLHF-13B" in text


def test_markdown_has_every_claim_and_model_and_results_survive_json(results: AlignmentResults) -> None:
    again = AlignmentResults.from_json(json.loads(json.dumps(results.to_json())))
    assert again == results
    found = to_markdown(again)
    assert all(claim.text in found for claim in CLAIMS) and found.count("DPO, 25 % flipped") == 1
    assert "Length: rank correlation" in found


def test_two_seeds_that_were_asked_different_questions_are_refused(results: AlignmentResults) -> None:
    record = results.to_json()
    record["seeds"][1]["judged"]["keys"][0] = "another"
    with pytest.raises(ValueError, match="seed 1 was asked other questions"):
        AlignmentResults.from_json(record)
