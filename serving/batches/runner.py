"""Runs bulk jobs. A folder or bucket may have any number of runners, each in a process that lives as long as its
service.

A job's lines become shards (`build_files.py`), `python -m ray_jobs.build_pf1m` rewrites and scores them in a process of
its own, and its output becomes the job's two result files. All state is in the store: a runner that dies stops renewing
the lease on its job, and another one, on whatever machine, takes the job from where it was. Finished shards are kept.
A build ends with its runner.

A job ends as `completed`, or early as `cancelled`, `expired` or `failed`; its output file has what was rewritten by
then. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from polite_flamingo.storage.lease import Lease
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.visibility import PathUnavailable
from serving.batches import processes
from serving.batches.build_files import JobError, output_of, progress, write_inputs, write_results
from serving.batches.records import Job, Status
from serving.batches.store import BatchStore, HeldJob, JobLost
from serving.chat.images import ImageLoader
from serving.config import ServiceConfig
from serving.errors import ApiError

BUILD = (sys.executable, "-m", "ray_jobs.build_pf1m")

PAUSES = (30.0, 120.0, 600.0)
"""Seconds before a build that failed is tried again, if it has finished no shard since it last failed; then the job
fails. Each try resumes the last one. A cluster that has just lost a machine may have no room for a while."""

LEASE_SECONDS = 30.0
"""Time after which a job is taken from a runner that does not answer."""

POLL_SECONDS = 2.0
"""Time between two looks at the queue, and at the progress of a build."""

SWEEP_SECONDS = 3600.0

LOG_BYTES = 1 << 20
"""How much of a failed build's log is kept."""

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
        poll_seconds: float = POLL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        pauses: Sequence[float] = PAUSES,
    ):
        """Prepare; nothing runs before `start`.

        Args:
            config: the service's config; `serving.batches.folder` must be set.
            environment: variables for the builds, added to this process's own; RAY_ADDRESS names the cluster to join.
            build: the command, before `--profile`, `--input` and `--out`.
            poll_seconds: see `POLL_SECONDS`.
            lease_seconds: see `LEASE_SECONDS`; the same for all runners of a folder.
            pauses: see `PAUSES`.
        """
        if not config.serving.batches.folder:
            raise ValueError("bulk jobs need a folder: set serving.batches.folder")
        self._config, self._command, self._poll = config, tuple(build), poll_seconds
        self._lease_seconds, self._pauses = lease_seconds, tuple(pauses)
        self._environment = {**os.environ, **(environment or {})}
        path = filter(None, (str(_ROOT), self._environment.get("PYTHONPATH")))
        self._environment["PYTHONPATH"] = os.pathsep.join(path)
        self._store = BatchStore(config.serving.batches)
        self._images = ImageLoader(config.serving.limits, config.serving.remote_images)
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin on the running loop."""
        assert self._main is None
        self._main = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop the builds; other runners, or the next one, resume their jobs."""
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
        self._store.make_root()
        running: dict[str, asyncio.Task[None]] = {}
        leases: dict[str, Lease] = {}
        swept = -math.inf
        try:
            while True:
                try:
                    if time.monotonic() - swept >= SWEEP_SECONDS:
                        await asyncio.to_thread(self._store.sweep)
                        swept = time.monotonic()
                    queue = await asyncio.to_thread(self._store.queue)
                    leases = {job_id: lease for job_id, lease in leases.items() if job_id in queue}
                    for job_id in queue:
                        if job_id not in running and len(running) < self._config.serving.batches.at_once:
                            lease = leases.setdefault(job_id, self._store.lease(job_id, self._lease_seconds))
                            if await self._attempt(job_id, lease):
                                running[job_id] = asyncio.create_task(self._run_job(job_id, leases.pop(job_id)))
                except PathUnavailable as error:
                    log.warning("bulk jobs wait: %s", error)
                await asyncio.sleep(self._poll)
                running = {job_id: task for job_id, task in running.items() if not task.done()}
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _attempt(self, job_id: str, lease: Lease) -> bool:
        """Try to take a job; one whose lease is stuck must not hold up the others."""
        try:
            return await asyncio.to_thread(lease.attempt)
        except PathUnavailable as error:
            log.warning("bulk job %s waits: %s", job_id, error)
            return False

    async def _run_job(self, job_id: str, lease: Lease) -> None:
        """Run a job from its current status to its end, unless it is lost. Args: lease: on the job, just taken."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def lost(why: str) -> None:
            log.warning("bulk job %s is left to another runner: %s", job_id, why)
            loop.call_soon_threadsafe(task.cancel)

        lease.keep(lost)
        try:
            held = await asyncio.to_thread(self._store.take, job_id)
            if held is not None:
                await self._end(held)
                await asyncio.to_thread(self._store.close, held.job)
        except JobLost:
            log.warning("bulk job %s: another runner has taken it", job_id)
        except PathUnavailable as error:
            log.warning("bulk job %s waits: %s", job_id, error)
        finally:
            await asyncio.to_thread(lease.release)

    async def _end(self, held: HeldJob) -> None:
        """Bring a job to its end. Raises `JobLost`, and `PathUnavailable` if the store is out of reach."""
        try:
            await self._finish(held, held.job.ending or await self._process(held))
        except JobError as error:
            await self._reach(held, "failed", errors=[_error(error.code, error.message)])
        except JobLost:
            raise
        except Exception as error:  # a broken job must not end the others
            if isinstance(error, PathUnavailable) and not isinstance(error.__cause__, FileNotFoundError):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            name = type(error).__name__  # its message may hold what the client sent
            log.error("bulk job %s failed: %s at %s:%s", held.job.id, name, last.filename, last.lineno)
            message = "the server failed to finish this job; see the server log"
            await self._reach(held, "failed", errors=[_error("internal_error", message)])

    async def _process(self, held: HeldJob) -> Status:
        """Validate and build until the job is done, or there is a reason to end early; return its final status."""
        if held.job.status == "validating":
            work = f"work-{secrets.token_hex(8)}"
            folder = self._store.job_folder(held.job.id) / work
            source = self._store.data(held.job.input_file_id)
            preparing = asyncio.create_task(write_inputs(source, folder, held.job.id, self._config, self._images))
            try:
                while not preparing.done():
                    if early := await self._early_end(held.job):
                        return early
                    await asyncio.wait({preparing}, timeout=self._poll)
                total, bad = await preparing
            finally:
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
            await self._reach(held, "in_progress", work=work, total=total, invalid=bad, failed=bad)
        if held.job.invalid == held.job.total:
            return "completed"
        lines, failures = 0, 0
        while (ending := await self._build_once(held)) == "failed":
            now = held.job.completed + held.job.failed
            lines, failures = now, 1 if now > lines else failures + 1
            if failures > len(self._pauses):
                break
            pause = self._pauses[failures - 1]
            log.warning("bulk job %s: its build failed; the next try is in %.0f s", held.job.id, pause)
            resume = time.monotonic() + pause
            while time.monotonic() < resume:
                if early := await self._early_end(held.job):
                    return early
                await asyncio.sleep(min(self._poll, pause))
        return ending

    async def _early_end(self, job: Job) -> Status | None:
        if await asyncio.to_thread(self._store.cancelled_at, job.id) is not None:
            return "cancelled"
        return "expired" if self._store.now() >= job.expires else None

    async def _build_once(self, held: HeldJob) -> Status:
        """Make one attempt at the build."""
        work = self._work(held.job)
        counted: dict[str, tuple[int, int]] = {}
        with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as output:
            profile = Path(scratch, "profile.yaml")
            profile.write_bytes(await asyncio.to_thread((work / "profile.yaml").read_bytes))
            places = f"--profile={profile}", f"--input={work / 'in'}", f"--out={work / 'out'}"
            process = processes.start([*self._command, *places], output, self._environment)
            try:
                while process.poll() is None:
                    if early := await self._early_end(held.job):
                        return early
                    await asyncio.sleep(self._poll)
                    await self._save_progress(held, counted)
                # A build exits with 1 if it failed, or if it quarantined every row; then it has its statistics.
                await self._save_progress(held, counted)
                if process.returncode == 0 or (
                    process.returncode == 1 and await asyncio.to_thread(output_of(work).stats.exists)
                ):
                    return "completed"
                await asyncio.to_thread(_keep_log, output, self._log(held.job))
                return "failed"
            finally:
                await asyncio.to_thread(processes.end, process)  # takes seconds if it does not react

    async def _save_progress(self, held: HeldJob, counted: dict[str, tuple[int, int]]) -> None:
        completed, quarantined = await asyncio.to_thread(progress, self._work(held.job), counted)
        await asyncio.to_thread(held.change, completed=completed, failed=held.job.invalid + quarantined)

    async def _finish(self, held: HeldJob, ending: Status) -> None:
        """Write the result files and end the job.

        The change that names the files decides which are the results. What a runner that is killed before it leaves,
        nobody ever sees; after it, another can do the rest.
        """
        if not held.job.total:  # it ended before its lines were counted
            await self._reach(held, ending)
            return
        if held.job.status != "finalizing":
            await self._reach(held, "finalizing", ending=ending)
        if not held.job.written:
            files = await asyncio.to_thread(lambda: (self._store.new_file(), self._store.new_file()))
            counts = await asyncio.to_thread(self._write_results, held.job, *files)
            for file, count in zip(files, counts, strict=True):
                if not count:
                    await asyncio.to_thread(self._store.delete_file, file)
            output, errors = (file if count else "" for file, count in zip(files, counts, strict=True))
            completed, failed = counts
            await asyncio.to_thread(
                partial(
                    held.change, total=completed + failed, completed=completed, failed=failed, written=True,
                    output_file_id=output, error_file_id=errors,
                )
            )  # fmt: skip
        for file, name in ((held.job.output_file_id, "output"), (held.job.error_file_id, "error")):
            if file:
                arguments = file, held.job.owner, f"{held.job.id}_{name}.jsonl", "batch_output"
                since = held.job.reached["finalizing"]
                await asyncio.to_thread(partial(self._store.add_file, *arguments, created=since))
        why = [_error("build_failed", "the build failed repeatedly; its results so far are kept")]
        await self._reach(held, ending, errors=why if ending == "failed" else [])
        if ending != "failed":  # else keep it for the operator
            await asyncio.to_thread(self._log(held.job).delete)

    def _write_results(self, job: Job, output_id: str, errors_id: str) -> tuple[int, int]:
        with self._store.data(output_id).writer() as output, self._store.data(errors_id).writer() as errors:
            return write_results(
                self._work(job), job.id, self._config, output, errors, _NOT_REACHED[job.ending or "failed"]
            )

    async def _reach(self, held: HeldJob, status: Status, **changes: Any) -> None:
        """Save the job with another status."""
        reached = {**held.job.reached, status: self._store.now()}
        await asyncio.to_thread(partial(held.change, status=status, reached=reached, **changes))

    def _work(self, job: Job) -> Location:
        return self._store.job_folder(job.id) / job.work

    def _log(self, job: Job) -> Location:
        return self._store.job_folder(job.id) / "build.log"


_NOT_REACHED: dict[Status, ApiError | None] = {
    "completed": None,
    "failed": ApiError(500, "the job failed before this line", "server_error", "batch_failed"),
    "cancelled": ApiError(409, "the job was cancelled before this line", code="batch_cancelled"),
    "expired": ApiError(408, "the job expired before this line", code="batch_expired"),
}


def _keep_log(output: BinaryIO, log_file: Location) -> None:
    """Add the end of a failed build's output to the job's log."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - LOG_BYTES))
    try:
        before = log_file.read_bytes()
    except FileNotFoundError:
        before = b""
    log_file.put((before + output.read())[-LOG_BYTES:])


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "line": None, "param": None}
