"""The servers that `benchmarks/serving/compare.py` compares: processes that are started once and measured repeatedly.

A run returns what `benchmarks.serving.load_generator` recorded, and CPU seconds of server and clients, by process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.processes import cpu_of, pin

PATIENCE = 240
"""Seconds for a server to start."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all servers share: a profile with overrides, the requests, a folder for files."""

    profile: str
    changes: dict[str, str]
    bodies: Path
    root: Path

    def overrides(self) -> list[str]:
        """Command-line arguments of our own commands."""
        return [part for name, value in self.changes.items() for part in ("--override", f"{name}={value}")]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A closed loop: clients, measured seconds, number of the first request, seconds for open requests to end."""

    clients: int
    seconds: float
    first: int
    drain: float = 30.0


class Contestant(Protocol):
    """A server, or engines, under load."""

    def run(self, run: Run) -> dict[str, Any]:
        """Output of the load generators as `parts`, and CPU seconds by process as `cpu`."""

    def end(self) -> None:
        """Stop its processes."""


class Server:
    """A server in its own process, called by `benchmarks.serving.load_generator` in another.

    Attributes:
        pid: id of the started process.
        url: the server's base URL.
    """

    def __init__(
        self,
        name: str,
        setting: Setting,
        command: list[str],
        port: int,
        *,
        client_cores: str = "",
    ):
        """Start it, and wait until /health returns 200.

        Args:
            name: name of its log.
            setting: the benchmark's setting.
            command: command that starts it.
            port: port on which it listens.
            client_cores: cores for its clients, such as "1"; "" for any.
        """
        self._setting, self._cores = setting, client_cores
        self.url = f"http://127.0.0.1:{port}"
        self._log = setting.root / f"{name}.log"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment_of(), start_new_session=True
            )
        self.pid = self._process.pid
        deadline = time.monotonic() + PATIENCE
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.end()
                sys.exit(f"{name} did not come up: {self._log.read_text()[-3000:]}")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def run(self, run: Run) -> dict[str, Any]:
        """See `Contestant`."""
        loop = ["--clients", str(run.clients), "--first", str(run.first), "--drain", str(run.drain)]
        return self.load(*loop, "--seconds", str(run.seconds))

    def load(self, *arguments: str) -> dict[str, Any]:
        """Run `benchmarks.serving.load_generator` with these arguments."""
        before = cpu_of(self.pid)
        found = self.finished(self.begin(*arguments))
        cpu = {"client": found["cpu"]} | dict(cpu_of(self.pid) - before)
        return {"parts": [found], "cpu": cpu}

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `benchmarks.serving.load_generator`."""
        command = [
            sys.executable, "-m", "benchmarks.serving.load_generator", "--url", self.url,
            "--bodies", str(self._setting.bodies),
            "--out", str(self._result), "--cpus", self._cores, *arguments,
        ]  # fmt: skip
        return subprocess.Popen(command, env=environment_of())

    @property
    def _result(self) -> Path:
        return self._setting.root / f"load-{self.pid}.json"

    def finished(self, load: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for what `begin` started; return its output."""
        if load.wait() != 0:
            sys.exit(f"the load generator failed against {self.url}")
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found

    def end(self) -> None:
        """Stop it: SIGTERM first, then SIGKILL."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()


class Bare:
    """Engines without HTTP, one process each, which share the clients."""

    def __init__(self, setting: Setting, engines: int, *, core: int | None = None):
        """Load them, pinned to `core` if given."""
        command = [
            sys.executable, "-m", "benchmarks.serving.bare_engine", "--profile", setting.profile,
            "--bodies", str(setting.bodies), *setting.overrides(),
        ]  # fmt: skip
        self._root = setting.root
        self._log = setting.root / "bare.log"
        with self._log.open("a") as log:
            self._processes = [
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment_of()
                )
                for _ in range(engines)
            ]
        for process in self._processes:
            self._answer(process)
            if core is not None:
                pin(process.pid, lambda kind: {core})

    def run(self, run: Run) -> dict[str, Any]:
        """See `Contestant`; each process gets blocks of request numbers."""
        before = sum((cpu_of(process.pid) for process in self._processes), Counter())
        used = self._processes[: run.clients]
        shares = [run.clients // len(used) + (place < run.clients % len(used)) for place in range(len(used))]
        files = [self._root / f"bare-{process.pid}.json" for process in used]
        for place, (process, clients, file) in enumerate(zip(used, shares, files, strict=True)):
            assert process.stdin is not None
            first = run.first + place * BLOCK
            wanted = {"clients": clients, "seconds": run.seconds, "first": first, "out": str(file)}
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
        for process in used:
            self._answer(process)
        found = [json.loads(file.read_text()) for file in files]
        spent = sum((cpu_of(process.pid) for process in self._processes), Counter()) - before
        return {"parts": found, "cpu": {"engine": sum(spent.values())}}

    def end(self) -> None:
        """Close their stdin and wait."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)

    def _answer(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("RESULT "):
                return
        sys.exit(f"a bare engine ended: {self._log.read_text()[-3000:]}")


BLOCK = 700
"""Maximum requests of one process of `Bare` in a run."""


def environment_of() -> dict[str, str]:
    """Environment variables of every server."""
    return os.environ | {"TOKENIZERS_PARALLELISM": "false"}


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def one_at_a_time(setting: Setting, dtype: str) -> Server:
    """A server designed as the reference's, with all cores for each answer."""
    port = free_port()
    command = [
        sys.executable, "-m", "benchmarks.serving.reference_server", "--profile", setting.profile, "--port", str(port),
        "--dtype", dtype, "--threads", str(os.cpu_count() or 1), *setting.overrides(),
    ]  # fmt: skip
    return Server(f"one_at_a_time-{dtype}", setting, command, port)


def http_without_serve(setting: Setting, engines: int) -> Server:
    """The service's HTTP side and the engines in one process."""
    port = free_port()
    command = [
        sys.executable, "-m", "benchmarks.serving.in_process_server", "--profile", setting.profile,
        "--port", str(port), "--engines", str(engines), *setting.overrides(),
    ]  # fmt: skip
    return Server("http_without_serve", setting, command, port)


def ray_serve(setting: Setting, engines: int, *, client_cores: str = "", **scale: float) -> Server:
    """The service as a user starts it.

    Args:
        setting: the benchmark's setting.
        engines: replicas of the model that answers.
        client_cores: see `Server`.
        scale: further settings of these replicas in `serving.scale`.
    """
    port = free_port()
    of_chat = {
        f"serving.scale.chat.{name}": f"{value}" for name, value in {"min": engines, "max": engines, **scale}.items()
    }
    changes = [part for name, value in (setting.changes | of_chat).items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "ray_jobs.serve", "--profile", setting.profile, "--port", str(port), *changes]
    return Server("ray_serve", setting, command, port, client_cores=client_cores)


def pinned_apart(server: Server, replica: str) -> None:
    """The engine's process on core 0, all others of a service on core 1."""
    pin(server.pid, lambda kind: {0} if kind == replica else {1})
