"""The judge of a finished build against NLI and labels: from files on a disk to the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import write_run
from ray_jobs import agreement, select
from ray_jobs.resumable_job import begin_run
from tests.ray_jobs.test_select import commit
from tests.support.scored import scored


def marked(number: int) -> Sample:
    """A good answer if even, with marks to match; the judge is wrong about number 1."""
    good = number % 2 == 0
    mark = 5 if good or number == 1 else 1
    sample = scored(f"vqa/train/{number}", "vqa", f"That is {number}, I think.")
    scores = {"nli": [-2.0, 2.0, 0.0] if good else [2.0, -2.0, 0.0], "judge_correctness": mark, "judge_relevance": 4}
    return dataclasses.replace(sample, scores={**sample.scores, **scores})


@pytest.fixture
def out(tmp_path: Path) -> OutputLayout:
    layout = OutputLayout(root=tmp_path / "out")
    write_run(layout, begin_run("hash", {}, ""))
    commit(layout, "s0", [*map(marked, range(12)), scored("text/train/0", "text", "Nobody marks this text, I think.")])
    select.select(layout, Thresholds(judge_relevance=2))
    return layout


def run(layout: OutputLayout, *more: str) -> int:
    return agreement.main(["--out", str(layout.root), *more])


def test_agreement_is_measured_printed_and_shown_on_the_report(
    out: OutputLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [{"key": f"vqa/train/{n}", "correctness": 5 - 4 * (n % 2), "keep": n % 2 == 0} for n in range(6)]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, [*labels, {"key": "vqa/train/unknown", "keep": True}])))
    title = 'id="agreement-title"'
    assert title not in out.report.read_text()
    assert run(out, "--labels", str(file)) == 0
    said = capsys.readouterr().out
    assert "correctness and NLI" in said and "n = 12" in said and "correctness and people" in said
    assert "1 of 7 labels are of texts that have no marks here: " in said and "these intervals say little" in said
    record = json.loads(out.agreement.read_text())
    assert record["judged"] == 12 and record["labels"] == {"given": 7, "found": 6}
    nli = next(one for one in record["agreements"] if one["other"] == "NLI")
    assert nli["kappa"]["value"] == pytest.approx(1 - (1 / 12) / (42 / 84), abs=0.02), "one of twelve apart"
    page = out.report.read_text()
    assert title in page and "lowest mark and people: keep" in page
    assert json.loads(out.stats.read_text())["thresholds"]["judge_relevance"] == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("red", "line 2: needs a JSON object with a key"),
        ('{"keep": true}', "line 2: needs a JSON object with a key"),
        ('{"key": "a", "correctness": 6}', "line 2: correctness must be a whole number from 1 to 5"),
        ('{"key": "a", "keep": 1}', "line 2: keep must be true or false"),
        ('{"key": "a", "manners": 3}', "line 2: manners is no label; known are relevance"),
        ('{"key": "a", "turn": "1", "keep": true}', "line 2: turn must be"),
    ],
)
def test_a_wrong_label_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "labels.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=problem):
        agreement.read_labels(str(tmp_path / "labels.jsonl"))


def test_without_a_judge_there_is_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = OutputLayout(root=tmp_path / "out")
    write_run(layout, begin_run("hash", {}, ""))
    commit(layout, "s0", [scored("text/train/0", "text", "Nobody marks this text, I think.")])
    assert run(layout) != 0 and "no finished selection" in capsys.readouterr().err
    select.select(layout, Thresholds())
    assert run(layout) != 0 and "no marks of a judge" in capsys.readouterr().err
