"""What is known of a run grows with its attempts."""

from __future__ import annotations

from pathlib import Path

from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs.run_info import Work, add_work, begin_run, read_run, write_run


def test_attempts_add_up_and_survive_the_file(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path)
    assert read_run(layout) is None
    run = begin_run("hash", {"reward": {"name": "zoo:reward", "fingerprint": "f"}}, "config")
    first, second = Work(rows=30), Work(rows=10)
    first.seconds.update(rewriting=12.0, scoring=2.0)
    second.seconds.update(rewriting=4.5)
    for work, wall in ((first, 16.0), (second, 4.0)):
        write_run(layout, add_work(run, work, wall))
        found = read_run(layout)
        assert found is not None
        run = found
    assert run.seconds == {"rewriting": 16.5, "scoring": 2.0, "wall": 20.0}
    assert (run.rows, run.rows_per_second) == (40, 2.0)
