"""Imports run one way, and the domain runs where Ray is not installed.

    polite_flamingo  <-  actors, training, serving  <-  ray_jobs

The three in the middle never import each other. The rules are checked on the syntax trees, so an import hidden in a
function counts as well; what the domain really needs is then shown by importing it with Ray out of reach.
"""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
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
# The libraries behind our own Flamingo and the filters' models. Who ingests, selects or reports does without them.
MODEL_LIBRARIES = {"open_clip", "open_flamingo", "peft", "sentence_transformers", "torchvision"}
# These two subclass open_flamingo's classes; `build_flamingo` imports them when it builds a model.
SUBCLASSES = {"polite_flamingo.flamingo.model.model", "polite_flamingo.flamingo.model.language_model"}
# These start every job and every `--help`; torch and transformers would cost each of them ten seconds.
LIGHT = (
    "polite_flamingo.sample",
    "polite_flamingo.prompts",
    "polite_flamingo.images.decoding",
    "polite_flamingo.sources.registry",
)


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the project's own."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imported(source: str, *, at_import_time: bool = False) -> tuple[str, ...]:
    """Dotted names that a module imports, `from a import b` as "a" and "a.b".

    `at_import_time` leaves out what only a function or a type checker would import.
    """
    return tuple(_imports(ast.parse(source), at_import_time))


def _imports(tree: ast.Module, at_import_time: bool) -> Iterator[str]:
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the project's imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in IMPORTERS:
            named = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "name")]
            yield from (one.value.partition(":")[0] for one in named if _is_text(one))
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        deferred |= isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not (at_import_time and deferred):
            pending.extend(ast.iter_child_nodes(node))


IMPORTERS = ("__import__", "import_module", "resolve_name")
"""Functions that import the module whose name they get, by whatever name their own module goes."""


def _called(node: ast.Call) -> str:
    """The last part of a called function's name."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


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
        "import importlib as il\nil.import_module('serving.server.app')\n"
        "from importlib import import_module\nimport_module(name='serving.config')\n"
        "import pkgutil\npkgutil.resolve_name('serving.errors:Refused')\n"
    )
    assert {"ray.data", "actors.pools", "actors.pools.Pool", "serving.server.app"} <= set(imported(source))
    assert {"serving.config", "serving.errors"} <= set(imported(source))
    assert not {"ray.data", "actors.pools"} & set(imported(source, at_import_time=True))


def test_the_walk_covers_the_project() -> None:
    assert len(modules()) >= 30
    assert {"polite_flamingo.sample", "polite_flamingo.sources.registry", "ray_jobs.build_pf1m"} <= modules().keys()


def test_imports_run_one_way() -> None:
    trespasses = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imported(path.read_text())
        if target.split(".")[0] in FORBIDDEN[name.split(".")[0]]
    ]
    assert not trespasses


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> the project's modules that it imports, deferred imports included."""
    known = modules()
    return {name: {one for one in known_imports(path, known) if one != name} for name, path in known.items()}


def known_imports(path: Path, known: Collection[str]) -> Iterator[str]:
    """Those of `known` that a module imports: of `from a import b` the module a.b where there is one, else a."""
    source = path.read_text()
    names = {name for name in imported(source) if name in known}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and all(f"{node.module}.{alias.name}" in known for alias in node.names):
            names.discard(str(node.module))
    return iter(names)


def folder_of(name: str, path: Path) -> str:
    """The folder of a module; a package is the folder of the modules at its root."""
    return name if path.stem == "__init__" else name.rpartition(".")[0]


def test_no_module_imports_itself_round_a_corner() -> None:
    """Deferred imports count: moving an import into a function hides a circle and does not open it."""
    assert sum(map(len, graph().values())) >= 2 * len(modules()), "the graph has hardly an edge: is the walker broken?"
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle(graph()) == []


def test_no_folders_import_each_other() -> None:
    """No circle of folders either: each can be read, and taken away, without those that stand on it."""
    known = modules()
    folders: dict[str, set[str]] = {folder_of(name, path): set() for name, path in known.items()}
    for name, targets in graph().items():
        mine = folder_of(name, known[name])
        folders[mine] |= {folder_of(target, known[target]) for target in targets} - {mine}
    assert {"polite_flamingo.storage", "polite_flamingo.flamingo.engine", "serving.http"} <= folders.keys()
    assert circle(folders) == []


ABOUT_THE_TESTBED = re.compile(
    r"polite_flamingo\.testbed\b|ray_jobs\.(demo|demo_real|paper(_results|_steps)?|align(_results|_steps)?)$|benchmarks\b"
)


