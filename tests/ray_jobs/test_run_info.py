"""The record of a run grows with its attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_run
from ray_jobs import resumable_job
from ray_jobs.resumable_job import ResumableJob


def test_attempts_add_up_and_survive_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(resumable_job.time, "monotonic", lambda: now[0])
    layout = OutputLayout(root=tmp_path)
    models = {"reward": {"name": "zoo:reward", "fingerprint": "f"}}
    job = ResumableJob(layout=layout, identity="hash", models=models, config="config")
    assert read_run(layout) is None
    first = [("rewriting", 12.0), ("scoring", 2.0)]
    for wall, rows, seconds in ((16.0, 30, first), (4.0, 10, [("rewriting", 4.5)])):
        with job.attempt() as attempt:
            now[0] += wall
            attempt.add({"rows_in": rows, "seconds": seconds})
    found = read_run(layout)
    assert found is not None and found.models[0].role == "reward" and found.config_hash == "hash"
    assert found.seconds == {"rewriting": 16.5, "scoring": 2.0, "wall": 20.0}
    assert (found.rows, found.rows_per_second) == (40, 2.0)


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_fresh_deletes_nothing_where_no_job_has_begun(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layout = OutputLayout(root=tmp_path if where == "disk" else request.getfixturevalue("bucket"))
    job = ResumableJob(layout=layout, identity="hash", models={}, config="config")
    mine = layout.root / "images" / "mine.jpg"
    mine.put("a picture of the user's")
    with job.locked(fresh=True):
        assert mine.exists()
    with job.attempt():
        pass
    with job.locked(fresh=True):
        assert not mine.exists() and read_run(layout) is None
