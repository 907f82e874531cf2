"""The one way to get Ray: join a cluster, or start one with room for a job's actors.

`RAY_ADDRESS` (set by `ray job submit`) names the cluster to join; `auto` is the one running on this machine. Without
it a private Ray is started and ends with the job. A job that the cluster cannot hold is refused: it would hang.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.faults.bisection import ModelBroken
from polite_flamingo.faults.journal import WorkerKeepsDying
from polite_flamingo.pools import Needs
from polite_flamingo.preference.judges.servers import CostReached
from polite_flamingo.storage.visibility import reason_in
from ray_jobs.console import JobFailed
from ray_jobs.progress import phase
from ray_jobs.ray_start import joined_ray, private_ray

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` builds an environment for each worker
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it warns about something that Ray Data itself does at every start
    # On a machine with few cores actors take them all. Ray then ends a task's worker after a second of idleness and
    # starts another one for the next shard, which costs three seconds of CPU each time.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's allocations on the CPU in huge pages: about 5 % faster
    "TOKENIZERS_PARALLELISM": "false",
}

TOLD = tuple(kind.__name__ for kind in (ModelBroken, WorkerKeepsDying, EndpointDown, CostReached))
"""Exceptions of workers whose message says what to do."""


@contextmanager
def running_ray(needs: Needs, spare_cpus: int = 0, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Join the cluster of `RAY_ADDRESS` or start one, and leave it afterwards; reuse a Ray that is already joined.

    Args:
        needs: what the job needs of it.
        spare_cpus: extra logical CPUs of a Ray started here.
        environment: variables for its processes besides `ENVIRONMENT`.

    Raises:
        RayUnavailable: no Ray can be started or joined; one line with a remedy.
        ValueError: the cluster is too small for `needs`, or others hold too much of it, so the job would hang.
        JobFailed: raised inside: the job's own reason, unwrapped from Ray's exception.
    """
    set_environment(environment or {})
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        phase(f"joining Ray at {address}" if address else "starting Ray")
    import ray

    with ExitStack() as stack:
        if not ray.is_initialized():
            if address := os.environ.get("RAY_ADDRESS"):
                stack.enter_context(joined_ray(address))
            else:
                cpus = max(os.cpu_count() or 1, math.ceil(needs.cpus)) + spare_cpus
                stack.enter_context(private_ray(cpus))
        try:
            if not needs.autoscaling:
                await_room(needs)
            yield
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise JobFailed(reason) from error


def set_environment(more: Mapping[str, str]) -> None:
    """Set what Ray and its workers read from the environment, before Ray is imported. The user's settings win."""
    if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys() and "ray" not in sys.modules:
        # A private Ray listens on every interface too, so it demands a token that only its own processes inherit. (Once
        # imported, Ray has read its mode and makes a token file in the home folder by itself.)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    for name, value in {**ENVIRONMENT, **more}.items():
        os.environ.setdefault(name, value)
    _share_arenas()


_ARENA_MAX = -8
"""M_ARENA_MAX in glibc's malloc.h."""


def _share_arenas() -> None:
    """Let all threads of this process allocate from two arenas, not from eight for each core.

    What a run of Ray Data frees stays scattered over the arenas of Ray's threads, so the driver grew with every run.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_ARENA_MAX, 2)


ROOM_SECONDS = 15.0
"""Seconds for others to release what they hold: a job that has just ended releases its actors one by one."""


def await_room(needs: Needs, patience: float = ROOM_SECONDS) -> None:
    """Raise `ValueError` if the Ray that this process has joined has no room for `needs` within `patience` seconds.

    A cluster without any CPU is a head whose autoscaler has started no machine yet; Ray asks it for some.
    """
    import ray

    if not ray.cluster_resources().get("CPU"):
        return phase("the cluster has no CPU yet, waiting for its machines")
    deadline = time.monotonic() + patience
    while True:
        try:
            return check_size(ray.cluster_resources(), needs, ray.available_resources())
        except Occupied:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


class Occupied(ValueError):
    """The cluster is large enough, but others hold what is needed."""


def check_size(resources: Mapping[str, float], needs: Needs, free: Mapping[str, float] | None = None) -> None:
    """Raise `ValueError` if a job on a cluster of these resources would wait forever.

    Args:
        resources: of the cluster.
        needs: of the job.
        free: the part of the resources that nobody holds; all of them by default. Ray leaves out zeros.

    Raises:
        Occupied: there would be enough if others held less.
        ValueError: there would not.
    """
    for kind in ("CPU", "GPU"):
        needed, there = needs.of(kind), resources.get(kind, 0.0)
        if needed > there:
            raise ValueError(
                f"the workers need {needed:g} {kind}s and the cluster has {there:g}, so the job would wait forever; "
                f"lower {needs.section}.* in number or in {kind.lower()}s, or use a larger cluster (to start "
                "machines on demand, add --pools.autoscaling true, in training --workers.autoscaling true)"
            )
    if free is None:
        return
    for kind in ("CPU", "GPU"):
        needed, there, left = needs.of(kind), resources.get(kind, 0.0), free.get(kind, 0.0)
        if needed > left + 1e-6:  # sums of fractions
            raise Occupied(
                f"the workers need {needed:g} {kind}s; of the cluster's {there:g}, others hold {there - left:g} and "
                f"{left:g} are free: another job or a service runs there (`ray status`, `ray list actors` show which); "
                f"wait for it or stop it, or lower {needs.section}.* in {kind.lower()}s"
            )


def _reason(error: Exception) -> str | None:
    """Return the message of a cause that a user can act on; None if there is none.

    A worker's exception arrives as the text of its traceback: its causes do not survive between processes.
    """
    import ray

    text = str(error)
    if reason := reason_in(text):
        return reason
    ours = re.search(rf"^(?:\w+\.)*(?:{'|'.join(TOLD)}): (.+)$", text, re.MULTILINE)
    if ours:
        return ours[1]
    disk = re.search(r"^(?:\w+\.)*\w*Error: (\[Errno \d+\] .+)$", text, re.MULTILINE)  # full, or not for this user
    if disk and isinstance(error, ray.exceptions.RayError):
        return f"a worker failed: {disk[1]}"
    if isinstance(error, ray.exceptions.ActorDiedError):
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return f"a worker could not start: {last}"
    return None
