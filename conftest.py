"""What holds for every test: an empty home, eight CPU devices, strict dtypes, one compilation cache for all workers."""

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit the environment of the first process
    session = tempfile.TemporaryDirectory(prefix="minibatch_jax_tests_", ignore_cleanup_errors=True)
    folder = Path(session.name)
    (folder / "home").mkdir()
    # Nothing that lies on this machine, such as a data set prepared earlier, can hide that a test needs it.
    os.environ |= {
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home" / ".cache"),
        "XDG_CONFIG_HOME": str(folder / "home" / ".config"),
        "MINIBATCH_JAX_DATA": str(folder / "data"),
    }
    os.environ.pop("TFDS_DATA_DIR", None)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    # for the processes that tests start; ours has read its environment already
    os.environ |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # the suite mostly compiles; it measures no speed
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    # A process that reads what another is just writing compiles for itself.
    for doing in ("reading", "writing"):
        config.addinivalue_line("filterwarnings", f"ignore:Error {doing} persistent compilation cache entry")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of one case in one process, which then compiles it once."""
    from xdist.scheduler import LoadGroupScheduling

    return LoadGroupScheduling(config, log)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax)
