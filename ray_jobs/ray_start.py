"""Start or join Ray so that any failure is one line with a remedy, within half a minute.

Ray itself waits minutes for a cluster that is not there, and its C++ core prints warnings meanwhile. What it prints
while it starts is held back, and searched for the cause if it fails.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from polite_flamingo.early_end import cleaning_up
from ray_jobs import interruption, process_cleanup
from ray_jobs.background import repeating
from ray_jobs.ray_preconditions import RayUnavailable, check_folder, check_limits, check_network, check_reachable

_QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}

_CHECK_SECONDS = 0.2
_JOIN_SECONDS = 20.0
_IDLE_SECONDS = 12.0
"""A starting Ray that uses neither a core nor the disk for this long is stuck. A start takes 3 to 7 s, several times as
long on a busy machine, but then it still uses them."""

_START_SECONDS = 240.0
_HEAD_SECONDS = 30.0
_HEAD_CHECK_SECONDS = 2.0
_REPORT_SECONDS = 3.0
"""Time for a starting Ray to notice that a daemon has ended, and to say why."""

_SUBMIT = "`ray job submit --working-dir . -- python -m ray_jobs.NAME …`"


@contextmanager
def private_ray(cpus: int) -> Iterator[None]:
    """Start a Ray for this process alone. Nothing of it keeps running afterwards, however this process ends.

    Raises:
        RayUnavailable: it cannot be started.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    check_folder(folder)
    check_limits()
    mark = secrets.token_hex(8)
    os.environ[process_cleanup.MARK] = mark
    with ExitStack() as stack:
        stack.callback(os.environ.pop, process_cleanup.MARK, None)
        stack.callback(process_cleanup.end_all, mark)
        stack.enter_context(cleaning_up(lambda: process_cleanup.end_all(mark)))
        if interruption.listening():
            stack.enter_context(process_cleanup.guarded(mark))
        import ray

        with _held_back():
            address = ray.util.get_node_ip_address()
        check_network(address)
        stack.callback(ray.shutdown)
        logs = f"its logs are in the newest session of {folder / 'ray'}"
        _init("Ray does not start", lambda reason: f"Ray could not start: {reason}; {logs}", mark=mark,
              address="local", num_cpus=cpus, include_dashboard=False)  # fmt: skip
        if interruption.listening():
            stack.enter_context(_ending_with_daemons())
        yield


@contextmanager
def joined_ray(address: str) -> Iterator[None]:
    """Join the cluster at `address`, the value of RAY_ADDRESS.

    Raises:
        RayUnavailable: no cluster answers, its versions differ, or its workers cannot import this project.
    """
    at = f"RAY_ADDRESS={address}"
    remedy = "start a cluster there (`ray start --head`), correct RAY_ADDRESS, or unset it for a Ray of the job's own"
    check_reachable(address, f"no cluster answers at {at}", remedy)
    import ray

    try:
        late = f"no Ray answers at {at} within {_JOIN_SECONDS:.0f} s; {remedy}"
        _init(late, lambda reason: f"cannot join the Ray at {at}: {reason}; {remedy}")
        _check_workers(at)
        with _ending_with_head(at) if interruption.listening() else nullcontext():
            yield
    finally:
        ray.shutdown()


def _init(late: str, failed: Any, mark: str = "", **options: Any) -> None:
    """Call `ray.init` with its output held back. Args: late, failed: messages; mark: of a private Ray's processes."""
    import ray

    with _held_back() as said, _deadline(late, mark):
        try:
            # What raylets publish (retries without end, pages of a dead one's log) is printed all the same.
            ray._private.worker._worker_logs_enabled = False
            ray.init(**options, **_QUIET)
        except Exception as error:
            raise RayUnavailable(_explained(error, said(), failed)) from error


def _explained(error: Exception, said: str, failed: Any) -> str:
    """Turn what `ray.init` raised into one line."""
    text = " ".join(f"{error} {said}".split())
    found = re.findall(r"(Ray|Python): ([\w.]+)", text)
    versions = " and ".join(" ".join(pair) for pair in dict.fromkeys(found)) or "others"
    for pattern, meaning in _CAUSES.items():
        if re.search(pattern, text):
            return meaning.format(versions=versions)
    reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
    return str(failed((reasons[0] if reasons else type(error).__name__).rstrip(".")))


_CAUSES = {
    "ersion mismatch": "the cluster's versions differ from this process's ({versions}); run the job with its own "
    f"Python: {_SUBMIT}",
    r"auth\w* token|[Uu]nauthenticated|InvalidAuthToken|AuthenticationError": "the cluster does not accept this "
    "process's token; unset RAY_AUTH_TOKEN or remove the stale token file (~/.ray/auth_token), then set RAY_AUTH_MODE "
    "and the token as on the cluster (`ray get-auth-token` there)",
    "No space left": "Ray could not start: no space left on the disk of its temporary folder; free some, or set "
    "RAY_TMPDIR",
}
"""What Ray prints -> what to say about it."""


def _check_workers(at: str) -> None:
    """Raise `RayUnavailable` if a node's workers cannot import this project: every task of the job would fail."""
    import ray

    def missing() -> str:  # pickled by value, because it is inside a function
        import importlib

        try:
            for name in ("polite_flamingo.sample", "actors.base", "ray_jobs", "serving.config", "training.stages"):
                importlib.import_module(name)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    for node, answer in on_each_node(missing, timeout=_JOIN_SECONDS):  # a busy node that is late fails later
        try:
            reason = ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # the machine is gone
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
        if reason:
            raise RayUnavailable(
                f"the workers of {at} (node {node['NodeManagerAddress']}) cannot import this project ({reason}); send "
                f"it along: {_SUBMIT}, or install it there"
            )


