"""The page of an audit: whole, safe, readable aloud, and saying what the audit found."""

from __future__ import annotations

import dataclasses

import pytest

from polite_flamingo.candidates import Candidate
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.audit import Audit, audit
from polite_flamingo.preference.audit.duplicates import Neighbours
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.page import CHARTS, page
from polite_flamingo.preference.audit.page_texts import TEXTS
from polite_flamingo.preference.audit.people import Labels, PersonRating, Vote
from polite_flamingo.sample import Sample
from polite_flamingo.storage.run_info import RunInfo
from tests.support import planted_judges as planted
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}\ud83d"
JUDGE = HOSTILE[:-1]
RUN = RunInfo(title="A run", command="polite-flamingo audit", started="2026-01-01T12:00:00+00:00", config="a: 1")
PROMPTS = 40


def hostile(sample: Sample, number: int) -> Sample:
    """A flipped pair whose texts, reasons and judge try to leave their place on the page."""
    texts = [f"{one.text} {HOSTILE} {number}" for one in sample.candidates]
    best = max(range(4), key=lambda n: sum(sample.candidates[n].ratings[0].values.values()))
    worst = min(range(4), key=lambda n: sum(sample.candidates[n].ratings[0].values.values()))
    candidates = tuple(
        dataclasses.replace(one, text=text, ratings=tuple(dataclasses.replace(r, reason=HOSTILE) for r in one.ratings))
        for one, text in zip(sample.candidates, texts, strict=True)
    )
    return dataclasses.replace(sample, candidates=candidates, rewritten=texts[worst], rejected=texts[best])


@pytest.fixture(scope="module")
def result() -> tuple[Audit, dict[tuple[str, str], Sample]]:
    settings = AuditSettings(resampling=Resampling(draws=20), judge=JUDGE, shown=3)
    samples = [
        hostile(
            planted.rate(
                planted.rate(one, qualities, planted.clean, name=JUDGE, samples=2),
                qualities,
                planted.exact,
                name="rule",
            ),
            n,
        )
        for n, (one, qualities) in enumerate(planted.prompts(PROMPTS))
    ]
    collected = Collected(settings=settings)
    for sample in samples:
        collected.add(sample, "shard")
    votes = tuple(Vote(key=one.key, first="chosen", second="rejected", prefers=-1.0) for one in samples)
    ratings = tuple(PersonRating(key=one.key, answer=0, values={"correctness": n % 5}) for n, one in enumerate(samples))
    evidence = gather(collected, Labels(votes=votes, ratings=ratings, other=2))
    leaked = frozenset({evidence.pairs[0].asked})
    found = audit(evidence, Neighbours(leaked=leaked, compared=10), near=True)
    return found, {("shard", one.key): one for one in samples}


def test_it_is_whole_needs_nothing_and_can_be_read_aloud(result: tuple[Audit, dict[tuple[str, str], Sample]]) -> None:
    text = page(*result, run=RUN, failed={"bad_json": 2})
    assert_self_contained(text)
    found = Page(text)
    assert_readable_aloud(found)
    charts = [attributes for tag, attributes in found.tags if tag == "svg"]
    drawn = [rows for check in result[0].checks for rows in check.charts.values()]
    assert len(charts) == len(drawn) > 6 and all(chart["aria-label"] for chart in charts)
    assert {name for check in result[0].checks for name in check.charts} == CHARTS.keys()
    assert {"overview", "pairs", *TEXTS} <= {a.get("id") for _, a in found.tags}


def test_texts_and_names_cannot_leave_their_place(result: tuple[Audit, dict[tuple[str, str], Sample]]) -> None:
    found = Page(page(*result, run=RUN, failed={}))
    assert "script" not in {tag for tag, _ in found.tags} and "alert(1)" in found.words and "{{ 7*7 }}" in found.words
    assert all(a["src"].startswith("data:image/webp") for tag, a in found.tags if tag == "img")


def test_it_says_what_was_found(result: tuple[Audit, dict[tuple[str, str], Sample]]) -> None:
    words = " ".join(Page(page(*result, run=RUN, failed={"bad_json": 2})).words.split())
    assert result[0].verdict == "fail"
    for shown in (
        "These preferences should not be trained on as they are", "compared with rule", "2 rows could not be read",
        "its question stands in an evaluation set", "rule rates the rejected answer",
        "1 of 1 people prefer the rejected", "100.0 % 100.0 to 100.0", "warns above 2 %, fails above 10 %",
        "2 lines that are neither votes on two answers",
    ):  # fmt: skip
        assert shown in words, shown
    assert words.count("Chosen") == 3, "no more pairs than are wanted"


def test_pairs_without_ratings_have_a_page_that_says_what_is_missing() -> None:
    settings = AuditSettings()
    collected = Collected(settings=settings)
    sample = dataclasses.replace(
        planted.prompts(1)[0][0], candidates=(Candidate(text="x"),), rewritten="", rejected="x"
    )
    collected.add(sample, "shard")
    found = audit(gather(collected, Labels()), Neighbours(), near=False)
    text = page(found, {("shard", sample.key): sample}, run=RUN, failed={})
    assert_self_contained(text)
    words = " ".join(Page(text).words.split())
    assert "an empty answer" in words and "for want of ratings of the answers" in words
