"""The house's arrow: eval -> train -> bridge, never back, and no circle; read off every file's syntax tree."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("bridge", "train", "eval")
MAY_IMPORT = {"bridge": {"bridge"}, "train": {"bridge", "train"}, "eval": {"bridge", "train", "eval"}}
FACES = {"__main__.py", "cli.py"}
SHARED_BY_MAPPERS = {"bridge.mappers", "bridge.mappers.base", "bridge.mappers.nets", "bridge.mappers.numerics"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions and relatively.

    Args:
        tree: The file.
        package: The package it is in, such as "bridge.mappers".
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return set(imported(ast.parse(path.read_text("utf-8")), package))


def outside(names: set[str], room: str) -> set[str]:
    """Those names that lie in rooms which `room` may not import from."""
    return {name for name in names if (head := name.split(".")[0]) in ROOMS and head not in MAY_IMPORT[room]}


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_imported_against_the_arrow(room):
    found = {str(path.relative_to(ROOT)): outside(imports_of(path), room) for path in files(room)}
    assert {path: names for path, names in found.items() if names} == {}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_graph(paths: Iterable[Path]) -> networkx.DiGraph:
    """Edges from each module to those it imports; `from package import name` is the module of that name, if any.

    A package itself is left out where one of its modules is named: running `__init__` first makes no circle.
    """
    modules = {module_of(path): path for path in paths}
    graph = networkx.DiGraph()
    graph.add_nodes_from(modules)
    for module, path in modules.items():
        names = imports_of(path) & set(modules)
        packages = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
        graph.add_edges_from((module, name) for name in names - packages - {module})
    return graph


def circles(graph: networkx.DiGraph) -> set[frozenset[str]]:
    return {frozenset(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1}


def test_no_modules_import_one_another_in_a_circle():
    assert circles(module_graph(path for room in ROOMS for path in files(room))) == set()


def test_a_circle_is_seen_also_inside_a_function(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "room"
    folder.mkdir()
    sources = {"a": "from room import b", "b": "import room.c as c", "c": "def f():\n    from room.a import g", "d": ""}
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    assert circles(module_graph(files("room"))) == {frozenset({"room.a", "room.b", "room.c"})}


@pytest.mark.parametrize(
    "source",
    [
        "import train",
        "import train.loop as loop",
        "from train import loop",
        "def f():\n    from eval.judge import Target",
        "import importlib\nimportlib.import_module('eval.metrics.fit')",
        "from ...train import loop",
    ],
)
def test_every_way_to_import_against_the_arrow_is_seen(source):
    assert outside(set(imported(ast.parse(source), "bridge.mappers")), "bridge")


def test_nobody_imports_the_tests():
    heads = {name.split(".")[0] for room in ROOMS for path in files(room) for name in imports_of(path)}
    assert "tests" not in heads


def test_arguments_are_parsed_only_at_bridges_faces():
    parsers = {path.name for path in files("bridge") if "argparse" in imports_of(path)}
    assert parsers <= FACES | {"commands.py"}


def test_only_faces_exit_or_read_the_command_line():
    pattern = re.compile(r"sys\.(argv|exit)\b")
    guilty = {path.name for path in files("bridge") if pattern.search(path.read_text("utf-8"))}
    assert guilty <= FACES


def test_mappers_never_import_one_another():
    """But the local flow, whose correction is a network of another family."""
    folder = ROOT / "bridge" / "mappers"
    for path in set(folder.glob("*.py")) - {folder / "__init__.py", folder / "local.py"}:
        modules = {f"bridge.mappers.{other.stem}" for other in folder.glob("*.py")} - SHARED_BY_MAPPERS
        assert not imports_of(path) & modules, path.name


def test_bridge_needs_only_what_its_wheel_declares():
    """Whoever installs `bridge` alone has neither accelerate nor datasets."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = {re.split(r"[<>=\[; ]", entry)[0].lower() for entry in tomllib.load(file)["project"]["dependencies"]}
    known = declared | {"tokenizers"}  # transformers' own dependency
    packages = importlib.metadata.packages_distributions()
    serve = ROOT / "bridge" / "serve"  # the extra `serve`
    page = {serve / "page.py", serve / "app.py"}
    heads = {name.split(".")[0] for path in files("bridge") if path not in page for name in imports_of(path)}
    third_party = heads - set(sys.stdlib_module_names) - {"bridge"}
    found = {head: {dist.lower().replace("_", "-") for dist in packages.get(head, ["?"])} for head in third_party}
    assert {head: names for head, names in found.items() if not names & known} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_no_function_swallows_unknown_names(room):
    """No open **kwargs: a misspelt argument fails."""
    guilty = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(room)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg
    ]
    assert guilty == []


def test_what_bridge_imports_only_at_need_is_an_extra():
    """`bridge.errors.import_extra` hides a name from the test above; so it is held to the extras here."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    calls = [
        [argument.value for argument in node.args]
        for path in files("bridge")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra"
    ]
    assert {name for name, *_ in calls} >= {"faiss", "vtracer", "resvg_py"}
    for module, extra, package, *_ in calls:
        assert module.split(".")[0].replace("_", "-") == package.removesuffix("-cpu")
        assert package in {re.split(r"[<>=\[; ]", entry)[0] for entry in extras[extra]}


def test_gradio_is_imported_by_the_page_alone():
    page = {"bridge.serve.page"}
    for path in files("bridge"):
        if module_of(path) in page:
            continue
        top = ast.Module([node for node in ast.parse(path.read_text("utf-8")).body if not _is_function(node)], [])
        assert {name.split(".")[0] for name in imported(top, "")}.isdisjoint({"gradio", "fastapi", "uvicorn"}), path
        assert page.isdisjoint(imported(top, "")), path


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
