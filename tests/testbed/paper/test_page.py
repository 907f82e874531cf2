"""The page of the repeated paper: it stands alone, its verdicts and numbers are the computed ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from polite_flamingo.report.chart_types import Box, boxes
from polite_flamingo.testbed.paper.claims import findings
from polite_flamingo.testbed.paper.page import render, to_markdown, write_paper
from polite_flamingo.testbed.paper.results import PaperResults
from polite_flamingo.testbed.study.page import MARKS, cell, measured, said_of
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained
from tests.support.paper_example import example_results


@pytest.fixture(scope="module")
def results() -> PaperResults:
    return example_results(samples=20)


@pytest.fixture(scope="module")
def text(results: PaperResults) -> str:
    return render(results)


def test_the_page_is_whole_and_can_be_read_aloud(text: str) -> None:
    assert_self_contained(text)
    assert_readable_aloud(Page(text))


def test_each_claim_stands_with_its_verdict_its_number_and_the_papers(results: PaperResults, text: str) -> None:
    rows = {part.partition('"')[0]: part.partition("</tr>")[0] for part in text.split('<tr id="claim-')[1:]}
    found = findings(results)
    assert len(rows) == len(found)
    for finding in found:
        words = " ".join(Page(f"<p>{rows[finding.claim.key]}</p>").words.split())
        assert f"{MARKS[finding.verdict]} {said_of(finding)}" in words
        assert measured(finding) in words and finding.claim.paper in words
    shown = sum(finding.verdict == "shown" for finding in found)
    assert 0 < shown < len(found) and f"{shown} of {len(found)}" in Page(text).words


def test_what_models_said_is_text_and_nothing_else(text: str) -> None:
    assert "&lt;b&gt;red&lt;/b&gt;" in text and "<b>red" not in text
    assert "<h4>no stage 1</h4><p" in text and "<h4>base, untuned</h4>" in text and "an empty answer" in text
    assert text.count('src="data:image/webp;base64,') == 2


def test_it_says_how_it_was_made(results: PaperResults, text: str) -> None:
    words = " ".join(Page(text).words.split())
    run = (results.run.command, results.speaker, results.hardware, "0, 1, 2", "torch 2.13.0")
    for said in (
        *run,
        "seeds and questions both random",
        "rewriting pairs",
        "1,201",
        "The judge cannot count.",
        "other kinds",
    ):
        assert said in words, said


def test_markdown_tells_the_same(results: PaperResults, tmp_path: Path) -> None:
    words = to_markdown(results)
    for finding in findings(results):
        assert f"| {MARKS[finding.verdict]} {said_of(finding)} | {finding.claim.text} |" in words
    for table in words.split("\n\n"):
        assert len({line.count(" |") for line in table.splitlines() if line.startswith("|")}) <= 1, table
    write_paper(results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_page_without_ablations_and_generations_is_a_page_too(results: PaperResults) -> None:
    few = dataclasses.replace(
        results, roles={"base": "model base", "clever": "model clever"}, examples=(),
        seeds=tuple(dataclasses.replace(seed, rewrites={}, counts={}) for seed in results.seeds[:1]),
    )  # fmt: skip
    page = render(few)
    assert_self_contained(page)
    words = Page(page).words
    assert "The results have no rewritten annotations." in words and "No sample is shown." in words
    assert "±" not in words.partition("“±”")[0], "one seed has no interval"
    assert "no stage 1" not in words


def test_a_cell_is_a_mean_and_half_its_interval(results: PaperResults) -> None:
    from polite_flamingo.testbed.paper.measures import MEASURES, level

    one = level(results, "clever", "accuracy_in")
    shown = cell(one, MEASURES["accuracy_in"])
    assert shown.text == f"{100 * one.value:.1f}" and shown.reach == f"{100 * (one.high - one.value):.1f}"
    assert shown.plain == f"{shown.text} ± {shown.reach}"


def test_boxes_lie_where_their_quantiles_are() -> None:
    svg = boxes("Rewards", [("a <b>", [Box(name="raw", quantiles=(0, 1, 2, 3, 4))])], x_label="reward", width=424)
    # 0 lies at min(150, 0.3 · 424) = 127.2, 4 at 410: 70.7 a unit
    assert 'd="M127.2 13.5H410.0"' in svg and 'x="197.9"' in svg and 'width="141.4"' in svg and "M268.6" in svg
    assert "a &lt;b&gt;" in svg and "a <b>" not in svg
    assert boxes("Rewards", [], x_label="reward").startswith("<svg")