def on_each_node(
    function: Callable[..., Any], *arguments: Any, timeout: float, skip: str = ""
) -> list[tuple[dict[str, Any], Any]]:
    """Call a function on each living node of the cluster, except the node whose id is `skip`.

    Returns:
        The nodes that answered within `timeout` seconds, each with a reference to its answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != skip
    }
    done = ray.wait(list(calls), num_returns=len(calls), timeout=timeout)[0] if calls else []
    return [(calls[answer], answer) for answer in done]


@contextmanager
def _held_back() -> Iterator[Any]:
    """Redirect standard error to a file while inside; yields a function that reads the end of it."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        screen = os.dup(2)
        interruption.point_stderr(file.fileno())

        def said() -> str:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 20_000))
            return file.read().decode("utf-8", "replace")

        try:
            yield said
        finally:
            sys.stderr.flush()
            interruption.point_stderr(screen)
            os.close(screen)


@contextmanager
def _deadline(message: str, mark: str) -> Iterator[None]:
    """End this process with `message` if what is inside takes too long or a daemon of the private Ray dies."""
    began, idle, dead = time.monotonic(), 0.0, 0.0
    seen: dict[int, str] = {}
    logs: Path | None = None

    def check() -> None:
        nonlocal idle, dead, logs
        seen.update(_daemons() if mark else {})
        logs = next(filter(None, map(_log_folder, seen)), logs)  # while a daemon is alive
        if lost := _lost(seen):
            dead += _CHECK_SECONDS
            if dead >= _REPORT_SECONDS:
                interruption.end(why_ended(lost[0], logs), 2)
            return
        processes = process_cleanup.marked(mark) if mark else {}
        if processes and not any(map(process_cleanup.working, (os.getpid(), *processes))):
            idle += _CHECK_SECONDS
        if idle >= _IDLE_SECONDS or time.monotonic() - began >= (_START_SECONDS if mark else _JOIN_SECONDS):
            interruption.end(f"{message}; its logs are in {logs}" if logs else message, 2)

    with repeating(check, _CHECK_SECONDS) if interruption.listening() else nullcontext():
        yield


def why_ended(daemon: str, logs: Path | None) -> str:
    """Say why a daemon ended while Ray started, and what to do.

    Args:
        daemon: its name.
        logs: the folder of the session's logs, if it is known.
    """
    where = f"; its logs are in {logs}" if logs else ""
    with suppress(OSError):
        said = (logs / "raylet.err").read_text(encoding="utf-8", errors="replace") if logs else ""
        if re.search(r"Timed out waiting for file \S+agent", said):
            return (
                "Ray could not start: this machine is too busy, so Ray's agent did not answer within Ray's 15 s; run "
                f"the same command again, best when less is running{where}"
            )
    return f"Ray could not start: its {daemon} ended at once{where}"


def _log_folder(pid: int) -> Path | None:
    """Return the folder that a daemon writes its logs to; None once it has ended (Linux only)."""
    with suppress(OSError):
        for argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            if argument.startswith(b"--log_dir="):
                return Path(os.fsdecode(argument.partition(b"=")[2]))
    return None


def _lost(daemons: Mapping[int, str]) -> list[str]:
    """Return the names of those that have ended."""
    return sorted(name for pid, name in daemons.items() if not process_cleanup.alive(pid))


def _daemons() -> dict[int, str]:
    """Return the raylet and the GCS that this process started, dead or alive: process id -> name (Linux only)."""
    found = {}
    for pid in process_cleanup.children(os.getpid()):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in ("raylet", "gcs_server"):
                found[pid] = name
    return found


@contextmanager
def _ending_with_head(at: str) -> Iterator[None]:
    """End this process if the cluster's head does not answer for `_HEAD_SECONDS` while inside.

    After a minute Ray's core aborts with a dump. A restarted head knows nothing of this job, unless its state is kept
    elsewhere; then it is back sooner.
    """
    import ray

    address, silent = ray.get_runtime_context().gcs_address, 0.0

    def check() -> None:
        nonlocal silent
        try:
            check_reachable(address, "", "")
            silent = 0.0
        except RayUnavailable:
            silent += _HEAD_CHECK_SECONDS
        if silent >= _HEAD_SECONDS:
            why = f"the head of the cluster at {at} has not answered at {address} for {silent:.0f} s"
            interruption.end(f"{why}; once a cluster runs there, run the same command again to resume", 1)

    with repeating(check, _HEAD_CHECK_SECONDS):
        yield


@contextmanager
def _ending_with_daemons() -> Iterator[None]:
    """End this process if the private Ray's raylet or GCS dies while inside: Ray itself would wait a minute or more."""
    needed, before = _daemons(), list[str]()

    def check() -> None:
        nonlocal before
        before, lost = _lost(needed), before
        if not lost:  # once more, as a signal may be ending this process too
            return
        if interruption.received:  # it got the signal too, so nothing is left to shut down
            interruption.end("ended", 128 + interruption.received)
        why = f"Ray's {lost[0]} was killed from outside (by the system, out of memory?)"
        interruption.end(f"{why}; run the same command again to resume", 1)

    with repeating(check, 0.5):
        yield
