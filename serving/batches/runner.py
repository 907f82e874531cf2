"""Runs bulk jobs: one of these for a folder, in a process that lives as long as the service.

A job's lines become shards (`work.py`), `python -m ray_jobs.build_pf1m` rewrites and scores them in a process of
its own, and its output becomes the job's two result files. The folder says all there is to know: whoever starts next
goes on with what has not ended. The build of a runner that was killed may still run then; it is ended and started
again, and takes up its finished shards.

A job ends as `completed`, or early as `cancelled`, `expired` or `failed`; what was rewritten by then is in its output
file all the same. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polite_flamingo.storage.ledger import OutputLayout
from serving.batches.store import BatchStore, Job, Status
from serving.batches.work import Refused, prepare, progress, write_results
from serving.chat.images import Pictures
from serving.config import ServiceConfig
from serving.errors import ApiError

BUILD = (sys.executable, "-m", "ray_jobs.build_pf1m")

ATTEMPTS = 3
"""At a build: it takes up what it finished, so a machine's mishap costs little."""

GRACE_SECONDS = 15.0
"""That a build has to end when it is asked to; then it is killed."""

SWEEP_SECONDS = 3600.0

_ROOT = Path(__file__).parents[2]

log = logging.getLogger(__name__)


class BatchRunner:
    """Looks for jobs and runs them, from `start` to `stop`, on one event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        environment: Mapping[str, str] | None = None,
        *,
        build: Sequence[str] = BUILD,
        poll_seconds: float = 0.5,
    ):
        """Nothing runs yet.

        Args:
            config: of the service; `serving.batches.folder` must be set.
            environment: of the builds, over this process's own; RAY_ADDRESS names the cluster to join.
            build: the command, before `--profile`, `--input` and `--out`.
            poll_seconds: between two looks at the folder.
        """
        if not config.serving.batches.folder:
            raise ValueError("bulk jobs need a folder: set serving.batches.folder")
        self._config, self._build, self._poll = config, tuple(build), poll_seconds
        self._environment = {**os.environ, **(environment or {})}
        path = self._environment.get("PYTHONPATH")
        self._environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *([path] if path else [])])
        self._store = BatchStore(config.serving.batches)
        self._pictures = Pictures(config.serving.limits, config.serving.remote_images)
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop. Where another runner holds the folder, begin when that one ends."""
        assert self._main is None
        self._main = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the builds; their jobs go on when a runner is started again."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
            self._main = None

    @property
    def failure(self) -> BaseException | None:
        """What ended the runner, if anything did."""
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
                            running[job.id] = asyncio.create_task(self._job(job))
                    await asyncio.sleep(self._poll)
                    for identity in [one for one, task in running.items() if task.done()]:
                        await running.pop(identity)
            finally:
                for task in running.values():
                    task.cancel()
                await asyncio.gather(*running.values(), return_exceptions=True)

    async def _job(self, job: Job) -> None:
        """One job, from wherever it is, to its end."""
        folder = self._store.job_folder(job.id)
        try:
            await asyncio.to_thread(_end_orphans, folder / "work" / "out")
            ending = job.ending
            if not ending:
                job, ending = await self._worked(job)
            await self._finish(job, ending)
        except Refused as refused:
            self._reach(job, "failed", errors=[_error(refused.code, refused.message)])
        except Exception as error:  # one broken job must not end the others
            last = traceback.extract_tb(error.__traceback__)[-1]
            name = type(error).__name__  # its message may hold what the client sent
            log.error("bulk job %s failed: %s at %s:%s", job.id, name, last.filename, last.lineno)
            message = "the server could not finish this job; its operator finds the place of the error in the log"
            self._reach(job, "failed", errors=[_error("internal_error", message)])
        shutil.rmtree(folder / "work", ignore_errors=True)

    async def _worked(self, job: Job) -> tuple[Job, Status]:
        """Validate and build, until that is done or there is a reason to end early.

        Returns:
            The job as it is now, and the status that it is to end with.
        """
        if job.status == "validating":
            work = self._store.job_folder(job.id) / "work"
            source = self._store.data(job.input_file_id)
            preparing = asyncio.create_task(prepare(source, work, job.id, self._config, self._pictures))
            try:
                while not preparing.done():
                    if early := self._early(job):
                        return job, early
                    await asyncio.wait({preparing}, timeout=self._poll)
                counts = await preparing
            finally:
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
            job = self._reach(job, "in_progress", total=counts.total, invalid=counts.invalid, failed=counts.invalid)
        if job.invalid == job.total:
            return job, "completed"
        for attempt in range(ATTEMPTS):
            job, ending = await self._built(job)
            if ending != "failed":
                break
            log.warning("bulk job %s: attempt %d of its build failed", job.id, attempt + 1)
        return job, ending

    def _early(self, job: Job) -> Status | None:
        if self._store.cancelling(job.id) is not None:
            return "cancelled"
        return "expired" if self._store.now() >= job.expires else None

    async def _built(self, job: Job) -> tuple[Job, Status]:
        """One attempt at the build."""
        folder = self._store.job_folder(job.id)
        work = folder / "work"
        known: dict[str, tuple[int, int]] = {}
        command = [
            *self._build,
            f"--profile={work / 'profile.yaml'}",
            f"--input={work / 'in'}",
            f"--out={work / 'out'}",
        ]
        with (folder / "build.log").open("ab") as output:
            process = subprocess.Popen(  # polled: asyncio's own children need a loop on the main thread
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment,
                start_new_session=True,
            )  # fmt: skip
        try:
            while process.poll() is None:
                if early := self._early(job):
                    return job, early
                await asyncio.sleep(self._poll)
                job = self._counted(job, known)
            # 1 is of a build that broke down, and of one whose rows were all quarantined: that one writes its figures
            done = OutputLayout(root=work / "out").stats.exists()
            ended = process.returncode == 0 or (process.returncode == 1 and done)
            return self._counted(job, known), "completed" if ended else "failed"
        finally:
            await asyncio.to_thread(_end, process)  # seconds, where it does not want to

    def _counted(self, job: Job, known: dict[str, tuple[int, int]]) -> Job:
        """The job with its progress, on disk where that is news."""
        completed, quarantined = progress(self._store.job_folder(job.id) / "work", known)
        counted = dataclasses.replace(job, completed=completed, failed=job.invalid + quarantined)
        if counted != job:
            self._store.save(counted)
        return counted

    async def _finish(self, job: Job, ending: Status) -> None:
        """Write the result files, and say that it has ended."""
        if not job.total:  # it was ended before its lines were known
            self._reach(job, ending)
            return
        job = self._reach(job, "finalizing", ending=ending)
        work = self._store.job_folder(job.id) / "work"
        uploads = self._store.new_upload(), self._store.new_upload()
        output, errors = (upload / "data" for upload in uploads)
        counts = await asyncio.to_thread(write_results, work, job.id, self._config, output, errors, _MISSING[ending])
        files = []
        for upload, count, name in zip(uploads, counts, ("output", "error"), strict=True):
            if count:
                filename = f"{job.id}_{name}.jsonl"
                files.append(self._store.add_file(upload, job.owner, filename, "batch_output").id)
            else:
                shutil.rmtree(upload)
                files.append("")
        completed, failed = counts
        broken = [_error("build_failed", f"the build failed {ATTEMPTS} times; its results so far are kept")]
        self._reach(
            job, ending, total=completed + failed, completed=completed, failed=failed, output_file_id=files[0],
            error_file_id=files[1], errors=broken if ending == "failed" else [],
        )  # fmt: skip
        if ending != "failed":  # else the operator may want to read it
            (self._store.job_folder(job.id) / "build.log").unlink(missing_ok=True)

    def _reach(self, job: Job, status: Status, **changes: Any) -> Job:
        """The job at another status, on disk."""
        reached = {**job.reached, status: self._store.now()}
        job = dataclasses.replace(job, status=status, reached=reached, **changes)
        self._store.save(job)
        return job


_MISSING: dict[Status, ApiError | None] = {
    "completed": None,
    "failed": ApiError(500, "the server did not come to this line", "server_error", "batch_failed"),
    "cancelled": ApiError(409, "the job was cancelled before this line", code="batch_cancelled"),
    "expired": ApiError(408, "the job's time was over before this line", code="batch_expired"),
}


def builds_of(out: Path) -> list[int]:
    """Process ids of builds into this folder, whoever started them: no other command has its name (Linux).

    Args:
        out: of a job, which has its id of 128 random bits in it.
    """
    argument = os.fsencode(f"--out={out}")
    found = []
    for name in os.listdir("/proc") if Path("/proc/self/cmdline").exists() else ():  # noqa: PTH208
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if name.isdigit() and argument in Path("/proc", name, "cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def _end_orphans(out: Path) -> None:
    """End the build that a runner which was killed has left behind, if it still runs, and all that it has started."""
    for pid in builds_of(out):
        log.warning("the build %d of a runner that is gone is ended", pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(pid), signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a build and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "line": None, "param": None}
