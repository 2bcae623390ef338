"""The arrows physics <- models <- gleam <- experiments, and other rules of the house."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("physics", "models", "gleam", "experiments")
INSTALLED = LAYERS[:3]
# What a layer may import beside the standard library, itself and the layers before it.
THIRD_PARTY = {
    "physics": {"torch", "numpy", "sigpy", "mrinufft", "finufft"},
    "models": {"torch", "numpy"},
}
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST, deferred: bool) -> Iterator[ast.AST]:
    """All nodes; unless deferred, only those that run when the module is imported."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        if not deferred and (isinstance(node, functions) or is_type_checking(node)):
            continue
        yield node
        yield from statements(node, deferred)


def imports(tree: ast.AST, deferred: bool = False) -> set[str]:
    """Dotted names of all modules imported; ``from a import b`` counts as a.b if that is one."""
    found = set()
    for node in statements(tree, deferred):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in TREES else str(node.module))
    return found


def python(*arguments: str, cwd: Path = ROOT, path: Path | None = None) -> tuple[int, str]:
    """Run Python with the repository on its path, behind a folder that is given."""
    folders = [str(folder) for folder in (path, ROOT) if folder]
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("name", TREES)
def test_imports_point_to_the_layers_below(name):
    layer = name.split(".")[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    used = {module.split(".")[0] for module in imports(TREES[name], deferred=True)}
    assert not used & {*above, "tests"}
    if layer in THIRD_PARTY:
        allowed = THIRD_PARTY[layer] | set(LAYERS) | set(sys.stdlib_module_names)
        assert used <= allowed


def test_no_module_imports_itself_through_others():
    edges = {name: imports(tree) & set(TREES) for name, tree in TREES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_the_cycle_check_sees_imports():
    assert "gleam.strategies.greedy" in imports(TREES["gleam.strategies"])
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import c\n"
        "def f():\n    import d\nclass E:\n    import e"
    )
    assert imports(tree) == {"a.b", "e"}
    assert imports(tree, deferred=True) == {"a.b", "c", "d", "e"}


def test_the_packages_listed_for_installation_are_those_on_disk():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "find_packages"
    ]
    settings = {word.arg: ast.literal_eval(word.value) for word in calls[0].keywords}
    listed = set(find_packages(where=str(ROOT), **settings))
    on_disk = {module_name(path.parent) for path in FILES if path.parent.name != "experiments"}
    assert listed == {name for name in on_disk if name.split(".")[0] in INSTALLED}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_folder_with_code_is_a_package(layer):
    for path in FILES:
        if path.is_relative_to(ROOT / layer):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_importing_gleam_stays_light():
    heavy = ("ray", "matplotlib", "sigpy", "skimage", "numba", "scipy", "pandas")
    code = f"import sys, gleam; print([name for name in {heavy} if name in sys.modules])"
    status, output = python("-c", code)
    assert (status, output.strip()) == (0, "[]")


@pytest.mark.parametrize("name", ["models", "physics"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_foreign_module_in_front_of_ours_is_named(tmp_path, name, kind):
    foreign = tmp_path / (f"{name}.py" if kind == "file" else f"{name}/__init__.py")
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    status, output = python("-c", "import gleam", cwd=tmp_path, path=tmp_path)
    assert status != 0
    last = output.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert str(foreign.resolve()) in last
    assert str(ROOT) in last
    assert "Rename" in last


def test_a_folder_without_code_in_front_of_ours_does_no_harm(tmp_path):
    (tmp_path / "models").mkdir()
    assert python("-c", "import gleam", cwd=tmp_path, path=tmp_path) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=map(str, TREES))
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", TREES)
def test_functions_are_short(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 45, f"{node.name} in {name} has {lines} lines"


@pytest.mark.parametrize("name", [name for name in TREES if name.split(".")[0] in INSTALLED])
def test_every_module_of_the_library_says_what_it_is_for(name):
    assert ast.get_docstring(TREES[name]) or not TREES[name].body


@pytest.mark.parametrize("name", [name for name in TREES if name.split(".")[0] in INSTALLED[:2]])
def test_the_library_never_touches_global_random_state(name):
    forbidden = {"torch.manual_seed", "torch.seed", "np.random.seed", "random.seed"}
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)}
    assert not calls & forbidden


@pytest.mark.parametrize("name", [name for name in TREES if name.split(".")[0] in INSTALLED])
def test_the_library_does_not_assert_print_or_swallow_errors(name):
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Assert)
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
        assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
