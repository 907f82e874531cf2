"""What a user installs is whole: the lock lacks nothing, the wheel holds weights, templates and profiles."""

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from polite_flamingo import __version__
from polite_flamingo.sources.registry import SOURCES
from ray_jobs import console, ingest
from ray_jobs.command import COMMANDS

ROOT = Path(__file__).parents[1]
ROOMS = ("polite_flamingo", "actors", "training", "serving", "ray_jobs", "benchmarks", "tests")
WEIGHTS = ROOT / "polite_flamingo" / "testbed" / "zoo" / "weights"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
# open_flamingo's own pins, which the overrides of pyproject.toml and --no-deps exist to ignore.
OVERRIDDEN = {("open-flamingo", "torch"), ("open-flamingo", "sentencepiece")}


def lock() -> dict[str, str]:
    """Package -> version, of requirements.lock."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines), "a package is locked twice"
    return pins


ELSEWHERE = {"vllm", "demo-real"}
"""Extras for an environment of their own, which the lock cannot hold: vLLM pins another torch and transformers,
and llama.cpp is downloaded by `demo-real` alone."""


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included; an extra's own extras are listed where they are defined."""
    extras = PROJECT["project"]["optional-dependencies"]
    groups = [PROJECT["project"]["dependencies"], *(extras[name] for name in extras.keys() - ELSEWHERE)]
    found = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in found if requirement.name != PROJECT["project"]["name"]]


def test_the_lock_names_one_plain_version_of_each_package() -> None:
    for name, version in lock().items():
        assert name == canonicalize_name(name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}: no URL, no local label, no marker"


def test_the_lock_satisfies_what_the_project_declares() -> None:
    pins = lock()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is declared and not locked"
        assert requirement.specifier.contains(pins[name]), f"{requirement} does not admit the locked {pins[name]}"


def test_the_lock_is_closed_so_that_no_resolver_is_needed() -> None:
    """Follows what every locked package requires here: nothing is missing, nothing clashes but the known pin."""
    pins = lock()
    extras: dict[str, set[str]] = {canonicalize_name(r.name): r.extras for r in declared() if r.extras}
    wrong = []
    for name in pins:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = canonicalize_name(requirement.name)
            asked = [{"extra": extra} for extra in ("", *extras.get(name, ()))]
            if requirement.marker and not any(requirement.marker.evaluate(environment) for environment in asked):
                continue
            if name == "torch" and (wanted.startswith(("nvidia-", "cuda-")) or wanted == "triton"):
                continue  # of the CUDA build; pip brings them together with torch
            if (name, wanted) not in OVERRIDDEN and not (
                wanted in pins and requirement.specifier.contains(pins[wanted], prereleases=True)
            ):
                wrong.append(f"{name} wants {requirement}, locked: {pins.get(wanted, 'nothing')}")
    assert not wrong


def test_the_environment_is_the_locked_one() -> None:
    """Else every other test would vouch for versions that no user gets."""
    strayed = {
        f"{name}: locked {version}, installed {here}"
        for name, version in lock().items()
        if (here := importlib.metadata.version(name).split("+")[0]) != version
    }
    assert not strayed, "run 'make setup', or renew requirements.lock"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy of the tree, because setuptools leaves build/ and an egg-info beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "out", "build", "dist", "*.egg-info", "venv")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=folder / "tree", capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return zipfile.ZipFile(folder / done.stdout.splitlines()[-1])


def test_the_wheel_holds_everything_that_runs(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    rooms = ("polite_flamingo", "actors", "ray_jobs", "training", "serving", "profiles")
    needed = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".gitignore"
    }
    assert any(name.endswith(".safetensors") for name in needed), "no weights to look for"
    assert any(name.startswith("profiles/") for name in needed), "no profile to look for"
    assert not needed - held
    assert not [name for name in held if name.startswith(("tests", "benchmarks", "docs"))]


def test_an_installed_wheel_finds_its_models(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    names = sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())
    assert {"clip", "flamingo", "polite_flamingo", "nli", "reward"} <= set(names)
    code = "import sys; from polite_flamingo import hub; [print(hub.resolve('zoo:' + name)) for name in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in done.stdout.splitlines():
        assert line.startswith(str(tmp_path / "site")), "found outside the installed wheel"


def test_the_zoo_stays_small_enough_to_ship() -> None:
    weights = WEIGHTS
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) < 34e6


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    in_code = "\n".join(re.findall(r"`[^`]+`|^```.*?^```", text, re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z]+)\b", in_code)) <= targets
    jobs = {name for group in COMMANDS.values() for name in group}
    assert set(re.findall(r"\bpolite-flamingo ([a-z]+)\b", in_code)) <= jobs
    for module in re.findall(r"python -m ((?:ray_jobs|polite_flamingo|serving|benchmarks)\.[\w.]*[a-z])", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_ingest_understands_the_commands_of_its_page() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    found = [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("polite-flamingo ingest")]
    assert len(found) > 3
    for arguments in found:
        command = console.parse("ingest", "", ingest.IngestOptions, arguments)
        assert not command.source or command.source in SOURCES
        assert command.mixture is None or (ROOT / command.mixture).is_file()


def test_the_index_names_every_page_and_the_glossary_what_is_there() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"]({page.name})" not in index] == ["README.md"]
    places = re.findall(
        r"\| .*`([\w/.]+)`(?:, `([\w/.]+)`)? \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
    )
    named = [place.replace("P/", "polite_flamingo/") for pair in places for place in pair if place]
    assert len(named) > 50
    assert not [place for place in named if not (ROOT / place).exists()]


def test_links_of_the_pages_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)} -> {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not dead


OTHERS_FILES = {"vlmeval/api/gpt.py", "lmdeploy.py", "vlmeval/config.py", "create_localqa_dataset.py", "objpart_vqa.py"}
"""Files of other projects that ours name."""


def test_the_files_that_pages_docstrings_and_comments_name_exist() -> None:
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    ends = {"/".join(path.relative_to(ROOT).parts[n:]) for path in modules for n in range(5)}
    ends |= OTHERS_FILES | {"utils.py"}  # forbidden, and named as such
    stale = []
    for path in [*(page for page in PAGES if page.name != "CHANGELOG.md"), *modules]:
        text = path.read_text()
        prose = text if path in PAGES else "\n".join(re.findall(r'"""[\s\S]*?"""|#.*', text))
        named = set(re.findall(r"(?<![\w./*-])\w[\w./-]*\.py\b", prose))
        stale += [(path, name) for name in named if "NAME" not in name and name.removeprefix("P/") not in ends]
        paths = re.findall(rf"`((?:{'|'.join((*ROOMS, 'docs', 'profiles'))})/[\w./-]*(?:/|\.md|\.yaml))`", prose)
        stale += [(path, name) for name in paths if "NAME" not in name and not (ROOT / name).exists()]
    assert not stale


def test_the_version_has_a_changelog_entry() -> None:
    version = __version__
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
