"""Commands ended from outside: one line, the exit status of the cause, no process left. Real signals, no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from ray_jobs import process_cleanup
from tests.support.patience import PATIENCE, wait_until

REPO = Path(__file__).parents[2]
HINT = "interrupted; run the same command again to resume\n"
ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """As in a terminal: children inherit what `nohup` or `&` in a script had the whole test run ignore."""
    before = {one: signal.signal(one, signal.SIG_DFL) for one, _ in ENDS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def started(command: str, *arguments: str, path: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"ray_jobs.{command}", *arguments],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def send(process: subprocess.Popen[str], signals: Sequence[int]) -> None:
    for one in signals:
        process.send_signal(one)


@pytest.mark.parametrize("command", ["build_pf1m", "ingest"])
def test_a_signal_among_the_imports_is_one_line(command: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "yaml.py").write_text(f"open({str(gate)!r}).read()\n")  # an import that waits
    with started(command, "--help", path=str(tmp_path)) as process:
        with gate.open("w"):
            send(process, [signal.SIGINT, signal.SIGINT])
            process.wait(PATIENCE)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, f"{command.removesuffix('_pf1m')}: {HINT}")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("one", "status"), ENDS)
def test_a_signal_in_the_middle_is_one_line_and_its_own_status(
    tmp_path: Path, one: int, status: int, times: int
) -> None:
    profile = tmp_path / "profile.yaml"
    os.mkfifo(profile)
    with started("select", "--out", str(tmp_path), "--profile", str(profile)) as process:
        with profile.open("w"):  # opens when the command reads it, and has it wait for a word
            send(process, [one] * times)
            process.wait(PATIENCE)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (status, f"select: {HINT}")


def test_who_ignores_a_signal_goes_on_ignoring_it(tmp_path: Path) -> None:
    """As under `nohup`."""
    profile = tmp_path / "profile.yaml"
    os.mkfifo(profile)
    command = [sys.executable, "-m", "ray_jobs.select", "--out", str(tmp_path), "--profile", str(profile)]
    with subprocess.Popen(
        ["nohup", *command],
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with profile.open("w") as writer:
            process.send_signal(signal.SIGHUP)
            writer.write("thresholds: {sts: 0.7}\n")
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "holds no finished shard" in said


PARENT = """
import subprocess, time
print(subprocess.Popen(["sleep", "900"], start_new_session=True).pid, flush=True)
time.sleep(900)
"""
DRIVER = """
import os, subprocess, sys, time
from ray_jobs import process_cleanup
os.environ[process_cleanup.MARK] = sys.argv[1]
with process_cleanup.guarded(sys.argv[1]):
    for _ in range(2):
        parent = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True)
        print(parent.pid, flush=True)
    time.sleep(900)
"""


def guards(driver: int) -> list[psutil.Process]:
    """Return a driver's guards that are alive."""
    children = psutil.Process(driver).children()
    return [
        one
        for one in children
        if process_cleanup.alive(one.pid) and any("process_cleanup" in part for part in one.cmdline())
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_outlives_its_parent_or_a_killed_driver() -> None:
    """Children in sessions of their own (as HAProxy and builds may be): no signal to a process group reaches them."""
    mark = f"test-{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, mark, PARENT], cwd=REPO, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        printed = {int(driver.stdout.readline()) for _ in range(4)}
        try:
            wait_until(lambda: process_cleanup.marked(mark).keys() == printed)  # /proc shows a new environment late
            (guard,) = guards(driver.pid)
            guard.kill()
            wait_until(lambda: [one for one in guards(driver.pid) if one != guard])  # another one takes its place
            child, parent = next(
                (pid, parent) for pid, parent in process_cleanup.marked(mark).items() if parent in printed
            )
            os.kill(parent, signal.SIGKILL)
            wait_until(lambda: not process_cleanup.alive(child))
            assert driver.poll() is None and len(process_cleanup.marked(mark)) == 2
            driver.kill()
            wait_until(lambda: not process_cleanup.marked(mark))
        finally:
            process_cleanup.end_all(mark)
            driver.kill()
