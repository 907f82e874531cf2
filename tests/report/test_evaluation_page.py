from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from PIL import Image as Pillow

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling
from polite_flamingo.evaluation.examples import choose, example
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.metrics import METRICS
from polite_flamingo.evaluation.multiple_choice import ChoiceResults, MultipleChoice
from polite_flamingo.evaluation.results import summarise
from polite_flamingo.report.evaluation import page
from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.storage.run_info import RunInfo
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}\ud83d"
RUN = RunInfo(title="A run", command="python -m ray_jobs.evaluate", started="2026-01-01T12:00:00+00:00", config="a: 1")


def picture() -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (30, 20), "red").save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def world(count: int = 12) -> tuple[list[Sample], dict[str, dict[str, str | BadSample]], Judged]:
    """Samples, answers and made-up numbers: `model` is better the later the sample, and silent on the first."""
    tasks = ["vqa" if number % 2 else "captioning" for number in range(count)]
    samples = [
        Sample(
            key=f"a/b/{number}", dataset="d", task=task, images=(picture(),), rewritten=f"Politely, {HOSTILE}",
            turns=(Turn(instruction=f"<image>What? {HOSTILE}", response=f"Answer {number}: {HOSTILE}"),),
        )
        for number, task in enumerate(tasks)
    ]  # fmt: skip
    answers: dict[str, dict[str, str | BadSample]] = {
        "model": {s.key: f"{HOSTILE} said {s.key}" for s in samples[2:]}
        | {"a/b/0": BadSample("answering_failed", "x")},
        "silent": {s.key: "" for s in samples},
    }
    names = (RAW, REWRITTEN, "model", "silent")
    scores: dict[str, dict[str, list[float | None]]] = {}
    for place, name in enumerate(names):
        missing = 2 if name == "model" else 0
        rewards = [None if n < missing else float(place * n - place) for n in range(count)]
        right = [None if one is None or tasks[n] != "vqa" else float(n % 3 == 0) for n, one in enumerate(rewards)]
        rouge = [None if one is None or tasks[n] == "vqa" else n / 20 for n, one in enumerate(rewards)]
        words = [None if one is None else 0.0 if name == "silent" else 5.0 for one in rewards]
        scores[name] = dict.fromkeys(METRICS, [None] * count) | {
            "reward": rewards, "accuracy": right, "rouge_l": rouge, "words": words, "exact": [0.0] * count,
        }  # fmt: skip
    missing_reasons = {name: {"no_response": 1, "answering_failed": 1} if name == "model" else {} for name in names}
    judged = Judged(
        contestants=names, keys=[s.key for s in samples], tasks=tasks, scores=scores, missing=missing_reasons,
        unscored={name: {} for name in names},
    )  # fmt: skip
    return samples, answers, judged


@pytest.fixture(scope="module")
def text() -> str:
    samples, answers, judged = world()
    results = summarise(judged, text_only="silent", resampling=Resampling(draws=50))
    by_key = {sample.key: sample for sample in samples}
    examples = [example(pick, by_key[pick.key], answers, judged) for pick in choose(judged, 3)]
    behind = {"model": f"endpoint:{HOSTILE}@http://host/v1", "silent": "recorded:said.jsonl"}
    return page(results, examples, run=RUN, unreadable={"bad_json": 2}, contestants=behind)


def test_it_is_whole_needs_nothing_and_can_be_read_aloud(text: str) -> None:
    assert_self_contained(text)
    found = Page(text)
    assert_readable_aloud(found)
    charts = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(charts) == 2 + 2 * 2 and all(chart["aria-label"] for chart in charts)
    assert {"wins", "tasks", "tax", "contestants", "examples"} <= {a.get("id") for _, a in found.tags}


def test_texts_and_names_cannot_leave_their_place(text: str) -> None:
    found = Page(text)
    assert "script" not in {tag for tag, _ in found.tags} and "alert(1)" in found.words
    assert "{{ 7*7 }}" in found.words
    assert all(a["src"].startswith("data:image/webp") for tag, a in found.tags if tag == "img")


