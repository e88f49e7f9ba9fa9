"""The rules of the tree: public modules that nothing shadows, indexes without lists, no arrow upwards."""

import ast
import importlib
import pkgutil
import re
import types
from pathlib import Path

import pytest

import minibatch_jax

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minibatch_jax"
NOUNS = ("sampling", "selection", "coupling", "mining", "mixing", "schedules", "boundaries", "scores")
MODULES = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "minibatch_jax.")]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
ROOMS = ("selection", "coupling", "mining", "mixing", "schedules", "modules")


@pytest.mark.parametrize("name", [m for m in MODULES if not re.search(r"\._|\.modules|\.pool", m)])
def test_a_module_is_found_as_an_attribute_and_no_function_shadows_it(name):
    if name == "minibatch_jax.interop.torch":
        pytest.importorskip("torch", reason="torch is not installed: pip install 'minibatch_jax[torch]'")
    parent, _, leaf = name.rpartition(".")
    module = getattr(importlib.import_module(parent), leaf)
    assert isinstance(module, types.ModuleType) and module.__name__ == name


@pytest.mark.parametrize("name", MODULES)
def test_no_public_function_is_called_like_a_module_of_its_noun(name):
    module = ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text()) if _is_file(name) else ast.Module([], [])
    functions = {n.name for n in module.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
    noun = name.split(".")[1] if "." in name else ""
    assert not functions & {m.rpartition(".")[2] for m in MODULES if m.split(".")[1:2] == [noun] or m.count(".") == 1}


@pytest.mark.parametrize("noun", NOUNS)
def test_an_index_lists_each_public_module_and_has_no_second_list(noun):
    text = (PACKAGE / noun / "__init__.py").read_text()
    assert "__all__" not in text
    modules = {p.stem for p in (PACKAGE / noun).iterdir() if p.stem[0] != "_" and (p.suffix == ".py" or p.is_dir())}
    assert modules == set(re.findall(r"^from \. import (\w+) as \1$", text, re.MULTILINE))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_library_imports_neither_experiments_nor_tests_nor_extras(path):
    imported = {name.split(".")[0] for name in _imports(path, top_only=True)}
    needs_flax = path.name in ("batch_former.py", "views.py", "linen_norms.py")
    extras = {"flax"} if needs_flax else set()
    assert not imported - {"jax", "optax", "numpy", "minibatch_jax", ""} - extras - STANDARD


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_experiment_imports_another(path):
    experiments = {f"experiments.{p.parent.name}.{p.stem}" for p in EXPERIMENTS if _is_experiment(p)}
    own = f"experiments.{path.parent.name}.{path.stem}"
    assert not set(_imports(path)) & (experiments - {own})


def test_every_name_of_the_method_table_resolves():
    table = (ROOT / "docs" / "methods.md").read_text()
    places = [minibatch_jax, *(importlib.import_module(f"minibatch_jax.{n}") for n in (*NOUNS, "modules", "metrics"))]
    cells = [row.split("|")[3:5] for row in table.splitlines() if row.startswith("|")]
    names = {name for row in cells for cell in row for name in re.findall(r"`([\w.]+)`", cell)}
    assert len(names) > 100
    assert not [n for n in names if not any(hasattr(place, n.rpartition(".")[2]) for place in places)]


STANDARD = set(importlib.import_module("sys").stdlib_module_names)


def _is_file(name):
    return (ROOT / (name.replace(".", "/") + ".py")).is_file()


def _is_experiment(path):
    return path.parent.name in ROOMS and not path.stem.startswith("_")


def _imports(path, top_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
