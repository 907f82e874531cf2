"""`demo-real`: what a user sees where something is missing; the whole of it only where its downloads are allowed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ray_jobs import demo_real
from ray_jobs.demo_real import DemoRealConfig
from tests.support.raw_dataset import SHARED

FOLDER = os.environ.get("POLITE_FLAMINGO_REAL_MODELS")


def test_without_the_excerpts_one_line_says_so_and_nothing_is_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"samples": tmp_path / "none", "models": tmp_path / "models", "out": tmp_path / "out"}
    assert demo_real.main([f"--{name}={path}" for name, path in given.items()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("demo-real: error: no folder")
    assert "make demo-real SAMPLES=" in line
    assert not (tmp_path / "models").exists()


def test_help_says_what_is_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo_real.main(["--help"])
    said = capsys.readouterr().out
    assert "1.5 GB" in said
    assert "qwen-0.5b" in said


@pytest.mark.skipif(
    FOLDER is None, reason="needs 1 GB of models: POLITE_FLAMINGO_REAL_MODELS names a folder that has or gets them"
)
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_annotations_are_rewritten_by_a_real_model(tmp_path: Path) -> None:
    small = DemoRealConfig(
        samples=str(SHARED / "samples"), models=str(FOLDER), out=str(tmp_path), model="qwen-0.5b", rows=6, judge=False,
        threads=1,
    )  # fmt: skip
    demo_real.demo_real(small)
    stats = json.loads((tmp_path / "text" / "stats.json").read_text())
    assert stats["rows_in"] == 6
    assert stats["kept"] >= 3, "a real model rewrites most real annotations"
    page = (tmp_path / "text" / "report.html").read_text()
    assert "without their pictures" in page
    assert "no model" in page
    assert (tmp_path / "comparison.html").exists()
