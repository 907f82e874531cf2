"""The plan of `make paper`, and what its folder refuses."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_run, write_run
from polite_flamingo.testbed.paper.results import ROLES
from ray_jobs import console
from ray_jobs.paper import PaperConfig, job_of, paper
from ray_jobs.paper_steps import PARTS_OF, plan
from ray_jobs.resumable_job import with_work

TINY = str(Path(__file__).parents[2] / "profiles" / "tiny.yaml")


@pytest.fixture
def config(tmp_path: Path) -> PaperConfig:
    return console.parse("paper", "", PaperConfig, ["--profile", TINY, "--out", str(tmp_path)])


def test_every_run_starts_from_one_before_it_and_every_role_is_played(config: PaperConfig) -> None:
    runs = plan(Path("seed"), config.training)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    assert all(run.start == "" or run.start in names[:place] for place, run in enumerate(runs))
    assert {role for run in runs for role in run.roles} | {"base"} == set(ROLES) == set(PARTS_OF)


def test_ablations_differ_from_the_recipe_in_what_they_are_called_after(config: PaperConfig) -> None:
    runs = {run.name: run for run in plan(Path("seed"), config.training)}
    raw, polite = runs["raw_2"].data["pf"], runs["stage_2"].data["pf"]
    assert (raw.response, polite.response) == ("raw", "rewritten") and replace(raw, response="rewritten") == polite
    assert runs["direct_2"].data == runs["stage_2"].data and runs["direct_2"].start == ""
    assert runs["unfrozen_2"].changes == {"tune": ("lora", "perceiver", "cross_attention")}
    assert runs["twice_2"].changes == {"epochs": 2 * config.training.stages.clever_2.epochs}
    assert runs["tower_2"].changes == {"tune": ("vision_encoder", "perceiver", "cross_attention")}
    varied = ("stage_2", "unfrozen_2", "twice_2", "tower_2", "coarse_2")
    assert {runs[name].start for name in varied} == {"stage_1"}
    assert runs["clever"].data["pf"].fraction == 0.1 and polite.fraction == 1.0
    for one, other in (("text_1", "stage_1"), ("text_only", "clever")):
        assert runs[one].data == {"text": runs[other].data["text"]} and runs[one].stage == runs[other].stage
        assert not runs[one].changes, "the text-only model sees as much text"


def test_only_some_runs_are_trained_with_those_they_start_from(config: PaperConfig) -> None:
    chosen = replace(config, only=("raw",)).runs(Path("seed"))
    assert [run.name for run in chosen] == ["polite", "raw_1", "raw_2", "raw"]
    assert len(config.runs(Path("seed"))) == len(plan(Path("seed"), config.training))
    with pytest.raises(ValueError, match="no training run is called rawer; there are polite"):
        replace(config, only=("rawer",))


def test_a_folder_of_another_configuration_is_refused_and_seeds_may_be_added(config: PaperConfig) -> None:
    layout = OutputLayout(root=Path(config.out))
    with job_of(config).locked(), job_of(config).attempt() as attempt:
        first = attempt.note()
    with job_of(replace(config, seeds=5)).locked():
        assert job_of(replace(config, seeds=5)).run().started == first.started
    fewer = replace(config, sizes=replace(config.sizes, questions=9))
    other_judge = replace(config, scoring=replace(config.scoring, nli="zoo:reward"))
    for other in (fewer, other_judge):
        with pytest.raises(ValueError, match="another configuration"), job_of(other).locked():
            pass
    assert read_run(layout) is not None


def test_every_attempt_counts_with_its_minutes_however_it_ended(
    config: PaperConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, now, noted = OutputLayout(root=Path(config.out)), [0.0], []

    class Stopped(Exception):
        """Ctrl-C, a full disk, a model that fails."""

    def wall() -> float:
        found = read_run(layout)
        assert found is not None
        return found.seconds["wall"]

    def shared(config: PaperConfig, out: Path, steps: Any) -> None:
        for seconds in (100, 20):
            now[0] += seconds
            steps.done("a step")
            noted.append(wall())  # as a SIGKILL would leave it
        now[0] += 3
        if len(noted) == 2:
            raise Stopped

    shown = []

    def collect(*given: Any) -> Any:
        shown.append(given[-1])
        return SimpleNamespace(to_json=dict)

    for name in ("build", "_building", "_rewriter", "_tuning", "write_paper"):
        monkeypatch.setattr(f"ray_jobs.paper.{name}", lambda *_: None)
    monkeypatch.setattr("ray_jobs.resumable_job.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("ray_jobs.paper.running_ray", lambda needs: contextlib.nullcontext())
    monkeypatch.setattr("ray_jobs.paper._shared", shared)
    monkeypatch.setattr("ray_jobs.paper.to_markdown", lambda results: "")
    monkeypatch.setattr("ray_jobs.paper.collect", collect)
    with pytest.raises(Stopped):
        paper(config)
    assert noted == [100.0, 120.0] and wall() == 123.0
    now[0] += 1000  # the machine was off
    paper(config)
    assert noted[2:] == [223.0, 243.0] and wall() == 246.0 == shown[0].seconds["wall"]


def test_fresh_forgets_the_work_and_its_time(config: PaperConfig) -> None:
    layout = OutputLayout(root=Path(config.out))
    job = job_of(config)
    with job.locked():
        write_run(layout, with_work(job.run(), 0, {"wall": 600.0}))
    (layout.root / "seed-0" / "data" / "in.tar").put(b"a shard")
    with job.locked():
        assert job.run().seconds["wall"] == 600.0
    with job.locked(fresh=True):
        assert "wall" not in job.run().seconds
    assert not (layout.root.path / "seed-0").exists()


@pytest.mark.parametrize(("minutes", "expected"), [(0, 5), (55, 5), (45, 4), (36, 3), (1, 2)])
def test_no_seed_is_begun_that_would_end_too_late(
    config: PaperConfig, monkeypatch, minutes: int, expected: int
) -> None:
    """Every seed takes ten minutes, five before its PF-mini."""
    now, begun = [0.0], []

    def tuning(config: PaperConfig, home: Path, seed: int, steps: Any) -> None:
        begun.append(seed)
        now[0] += 300

    for name in ("_shared", "_building", "_rewriter", "write_paper"):
        monkeypatch.setattr(f"ray_jobs.paper.{name}", lambda *_: None)
    monkeypatch.setattr("ray_jobs.paper.build", lambda *_: now.__setitem__(0, now[0] + 300))
    monkeypatch.setattr("ray_jobs.paper._tuning", tuning)
    monkeypatch.setattr("ray_jobs.resumable_job.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("ray_jobs.paper.running_ray", lambda needs: contextlib.nullcontext())
    monkeypatch.setattr("ray_jobs.paper.to_markdown", lambda results: "")
    collected = []
    monkeypatch.setattr(
        "ray_jobs.paper.collect", lambda out, seeds, *_: collected.append(len(seeds)) or SimpleNamespace(to_json=dict)
    )
    paper(replace(config, minutes=minutes))
    assert collected == [expected] and begun == list(range(expected))
