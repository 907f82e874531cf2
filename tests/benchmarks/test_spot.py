"""The spot benchmark counts what is lost and doubled, and says so."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.pipeline import spot
from benchmarks.pipeline.spot import Disturbance, Figures, conclude, figures


def test_rows_that_are_missing_or_there_twice_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = {"s0": ["a", "b", "b"], "s1": ["a"], "s2": []}
    quarantined: dict[str, list[str]] = {"s0": [], "s1": ["b", "c"], "s2": []}

    def rows(of: dict[str, list[str]]) -> Any:
        return lambda layout, name: [SimpleNamespace(key=key) for key in of[name]]

    monkeypatch.setattr(spot, "read_scored", rows(scored))
    monkeypatch.setattr(spot, "read_quarantine", rows(quarantined))
    options = Namespace(shards=3, rows_per_shard=3, run="spot")
    disturbance = cast("Disturbance", SimpleNamespace(seconds=2.0, kills=[60.0], noticed=[16.0]))
    found = figures(options, cast("Any", SimpleNamespace(finished=lambda: list(scored))), disturbance)
    assert (found.rows, found.kept, found.lost, found.doubled, found.goodput) == (9, 4, 4, 1, 2.0)


def test_the_table_names_the_share_of_the_undisturbed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Figures(run="undisturbed", rows=90, kept=90, lost=0, doubled=0, seconds=9, goodput=10)
    killed = Figures(run="spot", rows=90, kept=90, lost=0, doubled=0, seconds=10, goodput=9, kills=[3], noticed=[4, 6])
    options = Namespace(nodes=3, shards=3, rows_per_shard=30, seconds_per_row=0.25, result=tmp_path / "spot.json")
    conclude(options, [quiet, killed])
    assert "goodput beside the undisturbed run: 90.0%; Ray noticed a loss after 4 to 6 s" in capsys.readouterr().out
    assert '"ratio": 0.9' in options.result.read_text()
