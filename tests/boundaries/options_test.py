"""States, proxies, regularizers, micro-batches, several tasks and tokens, each against a gradient written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, normalize, value_and_grad
from minibatch_jax.selection import keep_bottomk, keep_topk
from tests.boundaries.gradients_test import B, D, hand_gradient, lowest, problem, squared_error

SELECT = optax.chain(keep_bottomk(4), normalize())
STATE = SELECT.init(jnp.zeros(B))


def close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


def test_a_score_function_chooses_and_the_losses_of_the_chosen_rows_are_reported():
    params, batch = problem()
    proxy = jax.tree.map(lambda p: 0.5 * p, params)
    scores = lambda p, b: (squared_error(p, b), {"logits": b["x"]})  # noqa: E731
    fn = value_and_grad(squared_error, SELECT, score_fn=scores, gather=4)
    (value, aux), grads, _ = jax.jit(fn)(params, batch, STATE, score_params=proxy)
    kept = lowest(squared_error(proxy, batch), 4)
    assert sorted(aux.indices.tolist()) == sorted(kept.tolist()) and aux.signals["logits"].shape == (B, D)
    close(grads, hand_gradient(params, batch, kept, 1 / 4))
    losses = squared_error(params, batch)
    np.testing.assert_allclose(aux.items, losses[aux.indices], rtol=1e-5)
    np.testing.assert_allclose(value, losses[kept].mean(), rtol=1e-5)
    without_gather = value_and_grad(squared_error, SELECT, score_fn=scores)(params, batch, STATE, score_params=proxy)
    close(without_gather[1], grads)
    np.testing.assert_allclose(without_gather[0][1].items, losses, rtol=1e-5)


@pytest.mark.parametrize("gather", [None, 4])
def test_a_row_whose_score_is_fine_and_whose_loss_is_not_is_dropped_and_counted(gather):
    params, batch = problem()
    order = lowest(squared_error(params, batch), 4)
    spoilt = batch | {"y": batch["y"].at[order[1]].set(jnp.nan)}
    fn = value_and_grad(squared_error, SELECT, score_fn=lambda p, b: squared_error(params, batch), gather=gather)
    (value, aux), grads, _ = fn(params, spoilt, STATE)
    kept = np.delete(order, 1)
    close(grads, hand_gradient(params, batch, kept, 1 / 4))
    np.testing.assert_allclose(value, squared_error(params, batch)[kept].sum() / 4, rtol=1e-5)
    assert int(aux.dropped) == 1


@pytest.mark.parametrize("gather", [None, 8])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_micro_batches_change_nothing(gather, micro_batches):
    params, batch = problem()
    select = optax.chain(keep_topk(8), normalize())
    state = select.init(jnp.zeros(B))
    fn = value_and_grad(squared_error, select, gather=gather, micro_batches=micro_batches)
    (value, aux), grads, _ = jax.jit(fn)(params, batch, state)
    (expected, wanted_aux), wanted, _ = value_and_grad(squared_error, select)(params, batch, state)
    close(grads, wanted)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(aux.items, wanted_aux.items, rtol=1e-5)
    np.testing.assert_allclose(aux.weights, wanted_aux.weights, rtol=1e-6)


def test_micro_batches_need_the_memory_of_one():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(64, 64)) / 8, jnp.float32)}

    def deep(params, batch):
        x = batch
        for _ in range(8):
            x = jnp.tanh(jnp.dot(x, params["w"]))
        return jnp.sum(x**2, axis=1)

    rows = jnp.asarray(rng.normal(size=(512, 64)), jnp.float32)
    select = keep_topk(512)
    state = select.init(jnp.zeros(512))
    sizes = {}
    for m in (1, 8):
        compiled = jax.jit(value_and_grad(deep, select, micro_batches=m)).lower(params, rows, state).compile()
        sizes[m] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes[8] < 0.4 * sizes[1]


def test_a_state_comes_back_from_the_differentiated_pass_and_no_other():
    params, batch = problem()

    def losses(params, batch, count):
        values = squared_error(params, batch)
        return values, {"logits": batch["x"]}, {"rows": count["rows"] + len(values), "passes": count["passes"] + 1}

    zero = {"rows": jnp.int32(0), "passes": jnp.int32(0)}
    for options, rows, passes in (({}, B, 1), ({"gather": 4}, 4, 1), ({"gather": 4, "micro_batches": 2}, 4, 2)):
        fn = value_and_grad(losses, SELECT, has_aux=True, has_state=True, **options)
        (_, aux), grads, _ = jax.jit(fn)(params, batch, STATE, model_state=zero)
        assert (int(aux.model_state["rows"]), int(aux.model_state["passes"])) == (rows, passes)
        close(grads, hand_gradient(params, batch, lowest(squared_error(params, batch), 4), 1 / 4))
        assert aux.signals["logits"].shape == (B, D)
    spoilt = batch | {"x": batch["x"].at[3].set(jnp.inf)}  # a second pass leaves the row out, and writes nothing
    (_, aux), _, _ = value_and_grad(losses, SELECT, has_aux=True, has_state=True)(
        params, spoilt, STATE, model_state=zero
    )
    assert int(aux.model_state["passes"]) == 1


def penalty(params):
    return 0.1 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


def test_a_regularizer_is_added_with_weight_one():
    params, batch = problem()
    plain = value_and_grad(squared_error, SELECT)(params, batch, STATE)
    (value, _), grads, _ = value_and_grad(squared_error, SELECT, regularizer=penalty)(params, batch, STATE)
    np.testing.assert_allclose(value, plain[0][0] + penalty(params), rtol=1e-5)
    close(grads, jax.tree.map(lambda g, p: g + 0.2 * p, plain[1], params))
    sharded = value_and_grad(squared_error, across("data", SELECT), regularizer=penalty, axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def part(params, batch):
        (v, _), g, _ = sharded(params, batch, STATE)
        return v, g

    close(jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(params, batch), (value, grads))


def test_tokens_are_items_of_their_own():
    params, batch = problem()
    tokens = lambda p, b: jnp.square(jnp.dot(jnp.tanh(jnp.dot(b["x"], p["w"])), p["w"]))  # noqa: E731
    real = (np.random.default_rng(2).uniform(size=(B, D)) < 0.7) & (np.arange(B) != 5)[:, None]
    weights = jnp.asarray(real / np.sum(real), jnp.float32)
    spoilt = batch | {"x": batch["x"].at[5].set(jnp.nan)}
    expected = jax.value_and_grad(lambda p: jnp.sum(jnp.where(real, tokens(p, batch), 0)) / float(np.sum(real)))(params)
    for gather in (None, B - 1):
        (value, aux), grads, _ = value_and_grad(tokens, optax.identity(), gather=gather)(
            params, spoilt, optax.EmptyState(), weights=weights
        )
        close((value, grads), expected)
        np.testing.assert_allclose(aux.kept, 1.0)
        np.testing.assert_allclose(aux.effective_sample_size, float(np.sum(real)), rtol=1e-5)


def test_a_dict_of_tasks_has_a_dict_of_weights():
    params, batch = problem()
    tasks = lambda p, b: {"a": squared_error(p, b), "b": jnp.abs(jnp.dot(b["x"], p["v"]))}  # noqa: E731
    select = keep_bottomk(4)
    state = select.init({"a": jnp.zeros(B), "b": jnp.zeros(B)})
    (value, aux), grads, _ = value_and_grad(tasks, select)(params, batch, state)
    kept = {k: lowest(v, 4) for k, v in tasks(params, batch).items()}
    by_hand = lambda p: sum(jnp.sum(tasks(p, batch)[k][kept[k]]) for k in kept) / B  # noqa: E731
    close((value, grads), jax.value_and_grad(by_hand)(params))
    assert {k: sorted(np.flatnonzero(w)) for k, w in aux.weights.items()} == {k: sorted(v) for k, v in kept.items()}
    np.testing.assert_allclose([aux.kept["a"], aux.kept["b"]], 4 / B)


@pytest.mark.parametrize("options", [{}, {"gather": 4}, {"micro_batches": 2}, {"regularizer": penalty}])
def test_a_model_that_diverged_reports_nan_and_a_step_without_weight_reports_zero(options):
    params, batch = problem()
    fn = jax.jit(value_and_grad(squared_error, SELECT, **options))
    (value, aux), grads, _ = fn(jax.tree.map(lambda p: p * jnp.nan, params), batch, STATE)
    assert np.isnan(value) and int(aux.dropped) == B and float(aux.kept) == 0
    close(grads, jax.tree.map(jnp.zeros_like, params))
    (value, aux), grads, _ = fn(params, batch, STATE, weights=jnp.zeros(B))
    expected = penalty(params) if "regularizer" in options else 0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert float(aux.kept) == 0 and float(aux.effective_sample_size) == 0 and int(aux.dropped) == 0


@pytest.mark.parametrize("gather", [None, 8])
def test_rows_that_are_finite_on_one_device_only_decide_over_all(gather):
    params, batch = problem()
    spoilt = batch | {"x": jnp.where((jnp.arange(B) < 2)[:, None], batch["x"], jnp.nan)}
    select = keep_topk(8)
    fn = value_and_grad(squared_error, across("data", select), gather=gather, axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def part(params, batch):
        (v, aux), g, _ = fn(params, batch, select.init(jnp.zeros(B)))
        return v, g, aux.kept, aux.dropped, aux.effective_sample_size

    value, grads, kept, dropped, size = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(),) * 5)(
        params, spoilt
    )
    np.testing.assert_allclose(value, squared_error(params, batch)[:2].sum() / B, rtol=1e-5)
    close(grads, hand_gradient(params, batch, [0, 1], 1 / B))
    assert float(kept) == 2 / B and int(dropped) == B - 2 and float(size) == 2


def test_misspelt_axes_are_named():
    params, batch = problem()
    fn = value_and_grad(squared_error, across("data", SELECT), axis_name="dat")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    message = r"axis_name is 'dat', wanted a bound axis: \['data'\] \(did you mean 'data'\?\)"
    part = lambda p, b: fn(p, b, STATE)[1]  # noqa: E731
    with pytest.raises(ValueError, match=message):
        jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(params, batch)
    across_dat = across("dat", SELECT)
    with pytest.raises(ValueError, match=message):
        jax.vmap(lambda w: across_dat.update(w, STATE, losses=w)[0], axis_name="data")(jnp.ones((2, B)))
    fn(params, batch, STATE)  # no axis is bound: one device


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, b: value_and_grad(squared_error, keep_topk), TypeError, "transformation is keep_topk, wanted what"),
        (lambda p, b: value_and_grad(squared_error, SELECT)(p, b["x"], b["y"], STATE), TypeError, "into one batch"),
        (
            lambda p, b: value_and_grad(squared_error, SELECT)(p, b | {"key": jax.random.key(0)}, STATE),
            ValueError,
            r"batch\['key'\] has shape \[\], wanted 16 rows, one for each weight; what has no rows, such as a key",
        ),
        (
            lambda p, b: value_and_grad(squared_error, SELECT)(p, b, optax.EmptyState()),
            TypeError,
            r"state has the structure .*, wanted .*: what transformation.init returns for weights of the shape \[16\]",
        ),
        (
            lambda p, b: value_and_grad(squared_error, SELECT, micro_batches=3)(p, b, STATE),
            ValueError,
            "micro_batches is 3, wanted a divisor of the 16 rows",
        ),
        (
            lambda p, b: value_and_grad(
                lambda p, b, s: (squared_error(p, b), jnp.float16(s)), SELECT, has_state=True, micro_batches=2
            )(p, b, STATE, model_state=0.0),
            TypeError,
            r"items_fn returned a state with float16\[\], wanted float32\[\] as it was given, in every micro-batch",
        ),
        (
            lambda p, b: value_and_grad(squared_error, SELECT, has_state=True)(p, b, STATE),
            TypeError,
            "positional argument",
        ),
    ],
)
def test_first_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*problem())
