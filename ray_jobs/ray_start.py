"""Starting or joining Ray so that what goes wrong is one line with a remedy, within half a minute.

Ray itself waits for minutes for a cluster that is not there, and prints what its C++ core thinks meanwhile. What it
prints while it starts is held back; the last of it is quoted where nothing better is known.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray_jobs import interruption, leftovers

_QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}

_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_JOIN_SECONDS = 20.0
_IDLE_SECONDS = 12.0
"""A starting Ray that uses neither a core nor the disk for so long hangs. A start takes 3 to 7 s, and several times as
long on a busy machine, where it still uses them."""

_START_SECONDS = 240.0

_ROOM = 200 << 20
"""Bytes that a private Ray wants on the disk of its temporary folder, to begin with: logs, sockets, spilled objects."""

_LONGEST_FOLDER = 40
"""Characters of it: a socket's path has 107, of which Ray takes 66."""

_FILES = 1024
"""That a process of Ray may have open, at least."""

_SUBMIT = "`ray job submit --working-dir . -- python -m ray_jobs.NAME …`"


class RayUnavailable(OSError):
    """Ray that cannot be started or joined. Its message is one line: what is wrong, and what to do."""


@contextmanager
def private_ray(cpus: int) -> Iterator[None]:
    """A Ray of this process's own; afterwards nothing of it runs on, whoever ended this process, and how.

    Raises:
        RayUnavailable: it cannot be started.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    _check_folder(folder)
    _check_limits()
    mark = secrets.token_hex(8)
    os.environ[leftovers.MARK] = mark
    with ExitStack() as stack:
        stack.callback(os.environ.pop, leftovers.MARK, None)
        stack.callback(leftovers.end_all, mark)
        stack.enter_context(interruption.cleaning_up(lambda: leftovers.end_all(mark)))
        if interruption.listening():
            stack.enter_context(leftovers.guarded(mark))
        import ray

        with _held_back():
            address = ray.util.get_node_ip_address()
        _check_network(address)
        stack.callback(ray.shutdown)
        logs = f"its logs are in {folder / 'ray' / 'session_latest' / 'logs'}"
        late = f"Ray does not start; {logs}"
        _init(late, lambda reason: f"Ray could not start: {reason}; {logs}", mark=mark,
              address="local", num_cpus=cpus, include_dashboard=False)  # fmt: skip
        if interruption.listening():
            stack.enter_context(_outliving(mark))
        yield


@contextmanager
def joined_ray(address: str) -> Iterator[None]:
    """The cluster at `address`, which is RAY_ADDRESS's value.

    Raises:
        RayUnavailable: nobody is there, or its versions are others, or its workers cannot import this project.
    """
    at = f"RAY_ADDRESS={address}"
    remedy = "start a cluster there (`ray start --head`), correct RAY_ADDRESS, or unset it for a Ray of the job's own"
    _check_reachable(address, f"nobody answers at {at}", remedy)
    import ray

    try:
        late = f"no Ray answers at {at} within {_JOIN_SECONDS:.0f} s; {remedy}"
        _init(late, lambda reason: f"cannot join the Ray at {at}: {reason}; {remedy}")
        _check_workers(at)
        yield
    finally:
        ray.shutdown()


def _init(late: str, failed: Any, mark: str = "", **options: Any) -> None:
    """`ray.init`, its output held back. Args: late, failed: messages; mark: of a private Ray's processes."""
    import ray

    with _held_back() as said, _deadline(late, mark):
        try:
            ray.init(**options, **_QUIET)
        except Exception as error:
            raise RayUnavailable(_explained(error, said(), failed)) from error


def _explained(error: Exception, said: str, failed: Any) -> str:
    """The line for what `ray.init` raised."""
    text = " ".join(f"{error} {said}".split())
    if "ersion mismatch" in text:
        found = re.findall(r"(Ray|Python): ([\w.]+)", text)
        versions = " and ".join(" ".join(pair) for pair in dict.fromkeys(found)) or "others"
        return (
            f"the cluster's versions are not this process's ({versions}); run the job with the cluster's own Python: "
            f"{_SUBMIT}"
        )
    if re.search(r"auth\w* token|[Uu]nauthenticated|InvalidAuthToken|AuthenticationError", text):
        return (
            "the cluster does not take this process's token; unset RAY_AUTH_TOKEN or remove the stale token file "
            "(~/.ray/auth_token), then set RAY_AUTH_MODE and the token as on the cluster (`ray get-auth-token` there)"
        )
    if "No space left" in text:
        return "Ray could not start: no space left on the disk of its temporary folder; free some, or set RAY_TMPDIR"
    reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
    return str(failed((reasons[0] if reasons else type(error).__name__).rstrip(".")))


