import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.experimental import aggregating

from minibatch_jax import across, normalize, take, uniform_like, value_and_grad, weighted_aggregate
from minibatch_jax.selection import keep_bottomk, keep_topk

B, D = 16, 5


def squared_error(params, batch):
    hidden = jnp.tanh(jnp.dot(batch["x"], params["w"]))
    return jnp.square(jnp.dot(hidden, params["v"]) - batch["y"])


def problem(seed=0, rows=B):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(D, D)), "v": rng.normal(size=D)}
    batch = {"x": rng.normal(size=(rows, D)), "y": rng.normal(size=rows)}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, batch))


def hand_gradient(params, batch, kept, weight):
    rows = jax.tree.map(lambda x: x[np.asarray(kept)], batch)
    return jax.grad(lambda p: weight * jnp.sum(squared_error(p, rows)))(params)


def lowest(losses, k):
    return np.argsort(np.asarray(losses), kind="stable")[:k]


@pytest.mark.parametrize("gather", [None, 4, 7])
def test_gradient_is_that_of_the_kept_rows(gather):
    params, batch = problem()
    selection = optax.chain(keep_bottomk(4), normalize())
    step = value_and_grad(squared_error, selection, gather=gather)
    (value, aux), grads, _ = jax.jit(step)(params, batch, selection.init(jnp.zeros(B)))
    losses = squared_error(params, batch)
    kept = lowest(losses, 4)
    chex.assert_trees_all_close(grads, hand_gradient(params, batch, kept, 1 / 4), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, np.asarray(losses)[kept].mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.items, losses, rtol=1e-6)
    assert sorted(np.flatnonzero(aux.weights)) == sorted(kept)


