"""What a job does around its models: bad shards, poison, death of an actor, of the driver, of the whole cluster.

The models are fake (`fake_actors.py`); Ray, the actors' shells, the journal and the disk are real.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from polite_flamingo.faults import journal
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_run
from polite_flamingo.storage.shards import write_shard
from ray_jobs import console, replay, select
from ray_jobs.build_pf1m import BuildConfig, build
from tests.support import fake_actors
from tests.support.build_world import config, outcome, results, stats, text_row, write_world
from tests.support.patience import wait_until
from tests.support.processes import descendants, family, kill

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
REPO = Path(__file__).parents[2]


def run(job: BuildConfig, rewriting: type = fake_actors.FakeRewriterActor) -> None:
    build(job, rewriting, fake_actors.FakeScoringActor)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, Path]:
    """The input of the kill tests, slow enough to be killed, and the output of an undisturbed run."""
    root = tmp_path_factory.mktemp("undisturbed")
    slow = {(shard, row): "a slow row" for shard in range(6) for row in range(20)}
    source = write_world(root / "in", shards=6, rows=20, special={**slow, (1, 7): "raise"})
    run(config(source, root / "out"))
    return source, root / "out"


def test_bad_shards_end_in_the_right_place_and_the_counts_add_up(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.pipeline.SHARDS_PER_RUN", 4)  # the six shards take two runs
    source = write_world(tmp_path / "in", shards=4, special={(2, 5): "raise"})
    (source / "s0.tar").write_bytes((source / "s0.tar").read_bytes()[: 4 * 1024 + 600])
    (source / "s3.tar").write_bytes(b"")
    (source / "s4.tar").mkdir()
    write_shard(source / "s5.tar", [text_row(1, 0), text_row(5, 1)])  # its first key is in s1 too
    out = tmp_path / "out"
    run(config(source, out))
    assert outcome_of_rows(out) == {
        "scored": 4 + 10 + 9 + 2, "truncated_tar": 1, "rewriting_failed": 1, "empty_shard": 1, "unreadable_shard": 1,
    }  # fmt: skip
    found = stats(out)
    assert (found["rows_in"], found["kept"], found["rejected"]) == (29, 24, {"duplicate_key": 1})
    assert not OutputLayout(root=out).journal.names()
    ran = re.findall(r"^Operator \d+ MapBatches\(FakeRewriterActor\)", (out / "ray_data_stats.txt").read_text(), re.M)
    assert len(ran) == 2
    run_info = read_run(OutputLayout(root=out))
    assert run_info is not None and run_info.rows == 29 and 0 < run_info.seconds["rewriting"] < run_info.seconds["wall"]


def outcome_of_rows(out: Path) -> dict[str, int]:
    """As `outcome`, but a key may be scored in two shards: `select` rejects the second."""
    from polite_flamingo.storage.ledger import read_quarantine, read_scored

    layout = OutputLayout(root=out)
    counts: dict[str, int] = {"scored": 0}
    for name in layout.finished():
        counts["scored"] += len(read_scored(layout, name))
        for row in read_quarantine(layout, name):
            counts[row.reason] = counts.get(row.reason, 0) + 1
    return counts


def test_second_run_opens_nothing_and_names_the_shards(
    undisturbed: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = undisturbed
    before = results(out)
    monkeypatch.setattr("ray_jobs.build_pf1m.rewrite_and_score", None)  # starting any work would raise
    run(config(source, out))
    printed = capsys.readouterr().out
    assert "6 of 6 shards are already done: s0, s1, s2, s3, s4, s5" in printed
    assert "rewriting_failed" in printed
    assert results(out) == before


def test_another_configuration_is_refused_and_fresh_starts_over(
    undisturbed: tuple[Path, Path], tmp_path: Path, ray_session: None
) -> None:
    source, out = write_world(tmp_path / "in", shards=1, rows=3), tmp_path / "out"
    run(config(source, out, rows_per_call=2))
    with pytest.raises(ValueError, match=r"another configuration .*differs in pools.rewriting.rows_per_call.*--fresh"):
        run(config(source, out, rows_per_call=3))  # which seeds the beams of its rewriter
    (out / "raw").mkdir()
    from dataclasses import replace

    run(replace(config(source, out, rows_per_call=3), fresh=True))
    assert outcome(out) == {"scored": 3}
    assert (out / "raw").exists(), "inputs may lie beside the output"


def test_select_again_needs_no_model(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    from polite_flamingo.filters.thresholds import Thresholds

    out = tmp_path / "out"
    shutil.copytree(undisturbed[1], out)
    select.job(select.SelectConfig(out=str(out), thresholds=Thresholds(min_words=10)))
    assert (stats(out)["kept"], stats(out)["rejected"]) == (0, {"too_short": 119})
    select.job(select.SelectConfig(out=str(out)))
    assert results(out) == results(undisturbed[1])


def test_a_row_that_kills_its_worker_is_quarantined_and_can_be_replayed(tmp_path: Path, ray_session: None) -> None:
    source, out = write_world(tmp_path / "in", shards=2, special={(0, 6): "kill"}), tmp_path / "out"
    run(config(source, out))
    assert outcome(out) == {"scored": 19, "killed_worker": 1}
    write_world(source, shards=1)  # the row is mended
    replay.replay(
        replay.ReplayConfig(out=str(out), reason=("killed_worker",)),
        fake_actors.FakeRewriterActor,
        fake_actors.FakeScoringActor,
    )
    assert outcome(out) == {"scored": 20}
    assert OutputLayout(root=out).finished() == ["s0", "s0~replay-1", "s1"]
    assert (stats(out)["rows_in"], stats(out)["kept"]) == (20, 20)


def test_a_model_that_cannot_load_ends_the_job_with_its_reason(tmp_path: Path, ray_session: None) -> None:
    source = write_world(tmp_path / "in", shards=1)
    with pytest.raises(console.JobFailed, match="checkpoint lacks 3 keys of the perceiver"):
        run(config(source, tmp_path / "out"), fake_actors.UnloadableActor)


def test_a_model_that_kills_its_process_while_loading_ends_the_job(tmp_path: Path, ray_session: None) -> None:
    source = write_world(tmp_path / "in", shards=1)
    with pytest.raises(console.JobFailed, match="died again and again while it loaded"):
        run(config(source, tmp_path / "out"), fake_actors.CrashingLoadActor)


def test_a_broken_model_ends_the_job_and_commits_nothing(tmp_path: Path, ray_session: None) -> None:
    source = write_world(tmp_path / "in", shards=1, rows=40, special={(0, row): "raise" for row in range(40)})
    with pytest.raises(console.JobFailed, match="33 rows in a row ended in rewriting_failed"):
        run(config(source, tmp_path / "out"))
    assert OutputLayout(root=tmp_path / "out").finished() == []


def test_pools_that_would_starve_are_refused(tmp_path: Path, ray_session: None) -> None:
    from dataclasses import replace

    source = write_world(tmp_path / "in", shards=1)
    job = replace(config(source, tmp_path / "out"), pools=PoolsConfig(rewriting=PoolConfig(cpus=64)))
    with pytest.raises(ValueError, match=r"need 65 CPUs and the cluster has 4, so the job would wait forever"):
        run(job)


def test_killing_an_actor_changes_nothing(undisturbed: tuple[Path, Path], tmp_path: Path, ray_session: None) -> None:
    source, expected = undisturbed
    out = tmp_path / "out"
    killed: list[int] = []

    def kill_when_busy() -> None:
        wait_until(lambda: journal.rows_done(OutputLayout(root=out).journal, "rewriting") > 0, 300)
        actors = descendants("MapWorker(MapBatches(FakeRewriterActor))")[:1]
        killed.extend(actor.pid for actor in actors)
        kill(actors)

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    run(config(source, out))
    killer.join()
    assert killed, "nothing was killed: the test shows nothing"
    assert results(out) == results(expected)


@pytest.mark.parametrize("whole_cluster", [False, True], ids=["driver", "cluster"])
def test_killing_the_job_and_starting_it_again_changes_nothing(
    undisturbed: tuple[Path, Path], tmp_path: Path, whole_cluster: bool
) -> None:
    source, expected = undisturbed
    out = tmp_path / "out"
    with start_driver(source, out) as driver:
        wait_until(lambda: len(OutputLayout(root=out).finished()) >= 1 or driver.poll() is not None, 300)
        assert driver.poll() is None, "the job ended before it could be killed"
        doomed = family(driver.pid)
        kill(doomed if whole_cluster else doomed[:1])
        driver.wait()
    done_before = OutputLayout(root=out).finished()
    time.sleep(2)
    with start_driver(source, out) as again:
        assert again.wait(timeout=500) == 0
    assert 0 < len(done_before) < 6, "killed too late: the test shows nothing"
    assert results(out) == results(expected)


def start_driver(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """Run a job in its own process with its own Ray."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.support.run_fake_build", str(source), str(out)]
    return subprocess.Popen(command, env=environment, cwd=REPO)
