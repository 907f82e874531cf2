"""The image: its Dockerfile only runs deploy/install.sh, and that installs the lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.dockerfile import REPO, admitted, instructions

SCRIPT = "deploy/install.sh"


def run(step: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(folder / SCRIPT), step],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), **environment},
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip


def test_the_dockerfile_does_nothing_but_the_script() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN"]
    steps = re.findall(r"^  (\w+)\)", (REPO / SCRIPT).read_text(), re.MULTILINE)
    assert runs == [f"{SCRIPT} {step}" for step in steps]
    assert {name for name, _ in instructions()} == {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER"}


def test_what_it_copies_exists_and_is_there_before_it_is_needed() -> None:
    seen: list[str] = []
    for name, rest in instructions():
        if name == "COPY":
            *sources, _ = rest.split()
            seen += sources
            assert all((REPO / source).exists() for source in sources)
            assert all(source == "." or source in admitted() for source in sources), "ignored by .dockerignore"
        elif rest == f"{SCRIPT} environment":
            assert {SCRIPT, "Makefile", "requirements.lock"} <= set(seen)
            assert "." not in seen, "each change of the code would install everything again"
        elif rest == f"{SCRIPT} project":
            assert "." in seen


def test_what_a_job_imports_is_admitted_and_what_is_private_is_not() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert {*packages, "pyproject.toml", project["project"]["readme"], "LICENSE"} <= set(admitted())
    assert all((REPO / path).exists() for path in admitted())
    assert not {".git", ".venv", "out", "keys.json", "tests"} & set(admitted())


def test_ray_is_on_the_path_python_is_the_locked_one_and_nobody_is_root() -> None:
    found = dict(reversed(instructions()))
    path = re.search(r"PATH=(\S+)", found["ENV"])
    venv = re.search(r"VENV=(\S+)", found["ENV"])
    assert path and venv and path[1].startswith(f"{venv[1]}/bin:")
    assert found["FROM"].startswith("python:3.11-")
    assert instructions()[-1] == ("USER", "1000")
    assert "--uid 1000" in (REPO / SCRIPT).read_text()


def test_the_system_step_asks_for_what_the_operator_calls(tmp_path: Path) -> None:
    for name in ("apt-get", "useradd", "rm", "tee"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$CALLS"\n')
        (tmp_path / name).chmod(0o755)
    text = (REPO / SCRIPT).read_text().replace("/etc/profile.d", str(tmp_path))
    (tmp_path / "deploy").mkdir()
    (tmp_path / SCRIPT).write_text(text)
    done = run("system", tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin", CALLS=str(tmp_path / "calls"), VENV="/opt/venv")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert {"wget", "make", "ca-certificates"} <= set(calls.split())
    assert (tmp_path / "polite-flamingo.sh").read_text() == "export PATH=/opt/venv/bin:$PATH\n"


def test_an_unknown_step_says_which_there_are() -> None:
    done = run("everything", REPO, VENV="/nowhere")
    assert done.returncode == 2 and "system | environment | project" in done.stderr


def locked() -> set[str]:
    lines = (REPO / "requirements.lock").read_text().splitlines()
    return {line for line in lines if line and line[0] != "#"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    "POLITE_FLAMINGO_INSTALL" not in os.environ, reason="it downloads 2.4 GB: set POLITE_FLAMINGO_INSTALL=1"
)
def test_the_steps_install_the_lock_and_a_demo_runs(tmp_path: Path) -> None:
    """In a folder that holds what the image holds, beside an environment of its own."""
    folder, venv = tmp_path / "tree", tmp_path / "venv"
    for path in admitted():
        if (REPO / path).is_dir():
            shutil.copytree(REPO / path, folder / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / path, folder / path)
    for step in ("environment", "project"):
        done = run(step, folder, VENV=str(venv), PATH=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    freeze = [str(venv / "bin" / "uv"), "pip", "freeze", "--python", str(venv / "bin" / "python")]
    installed = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.splitlines()
    assert locked() <= {line.split("+")[0] for line in installed}

    inside = {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    told = subprocess.run(["bash", "-c", "ray --version && command -v ray"], env=inside, capture_output=True, text=True)
    assert re.search(r"^ray==(.*)$", "\n".join(locked()), re.MULTILINE)[1] in told.stdout  # type: ignore[index]
    assert f"{venv}/bin/ray" in told.stdout
    demo = ["polite-flamingo", "demo", "--samples", "8", "--out", str(tmp_path / "demo")]
    done = subprocess.run(demo, cwd=folder, env=inside, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0 and "rows in" in done.stdout, done.stderr[-2000:]
