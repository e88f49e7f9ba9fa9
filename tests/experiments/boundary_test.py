"""Weights of an experiment reach a gradient through the boundary: no file updates a weight transformation by hand."""

import ast
from pathlib import Path

import pytest

import experiments

FOLDER = Path(experiments.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
NO_TRANSFORMATIONS = {"jax.config", "nnx", "progress", "rule", "sampler", "values"}
"""what has an `update` of another kind: settings, modules, progress bars, samplers, dicts; and rules of mixing, whose
weights of domains reach no gradient"""
EXCEPTIONS = {
    "engine/arms.py": {"optimizer"},
    "modules/subnets_of_a_batch.py": {"optimizer"},
    "schedules/_steps_to_goal.py": {"monitor"},
    "speed/_device_laws.py": {"tx"},
    "speed/_device_steps.py": {"tx"},
    "speed/compile_times.py": {"tx"},
    "speed/noise_scale.py": {"monitor"},
}
"""the file that updates an optimizer, all others call `descend`, `minimize` or `gradient_arm`; one that changes what an
optimizer gave; monitors, which pass the gradient on as it is; and what checks, compiles or times an update alone"""


def updated(source: str) -> set[str]:
    """What a file takes an attribute `update` of, called or not, by name or by `getattr`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "update":
            found.add(ast.unparse(node.value))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and "'update'" in ast.unparse(node):
            found.add(ast.unparse(node.args[0]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_file_updates_a_weight_transformation(path):
    allowed = NO_TRANSFORMATIONS | EXCEPTIONS.get(path.relative_to(FOLDER).as_posix(), set())
    beyond = updated(path.read_text()) - allowed
    assert not beyond, f"{beyond}: use value_and_grad, or weights_of to look at weights"


def test_every_exception_is_needed():
    found = {path.relative_to(FOLDER).as_posix(): updated(path.read_text()) for path in FILES}
    assert set().union(*found.values()) == NO_TRANSFORMATIONS.union(*EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weights, state = miner(0).update(ones, state, distances=d)", {"miner(0)"}),
        ("select = keep_topk(2).update", {"keep_topk(2)"}),
        ("select = optax.with_extra_args_support(tx).update", {"optax.with_extra_args_support(tx)"}),
        ("f = lambda w: self.selection.update(w, ())", {"self.selection"}),
        ("select = getattr(tx, 'update')", {"tx"}),
        ("weights = weights_of(tx, ones, losses=losses)", set()),
    ],
)
def test_the_rule_sees_an_update_wherever_it_stands(line, expected):
    assert updated(line) == expected
