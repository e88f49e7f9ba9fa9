"""Rows that are not finite, low precision, and meshes, in the combinations of options in which they once went wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, value_and_grad
from minibatch_jax.selection import keep_topk
from tests.boundaries.gradients_test import B, hand_gradient, problem, squared_error
from tests.boundaries.options_test import close

EMPTY = optax.EmptyState()
NOTHING = optax.with_extra_args_support(optax.identity())


def slope(w, batch):
    return w * batch["x"]


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_bad_rows_and_padding_reach_no_micro_batch(micro_batches):
    params, batch = problem()
    spoilt = batch | {"x": batch["x"].at[jnp.array([0, 7])].set(jnp.nan)}
    weights = jnp.full(B, 1 / B).at[7].set(0)
    fn = jax.jit(value_and_grad(squared_error, NOTHING, micro_batches=micro_batches))
    (_, aux), grads, _ = fn(params, spoilt, EMPTY, weights=weights)
    kept = [i for i in range(B) if i not in (0, 7)]
    close(grads, hand_gradient(params, batch, kept, 1 / B))
    assert int(aux.dropped) == 1 and sorted(np.flatnonzero(aux.weights)) == kept


def test_a_second_pass_is_taken_by_all_devices_of_all_axes_or_by_none():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    params = {"w": jnp.array([1.0, 2.0]), "c": jnp.array([0.0, 1.0])}
    x = jnp.arange(8.0)  # the root has an infinite slope at row 0 in one shard of the model only

    def losses(p, x):
        return jax.lax.psum(jnp.sqrt(p["w"][0] * x + p["c"][0]), "model")

    fn = value_and_grad(losses, NOTHING, axis_name="data")
    weights = jnp.where(x == 0, 0, 1 / 8)

    def part(p, x, w):
        return fn(p, x, EMPTY, weights=w)[1]

    shard = jax.shard_map(part, mesh=mesh, in_specs=(P("model"), P("data"), P("data")), out_specs=P("model"))
    grads = jax.jit(shard)(params, x, weights)
    total = lambda p: jnp.sum(jnp.sqrt(p["w"][:, None] * x[None, 1:] + p["c"][:, None])) / 8  # noqa: E731
    close(grads, jax.grad(total)(params))


def test_scores_of_another_shape_than_the_items_are_named():
    batch = {"x": jnp.arange(16.0).reshape(4, 4)}
    fn = value_and_grad(slope, keep_topk(1), score_fn=lambda w, b: b["x"][:, 0])
    with pytest.raises(ValueError, match=r"items_fn returned \[4, 4\] for a block of weights \[4\], wanted one"):
        fn(1.0, batch, EMPTY)
    with pytest.raises(ValueError, match=r"score_fn returned \[\], wanted \[B\] or"):
        value_and_grad(slope, keep_topk(1), score_fn=lambda w, b: jnp.zeros(()))(1.0, batch, EMPTY)


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"gather": 3}])
def test_a_row_with_a_token_that_is_not_finite_is_left_out_whole(options):
    x = jnp.ones((4, 3)).at[0, 1].set(jnp.nan)
    (value, aux), grad, _ = value_and_grad(slope, NOTHING, **options)(1.0, {"x": x}, EMPTY)
    np.testing.assert_allclose([value, grad], 9 / 12, rtol=1e-6)
    np.testing.assert_array_equal(aux.weights > 0, np.arange(4)[:, None] * np.ones(3) > 0)


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}])
def test_a_task_that_is_not_finite_in_a_row_leaves_the_row_to_the_other_task(options):
    batch = {"x": jnp.arange(1.0, 5.0).at[0].set(jnp.nan), "y": jnp.arange(1.0, 5.0)}
    tasks = lambda w, b: {"a": w * b["x"], "b": w * b["y"]}  # noqa: E731
    (_, aux), grad, _ = value_and_grad(tasks, NOTHING, **options)(1.0, batch, EMPTY)
    np.testing.assert_allclose(grad, (2 + 3 + 4) / 4 + (1 + 2 + 3 + 4) / 4, rtol=1e-6)
    np.testing.assert_allclose([aux.kept["a"], aux.kept["b"]], [0.75, 1])


@pytest.mark.parametrize("shards", [1, 8])
def test_aux_has_the_weights_in_the_gradient_when_too_few_rows_are_gathered(shards):
    batch = {"x": jnp.arange(1.0, 17.0)}
    weights = jnp.arange(16.0) / 120
    if shards == 1:
        (value, aux), grad, _ = value_and_grad(slope, NOTHING, gather=8)(1.0, batch, EMPTY, weights=weights)
        kept, sizes = aux.weights, aux.effective_sample_size
    else:
        fn = value_and_grad(slope, across("data", NOTHING), gather=8, axis_name="data")

        def part(batch, weights):
            (value, aux), grad, _ = fn(1.0, batch, EMPTY, weights=weights)
            return value, grad, aux.weights, aux.effective_sample_size

        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        specs = {"in_specs": (P("data"), P("data")), "out_specs": (P(), P(), P("data"), P())}
        value, grad, kept, sizes = jax.shard_map(part, mesh=mesh, **specs)(batch, weights)
    expected = np.where(np.arange(16) >= 8, weights, 0)
    np.testing.assert_allclose(kept, expected, rtol=1e-6)
    np.testing.assert_allclose([value, grad], np.sum(expected * np.asarray(batch["x"])), rtol=1e-5)
    np.testing.assert_allclose(sizes, expected.sum() ** 2 / np.sum(expected**2), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.bfloat16])
def test_given_weights_of_any_dtype_count_in_float32(dtype):
    batch = {"x": jnp.arange(8.0) / 7}
    (value, aux), _, _ = value_and_grad(slope, NOTHING)(1.0, batch, EMPTY, weights=jnp.ones(8, dtype))
    assert value.dtype == aux.weights.dtype == jnp.float32
    np.testing.assert_allclose(value, 4.0, rtol=1e-6)


def test_a_given_weight_that_is_not_finite_counts_as_0():
    batch = {"x": jnp.arange(4.0)}
    (value, aux), grad, _ = value_and_grad(slope, NOTHING)(
        1.0, batch, EMPTY, weights=jnp.array([1.0, jnp.nan, 1.0, jnp.inf])
    )
    assert (float(value), float(grad), float(aux.kept)) == (2, 2, 1)


def test_micro_batches_add_up_gradients_of_low_precision_in_float32():
    batch = {"x": jnp.ones(4096)}
    losses = lambda p, b: p.astype(jnp.float32) * b["x"]  # noqa: E731
    _, grad, _ = value_and_grad(losses, NOTHING, micro_batches=512)(jnp.ones((), jnp.bfloat16), batch, EMPTY)
    assert grad.dtype == jnp.bfloat16 and float(grad) == 1


@pytest.mark.parametrize("gather", [None, 8])
@pytest.mark.parametrize("check_vma", [True, False])
def test_micro_batches_under_shard_map(gather, check_vma):
    params, batch = problem()
    expected = value_and_grad(squared_error, keep_topk(8), gather=gather)(params, batch, EMPTY)
    fn = value_and_grad(
        lambda p, b, n: (squared_error(p, b), n + len(b["y"])),
        across("data", keep_topk(8)),
        gather=gather,
        micro_batches=2 if gather is None else 1,
        has_state=True,
        axis_name="data",
    )

    def part(params, batch):
        (value, aux), grads, _ = fn(params, batch, EMPTY, model_state=jnp.int32(0))
        return value, grads, jax.lax.pmax(aux.model_state, "data")

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    options = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P(), "check_vma": check_vma}
    value, grads, rows = jax.jit(jax.shard_map(part, **options))(params, batch)
    close((value, grads), (expected[0][0], expected[1]))
    assert int(rows) == (2 if gather is None else 1)


@pytest.mark.parametrize("spec", [P("data", None), P(None, "model"), P()], ids=str)
def test_micro_batches_with_sharded_parameters_on_an_explicit_mesh(spec):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    rng = np.random.default_rng(0)
    w, x = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32), jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
    losses = lambda w, x: jnp.sum(jnp.dot(x, w, out_sharding=P("data", None)) ** 2, axis=1)  # noqa: E731
    fn = value_and_grad(losses, NOTHING, micro_batches=4)
    with jax.set_mesh(mesh):
        placed = jax.device_put(w, NamedSharding(mesh, spec)), jax.device_put(x, NamedSharding(mesh, P("data")))
        _, grad, _ = jax.jit(fn)(*placed, EMPTY)
    close(grad, jax.grad(lambda w: jnp.mean(jnp.sum(jnp.dot(x, w) ** 2, axis=1)))(w), rtol=1e-4)


def test_an_axis_of_vmap_is_an_axis_of_devices():
    params, batch = problem()
    expected = value_and_grad(squared_error, keep_topk(8))(params, batch, EMPTY)
    fn = value_and_grad(squared_error, across("data", keep_topk(8)), axis_name="data")
    split = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    (value, _), grads, _ = jax.vmap(lambda b: fn(params, b, EMPTY), axis_name="data")(split)
    close((value[0], jax.tree.map(lambda g: g[0], grads)), (expected[0][0], expected[1]))


def test_keys_in_the_batch_travel_with_their_rows():
    params, batch = problem()
    batch = batch | {"key": jax.random.split(jax.random.key(0), B)}

    def losses(params, batch):
        noise = jax.vmap(lambda key: jax.random.normal(key))(batch["key"])
        return squared_error(params, {"x": batch["x"], "y": batch["y"] + noise})

    expected = value_and_grad(losses, keep_topk(8), gather=8)(params, batch, EMPTY)
    fn = value_and_grad(losses, across("data", keep_topk(8)), gather=8, axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shard = jax.shard_map(
        lambda p, b: fn(p, b, EMPTY)[1], mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
    )
    close(jax.jit(shard)(params, batch), expected[1])


def test_a_scorer_may_have_no_floating_point_parameters():
    batch = {"x": jnp.arange(4.0)}
    fn = value_and_grad(slope, keep_topk(1), score_fn=lambda p, b: p * b["x"].astype(jnp.float16), gather=1)
    (_, aux), grad, _ = fn(1.0, batch, EMPTY, score_params=-1)
    assert float(grad) == 0 and aux.indices.tolist() == [0]


def test_called_again_outside_of_jit_nothing_compiles():
    params, batch = problem()
    fn = value_and_grad(squared_error, keep_topk(8))
    for _ in range(2):
        fn(params, batch, EMPTY)
    compiled = []

    def count(name, seconds, **metadata):
        compiled.extend([name] * name.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        fn(params, batch, EMPTY)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f(slope, NOTHING)(1.0, {"x": jnp.ones(4)}, EMPTY, losses=jnp.ones(4)),
            ValueError,
            r"signals \['losses'\] come from items_fn and from the caller",
        ),
        (
            lambda f: f(lambda w, b: {"a": b["x"]}, NOTHING, items="distances")(1.0, {"x": jnp.ones((4, 4))}, EMPTY),
            TypeError,
            r"items_fn returned dict, wanted \[A, M\], one distance",
        ),
        (
            lambda f: f(lambda w, b: (slope(w, b), {"t": jnp.ones(())}), NOTHING, has_aux=True, micro_batches=2)(
                1.0, {"x": jnp.ones(4)}, EMPTY
            ),
            ValueError,
            "signal 't' has no row for each item",
        ),
        (
            lambda f: f(slope, NOTHING)(1.0, {"x": jnp.ones(4)}, EMPTY, score_params=1.0),
            TypeError,
            "score_params is given without score_fn",
        ),
        (
            lambda f: f(slope, NOTHING)(1.0, {"x": jnp.ones(4)}, EMPTY, model_state=1.0),
            TypeError,
            "model_state is given without has_state",
        ),
        (lambda f: f(lambda w, b: {}, NOTHING)(1.0, {"x": jnp.ones(4)}, EMPTY), TypeError, "items_fn returned dict"),
        (
            lambda f: f(slope, NOTHING, axis_name=("a", "b"))(1.0, {"x": jnp.ones(4)}, EMPTY),
            TypeError,
            "wanted the name of one axis",
        ),
    ],
)
def test_what_was_once_silent_or_obscure_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(value_and_grad)
