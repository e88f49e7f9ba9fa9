"""Every rule of mixing in half precision computes in float32. The functions have such tests in their own files."""

import importlib
from pathlib import Path

import jax.numpy as jnp
import pytest

from tests.half_precision import check_transformation


def cases():
    for path in sorted(Path(__file__).parent.glob("*_test.py")):
        if "\nCASES = {" in path.read_text():
            yield from importlib.import_module(f"tests.mixing.{path.stem}").CASES.items()


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_a_rule_computes_in_float32(name):
    check_transformation(CASES[name], jnp.bfloat16)
