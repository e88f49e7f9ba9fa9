"""Accumulated gradients equal those of the whole batch, where the mean of the means of micro-batches does not."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import accumulate, normalize, value_and_grad
from minibatch_jax.selection import keep_topk
from tests.boundaries.gradients_test import B, D, problem, squared_error

T = 6
MESH = functools.partial(jax.make_mesh, (8,), ("data",), axis_types=(AxisType.Auto,))


def tokens(params, batch):
    """A loss for each token `[b, T]` of sequences `[b, T, D]`."""
    hidden = jnp.tanh(jnp.einsum("btd,de->bte", batch["x"], params["w"]))
    return jnp.square(jnp.einsum("bte,e->bt", hidden, params["v"]) - batch["y"])


def sequences(dtype=jnp.float64):
    """Sequences, long ones in the first of four micro-batches; the rows of the second have no token, and hold NaN."""
    rng = np.random.default_rng(0)
    lengths = np.array([T, 0, 1, 2])[np.arange(B) % 4]
    real = jnp.asarray(np.arange(T) < lengths[:, None])
    params, _ = problem()
    x = jnp.where(real.any(1)[:, None, None], jnp.asarray(rng.normal(size=(B, T, D))), jnp.nan)
    batch = {"x": x, "y": jnp.asarray(rng.normal(size=(B, T)))}
    return jax.tree.map(lambda a: a.astype(dtype), params), jax.tree.map(lambda a: a.astype(dtype), batch), real


def mean(params, batch, real):
    clean = batch | {"x": jnp.where(real[:, :, None], batch["x"], 0)}
    return jnp.sum(jnp.where(real, tokens(params, clean), 0)) / jnp.sum(real, dtype=batch["y"].dtype)


def agree(found, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=0.1 * rtol), found, expected)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_sums_over_ragged_micro_batches_are_divided_once(micro_batches):
    with jax.enable_x64(True):
        params, batch, real = sequences()
        selection = optax.chain(optax.with_extra_args_support(optax.identity()), normalize())
        boundary = value_and_grad(tokens, selection, micro_batches=micro_batches)

        def all_ways(params, batch, real):
            by_mask = accumulate(tokens, real, micro_batches)(params, batch)
            (value, _), grads, _ = boundary(params, batch, selection.init(real), weights=real)
            return by_mask, (value, grads), jax.value_and_grad(mean)(params, batch, real)

        by_mask, by_boundary, expected = jax.jit(all_ways)(params, batch, real)
        agree(by_mask, expected)
        agree(by_boundary, expected)


def test_means_of_means_and_multi_steps_have_another_gradient():
    params, batch, real = sequences(jnp.float32)
    rows = [j for j in range(4) if j != 1]  # a mean without any token would be NaN
    parts = [jax.tree.map(lambda x, j=j: x[j::4], (batch, real)) for j in rows]
    gradients = [jax.grad(mean)(params, *part) for part in parts]
    means = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
    optimizer = optax.MultiSteps(optax.sgd(1.0), every_k_schedule=len(parts))
    state = optimizer.init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
    agree(jax.tree.map(jnp.negative, updates), means, 1e-4)
    _, ours = accumulate(tokens, real, 4)(params, batch)
    agree(ours, jax.grad(mean)(params, batch, real), 1e-4)
    assert np.abs(means["v"] - ours["v"]).max() > 0.1 * np.abs(ours["v"]).max()


def test_the_sums_are_those_of_optax_microbatch():
    params, batch = problem()
    weights = jnp.asarray(np.random.default_rng(1).integers(0, 4, B), jnp.float32)
    weighted = lambda p, b, w: jnp.sum(w * squared_error(p, b))  # noqa: E731
    sums = optax.microbatch(jax.value_and_grad(weighted), argnums=(1, 2), microbatch_size=4)(params, batch, weights)
    agree(
        accumulate(squared_error, weights, 4)(params, batch), jax.tree.map(lambda x: x / jnp.sum(weights), sums), 1e-5
    )


def test_losses_that_are_not_finite_leave_the_mean():
    params, batch = problem()
    spoilt = batch | {"x": batch["x"].at[3].set(jnp.inf)}
    others = jax.tree.map(lambda x: jnp.delete(x, 3, axis=0), batch)
    by_hand = jax.value_and_grad(lambda p: jnp.mean(squared_error(p, others)))(params)
    agree(accumulate(squared_error, jnp.ones(B), 4)(params, spoilt), by_hand, 1e-5)
    for weights, rows in ((jnp.zeros(B), batch), (jnp.ones(B), jax.tree.map(lambda x: x * jnp.nan, batch))):
        value, grads = accumulate(squared_error, weights, 4)(params, rows)
        assert np.isnan(value)
        agree(grads, jax.tree.map(jnp.zeros_like, params))


def test_weights_without_a_positive_sum_give_no_number():
    value, grads = accumulate(lambda w, x: (w - x) ** 2, jnp.array([1.0, -3.0]), 2)(0.5, jnp.array([0.0, 1.0]))
    assert np.isnan(value) and grads == 0


@pytest.mark.parametrize("blocks", [1, 4])
def test_sums_beyond_float16_have_the_mean_gradient(blocks):
    rows = jnp.full(1024, 200, jnp.float16)
    value, grad = accumulate(lambda w, x: w * x, jnp.ones(1024), blocks)(jnp.ones((), jnp.float16), rows)
    assert float(value) == float(grad) == 200


def test_a_dict_of_tasks_is_accumulated_with_one_selection_each():
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda x: x.astype(jnp.float64), problem())
        tasks = lambda p, b: {"a": squared_error(p, b), "b": jnp.abs(jnp.dot(b["x"], p["v"]))}  # noqa: E731
        select = keep_topk(5)
        fns = [value_and_grad(tasks, select, micro_batches=m) for m in (1, 4)]
        state = select.init({"a": jnp.ones(B), "b": jnp.ones(B)})
        whole, parts = jax.jit(lambda p, b: [f(p, b, state)[:2] for f in fns])(params, batch)
        agree((parts[0][0], parts[1], parts[0][1].weights), (whole[0][0], whole[1], whole[0][1].weights))


def test_one_program_loops_over_blocks_that_lie_on_all_devices():
    params, batch = problem(rows=32)
    weights = jnp.asarray(np.random.default_rng(1).integers(0, 3, 32), jnp.float32)
    mesh = MESH()
    rows, every = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    placed = jax.device_put(params, every), jax.device_put(batch, rows), jax.device_put(weights, rows)
    compiled = jax.jit(lambda p, b, w: accumulate(squared_error, w, 4)(p, b)).lower(*placed).compile()
    text = compiled.as_text()
    assert len(re.findall(r" while\(", text)) == 2  # the second is for gradients that are not finite
    assert not re.findall(r"\[(?:32|8),[\d,]+\]\S* all-gather\(", text)
    by_hand = jax.value_and_grad(lambda p: jnp.sum(weights * squared_error(p, batch)) / jnp.sum(weights))(params)
    agree(compiled(*placed), by_hand, 1e-5)
    part = lambda p, b, w: accumulate(squared_error, w, 2, axis_name="data")(p, b)  # noqa: E731
    shard = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    agree(jax.jit(shard)(*placed), by_hand, 1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, b: accumulate(squared_error, jnp.ones(B), 5)(p, b),
            ValueError,
            "micro_batches is 5, wanted a divisor",
        ),
        (lambda p, b: accumulate(squared_error, jnp.ones(B), 2.0), TypeError, "micro_batches is 2.0, wanted a static"),
        (
            lambda p, b: accumulate(squared_error, jnp.ones(()), 2),
            ValueError,
            r"weights has shape \[\], wanted \[B\] or",
        ),
        (
            lambda p, b: accumulate(squared_error, jnp.ones(8), 2)(p, b),
            ValueError,
            r"has shape \[16, 5\], wanted 8 rows",
        ),
        (
            lambda p, b: accumulate(squared_error, jnp.ones((B, 2)), 2)(p, b),
            ValueError,
            r"loss_fn returned \[8\] for a block of weights \[8, 2\]",
        ),
        (
            lambda p, b: accumulate(squared_error, jnp.ones(B), 2)(p, b | {"key": jax.random.key(0)}),
            ValueError,
            r"batch\['key'\] has shape \[\], wanted 16 rows",
        ),
        (lambda p, b: accumulate(squared_error, jnp.ones(B), 2)(p, {}), ValueError, "batch holds no array"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*problem())
