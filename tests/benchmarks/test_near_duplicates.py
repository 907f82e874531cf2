"""The benchmark of near-duplicates finds what it planted."""

from pathlib import Path

import pytest

from benchmarks.pipeline.near_duplicates import measure_finding


def test_planted_rows_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure_finding(3000, tmp_path)
    columns = [column.strip() for column in capsys.readouterr().out.strip("|\n").split("|")]
    assert columns[0] == "3,000" and float(columns[4].rstrip("%")) > 95
    missed, checked = columns[5].removesuffix(" above 0.6").split(" of ")
    assert missed == "0" and int(checked) > 30
