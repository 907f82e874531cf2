"""The plan of `polite-flamingo align`, and a whole small seed of it without Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.rewriters.config import decoding
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.testbed.alignment.page import render
from polite_flamingo.testbed.alignment.results import ROLES
from ray_jobs import align_results, console
from ray_jobs.align import EVERYTHING, AlignConfig, job_of, number_of_steps
from ray_jobs.align_steps import (
    PLAN,
    Sizes,
    answer,
    judge_answers,
    make_exam,
    make_pairs,
    model_of,
    sample_and_rate,
    tune,
    variants,
)
from ray_jobs.paper_steps import samples_of

TINY = str(Path(__file__).parents[2] / "profiles" / "tiny.yaml")


def parse(tmp_path: Path, *more: str) -> AlignConfig:
    return console.parse("align", "", AlignConfig, ["--profile", TINY, "--out", str(tmp_path), *more])


def test_every_role_is_played_once_and_every_variant_is_trained_on(tmp_path: Path) -> None:
    played = [role for run in PLAN for role in run.asked_as]
    assert sorted([*played, "start", "language"]) == sorted(ROLES)
    assert {run.variant for run in PLAN} == {*variants(0)}
    assert number_of_steps(parse(tmp_path, "--seeds", "2")) - number_of_steps(parse(tmp_path, "--seeds", "1")) == 27


def test_seeds_may_be_added_to_a_folder_and_other_settings_may_not(tmp_path: Path) -> None:
    assert job_of(parse(tmp_path)).identity == job_of(parse(tmp_path, "--seeds", "5")).identity
    assert job_of(parse(tmp_path)).identity != job_of(parse(tmp_path, "--sampling.temperature", "0.9")).identity


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--seeds", "0"), "seeds must be at least 1"),
        (("--sizes.prompts", "1"), "sizes.prompts must be at least 2"),
        (("--sampling.kind", "endpoint", "--sampling.endpoint.model", "m"), "the start model is trained further"),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SystemExit):
        parse(tmp_path, *more)
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_a_seed_from_prompts_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step in this process; of the trainings, only DPO's and SteerLM's."""
    config = parse(tmp_path)
    sizes = Sizes(prompts=14, described=2, questions=3, descriptions=2, conversations=2)
    shared, home = tmp_path / "shared", tmp_path / "seed-0"

    def step(result: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        made = json.loads(json.dumps(function(*arguments)))
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(made))
        return made

    start = config.sampling.flamingo
    assert start is not None
    step(shared / "exam.json", make_exam, shared / "exam", sizes)
    rated = step(home / "rated.json", sample_and_rate, home, config.sampling, config.judge, sizes, 0)
    assert rated["prompts"] == 16 and rated["answers"] == 16 * config.sampling.answers
    judges = {rating.judge for sample in samples_of(home / "rated") for rating in sample.candidates[0].ratings}
    assert judges == {"rule", "reward"}

    pairs = step(home / "pairs.json", make_pairs, home, 0)
    every = pairs["all"]
    assert every["prompts"] == 16 == every["pairs"] + every["too_close"] + every["failed"] and every["flipped"] == 0
    assert pairs["flips_50"]["pairs"] == every["pairs"]
    assert pairs["flips_50"]["flipped"] == round(every["pairs"] / 2)
    assert pairs["scale_25"]["pairs"] == round(every["pairs"] / 4)

    chosen = [run for run in PLAN if run.role in ("dpo", "steerlm")]
    monkeypatch.setattr(align_results, "ROLES", played := ("start", *(role for run in chosen for role in run.asked_as)))
    step(shared / "start.json", answer, shared / "exam", EVERYTHING, {}, _decoded(config, start))
    training = dataclasses.replace(config.training, checkpoint_steps=1000)
    for run in chosen:
        tally = step(home / "runs" / run.role / "tally.json", tune, home, run, training, start, 0)
        assert tally["rows"] > 0 and not tally["skipped"]
        model = _decoded(config, model_of(home, run.role))
        for role, wanted in run.asked_as.items():
            step(home / "answers" / f"{role}.json", answer, shared / "exam", EVERYTHING, wanted, model)
    judged = step(home / "judged.json", judge_answers, home, played, config.judge, sizes)
    assert set(judged["scores"]) == {*played} and None not in judged["scores"]["dpo"]["score"]

    run = RunInfo(title="", command="", started="2026-11-30T20:00:00+00:00", versions={}, models=(), config="",
                  seconds={"wall": 60.0})  # fmt: skip
    found = align_results.collect(tmp_path, range(1), run)
    assert {*found.sets} == {"in", "out", "text", "described"} and "DPO" in render(found)


def _decoded(config: AlignConfig, flamingo: Any) -> RewriterConfig:
    return RewriterConfig(flamingo=flamingo, **decoding(config.rewriter))
