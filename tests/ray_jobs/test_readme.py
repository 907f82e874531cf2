"""The README as a stranger follows it: its commands and its loader snippet, in order, in a separate folder.

Two parts are tried where what they need runs anyway: the cluster in test_job_submit.py, the client of `make serve` in
serving/server/test_on_ray.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ray_jobs import command
from tests.support.readme import REPO, blocks, commands, python_snippet

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as `make demo` leaves it, with a demo of a few rows."""
    made = tmp_path_factory.mktemp("readme")
    (made / "profiles").symlink_to(REPO / "profiles")
    shutil.copytree(demo_folder, made / "out" / "demo")
    return made


def test_every_command_runs_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for line in commands():
        if line.startswith("polite-flamingo "):
            needs_a_gpu = "openflamingo-9b-v1.yaml" in line
            assert command.main(shlex.split(line)[1:]) == (2 if needs_a_gpu else 0), capsys.readouterr().err
            assert not needs_a_gpu or "build: error: the workers need" in capsys.readouterr().err
        elif line.startswith("printf "):
            subprocess.run(["bash", "-c", line], check=True)
        else:
            assert line.startswith(("make ", "source ", "ray ")), f"nothing tries {line}"

    for page in ("demo/report.html", "mine/report.html", "pairs/preview.html", "evaluation/report.html"):
        assert Path("out", page).stat().st_size > 10_000, page
    assert json.loads(Path("out/mine/stats.json").read_text())["kept"] == 2
    assert all(any(Path("out", stage, "model").iterdir()) for stage in ("polite", "clever"))


def test_the_loader_reads_what_the_demo_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
    exec(python_snippet("load_dataset"), {})
    assert re.fullmatch(r"<image>.+ -> .+ \(\d+, \d+\)", capsys.readouterr().out.strip())


def test_make_demo_is_the_demo_and_ends_as_the_readme_says() -> None:
    assert "\t$(BIN)/polite-flamingo demo --out $(OUT)" in (REPO / "Makefile").read_text()
    (shown,) = blocks("")
    counts = [int(re.search(r"  (\d[\d,]*)", line)[1].replace(",", "")) for line in shown.splitlines()[:-1]]  # type: ignore[index]
    rows_in, kept, rejected, *reasons, quarantined = counts
    assert rows_in == kept + rejected + quarantined and rejected == sum(reasons)
