import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import minibatch_jax
from minibatch_jax import across, weight_transformation
from minibatch_jax.signals import SIGNALS, Signal
from tests.conformance_test import CASES

PACKAGE = pathlib.Path(minibatch_jax.__file__).parent


def functions_called_update():
    """The updates of transformations of weights; samplers and transformations of gradients take what they say."""
    others = {PACKAGE / "scores" / "gradient_noise.py", *(PACKAGE / "sampling").glob("*.py")}
    for path in sorted({*PACKAGE.rglob("*.py")} - others):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "update" and node.args.kwarg is not None:
                yield path, node


def test_every_signal_is_read_and_every_signal_that_is_read_is_listed():
    read = {argument.arg for _, node in functions_called_update() for argument in node.args.kwonlyargs}
    assert read == SIGNALS.keys()


def test_the_package_itself_declares_no_extra_signals():
    calls = [
        (path.name, node.lineno)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and any(keyword.arg == "extra_signals" for keyword in node.keywords)
    ]
    assert calls == []


@pytest.mark.parametrize("name", CASES)
def test_signals_of_a_case_have_the_dtype_and_the_axes_of_the_table(name):
    case, rng = CASES[name], np.random.default_rng(0)
    pairs = case.weights is not None and case.weights(rng).ndim == 2
    for signal, value in case.signals(rng).items():
        assert jnp.issubdtype(value.dtype, SIGNALS[signal].dtype), signal
        # weights of pairs (i, i) are a vector, and so is what these pairs cost
        wanted = 1 if SIGNALS[signal].pairwise and signal == "cost" and not pairs else len(SIGNALS[signal].shape)
        assert value.ndim == wanted, signal


def test_only_matrices_are_pairwise_and_no_signal_is_pairwise_and_replicated():
    for name, signal in SIGNALS.items():
        assert not signal.pairwise or len(signal.shape) == 2, name
        assert not (signal.pairwise and signal.replicated), name


def test_a_signal_reads_as_one_line():
    assert str(Signal(("B", "C"), jnp.floating, "class scores")) == "[B, C] floating, class scores"
    assert str(Signal(("B",), jnp.bool_, "False on padding")) == "[B] bool, False on padding"


def test_the_error_about_a_missing_signal_says_what_the_signal_holds():
    def update(weights, state, params=None, *, concepts, **extra_args):
        return weights, state

    tx = weight_transformation(lambda weights: optax.EmptyState(), update)
    with pytest.raises(
        TypeError, match=r"wanted 'concepts' \(\[B, L\] integer, concepts of each example, -1 for none\)"
    ):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_across_gathers_sharded_signals_and_leaves_replicated_ones_whole():
    def update(weights, state, params=None, *, losses, domain_losses, **extra_args):
        return weights * jnp.sum(losses) + jnp.sum(domain_losses), state

    tx = across("data", weight_transformation(lambda weights: optax.EmptyState(), update))

    def step(weights, losses, domain_losses):
        return tx.update(weights, tx.init(weights), losses=losses, domain_losses=domain_losses)[0]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P("data"))
    weights, losses, domain_losses = jnp.ones(8), jnp.arange(8.0), jnp.array([100.0, 200.0])
    np.testing.assert_array_equal(jax.jit(shard)(weights, losses, domain_losses), np.full(8, 28 + 300))
