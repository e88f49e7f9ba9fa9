"""What holds for every test: an empty home, eight CPU devices, strict dtypes, one compilation cache for all workers."""

import functools
import gc
import importlib.util
import os
import tempfile
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax._src.interpreters import mlir

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
    os.environ |= {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    # XLA stops at a flag that it does not know, and the TPU compiler knows none of these.
    if jax.__version_info__ < (0, 11) and importlib.util.find_spec("libtpu") is None:
        # The older emitters and one LLVM module for each program: small programs compile in a third of the time.
        flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ.setdefault("XLA_FLAGS", flags)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # the suite mostly compiles; it measures no speed
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Every lowering makes an MLIR context, which takes longer than to lower a small program: let them share one.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)


# Its examples need torch, which no other extra installs.
collect_ignore = [] if importlib.util.find_spec("torch") else ["minibatch_jax/interop/torch.py"]

PROGRAMS = Counter()  # what this process and its workers compile or read from the cache


def count_program(event, seconds, **details):
    PROGRAMS["all"] += event == "/jax/core/compile/backend_compile_duration"
    PROGRAMS["read"] += event == "/jax/compilation_cache/cache_retrieval_time_sec"


jax.monitoring.register_event_duration_secs_listener(count_program)


def pytest_configure(config):
    # After a crash, a worker that takes over may wait forever: end the run instead, which names the test that crashed.
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"
    # A process that reads what another is just writing compiles for itself.
    for doing in ("reading", "writing"):
        config.addinivalue_line("filterwarnings", f"ignore:Error {doing} persistent compilation cache entry")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file, a case of the conformance suite, and all recipes in one process, which compiles them once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileOrCase(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            if file.endswith("/conformance_test.py"):
                return test.rpartition("-")[2]
            return "tests/recipes" if file.startswith("tests/recipes/") else file

    config.option.loadscopereorder = False  # as collected: the doctests, which are short, come last
    return ByFileOrCase(config, log)


MOST_MAPS = 30_000  # Linux gives a process 65,530 memory maps by default; XLA crashes when it finds none left


@pytest.fixture(autouse=True, scope="module")
def memory_maps():
    """Drop the programs of earlier files once they hold many memory maps, some ten each."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["programs"] = dict(PROGRAMS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    PROGRAMS.update(getattr(node, "workeroutput", {}).get("programs", {}))


def pytest_terminal_summary(terminalreporter):
    """Show where the time goes: the slowest files and the number of programs."""
    seconds = Counter()
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        if hasattr(report, "nodeid") and hasattr(report, "duration"):
            seconds[report.nodeid.split("::")[0]] += report.duration
    terminalreporter.section("slowest files")
    for file, total in seconds.most_common(10):
        terminalreporter.write_line(f"{total:8.1f} s  {file}")
    read = PROGRAMS["read"]
    terminalreporter.write_line(f"{PROGRAMS['all'] - read} programs compiled, {read} read from the compilation cache")


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax)
