"""Every report tells in the same words how it was made, and only what is known of its run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.results import summarise
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.report import evaluation
from polite_flamingo.report.selection import render
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.run_info import ModelInfo, RunInfo
from polite_flamingo.testbed.paper.page import write_paper
from tests.report.test_evaluation_page import HOSTILE, world
from tests.support.page_reader import Page, assert_self_contained
from tests.support.paper_example import example_results

BARE = RunInfo(title="A run", command="python -m ray_jobs.something", started="2026-01-01T12:00:00+00:00")
WHOLE = replace(
    BARE,
    command=f"python {HOSTILE}",
    versions={"torch": "2.13", "ray": f"2.60{HOSTILE}"},
    models=(ModelInfo(role="NLI", name=HOSTILE, fingerprint="ad5f82e879a9"),),
    config=f"a: 1\nb: {HOSTILE}\n",
)


def pages(run: RunInfo, folder: Path) -> dict[str, str]:
    write_paper(replace(example_results(seeds=2, samples=6), run=run), folder / "paper.html")
    results = summarise(world(4)[2], resampling=Resampling(draws=5))
    return {
        "page": render(Statistics(), Thresholds(), run, []),
        "paper": (folder / "paper.html").read_text(),
        "evaluation": evaluation.page(results, [], run=run),
    }


def test_all_reports_tell_the_same_of_a_run(tmp_path: Path) -> None:
    parts = set()
    for name, text in pages(WHOLE, tmp_path).items():
        assert_self_contained(text)
        words = Page(text).words
        for told in ("2026-01-01T12:00:00+00:00", "torch 2.13 · ray 2.60", "ad5f82e879a9", "a: 1\nb: <script>"):
            assert told in words, (name, told)
        table = re.search(r"<thead><tr><th scope=\"col\">Role.*?</table>", text, re.DOTALL)
        versions = re.search(r"<div><dt>Versions.*?</dl>", text, re.DOTALL)
        config = re.search(r"<details><summary>Full configuration.*?</details>", text, re.DOTALL)
        assert table and versions and config
        parts.add((table[0], versions[0], config[0]))
    assert len(parts) == 1


@pytest.mark.parametrize("left_out", ["Versions", "Fingerprint", "Full configuration"])
def test_what_is_not_known_has_no_empty_place(tmp_path: Path, left_out: str) -> None:
    for text in pages(BARE, tmp_path).values():
        assert left_out not in text and BARE.command in text
