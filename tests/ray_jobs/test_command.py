"""One command for every job: what it lists, what it starts, and what it says about unknown names."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from polite_flamingo import __version__
from ray_jobs.command import COMMANDS, main
from ray_jobs.extras import EXTRAS

REPO = Path(__file__).parents[2]
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_lists_every_command_with_what_it_does(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in MODULES:
        assert [line for line in lines if line.startswith(f"  {name} ")], name
    assert max(map(len, lines)) <= 100


def test_bash_completes_commands_and_the_options_that_the_help_lists(tmp_path: Path) -> None:
    """Typed as TAB would ask; the command itself is a stand-in here, as tests run where it is not installed."""
    script = subprocess.run([sys.executable, "-m", "ray_jobs.command", "--completion"], cwd=REPO, capture_output=True)
    ask = 'COMP_WORDS=(polite-flamingo "$@"); COMP_CWORD=$#; _polite_flamingo; echo "${COMPREPLY[@]}"'
    stand_in = "polite-flamingo() { printf '  --out DIR   the folder, see --fresh\\n  --thresholds.sts NUMBER\\n'; }"
    for typed, found in ((["se"], "select serve"), (["select", "--th"], "--thresholds.sts"), (["select", "--fr"], "")):
        bash = ["bash", "-c", f"{stand_in}\n{script.stdout.decode()}\n{ask}", "bash", *typed]
        assert subprocess.run(bash, capture_output=True, text=True, check=True).stdout.strip() == found


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"polite-flamingo {__version__}\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [("biuld", "did you mean 'build'?"), ("evalute", "'evaluate'"), ("xyz", "the commands are ingest,")],
)
def test_an_unknown_command_is_one_line_and_status_2(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"unknown command {name!r}" in said and says in said


@pytest.mark.parametrize("name", MODULES)
def test_each_name_starts_its_module_under_that_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (REPO / f"{MODULES[name].replace('.', '/')}.py").is_file()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(MODULES[name]).main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: polite-flamingo {name} ")


def test_a_mistake_ends_with_the_status_that_the_module_alone_gives(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "none")]
    one = subprocess.run(
        [sys.executable, "-m", "ray_jobs.command", "select", *arguments], cwd=REPO, capture_output=True
    )
    two = subprocess.run([sys.executable, "-m", "ray_jobs.select", *arguments], cwd=REPO, capture_output=True)
    assert (one.returncode, one.stderr) == (two.returncode, two.stderr)
    assert one.returncode == 2 and one.stderr.startswith(b"select: error: ")


def test_the_list_loads_no_job() -> None:
    code = (
        "import sys, ray_jobs.command as c; c.main([]); assert not {'ray', 'torch', 'numpy', 'yaml'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True).returncode == 0


def test_a_missing_extra_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray_jobs.select", None)  # its import then fails, as that of a missing package
    with pytest.raises(ModuleNotFoundError):
        main(["select", "--out", "x"])  # a module of ours is no extra: the traceback is wanted
    monkeypatch.setitem(EXTRAS, "ray", ("ray_jobs",))
    assert main(["select", "--out", "x"]) == 2
    assert capsys.readouterr().err == (
        "select: error: ray_jobs is not installed; pip install '.[ray]' (docs/install.md)\n"
    )


def test_every_package_of_an_extra_names_its_extra() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    modules: dict[str, set[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(canonicalize_name(distribution), set()).add(module)
    for extra, requirements in project["optional-dependencies"].items():
        if extra == "dev":
            continue
        names = {canonicalize_name(Requirement(one).name) for one in requirements} - {"polite-flamingo-on-ray"}
        for name in names:
            known = {*EXTRAS[extra]} & modules.get(name, {*EXTRAS[extra]})
            assert known, f"{extra}: {name} brings {modules.get(name)}, which ray_jobs/extras.py does not name"