@pytest.mark.parametrize("gather", [None, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_gets_no_weight_and_does_not_reach_the_gradient(gather, bad):
    params, batch = problem()
    spoilt = batch | {"x": batch["x"].at[3].set(bad)}
    selection = keep_topk(8)
    step = value_and_grad(squared_error, selection, gather=gather)
    (value, aux), grads, _ = step(params, spoilt, selection.init(jnp.zeros(B)))
    losses = np.asarray(squared_error(params, batch)).copy()
    losses[3] = -np.inf
    kept = np.argsort(-losses, kind="stable")[:8]
    chex.assert_trees_all_close(grads, hand_gradient(params, batch, kept, 1 / B), rtol=1e-5, atol=1e-6)
    assert np.isfinite(value) and aux.weights[3] == 0


@pytest.mark.parametrize("gather", [None, 8])
def test_a_batch_with_no_good_row_gives_a_zero_gradient(gather):
    params, batch = problem()
    spoilt = batch | {"x": jnp.full_like(batch["x"], jnp.nan)}
    selection = keep_topk(8)
    (value, _), grads, _ = value_and_grad(squared_error, selection, gather=gather)(
        params, spoilt, selection.init(jnp.zeros(B))
    )
    chex.assert_trees_all_equal(grads, jax.tree.map(jnp.zeros_like, params))
    assert np.isnan(value)


def test_optax_identity_gives_the_mean_loss():
    params, batch = problem()
    tx = optax.identity()
    (value, _), grads, _ = value_and_grad(squared_error, tx)(params, batch, tx.init(jnp.zeros(B)))
    expected_value, expected = jax.value_and_grad(lambda p: jnp.mean(squared_error(p, batch)))(params)
    chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)


@pytest.mark.parametrize("gather", [None, 2])
def test_padding_with_an_infinite_derivative_does_not_reach_the_gradient(gather):
    def distance(w, batch):
        return jnp.sqrt(jnp.abs(w * batch["x"] - batch["y"]))

    batch = {"x": np.ones(3, np.float32), "y": np.array([1.0, 2.0, 0.0], np.float32)}
    tx = normalize()
    step = value_and_grad(distance, tx, gather=gather)
    _, grad, _ = step(0.0, batch, tx.init(jnp.zeros(3)), weights=jnp.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(grad, -0.25 * (1 + 0.5**0.5), rtol=1e-6)


@pytest.mark.parametrize("gather", [None, 2])
def test_low_precision_losses_and_numpy_batches(gather):
    batch = {"x": np.arange(3, dtype=np.float32)}
    tx = keep_topk(2)
    step = value_and_grad(lambda w, b: (w * b["x"]).astype(jnp.bfloat16), tx, gather=gather)
    (value, _), grad, _ = step(1.0, batch, tx.init(jnp.zeros(3)))
    np.testing.assert_allclose([value, grad], [1, 1], rtol=1e-2)
    aggregate = weighted_aggregate(tx, 3)
    gradients = jnp.arange(3, dtype=jnp.bfloat16)
    update, _ = aggregate.update(gradients, aggregate.init(None), losses=jnp.arange(3, dtype=jnp.bfloat16))
    assert update.dtype == jnp.bfloat16 and float(update) == 1


@pytest.mark.parametrize(
    ("loss", "has_aux", "wanted"),
    [
        (lambda p, b: (b, b), True, r"wanted \(items, dict of signals\)"),
        (lambda p, b: b, True, r"wanted \(items, dict of signals\)"),
        (lambda p, b: (b, {"logits": b}), False, "wanted items alone, or has_aux=True"),
    ],
)
def test_has_aux_must_fit_what_the_loss_function_returns(loss, has_aux, wanted):
    with pytest.raises(TypeError, match=wanted):
        value_and_grad(loss, keep_topk(2), has_aux=has_aux)(1.0, jnp.ones(B), optax.EmptyState())


def test_weights_of_another_length_are_named():
    params, batch = problem()
    with pytest.raises(ValueError, match=r"weights has shape \[2\], wanted \[16\]"):
        value_and_grad(squared_error, keep_topk(2))(params, batch, optax.EmptyState(), weights=jnp.ones(2))


def test_given_weights_are_the_start_and_padding_is_nothing():
    params, batch = problem()
    weights = jnp.where(jnp.arange(B) < 12, 1 / 12, 0.0)
    garbage = jax.tree.map(lambda x: x.at[12:].set(1e3), batch)
    selection = keep_topk(3)
    step = value_and_grad(squared_error, selection)
    _, grads, _ = step(params, garbage, selection.init(jnp.zeros(B)), weights=weights)
    losses = np.asarray(squared_error(params, batch))[:12]
    kept = np.argsort(-losses, kind="stable")[:3]
    chex.assert_trees_all_close(grads, hand_gradient(params, batch, kept, 1 / 12), rtol=1e-5, atol=1e-6)


def test_signals_come_from_the_loss_function_or_the_caller_but_not_both():
    params, batch = problem()
    seen = {}

    def init(weights):
        return optax.EmptyState()

    def update(weights, state, params=None, *, logits, labels, **extra_args):
        seen.update(logits=logits.shape, labels=labels.shape)
        return weights, state

    tx = optax.GradientTransformationExtraArgs(init, update)
    loss_fn = lambda p, b: (squared_error(p, b), {"logits": jnp.dot(b["x"], p["w"])})  # noqa: E731
    step = value_and_grad(loss_fn, tx, has_aux=True)
    labels = jnp.zeros(B, jnp.int32)
    (_, aux), _, _ = step(params, batch, init(None), labels=labels)
    assert seen == {"logits": (B, D), "labels": (B,)} and aux.signals["logits"].shape == (B, D)
    with pytest.raises(ValueError, match=r"signals \['logits'\] come from items_fn and from the caller"):
        step(params, batch, init(None), labels=labels, logits=labels)


@pytest.mark.parametrize("gather", [None, 8])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_and_pmap_give_the_gradient_of_one_device(gather, check_vma):
    params, batch = problem()
    selection = keep_topk(8)
    state = selection.init(jnp.zeros(B))
    (value, aux), grads, _ = value_and_grad(squared_error, selection, gather=gather)(params, batch, state)
    step = value_and_grad(squared_error, across("data", selection), gather=gather, axis_name="data")

    def parts(p, b):
        (v, a), g, _ = step(p, b, state)
        return v, a.weights, g

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shard = jax.shard_map(
        parts, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(), P("data"), P()), check_vma=check_vma
    )
    chex.assert_trees_all_close(jax.jit(shard)(params, batch), (value, aux.weights, grads), rtol=1e-5, atol=1e-6)
    split = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
    value_p, weights_p, grads_p = jax.pmap(parts, axis_name="data", in_axes=(None, 0), out_axes=(None, 0, None))(
        params, split
    )
    chex.assert_trees_all_close(
        (value_p, weights_p.reshape(B), grads_p), (value, aux.weights, grads), rtol=1e-5, atol=1e-6
    )


def test_shard_map_spreads_no_nan_when_one_shard_is_bad():
    params, batch = problem()
    spoilt = batch | {"x": batch["x"].at[3].set(jnp.nan)}
    selection = keep_topk(8)
    state = selection.init(jnp.zeros(B))
    _, expected, _ = value_and_grad(squared_error, selection)(params, spoilt, state)
    step = value_and_grad(squared_error, across("data", selection), axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shard = jax.shard_map(lambda p, b: step(p, b, state)[1], mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    chex.assert_trees_all_close(jax.jit(shard)(params, spoilt), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gather", [None, 8])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_jit_on_a_sharded_batch_gives_the_gradient_of_one_device(gather, axis_type):
    params, batch = problem()
    selection = keep_topk(8)
    step = value_and_grad(squared_error, selection, gather=gather)
    expected = step(params, batch, selection.init(jnp.zeros(B)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    placed = jax.device_put(batch, NamedSharding(mesh, P("data")))
    state = jax.device_put(selection.init(jnp.zeros(B)), NamedSharding(mesh, P()))
    actual = jax.jit(step)(jax.device_put(params, NamedSharding(mesh, P())), placed, state)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_gather_must_divide_over_the_devices():
    params, batch = problem()
    step = value_and_grad(squared_error, across("data", keep_topk(8)), gather=6, axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="gather is 6, wanted a multiple of the 8 devices"):
        jax.shard_map(
            lambda p, b: step(p, b, optax.EmptyState())[1], mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
        )(params, batch)


def test_gather_form_needs_fewer_flops():
    params, batch = problem()
    selection = keep_topk(2)
    state = selection.init(jnp.zeros(B))
    flops = {
        k: jax.jit(value_and_grad(squared_error, selection, gather=k))
        .lower(params, batch, state)
        .compile()
        .cost_analysis()["flops"]
        for k in (2, B)
    }
    assert flops[2] < 0.6 * flops[B]


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (lambda p, b: jnp.zeros((B, 2, 2)), ValueError, r"items_fn returned \[16, 2, 2\], wanted \[B\] or \[B, T\]"),
        (
            lambda p, b: jnp.zeros(()),
            ValueError,
            "token: drop the mean or, for a term of the whole batch, use jnp.broadcast_to",
        ),
        (lambda p, b: jnp.zeros(B + 1), ValueError, r"batch\['x'\] has shape .* wanted 17 rows"),
    ],
)
@pytest.mark.parametrize("gather", [None, 2])
def test_wrong_losses_raise(loss, error, match, gather):
    params, batch = problem()
    selection = keep_topk(2)
    with pytest.raises(error, match=match):
        value_and_grad(loss, selection, gather=gather)(params, batch, selection.init(jnp.zeros(B)))


def test_gather_out_of_range_raises():
    params, batch = problem()
    selection = keep_topk(2)
    with pytest.raises(ValueError, match="gather is 17, wanted at most 16"):
        value_and_grad(squared_error, selection, gather=17)(params, batch, selection.init(jnp.zeros(B)))
    with pytest.raises(ValueError, match="gather is 0"):
        value_and_grad(squared_error, selection, gather=0)


@pytest.mark.parametrize("make_optimizer", [lambda: optax.sgd(0.1), lambda: optax.adam(0.1)])
def test_weighted_aggregate_first_in_a_chain_equals_the_hand_written_update(make_optimizer):
    params, batch = problem()
    tx = optax.chain(weighted_aggregate(optax.chain(keep_bottomk(4), normalize()), B), make_optimizer())
    losses = squared_error(params, batch)
    row_loss = lambda p, row: squared_error(p, jax.tree.map(lambda x: x[None], row))[0]  # noqa: E731
    per_example = jax.vmap(jax.grad(row_loss), (None, 0))(params, batch)
    optimizer = make_optimizer()
    gradient = hand_gradient(params, batch, lowest(losses, 4), 1 / 4)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam relies on implicit promotion
        updates, _ = tx.update(per_example, tx.init(params), params, losses=losses)
        expected, _ = optimizer.update(gradient, optimizer.init(params), params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-5)


def test_weighted_aggregate_ignores_nan_gradients_of_dropped_rows_and_names_bad_shapes():
    tx = weighted_aggregate(keep_bottomk(1), 3)
    gradients = {"w": jnp.array([[1.0], [jnp.nan], [3.0]])}
    updates, _ = tx.update(gradients, tx.init({"w": jnp.zeros(1)}), losses=jnp.array([0.2, jnp.nan, 0.9]))
    np.testing.assert_allclose(updates["w"], [1 / 3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"updates\['w'\] has shape \[2, 1\], wanted 3 rows"):
        tx.update({"w": jnp.zeros((2, 1))}, tx.init(None), losses=jnp.ones(3))


def test_weighted_aggregate_gives_a_non_finite_loss_no_weight():
    tx = weighted_aggregate(normalize(), 3)
    update, _ = tx.update(jnp.array([1.0, jnp.nan, 3.0]), tx.init(None), losses=jnp.array([1.0, jnp.nan, 3.0]))
    np.testing.assert_allclose(update, 4 / 3, rtol=1e-6)


def test_take_repeats_the_heaviest_row_in_empty_slots():
    rows, weights, indices = take({"x": jnp.arange(4.0)}, jnp.array([0.0, 0.0, 0.5, 0.0]), 3)
    np.testing.assert_array_equal(indices, [2, 2, 2])
    np.testing.assert_array_equal(weights, [0.5, 0, 0])
    np.testing.assert_array_equal(rows["x"], [2, 2, 2])


def test_take_names_the_leaf_with_other_rows():
    with pytest.raises(ValueError, match=r"batch\['y'\] has shape \[3\], wanted 4 rows"):
        take({"x": jnp.zeros((4, 2)), "y": jnp.zeros(3)}, uniform_like(jnp.zeros(4)), 2)
    with pytest.raises(TypeError, match="k is 2.5, wanted a static Python int"):
        take(jnp.zeros(4), uniform_like(jnp.zeros(4)), 2.5)


def test_weighted_aggregate_is_an_aggregator_between_a_preprocessor_and_an_optimizer():
    clip = optax.with_extra_args_support(optax.stateless(lambda g, _: jax.tree.map(lambda x: jnp.clip(x, -1, 1), g)))
    aggregate = weighted_aggregate(keep_topk(2), 3)
    assert isinstance(aggregate, aggregating.Aggregator)
    tx = aggregating.process(clip, aggregate, optax.sgd(1.0))
    gradients, losses = jnp.array([[5.0, 0.5], [0.25, -3.0], [jnp.nan, 1.0]]), jnp.array([1.0, 0.5, 0.1])
    params = jnp.zeros(2)
    updates, _ = tx.update(gradients, tx.init(params), params, losses=losses)
    np.testing.assert_allclose(updates, [-(1 + 0.25) / 3, -(0.5 - 1) / 3], rtol=1e-6)
