"""Runs bulk jobs. Each folder has one runner, in a process that lives as long as the service.

A job's lines become shards (`build_files.py`), `python -m ray_jobs.build_pf1m` rewrites and scores them in a process of
its own, and its output becomes the job's two result files. All state is in the folder: the next runner resumes what has
not ended. If the build of a killed runner is still running, it is stopped and started again, and keeps its finished
shards.

A job ends as `completed`, or early as `cancelled`, `expired` or `failed`; its output file has what was rewritten by
then. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import logging
import math
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polite_flamingo.storage.ledger import OutputLayout
from serving.batches.build_files import JobError, progress, write_inputs, write_results
from serving.batches.processes import end, end_orphans
from serving.batches.records import Job, Status
from serving.batches.store import BatchStore
from serving.chat.images import ImageLoader
from serving.config import ServiceConfig
from serving.errors import ApiError

BUILD = (sys.executable, "-m", "ray_jobs.build_pf1m")

ATTEMPTS = 3
"""Tries per build. Each resumes the last one, so a machine failure costs little."""

SWEEP_SECONDS = 3600.0

_ROOT = Path(__file__).parents[2]

log = logging.getLogger(__name__)


class BatchRunner:
    """Finds jobs and runs them, from `start` to `stop`, on one event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        environment: Mapping[str, str] | None = None,
        *,
        build: Sequence[str] = BUILD,
        poll_seconds: float = 0.5,
    ):
        """Prepare; nothing runs before `start`.

        Args:
            config: the service's config; `serving.batches.folder` must be set.
            environment: variables for the builds, added to this process's own; RAY_ADDRESS names the cluster to join.
            build: the command, before `--profile`, `--input` and `--out`.
            poll_seconds: seconds between two checks of the folder.
        """
        if not config.serving.batches.folder:
            raise ValueError("bulk jobs need a folder: set serving.batches.folder")
        self._config, self._command, self._poll = config, tuple(build), poll_seconds
        self._environment = {**os.environ, **(environment or {})}
        path = filter(None, (str(_ROOT), self._environment.get("PYTHONPATH")))
        self._environment["PYTHONPATH"] = os.pathsep.join(path)
        self._store = BatchStore(config.serving.batches)
        self._images = ImageLoader(config.serving.limits, config.serving.remote_images)
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin on the running loop; if another runner holds the folder, wait until it ends."""
        assert self._main is None
        self._main = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop the builds; the next runner resumes their jobs."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
            self._main = None

    @property
    def failure(self) -> BaseException | None:
        """Return the exception that ended the runner, if any."""
        if self._main is None or not self._main.done() or self._main.cancelled():
            return None
        return self._main.exception()

    async def _run(self) -> None:
        with (self._store.make_root() / ".runner").open("w") as lock:
            while not _locked(lock.fileno()):
                await asyncio.sleep(self._poll)
            running: dict[str, asyncio.Task[None]] = {}
            ended: set[str] = set()
            swept = -math.inf
            try:
                while True:
                    if time.monotonic() - swept >= SWEEP_SECONDS:
                        await asyncio.to_thread(self._store.sweep)
                        swept = time.monotonic()
                    for job in await asyncio.to_thread(self._store.unfinished, ended):
                        if job.id not in running and len(running) < self._config.serving.batches.at_once:
                            running[job.id] = asyncio.create_task(self._run_job(job))
                    await asyncio.sleep(self._poll)
                    for job_id in [one for one, task in running.items() if task.done()]:
                        await running.pop(job_id)
            finally:
                for task in running.values():
                    task.cancel()
                await asyncio.gather(*running.values(), return_exceptions=True)

    async def _run_job(self, job: Job) -> None:
        """Run a job from its current status to its end."""
        folder = self._store.job_folder(job.id)
        try:
            await asyncio.to_thread(end_orphans, folder / "work" / "out")
            ending = job.ending
            if not ending:
                job, ending = await self._process(job)
            await self._finish(job, ending)
        except JobError as error:
            self._reach(job, "failed", errors=[_error(error.code, error.message)])
        except Exception as error:  # a broken job must not end the others
            last = traceback.extract_tb(error.__traceback__)[-1]
            name = type(error).__name__  # its message may hold what the client sent
            log.error("bulk job %s failed: %s at %s:%s", job.id, name, last.filename, last.lineno)
            message = "the server failed to finish this job; see the server log"
            self._reach(job, "failed", errors=[_error("internal_error", message)])
        shutil.rmtree(folder / "work", ignore_errors=True)

    async def _process(self, job: Job) -> tuple[Job, Status]:
        """Validate and build until the job is done, or there is a reason to end early.

        Returns:
            The job's current state, and its final status.
        """
        if job.status == "validating":
            work = self._store.job_folder(job.id) / "work"
            source = self._store.data(job.input_file_id)
            preparing = asyncio.create_task(write_inputs(source, work, job.id, self._config, self._images))
            try:
                while not preparing.done():
                    if early := self._early_end(job):
                        return job, early
                    await asyncio.wait({preparing}, timeout=self._poll)
                total, bad = await preparing
            finally:
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
            job = self._reach(job, "in_progress", total=total, invalid=bad, failed=bad)
        if job.invalid == job.total:
            return job, "completed"
        for attempt in range(ATTEMPTS):
            job, ending = await self._build_once(job)
            if ending != "failed":
                break
            log.warning("bulk job %s: attempt %d of its build failed", job.id, attempt + 1)
        return job, ending

    def _early_end(self, job: Job) -> Status | None:
        if self._store.cancelled_at(job.id) is not None:
            return "cancelled"
        return "expired" if self._store.now() >= job.expires else None

    async def _build_once(self, job: Job) -> tuple[Job, Status]:
        """Make one attempt at the build."""
        folder = self._store.job_folder(job.id)
        work = folder / "work"
        counted: dict[str, tuple[int, int]] = {}
        places = f"--profile={work / 'profile.yaml'}", f"--input={work / 'in'}", f"--out={work / 'out'}"
        with (folder / "build.log").open("ab") as output:
            process = subprocess.Popen(  # polled: asyncio's subprocesses need a loop on the main thread
                [*self._command, *places], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        try:
            while process.poll() is None:
                if early := self._early_end(job):
                    return job, early
                await asyncio.sleep(self._poll)
                job = self._save_progress(job, counted)
            # A build exits with 1 if it failed, or if it quarantined every row; then it has written its statistics.
            done = OutputLayout(root=work / "out").stats.exists()
            ended = process.returncode == 0 or (process.returncode == 1 and done)
            return self._save_progress(job, counted), "completed" if ended else "failed"
        finally:
            await asyncio.to_thread(end, process)  # takes seconds if it does not react

    def _save_progress(self, job: Job, counted: dict[str, tuple[int, int]]) -> Job:
        """Return the job with its current progress, saved if it has changed."""
        completed, quarantined = progress(self._store.job_folder(job.id) / "work", counted)
        current = dataclasses.replace(job, completed=completed, failed=job.invalid + quarantined)
        if current != job:
            self._store.save(current)
        return current

    async def _finish(self, job: Job, ending: Status) -> None:
        """Write the result files and end the job."""
        if not job.total:  # it ended before its lines were counted
            self._reach(job, ending)
            return
        job = self._reach(job, "finalizing", ending=ending)
        work = self._store.job_folder(job.id) / "work"
        uploads = self._store.new_upload(), self._store.new_upload()
        output, errors = (upload / "data" for upload in uploads)
        counts = await asyncio.to_thread(
            write_results, work, job.id, self._config, output, errors, _NOT_REACHED[ending]
        )
        files = []
        for upload, count, name in zip(uploads, counts, ("output", "error"), strict=True):
            if count:
                arguments = upload, job.owner, f"{job.id}_{name}.jsonl", "batch_output"
                files.append((await asyncio.to_thread(self._store.add_file, *arguments)).id)
            else:
                shutil.rmtree(upload)
                files.append("")
        completed, failed = counts
        build_failed = [_error("build_failed", f"the build failed {ATTEMPTS} times; its results so far are kept")]
        self._reach(
            job, ending, total=completed + failed, completed=completed, failed=failed, output_file_id=files[0],
            error_file_id=files[1], errors=build_failed if ending == "failed" else [],
        )  # fmt: skip
        if ending != "failed":  # else keep it for the operator
            (self._store.job_folder(job.id) / "build.log").unlink(missing_ok=True)

    def _reach(self, job: Job, status: Status, **changes: Any) -> Job:
        """Save the job with another status."""
        reached = {**job.reached, status: self._store.now()}
        job = dataclasses.replace(job, status=status, reached=reached, **changes)
        self._store.save(job)
        return job


_NOT_REACHED: dict[Status, ApiError | None] = {
    "completed": None,
    "failed": ApiError(500, "the job failed before this line", "server_error", "batch_failed"),
    "cancelled": ApiError(409, "the job was cancelled before this line", code="batch_cancelled"),
    "expired": ApiError(408, "the job expired before this line", code="batch_expired"),
}


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "line": None, "param": None}
