"""The library needs jax, optax and numpy; what needs more names the command that installs it."""

import importlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import minibatch_jax
from minibatch_jax.pool import open_pool, select_from_pool
from minibatch_jax.scores import linen_gradient_norms

OTHERS = (
    "flax",
    "rich",
    "pyarrow",
    "array_record",
    "chex",
    "scipy",
    "sklearn",
    "matplotlib",
    "grain",
    "tensorflow_datasets",
    "torch",
    "ott",
    "ot",
)
BARE = f"""
import sys
for name in {OTHERS}:
    sys.modules[name] = None
import minibatch_jax
minibatch_jax.pool.select_from_pool
from minibatch_jax.modules import mixup
from minibatch_jax import modules
assert not hasattr(modules, "__all__")
for look in (lambda: modules.BatchFormer, lambda: __import__("minibatch_jax.modules.views")):
    try:
        look()
    except ImportError as error:
        print(error)
"""


def test_the_package_imports_without_any_other_and_networks_name_their_extra():
    run = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == 2 * "flax is missing, wanted it here: pip install 'minibatch_jax[modules]'\n"


def test_norms_of_linen_modules_name_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(ImportError, match=r"flax is missing, wanted it here: pip install 'minibatch_jax\[modules\]'$"):
        linen_gradient_norms(lambda params, batch: batch, {}, jnp.zeros(2))


def test_the_progress_bar_names_its_extra(monkeypatch, tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(4, dtype=np.float32))
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"rich is missing, wanted it here: .*'minibatch_jax\[pool\]'$"):
        select_from_pool(tmp_path / "rows.npy", 2, method="k_center", progress=True)


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("array_record", "array_record")])
def test_a_kind_of_file_names_its_extra(kind, package, monkeypatch, tmp_path):
    (tmp_path / f"rows.{kind}").write_bytes(b"some")
    for module in (package, "array_record.python.array_record_module"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package} is missing, wanted it here: .*'minibatch_jax\[{kind}\]'$"):
        open_pool(tmp_path / f"rows.{kind}")


def test_parts_with_an_extra_are_attributes_of_the_package():
    assert minibatch_jax.pool is importlib.import_module("minibatch_jax.pool")
    assert minibatch_jax.modules is importlib.import_module("minibatch_jax.modules")
    with pytest.raises(AttributeError, match="has no attribute 'model'"):
        minibatch_jax.model  # noqa: B018
