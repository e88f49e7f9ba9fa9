"""The README's training loop trains."""

import pathlib
import re

import jax
import jax.numpy as jnp

from tests.conformance_test import public_factories

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_training_loop_trains():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, names)
        logits = names["x"] @ names["params"]["w"] + names["params"]["b"]
    assert jnp.mean(jnp.argmax(logits, axis=-1) == names["y"]) > 0.95


def test_the_method_table_names_every_transformation_and_experiment():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    words = {word for name in re.findall(r"`([^`]+)`", prose) for word in re.split(r"[\s.]+", name)}
    assert set(public_factories()) <= words
    experiments = {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")} - {"common"}
    assert experiments <= words | {"quickstart"}
