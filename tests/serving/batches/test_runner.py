"""Bulk jobs that are cancelled or expire, builds that die, and runners that are stopped, killed, asleep or many."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from polite_flamingo.storage import disk
from serving.batches.build_files import output_of
from serving.batches.runner import BatchRunner
from serving.batches.store import BatchStore, HeldJob
from tests.support.bulk_site import Site, accounted, ended, line, run, site, start, upload
from tests.support.patience import wait_until
from tests.support.processes import builds_into, is_alive, killed_at_the_end, stop_outside_swaps
from tests.support.run_batches import bulk_config, runner


def waiting_job(client: openai.OpenAI) -> tuple[Any, set[str]]:
    """Return a job whose first shard finishes soon while two wait to be released, and its lines' names."""
    names = [f"row {number:02}" for number in range(15)]
    lines = [line(name, "a row" if number < 5 else "wait") for number, name in enumerate(names)]
    return start(client, upload(client, *lines)), set(names)


def building(store: BatchStore, job_id: str, *before: psutil.Process) -> psutil.Process | None:
    """Return a new build's process once its first shard is finished."""
    job = next(one for one in store.jobs() if one.id == job_id)
    work = store.job_folder(job_id) / job.work
    finished = job.status == "in_progress" and output_of(work).finished()
    new = [one for one in builds_into(str(work / "out")) if one not in before] if finished else []
    return new[0] if new else None


def other_runner(service: Site) -> subprocess.Popen[bytes]:
    """Start a runner in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "tests.support.run_batches", str(service.store.root)])


def release(store: BatchStore, job_id: str) -> None:
    """Let the rows go on that wait."""
    job = next(one for one in store.jobs() if one.id == job_id)
    (store.job_folder(job_id) / job.work / "out" / "released").put("")


def test_a_job_that_is_cancelled_keeps_what_it_has(shared: Site) -> None:
    """Ten rows are rewritten, the eleventh waits forever, the fifth is invalid; after a cancel, the ten are there."""
    client = shared.client()
    names = [f"row {number}" for number in range(14)]
    lines = [line(name, "wait" if name == "row 11" else "a row") for name in names]
    job = start(client, upload(client, *lines[:4], b"{}", *lines[4:]))
    process: list[psutil.Process | None] = []

    def finished() -> bool:
        shown = client.batches.retrieve(job.id)
        if shown.request_counts and shown.request_counts.completed == 10 and shown.status == "in_progress":
            assert shown.request_counts.failed == 1 and shown.request_counts.total == 15
            process.append(building(shared.store, job.id))
            client.batches.cancel(job.id)
        return ended(client, job)()

    run(shared.config, finished)
    job, good, bad = accounted(client, job, {*names, None})
    assert job.status == "cancelled" and [one["custom_id"] for one in good] == names[:10]
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled", "invalid_value"}
    assert process[0] and not is_alive(process[0])


def test_a_job_that_takes_too_long_expires_with_what_it_has(tmp_path: Path) -> None:
    """The clock is the store's."""
    with site(bulk_config(tmp_path / "jobs"), tmp_path) as made:
        client = made.client()
        job = start(
            client, upload(client, *(line(str(n), "wait" if n == 7 else "a") for n in range(8))), completion_window="2h"
        )
        batches = runner(made.config)

        def finished() -> bool:
            if (shown := client.batches.retrieve(job.id)).request_counts and shown.request_counts.completed == 5:
                batches._store.now = lambda: time.time() + 2 * 3600
            return ended(client, job)()

        run(made.config, finished, batches)
        job, good, bad = accounted(client, job, {str(number) for number in range(8)})
        assert job.status == "expired" and len(good) == 5
        assert {one["error"]["code"] for one in bad} == {"batch_expired"}


def test_a_build_that_dies_is_started_again_and_one_that_cannot_work_fails(shared: Site) -> None:
    client = shared.client()
    names = {str(number) for number in range(12)}
    job = start(client, upload(client, *(line(one, "kill" if one == "7" else "a row") for one in names)))
    run(shared.config, ended(client, job))
    job, good, _ = accounted(client, job, names)
    assert job.status == "completed" and len(good) == 12

    job = start(client, upload(client, line("a"), b"{"))
    broken = BatchRunner(
        shared.config,
        build=(sys.executable, "-c", "print('no room'); raise SystemExit(2)"),
        poll_seconds=0.02,
        pauses=(0.0,),
    )
    run(shared.config, ended(client, job), broken)
    job, _, bad = accounted(client, job, {"a", None})
    assert job.status == "failed" and job.errors.data[0].code == "build_failed"
    assert {one["error"]["code"] for one in bad} == {"batch_failed", "invalid_json"}
    assert (shared.store.job_folder(job.id) / "build.log").read_text() == "no room\n" * 2


def test_a_job_of_which_every_line_fails_is_completed_with_its_errors(shared: Site) -> None:
    """Its build ends with status 1, like a failed one, but it did its work."""
    client = shared.client()
    job = start(client, upload(client, line("a", "raise"), line("b", "raise")))
    run(shared.config, ended(client, job))
    job, _, bad = accounted(client, job, {"a", "b"})
    assert job.status == "completed" and {one["error"]["code"] for one in bad} == {"rewriting_failed"}


@pytest.fixture
def in_a_bucket(bucket: str, tmp_path: Path) -> Iterator[Site]:
    """A service whose files and jobs are in a bucket."""
    with site(bulk_config(bucket), tmp_path) as made:
        yield made


