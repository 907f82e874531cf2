"""The Slurm script against stand-ins for `srun`, `scontrol` and `ray`: what it calls, and that nothing is left."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.patience import wait_until

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"

STAND_INS = {
    "slurm/scontrol": """
        echo "scontrol $*" >> "$CALLS"
        if [ "$1" = show ]; then printf '%s\\n' n1 n2 n3; fi""",
    "slurm/srun": """
        echo "srun ${*%%bash -c*}" >> "$CALLS"
        while [[ $1 == --* ]]; do shift; done
        exec "$@" """,
    "venv/bin/ray": """
        echo "ray $* token=$RAY_AUTH_MODE:${#RAY_AUTH_TOKEN}" >> "$CALLS"
        if [ "$1" = status ]; then cat "$CALLS.nodes"; exit; fi
        [ -z "${NO_HEAD:-}" ] || exit 1
        if [[ $* == *--head* ]]; then
          mkdir -p "$RAY_TMPDIR/ray"; echo 10.0.0.1:40001 > "$RAY_TMPDIR/ray/ray_current_cluster"
        fi
        trap 'echo "ray ends" >> "$CALLS"; exit 0' TERM
        echo " 1 node_$$" >> "$CALLS.nodes"
        while :; do sleep 0.05; done""",
    "venv/bin/job": """
        trap 'echo "job ends" >> "$CALLS"; exit 143' TERM
        echo "job $* at $RAY_ADDRESS" >> "$CALLS"
        if [ "$1" = wait ]; then while :; do sleep 0.05; done; fi
        exit "$1" """,
}


@dataclass
class Slurm:
    """An allocation of three nodes."""

    folder: Path
    job: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}")

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """Run the script as sbatch would."""
        environment = {
            "PATH": f"{self.folder / 'slurm'}:/usr/bin:/bin",
            "CALLS": str(self.folder / "calls"),
            "VENV": str(self.folder / "venv"),
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": self.job,
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_PER_TASK": "16",
        }
        script = shutil.copy(SCRIPT, self.folder / "spooled")  # Slurm runs a copy, elsewhere
        return subprocess.Popen(
            ["bash", script, *command], env={**environment, **more}, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def temporary(self) -> Path:
        """Where Ray's files are on each node."""
        return Path(f"/tmp/pf-{self.job}")

    def calls(self, program: str) -> list[str]:
        """What was called, in order."""
        noted = self.folder / "calls"
        return [line for line in noted.read_text().splitlines() if line.startswith(program)] if noted.exists() else []


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    for name, body in STAND_INS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    (tmp_path / "calls.nodes").touch()
    made = Slurm(tmp_path)
    yield made
    shutil.rmtree(made.temporary, ignore_errors=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the script; its status and what it said."""
    said, complained = process.communicate(timeout=120)
    return process.returncode, said + complained


def test_a_head_here_a_worker_on_each_other_node_and_the_job_on_their_ray(slurm: Slurm) -> None:
    status, said = end(slurm.start("job", "0", "--out", "s3://bucket/a b"))
    assert status == 0, said

    head, *workers = slurm.calls("ray start")
    assert "--head" in head and "--port=0" in head
    assert len(workers) == 2 and all("--address=10.0.0.1:40001" in one for one in workers)
    for start in (head, *workers):
        assert "--block" in start and "--num-cpus=16" in start
        assert start.endswith("token=token:64"), "anybody on these nodes could use this Ray"
        assert re.findall(r"port=(\d+)", start).count("0") == len(re.findall("port=", start)), "a port may be taken"
    steps = sorted(slurm.calls("srun"))
    assert [re.findall(r"--nodelist=(\S+)", step) for step in steps] == [["n2"], ["n3"]], "one step per node"
    assert all("--cpus-per-task=16" in step and "--nodes=1" in step for step in steps)
    assert slurm.calls("job") == ["job 0 --out s3://bucket/a b at 10.0.0.1:40001"]


def test_nothing_is_left_and_the_jobs_status_is_the_scripts(slurm: Slurm) -> None:
    status, said = end(slurm.start("job", "3"))
    assert status == 3, said
    assert len(slurm.calls("ray ends")) == 3
    assert not slurm.temporary.exists()
    assert not slurm.calls("scontrol requeue"), "it failed by itself, and would fail again"


@pytest.mark.parametrize(
    ("ended_by", "restarts", "requeued"),
    [(signal.SIGUSR1, "0", True), (signal.SIGUSR1, "20", False), (signal.SIGTERM, "0", False)],
    ids=["time is nearly over", "for the twentieth time", "cancelled"],
)
def test_ended_from_outside_the_job_ends_first_and_goes_back_to_the_queue_if_time_ran_out(
    slurm: Slurm, ended_by: signal.Signals, restarts: str, requeued: bool
) -> None:
    process = slurm.start("job", "wait", SLURM_RESTART_COUNT=restarts)
    wait_until(lambda: slurm.calls("job wait"))
    process.send_signal(ended_by)
    status, said = end(process)
    assert status == 143, said
    assert slurm.calls("scontrol requeue") == ([f"scontrol requeue {slurm.job}"] if requeued else [])
    order = [line for line in (slurm.folder / "calls").read_text().splitlines() if line.endswith(" ends")]
    assert order == ["job ends", *["ray ends"] * 3], "a job must not see its Ray end"
    assert not slurm.temporary.exists()


def test_a_head_that_does_not_start_ends_it_in_one_line(slurm: Slurm) -> None:
    status, said = end(slurm.start("job", "0", NO_HEAD="1"))
    assert status == 1
    assert said == "Ray's head did not start on n1\n"
    assert not slurm.calls("job") and not slurm.calls("srun")


def test_what_sbatch_reads() -> None:
    options = re.findall(r"^#SBATCH (.+)$", SCRIPT.read_text(), re.MULTILINE)
    assert "--ntasks-per-node=1" in options
    assert "--no-kill" in options, "a lost node would end the others"
    assert "--requeue" in options and "--open-mode=append" in options, (
        "a preempted job would start a new log or not at all"
    )
    assert any(re.fullmatch(r"--signal=B:USR1@\d+", option) for option in options)


def test_without_a_command_it_says_how(slurm: Slurm) -> None:
    assert end(slurm.start()) == (2, "usage: sbatch [OPTIONS OF SBATCH] deploy/slurm.sh COMMAND [ARGUMENTS]\n")
