"""Every public function says in one form what it takes, what it returns and what it raises."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import textwrap

import pytest

import minibatch_jax


def modules():
    """All modules of the package, however deep; that of torch only where torch is installed."""
    yield minibatch_jax
    absent = () if importlib.util.find_spec("torch") else ("minibatch_jax.interop.torch",)
    for found in pkgutil.walk_packages(minibatch_jax.__path__, f"{minibatch_jax.__name__}."):
        if not found.name.endswith("__main__") and found.name not in absent:
            yield importlib.import_module(found.name)


def public_functions():
    """The functions that the index of a public package names, each once, under the name of its own module."""
    found = {}
    for module in modules():
        if not hasattr(module, "__path__") or "._" in module.__name__:
            continue
        for name, value in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("_") and value.__module__.startswith(minibatch_jax.__name__):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


ORDER = ["Args", "Returns", "Raises", "References", "Examples"]
FUNCTIONS = public_functions()
DOCUMENTED = {module.__name__: module for module in modules()}

each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def sections(function):
    """Sections of a docstring in Google style: their names and their text."""
    parts = re.split(
        r"^(Args|Returns|Raises|References|Examples):$", inspect.getdoc(function) or "", flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2]))


def can_raise(function):
    """Whether the body has a `raise`, or calls a helper whose name says that it may."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name.lstrip("_").startswith(("check_", "require_")):
                return True
    return False


def test_the_walk_finds_functions_of_every_noun():
    nouns = {name.split(".")[1] for name in FUNCTIONS}
    assert {"selection", "coupling", "mining", "pool", "modules"} <= nouns
    assert len(FUNCTIONS) > 100


@each_function
def test_every_parameter_is_under_args(function):
    text = sections(function).get("Args", "")
    documented = set(re.findall(r"^  ([a-z_0-9]+): \S", text, flags=re.MULTILINE))
    documented |= set(re.findall(r"^  \*+([a-z_0-9]+): \S", text, flags=re.MULTILINE))
    assert documented == set(inspect.signature(function).parameters) - {"self"}


@each_function
def test_the_result_is_under_returns(function):
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert sections(function).get("Returns", "").strip()


@each_function
def test_errors_are_under_raises(function):
    if can_raise(function):
        assert re.search(r"^  [A-Za-z]+Error: \S", sections(function).get("Raises", ""), flags=re.MULTILINE)


@each_function
def test_sections_stand_in_one_order(function):
    assert list(sections(function)) == [name for name in ORDER if name in sections(function)]


@pytest.mark.parametrize("module", DOCUMENTED.values(), ids=DOCUMENTED.keys())
def test_no_docstring_sends_the_reader_elsewhere(module):
    for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text())):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(node) or ""
            assert not re.search(r"\bas there\b", text), getattr(node, "name", module.__name__)