def _check_folder(folder: Path) -> None:
    """Raise RayUnavailable where Ray's temporary folder cannot hold what it writes: it would hang, or lose workers."""
    remedy = "free some, or set RAY_TMPDIR to a folder on another disk (a short path)"
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / "ray") as trial:
            trial.write(bytes(1 << 16))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RayUnavailable(
            f"Ray could not start: {folder / 'ray'} cannot be written ({error.strerror}); "
            "make it writable, or set RAY_TMPDIR to another folder (a short path)"
        ) from error
    if len(str(folder).encode()) > _LONGEST_FOLDER:
        raise RayUnavailable(
            f"Ray could not start: {folder} is too long a name for the sockets that lie in it; "
            f"set RAY_TMPDIR to a folder of at most {_LONGEST_FOLDER} characters"
        )
    if free < _ROOM:
        raise RayUnavailable(
            f"Ray could not start: {folder} has {free >> 20} MiB left, it wants {_ROOM >> 20}; {remedy}"
        )


def _check_limits() -> None:
    """Raise RayUnavailable where this process may open too few files; raise its own limit first, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES and soft != resource.RLIM_INFINITY:
        if hard != resource.RLIM_INFINITY and hard < _FILES:
            raise RayUnavailable(
                f"Ray could not start: this process may open {hard} files, and Ray needs {_FILES} or more; "
                "raise the limit (`ulimit -n 8192`, or the container's)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))


def _check_network(address: str) -> None:
    """Raise RayUnavailable where this machine cannot reach its own `address`, by which Ray's processes speak."""
    try:
        with socket.create_server(("", 0)) as listening:
            port = listening.getsockname()[1]
            socket.create_connection((address, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RayUnavailable(
            f"Ray could not start: this machine cannot reach its own address {address} "
            f"({error.strerror or error}); bring its network up (`ip link set lo up`), or let a firewall pass it"
        ) from error


def _check_reachable(address: str, nobody: str, remedy: str) -> None:
    """Raise RayUnavailable where nobody listens at `host:port`; other forms (`auto`, `ray://…`) are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RayUnavailable(f"{nobody} ({reason}); {remedy}") from None


def _check_workers(at: str) -> None:
    """Raise RayUnavailable where a node's workers cannot import this project: every task of the job would fail."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def missing() -> str:  # pickled by value, as it is inside a function
        import importlib

        try:
            for name in ("polite_flamingo.sample", "actors.stage", "ray_jobs", "serving.config", "training.stages"):
                importlib.import_module(name)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    asked = {
        ray.remote(missing)
        .options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        .remote(): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_JOIN_SECONDS)  # a busy node says it later
    for answer in done:
        try:
            reason = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
        if reason:
            raise RayUnavailable(
                f"the workers of {at} (node {asked[answer]}) cannot import this project ({reason}); send it "
                f"along: {_SUBMIT}, or install it there"
            )


@contextmanager
def _held_back() -> Iterator[Any]:
    """While inside, what is written to the standard error output goes to a file; gives a function that reads it."""
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
    """Inside, `message` ends this process where it takes too long, or one of a private Ray's first processes dies."""
    done = threading.Event()

    def watch() -> None:
        began, idle = time.monotonic(), 0.0
        seen: dict[int, str] = {}
        while not done.wait(_LOOK_SECONDS):
            seen |= _daemons() if mark else {}
            if lost := sorted(name for pid, name in seen.items() if not leftovers.alive(pid)):
                if done.wait(3.0):  # Ray has noticed it, and says why
                    return
                interruption.end(f"Ray could not start: its {lost[0]} ended at once; {message.partition('; ')[2]}", 2)
            all_of_it = leftovers.marked(mark) if mark else {}
            if all_of_it and not any(map(leftovers.working, (os.getpid(), *all_of_it))):
                idle += _LOOK_SECONDS
            if idle >= _IDLE_SECONDS or time.monotonic() - began >= (_START_SECONDS if mark else _JOIN_SECONDS):
                interruption.end(message, 2)

    if interruption.listening():
        threading.Thread(target=watch, name="ray-start", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _daemons() -> dict[int, str]:
    """The raylet and the GCS that this process has started, by their process ids, also such as have died (Linux)."""
    found = {}
    for pid in leftovers.children(os.getpid()):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in ("raylet", "gcs_server"):
                found[pid] = name
    return found


@contextmanager
def _outliving(mark: str) -> Iterator[None]:
    """Inside, the death of a private Ray's raylet or GCS ends this process: Ray itself waits for a minute or more."""
    done = threading.Event()
    needed = _daemons()

    def watch() -> None:
        while not done.wait(0.5):
            lost = sorted(name for pid, name in needed.items() if not leftovers.alive(pid))
            if lost and not done.wait(0.5):
                if interruption.received:  # it got the signal too: nothing is left to end in good order
                    interruption.end("ended", 128 + interruption.received)
                why = f"Ray's {lost[0]} was ended from outside (by the system, for its memory?)"
                interruption.end(f"{why}; the same command goes on where it stopped", 1)

    threading.Thread(target=watch, name="ray-outliving", daemon=True).start()
    try:
        yield
    finally:
        done.set()
