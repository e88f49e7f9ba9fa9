"""Every row of the method table has one recipe, which is short and uses public names only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
STATEMENTS, COLUMNS = 15, 100
FILES = sorted(path for path in FOLDER.glob("*_test.py") if path.name != "rows_test.py")


def test_each_row_of_the_method_table_has_one_recipe():
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [m for m in re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE) if m != "method"]
    methods = [method_of(path) for path in FILES]
    assert len(rows) > 50 and len(rows) == len(set(rows))
    assert not sorted(set(rows) - set(methods)), "rows without a recipe"
    assert not sorted(set(methods) - set(rows)), "recipes of methods that are no row"
    assert not sorted(m for m in set(methods) if methods.count(m) > 1), "rows with two recipes"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_public(path):
    text = path.read_text(encoding="utf-8")
    assert not faults(text), f"{path.name}: {'; '.join(faults(text))}"


@pytest.mark.parametrize(
    "body, fault",
    [
        ("def recipe(x):\n" + "    x += 1\n" * 16, "recipe has 16 statements, wanted at most 15"),
        ("def recipe(x):\n    return part(x)\ndef part(x):\n" + "    x += 1\n" * 15, "recipe has 16 statements"),
        ("def recipe(x):\n    return x + " + "1 + " * 25 + "1\n", "has 116 columns, wanted at most 100"),
        ("from minibatch_jax._vector import first_max\ndef recipe(x): pass\n", "_vector is private"),
        ("import minibatch_jax\ndef recipe(x):\n    return minibatch_jax.mining._pairs\n", "_pairs is private"),
        ("from experiments.engine import arms\ndef recipe(x): pass\n", "imports experiments"),
        ("def receipt(x): pass\n", "no function recipe"),
    ],
)
def test_a_fault_is_found(body, fault):
    assert fault in "; ".join(faults(body))


def method_of(path: Path) -> str:
    """Return the method that the line `Method:` of a recipe names."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = re.findall(r"^Method: *(\S.*?) *$", docstring, flags=re.MULTILINE)
    assert len(found) == 1, f"{path.name} has {len(found)} lines 'Method: ...' in its docstring, wanted one."
    return found[0]


def faults(text: str) -> list[str]:
    """Return what is wrong with the text of a recipe's file."""
    tree, lines = ast.parse(text), text.splitlines()
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "recipe" not in functions:
        return ["no function recipe"]
    used = reachable("recipe", functions)
    found = [f"{name} is private" for name in sorted(private_names(tree))]
    if (count := sum(statements(functions[name]) for name in used)) > STATEMENTS:
        found += [f"recipe has {count} statements, wanted at most {STATEMENTS}"]
    for name in used:
        for number in range(functions[name].lineno, functions[name].end_lineno + 1):
            if (columns := len(lines[number - 1])) > COLUMNS:
                found += [f"line {number} has {columns} columns, wanted at most {COLUMNS}"]
    modules = {module.split(".")[0] for module in imported(tree)}
    return found + (["imports experiments"] if "experiments" in modules else [])


def statements(function: ast.FunctionDef) -> int:
    """Count the statements of a function, without docstrings, imports and the lines `def`."""
    free = ast.FunctionDef | ast.Import | ast.ImportFrom
    return sum(isinstance(n, ast.stmt) and not isinstance(n, free) and not is_text(n) for n in ast.walk(function))


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def reachable(name: str, functions: dict[str, ast.FunctionDef]) -> list[str]:
    """Return a function of the file and all that it names, directly or by way of others."""
    found, ahead = [], [name]
    while ahead:
        if (here := ahead.pop()) not in found:
            found.append(here)
            names = {node.id for node in ast.walk(functions[here]) if isinstance(node, ast.Name)}
            names -= {argument.arg for argument in functions[here].args.args}
            ahead += sorted(names & set(functions))
    return found


def imported(tree: ast.Module) -> set[str]:
    modules = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    return modules | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}


def private_names(tree: ast.Module) -> set[str]:
    """Return the private names that are imported, or read from anything; `_` and fields of tuples are none."""
    names = {part for module in imported(tree) for part in module.split(".")}
    names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {n for n in names if n.startswith("_") and n not in ("_replace", "_asdict") and not n.startswith("__")}
