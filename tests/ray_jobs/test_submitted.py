"""A submitted job runs in a copy that Ray throws away: what a relative path would lose is refused in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ray_jobs import console, ingest
from ray_jobs.submitted import refuse_relative_data
from training.data import Ingredient


@dataclass(frozen=True, kw_only=True)
class Job:
    """Any job's config."""

    input: str = "/data/in"
    out: str = "out/mine"
    data: dict[str, str | Ingredient] = field(default_factory=dict)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)


def test_a_relative_path_of_data_is_refused_whichever_option_names_it(submitted: None) -> None:
    refuse_relative_data(Job(out="/shared/out", data={"a": "/shared/a", "b": Ingredient(shards="/shared/*.tar")}))
    refuse_relative_data(Job(out="s3://bucket/out", input="s3://bucket/*.tar", data={"a": "gs://bucket/a"}))
    for job, option in [
        (Job(), "--out out/mine"),
        (Job(out="/o", input="./shards"), "--input ./shards"),
        (Job(out="/o", input="*.tar"), r"--input \*\.tar"),
        (Job(out="/o", data={"pairs": "out/pairs"}), r"--data\.pairs out/pairs"),
        (Job(out="/o", data={"b": Ingredient(shards="b")}), r"--data\.b b"),
    ]:
        with pytest.raises(ValueError, match=f"^{option}: a submitted job runs in a temporary copy"):
            refuse_relative_data(job)


def test_the_command_ends_before_it_writes_anything(
    submitted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["job", "--out", "out/mine"])
    assert console.run("job", "", Job, lambda config: (tmp_path / "written").touch()) == 2
    assert not (tmp_path / "written").exists()
    assert capsys.readouterr().err.startswith("job: error: --out out/mine: a submitted job runs in a temporary copy")
    assert ingest.main(["--source", "table", "--annotations", "/data/mine.csv", "--out", "shards"]) == 2
    assert ingest.main(["--source", "table", "--annotations", "mine.csv", "--out", "/data/shards"]) == 2
    assert ingest.main(["--mixture", "/data/mixture.yaml", "--out", "/data/shards"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[2].strip() for line in said] == ["--out shards", "--annotations mine.csv", "--root ."]
    assert list(tmp_path.iterdir()) == []


def test_anywhere_else_the_output_is_printed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["job", "--input", "in"])
    console.run("job", "", Job, lambda config: None)
    assert capsys.readouterr().out == f"job: output in {tmp_path}/out/mine\n"