def test_nothing_of_the_product_imports_the_testbed() -> None:
    """The drawn world reaches the product through a profile's names only."""
    trespasses = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets
        if target.startswith("polite_flamingo.testbed") and not ABOUT_THE_TESTBED.match(name)
    ]
    assert not trespasses


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node of a module that its import runs: none in functions, and none that only a script runs."""
    pending: list[ast.AST] = [*reversed(tree.body)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue
        yield node
        inside = [] if isinstance(node, ast.Lambda) else [*ast.iter_child_nodes(node)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [*node.decorator_list, node.args]
        pending.extend(reversed(inside))


def root_of(node: ast.AST) -> ast.AST:
    """What an expression such as a.b[c].d() begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


def patches(source: str) -> Iterator[str]:
    """What a module changes outside itself when it is imported: attributes and items of what it imports, any `setattr`,
    and bare calls of functions, which do nothing else.
    """
    tree = ast.parse(source)
    foreign = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    def is_foreign(node: ast.AST) -> bool:
        root = root_of(node)
        return isinstance(root, ast.Name) and root.id in foreign

    for node in run_at_import(tree):
        if isinstance(node, ast.Assign) and is_foreign(node.value) and not isinstance(node.value, ast.Call):
            foreign |= {target.id for target in node.targets if isinstance(target, ast.Name)}  # another name for it
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield from [ast.unparse(node)] if is_foreign(node) or ast.unparse(node).startswith("vars(") else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            yield ast.unparse(node)
        bare = node.value if isinstance(node, ast.Expr) else None
        if isinstance(bare, ast.Call) and (isinstance(bare.func, ast.Name) or is_foreign(bare)):
            yield ast.unparse(node)


def test_nothing_is_patched_at_import() -> None:
    """Else what a library does would depend on who was imported first."""
    assert [*patches("import a.b\na.b.c = 1")] and [*patches("from a import b\nb['c'] = 1")]
    assert [*patches("try:\n    setattr(x, 'y', 1)\nexcept E:\n    pass")] and [*patches("repair()")]
    for hidden in (
        "a.b, y = 1, 2", "[setattr(a, 'b', 1) for _ in (1,)]", "_ = setattr(a, 'b', 1)", "j = a\nj.b = 1",
        "vars(a)['b'] = 1", "if setattr(a, 'b', 1):\n    pass", "for a.b in (1,):\n    pass", "del a.b",
        "match 1:\n    case 1:\n        a.b = 1", "with x as a.b:\n    pass", "a.b += 1", "class C:\n    a.b = 1",
    ):  # fmt: skip
        assert [*patches(f"import a\n{hidden}")], hidden
    assert not [*patches("import a\nc = a.b()\nd = {}\nd['e'] = 1\ndef f():\n    a.b = 1")]
    patched = {name: found for name, path in modules().items() if (found := list(patches(path.read_text())))}
    patched.pop("ray_jobs")  # which listens for a first Ctrl-C before anything heavy is imported
    assert not patched


def test_model_libraries_are_imported_only_where_a_model_is_loaded() -> None:
    """Their extras stay optional, and torchvision is repaired by a call before them, not by the order of imports."""
    early = {
        name
        for name, path in modules().items()
        for target in imported(path.read_text(), at_import_time=True)
        if target.split(".")[0] in MODEL_LIBRARIES or (target in SUBCLASSES and name not in SUBCLASSES)
    }
    assert early == SUBCLASSES


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
        name: module
        for name, module in foreign.items()
        if not declared & {_canonical(d) for d in origin.get(name, [name])}
    }
    assert not missing, "add it to pyproject.toml and requirements.lock, or do without"


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_nothing_is_called_utils() -> None:
    named = [p for p in modules().values() if p.stem.strip("_") in ("utils", "util", "common", "helpers", "misc")]
    assert not named, "name a module after what it does"


BLOCK_AND_IMPORT = """
import importlib, sys

blocked, names = sys.argv[1].split(","), sys.argv[2:]
sys.modules.update(dict.fromkeys(blocked))  # Python's own mark of what cannot be imported
for name in names:
    importlib.import_module(name)
"""


def import_behind_a_wall(blocked: set[str], *names: str) -> None:
    """Import modules in a fresh interpreter where the packages of `blocked` cannot be found."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_AND_IMPORT, ",".join(blocked), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_wall_holds() -> None:
    with pytest.raises(AssertionError, match="import of json halted"):
        import_behind_a_wall({"json"}, "polite_flamingo.sample")


@pytest.mark.slow
def test_the_domain_imports_without_ray_and_without_the_libraries_of_its_models() -> None:
    domain = {name for name in modules() if name.startswith("polite_flamingo.") and not name.endswith("__main__")}
    import_behind_a_wall({"ray", *MODEL_LIBRARIES}, *sorted(domain - SUBCLASSES))


def test_what_starts_every_job_needs_no_model_library() -> None:
    import_behind_a_wall({"torch", "transformers", "ray", *MODEL_LIBRARIES}, *LIGHT)