def test_it_says_what_the_results_say(text: str) -> None:
    _, _, judged = world()
    results = summarise(judged, text_only="silent", resampling=Resampling(draws=50))
    words = " ".join(Page(text).words.split())
    rate = results.wins.rates["model"][RAW]
    assert rate.value == 1.0 and rate.n == 10
    for shown in ("100.0 %", "2 rows of the input", "bad_json", "1 no_response, 1 answering_failed", "an empty answer",
                  "rewards lie", "in percentage points", "VQA", "left out for all contestants"):  # fmt: skip
        assert re.sub(r"\s+", " ", shown) in words, shown
    assert "no answer" in words or "answering_failed" in words
    assert "model · 5.0" in words and "At equal length" in words


def test_yes_or_no_questions_have_a_table_with_the_share_of_yes() -> None:
    _, _, judged = world()
    assert "PoPe" not in page(summarise(judged, resampling=Resampling(draws=50)), [], run=RUN)
    for place, name in enumerate(judged.contestants):
        judged.scores[name]["yes"] = [float(n % 2 and place < 3) for n, _ in enumerate(judged.keys)]
    text = " ".join(Page(page(summarise(judged, resampling=Resampling(draws=50)), [], run=RUN)).words.split())
    assert "Of these questions, 50.0 % are to be answered with yes." in text
    assert re.search(r"Says yesWords model100.0 % .*50.0 % .*silent50.0 %", text)


def test_multiple_choice_has_a_table_and_says_who_is_left_out() -> None:
    picks = ChoiceResults(
        accuracy=Estimate(value=0.75, low=0.5, high=0.9, n=8), chance=0.25, longest=0.5, longest_right=0.375,
        unpicked=1, missing={"text_too_long": 2},
    )  # fmt: skip
    choices = MultipleChoice(by="mean", results={"model": picks}, left_out=("gpt",), refused={"bad_field": 3})
    _, _, judged = world()
    results = replace(summarise(judged, resampling=Resampling(draws=50)), choices=choices)
    found = page(results, [], run=RUN)
    assert_readable_aloud(Page(found))
    read = " ".join(re.sub("<[^>]+>", " ", found).split())
    row = read.split("Multiple choice by log-probability")[1]
    assert "model 8 75.0 % 50.0 to 90.0 25.0 % 50.0 % 37.5 % 1 2 (text_too_long)" in row
    assert "Left out, for want of log-probabilities: gpt." in row and "cannot be compared: 3 bad_field." in row
    table = to_markdown(results)
    for wanted in ("75.0 % (50.0 to 90.0)", "25.0 %", "37.5 %", "2 text_too_long", "log-probabilities: gpt."):
        assert wanted in table
    assert results.to_json()["choices"]["results"]["model"]["chance"] == 0.25
    assert "Multiple choice" not in page(summarise(judged, resampling=Resampling(draws=50)), [], run=RUN)


def test_examples_are_drawn_from_each_task_and_from_where_all_differ() -> None:
    samples, _, judged = world()
    picks = choose(judged, 3)
    drawn, apart = [one for one in picks if one.apart is None], [one for one in picks if one.apart is not None]
    assert len(drawn) == len(apart) == 3 and {one.task for one in drawn} == {"vqa", "captioning"}
    assert len({one.key for one in picks}) == 6
    spreads = [one.apart or 0.0 for one in apart]
    assert spreads == sorted(spreads, reverse=True)
    left = {one.key for one in drawn}
    assert apart[0].key == next(sample.key for sample in reversed(samples) if sample.key not in left)
    assert choose(judged, 3) == picks and choose(judged, 0) == []
    assert len(choose(judged, 100)) == 12, "no sample is shown twice"


def test_an_example_holds_what_everybody_said() -> None:
    samples, answers, judged = world()
    [pick] = [one for one in choose(judged, 12) if one.key == "a/b/0"]
    said = {one.contestant: one for one in example(pick, samples[0], answers, judged).said}
    assert said[RAW].text.startswith("Answer 0") and said[REWRITTEN].text.startswith("Politely")
    assert said["model"].failed == "answering_failed" and said["model"].numbers == ()
    assert said["silent"].failed == "" and dict(said["silent"].numbers)["Reward"] == "−3.00"


def test_nothing_at_all_has_a_page_too() -> None:
    scores = {RAW: {metric: [] for metric in (*METRICS, "words", "exact")}}
    nothing = Judged(contestants=(RAW,), keys=[], tasks=[], scores=scores, missing={RAW: {}}, unscored={RAW: {}})
    assert "No sample is shown" in Page(page(summarise(nothing), [], run=RUN)).words