def test_a_runner_that_is_killed_loses_no_line(in_a_bucket: Site) -> None:
    """Its build ends with it, and the next runner goes on as soon as the lease has run out."""
    client = in_a_bucket.client()
    job, names = waiting_job(client)
    builds: list[psutil.Process] = []
    for _ in range(2):
        with killed_at_the_end(other_runner(in_a_bucket)) as killed:
            wait_until(lambda: building(in_a_bucket.store, job.id, *builds))
            builds.append(building(in_a_bucket.store, job.id, *builds))  # type: ignore[arg-type]
            killed.kill()
        wait_until(lambda: not is_alive(builds[-1]))

    def finished() -> bool:
        if building(in_a_bucket.store, job.id, *builds):
            release(in_a_bucket.store, job.id)
        return ended(client, job)()

    run(in_a_bucket.config, finished)
    job, good, _ = accounted(client, job, names)
    assert job.status == "completed" and len(good) == 15


def test_a_runner_that_slept_past_its_lease_changes_nothing(shared: Site) -> None:
    """It is stopped before it has noticed that its build is done; meanwhile another runner ends the job."""
    client = shared.client()
    job, names = waiting_job(client)
    with killed_at_the_end(other_runner(shared)) as sleeper:
        wait_until(lambda: building(shared.store, job.id))
        build = building(shared.store, job.id)
        stop_outside_swaps(psutil.Process(sleeper.pid), Path(str(shared.store.job_folder(job.id))))
        release(shared.store, job.id)
        wait_until(lambda: build is None or not is_alive(build))
        run(shared.config, ended(client, job))
        before = accounted(client, job, names)
        files = [one.id for one in client.files.list()]
        sleeper.send_signal(signal.SIGCONT)
        other = start(client, upload(client, line("a")))
        wait_until(ended(client, other))  # by the one who woke: nobody else is there
        assert accounted(client, job, names) == before
        assert [one.id for one in client.files.list() if one.id in files] == files


def test_a_job_whose_lease_is_stuck_holds_up_no_other(shared: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped while it took the lease has the lock of its file; the stuck job is first in line."""
    client = shared.client()
    stuck, names = waiting_job(client)
    run(shared.config, lambda: bool(building(shared.store, stuck.id)))
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.05)
    with Path(str(shared.store.job_folder(stuck.id) / ".lock.json.lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = start(client, upload(client, line("a")))
        run(shared.config, ended(client, other))
        assert client.batches.retrieve(stuck.id).status == "in_progress"
    release(shared.store, stuck.id)
    run(shared.config, ended(client, stuck))
    assert accounted(client, stuck, names)[0].status == "completed"


def test_a_runner_that_is_killed_while_it_writes_results_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is in nobody's list, and is swept a day later."""
    with site(bulk_config(tmp_path / "jobs"), tmp_path) as made:
        client = made.client()
        job = start(client, upload(client, line("a"), b"{"))
        with monkeypatch.context() as patch:
            patch.setattr(BatchStore, "add_file", lambda *_, **__: 1 / 0)  # as good as a kill: nothing comes after it
            patch.setattr(BatchRunner, "_end", _without_errors)
            run(made.config, lambda: bool(made.store.jobs()[0].written))
        assert [one.purpose for one in client.files.list()] == ["batch"]
        assert client.batches.retrieve(job.id).status == "finalizing"
        made.store.now = lambda: time.time() + 2 * 86400
        made.store.sweep()
        run(made.config, lambda: not made.store.queue())
        accounted(client, job, {"a", None})
        assert not (made.store.root / "uploads").names()


async def _without_errors(self: BatchRunner, held: HeldJob) -> None:
    await self._finish(held, held.job.ending or await self._process(held))


def test_a_runner_that_stops_ends_its_build_and_the_next_goes_on(shared: Site) -> None:
    client = shared.client()
    job, names = waiting_job(client)
    run(shared.config, lambda: bool(building(shared.store, job.id)))
    assert not building(shared.store, job.id)
    assert client.batches.retrieve(job.id).status == "in_progress"
    release(shared.store, job.id)
    run(shared.config, ended(client, job))
    assert accounted(client, job, names)[0].status == "completed"


def test_runners_share_the_jobs_of_a_folder(shared: Site) -> None:
    """Each job has one runner at a time; when that stops, as in a redeployment, another goes on."""
    client = shared.client()
    jobs, names = zip(*(waiting_job(client) for _ in range(2)), strict=True)

    async def both() -> None:
        first, second = runner(shared.config), runner(shared.config)
        first.start()
        second.start()
        while not all(building(shared.store, job.id) for job in jobs):
            await asyncio.sleep(0.02)
        builds = [building(shared.store, job.id) for job in jobs]
        await first.stop()
        assert len([build for build in builds if build and is_alive(build)]) == 1
        for job in jobs:
            release(shared.store, job.id)
        while not await asyncio.to_thread(ended(client, *jobs)):
            await asyncio.sleep(0.02)
        await second.stop()

    asyncio.run(both())
    for job, expected in zip(jobs, names, strict=True):
        accounted(client, job, expected)


def test_a_job_of_an_earlier_version_is_finished(tmp_path: Path) -> None:
    """It had no queue, and its work was in WORK; the input is a copy, with the names as they were."""
    with site(bulk_config(tmp_path / "jobs"), tmp_path) as made:
        client = made.client()
        job, names = waiting_job(client)
        run(made.config, lambda: bool(building(made.store, job.id)))
        folder = tmp_path / "jobs" / "jobs" / job.id
        [work] = folder.glob("work-*")
        work.rename(folder / "work")
        record = json.loads((folder / "job.json").read_text())
        for name in ("work", "written", "runner"):
            del record[name]
        (folder / "job.json").write_text(json.dumps(record))
        shutil.rmtree(tmp_path / "jobs" / "queue")
        release(made.store, job.id)
        run(made.config, ended(client, job))
        assert accounted(client, job, names)[0].status == "completed"
