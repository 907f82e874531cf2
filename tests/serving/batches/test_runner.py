"""Bulk jobs that are cancelled or expire, builds that die, and runners that are stopped, killed or started twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import psutil

from serving.batches.processes import builds_of
from serving.batches.runner import BatchRunner
from tests.support.bulk_site import Site, accounted, ended, line, run, site, start, upload
from tests.support.patience import wait_until
from tests.support.run_batches import bulk_config, runner


def waiting_job(client: openai.OpenAI) -> tuple[Any, set[str]]:
    """Return a job whose first shard finishes soon while two wait to be released, and its lines' names."""
    names = [f"row {number:02}" for number in range(15)]
    lines = [line(name, "a row" if number < 5 else "wait") for number, name in enumerate(names)]
    return start(client, upload(client, *lines)), set(names)


def building(folder: Path, *before: int) -> int:
    """Return the id of a new build's process once its first shard is finished; else 0."""
    finished = list(folder.glob("work/out/manifests/*.json"))
    return next((pid for pid in builds_of(folder / "work" / "out") if finished and pid not in before), 0)


def test_a_job_that_is_cancelled_keeps_what_it_has(shared: Site) -> None:
    """Ten rows are rewritten, the eleventh waits forever, the fifth is invalid; after a cancel, the ten are there."""
    client = shared.client()
    names = [f"row {number}" for number in range(14)]
    lines = [line(name, "wait" if name == "row 11" else "a row") for name in names]
    job = start(client, upload(client, *lines[:4], b"{}", *lines[4:]))
    process: list[psutil.Process] = []

    def finished() -> bool:
        shown = client.batches.retrieve(job.id)
        if shown.request_counts and shown.request_counts.completed == 10 and shown.status == "in_progress":
            assert shown.request_counts.failed == 1 and shown.request_counts.total == 15
            process.append(psutil.Process(building(shared.store.job_folder(job.id))))
            client.batches.cancel(job.id)
        return ended(client, job)()

    run(shared.config, finished)
    job, good, bad = accounted(client, job, {*names, None})
    assert job.status == "cancelled" and [one["custom_id"] for one in good] == names[:10]
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled", "invalid_value"}
    assert not process[0].is_running()


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
    broken = BatchRunner(shared.config, build=(sys.executable, "-c", "raise SystemExit(2)"), poll_seconds=0.02)
    run(shared.config, ended(client, job), broken)
    job, _, bad = accounted(client, job, {"a", None})
    assert job.status == "failed" and job.errors.data[0].code == "build_failed"
    assert {one["error"]["code"] for one in bad} == {"batch_failed", "invalid_json"}


def test_a_job_of_which_every_line_fails_is_completed_with_its_errors(shared: Site) -> None:
    """Its build ends with status 1, like a failed one, but it did its work."""
    client = shared.client()
    job = start(client, upload(client, line("a", "raise"), line("b", "raise")))
    run(shared.config, ended(client, job))
    job, _, bad = accounted(client, job, {"a", "b"})
    assert job.status == "completed" and {one["error"]["code"] for one in bad} == {"rewriting_failed"}


def test_a_runner_that_is_killed_loses_no_line(shared: Site) -> None:
    """Killed once while its build works, which goes on alone, and once more after that was taken over."""
    client = shared.client()
    job, names = waiting_job(client)
    folder = shared.store.job_folder(job.id)
    orphans: list[int] = []
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-m", "tests.support.run_batches", str(shared.store.root)]) as killed:
            wait_until(lambda: building(folder, *orphans))
            killed.send_signal(signal.SIGKILL)
        orphans.append(building(folder, *orphans))
        assert orphans[-1] and psutil.pid_exists(orphans[-1]), (
            "the build outlives its runner: the next one has to deal with that"
        )
    assert len(set(orphans)) == 2 and not is_alive(orphans[0])

    def finished() -> bool:
        if building(folder, *orphans):
            (folder / "work" / "out" / "released").touch()
        return ended(client, job)()

    run(shared.config, finished)
    assert not is_alive(orphans[1])
    job, good, _ = accounted(client, job, names)
    assert job.status == "completed" and len(good) == 15


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_runner_that_stops_ends_its_build_and_the_next_goes_on(shared: Site) -> None:
    client = shared.client()
    job, names = waiting_job(client)
    folder = shared.store.job_folder(job.id)
    run(shared.config, lambda: bool(building(folder)))
    assert not building(folder)
    assert client.batches.retrieve(job.id).status == "in_progress"
    (folder / "work" / "out" / "released").touch()
    run(shared.config, ended(client, job))
    assert accounted(client, job, names)[0].status == "completed"


def test_two_runners_do_not_share_a_folder(shared: Site) -> None:
    """The second runner waits until the first has ended, as during a redeployment."""
    client = shared.client()
    job, names = waiting_job(client)
    folder = shared.store.job_folder(job.id)

    async def both() -> None:
        first, second = runner(shared.config), runner(shared.config)
        first.start()
        while not (old := building(folder)):
            await asyncio.sleep(0.02)
        second.start()
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert building(folder) == old
        await first.stop()
        while not building(folder, old):
            await asyncio.sleep(0.02)
        (folder / "work" / "out" / "released").touch()
        while not await asyncio.to_thread(ended(client, job)):
            await asyncio.sleep(0.02)
        await second.stop()

    asyncio.run(both())
    accounted(client, job, names)
