"""Imports run one way, and the domain runs where Ray is not installed.

    polite_flamingo  <-  actors, training, serving  <-  ray_jobs

The three in the middle never import each other. The rules are checked on the syntax trees, so an import hidden in a
function counts as well; what the domain really needs is then shown by importing it with Ray out of reach.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("polite_flamingo", "actors", "training", "serving", "ray_jobs")
FORBIDDEN = {
    "polite_flamingo": {"ray", "actors", "training", "serving", "ray_jobs"},
    "actors": {"training", "serving", "ray_jobs"},
    "training": {"actors", "serving", "ray_jobs"},
    "serving": {"actors", "training", "ray_jobs"},
    "ray_jobs": set[str](),
}
# These import torchvision, which hub.py has to repair first where torch is a CPU build.
NEED_REPAIR = {"open_clip", "open_flamingo", "peft", "sentence_transformers", "torchvision"}
# These start every job and every `--help`; torch and transformers would cost each of them ten seconds.
LIGHT = (
    "polite_flamingo.sample",
    "polite_flamingo.prompts",
    "polite_flamingo.images.decoding",
    "polite_flamingo.sources",
)


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the project's own."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, *, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, `from a import b` as "a" and "a.b".

    `at_import_time` leaves out what only a function or a type checker would import.
    """
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the project's imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from (argument.value for argument in node.args[:1] if _is_text(argument))
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        deferred |= isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (at_import_time and deferred):
            pending.extend(ast.iter_child_nodes(node))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, as the names on it, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if found := visit(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_the_walker_sees_every_way_to_import() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import ray.data\n"
        "def f():\n    from actors.pools import Pool\n"
        "import importlib\nimportlib.import_module('serving.server.app')\n"
    )
    assert {"ray.data", "actors.pools", "actors.pools.Pool", "serving.server.app"} <= set(imported(source))
    assert not {"ray.data", "actors.pools"} & set(imported(source, at_import_time=True))


def test_the_walk_covers_the_project() -> None:
    assert len(modules()) >= 30
    assert {"polite_flamingo.sample", "polite_flamingo.sources", "ray_jobs.build_pf1m"} <= modules().keys()


def test_imports_run_one_way() -> None:
    trespasses = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imported(path.read_text())
        if target.split(".")[0] in FORBIDDEN[name.split(".")[0]]
    ]
    assert not trespasses


def test_no_module_imports_itself_round_a_corner() -> None:
    known = modules()
    graph = {
        name: {t for t in imported(path.read_text(), at_import_time=True) if t in known and t != name}
        for name, path in known.items()
    }
    assert sum(map(len, graph.values())) >= len(known) // 2, "the graph has hardly an edge: is the walker broken?"
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle(graph) == []


def test_hub_repairs_torchvision_before_anything_needs_it() -> None:
    """Whichever module a worker imports first: one that needs the repair, or its package, has imported hub above it."""
    known = modules()
    late = []
    for name, path in known.items():
        if not name.startswith("polite_flamingo.") or not _first_import(path, NEED_REPAIR):
            continue
        packages = [known[name.rsplit(".", depth)[0]] for depth in range(1, name.count("."))]
        hub = {"polite_flamingo.hub"}
        above = _first_import(path, hub) and _first_import(path, hub) < _first_import(path, NEED_REPAIR)
        if not above and not any(_first_import(package, hub) for package in packages):
            late.append(name)
    assert not late


def _first_import(path: Path, names: set[str]) -> int:
    """The line of the first import of one of `names` or of what is in them; 0 where there is none."""
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(ast.unparse(node))
        if name in names or name.split(".")[0] in names
    ]
    return min(lines, default=0)


def test_what_is_imported_is_declared() -> None:
    """Else a fresh machine lacks it, or has it only for as long as some other package happens to need it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {_canonical(re.split(r"[^\w.-]", text)[0]) for group in groups for text in group}
    origin = importlib.metadata.packages_distributions()
    foreign = {
        name.split(".")[0]: module
        for module, path in modules().items()
        for name in imported(path.read_text())
        if name.split(".")[0] not in {*sys.stdlib_module_names, *ROOMS}
    }
    assert {"PIL", "ray", "torch"} <= foreign.keys()
    missing = {
        name: module for name, module in foreign.items() if not declared & {_canonical(d) for d in origin.get(name, [])}
    }
    assert not missing, "add it to pyproject.toml and requirements.lock, or do without"


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_nothing_is_called_utils() -> None:
    named = [p for p in modules().values() if p.stem.strip("_") in ("utils", "util", "common", "helpers", "misc")]
    assert not named, "name a module after what it does"


BLOCK_AND_IMPORT = """
import importlib, pkgutil, sys

blocked, names = sys.argv[1].split(","), sys.argv[2:]

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is walled off by the test")

sys.meta_path.insert(0, Wall())
if names == ["polite_flamingo"]:
    import polite_flamingo
    def fail(name): raise
    names = [m.name for m in pkgutil.walk_packages(polite_flamingo.__path__, "polite_flamingo.", onerror=fail)]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
reached = {name.split(".")[0] for name in sys.modules} & set(blocked)
assert not reached, reached
print(len(names))
"""


def import_behind_a_wall(blocked: str, *names: str) -> int:
    """Import modules in a fresh interpreter where the packages of `blocked` cannot be found; returns how many."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_AND_IMPORT, blocked, *names], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def test_the_wall_holds() -> None:
    with pytest.raises(AssertionError, match="json is walled off"):
        import_behind_a_wall("json", "polite_flamingo.sample")


@pytest.mark.slow
def test_the_whole_domain_imports_without_ray() -> None:
    domain = [name for name in modules() if name.startswith("polite_flamingo.") and not name.endswith("__main__")]
    assert import_behind_a_wall("ray", "polite_flamingo") >= len(domain)


def test_what_starts_every_job_needs_no_model_library() -> None:
    import_behind_a_wall("torch,transformers,open_clip,peft,sentence_transformers,ray", *LIGHT)
