"""What each device of a mesh computes and receives under `jit`, read from the compiled step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import normalize, take, value_and_grad
from minibatch_jax.selection import keep_topk

B, K, D, HIDDEN, CLASSES = 128, 64, 48, 256, 10
MESHES = {"8": ((8,), ("data",), "data"), "4x2": ((4, 2), ("data", "model"), "data")}
ALL_AXES = {**MESHES, "4x2 both": ((4, 2), ("data", "model"), ("data", "model"))}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
SELECT = optax.chain(keep_topk(K), normalize())


def losses(params, batch):
    hidden = jax.nn.relu(jnp.dot(batch["x"], params["w"]))
    return optax.softmax_cross_entropy(jnp.dot(hidden, params["v"]), jax.nn.one_hot(batch["y"], CLASSES))


def problem():
    rng = np.random.default_rng(0)
    params = {"w": 0.1 * rng.normal(size=(D, HIDDEN)), "v": 0.1 * rng.normal(size=(HIDDEN, CLASSES))}
    batch = {"x": jnp.asarray(rng.normal(size=(B, D)), jnp.float32), "y": jnp.asarray(rng.integers(0, CLASSES, B))}
    return jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params), jax.tree.map(lambda x: x, batch)


def placed(name, kind):
    shape, names, axis = ALL_AXES[name]
    mesh = jax.make_mesh(shape, names, axis_types=(KINDS[kind],) * len(shape))
    params, batch = problem()
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(axis))
    state = jax.device_put(SELECT.init(jnp.zeros(B)), whole)
    return (jax.device_put(params, whole), jax.device_put(batch, rows), state), axis


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL_AXES)
def test_each_device_differentiates_its_share_and_only_the_chosen_rows_travel(name, kind):
    arguments, axis = placed(name, kind)
    step = jax.jit(value_and_grad(losses, SELECT, gather=K, rows_axis=axis))
    compiled = step.lower(*arguments).compile()
    devices = 4 if name == "4x2" else 8
    params, batch = problem()
    part = lambda n: jax.tree.map(lambda x: x[:n], batch)  # noqa: E731
    forward = flops(losses, params, part(B // devices))
    backward = flops(jax.value_and_grad(lambda p, b: jnp.sum(losses(p, b))), params, part(K // devices))
    assert compiled.cost_analysis()["flops"] <= 1.05 * (forward + backward)
    gathered = re.findall(r"= \S+?\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
    assert not [shape for shape in gathered if shape.startswith(f"{B},") and not shape.endswith(",1")]
    (value, aux), grads, _ = compiled(*arguments)
    (expected_value, expected_aux), expected, _ = value_and_grad(losses, SELECT, gather=K)(params, batch, arguments[2])
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_array_equal(aux.indices, expected_aux.indices)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert jax.tree.leaves(grads)[0].sharding.is_fully_replicated


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MESHES)
def test_without_gather_no_batch_is_gathered_even_to_leave_out_bad_rows(name, kind):
    arguments, _ = placed(name, kind)
    step = jax.jit(value_and_grad(losses, SELECT))
    params, batch, state = arguments
    bad = batch | {"x": jnp.where(jnp.arange(B)[:, None] == 3, jnp.inf, batch["x"])}
    compiled = step.lower(params, bad, state).compile()
    gathered = re.findall(r"= \S+?\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
    assert not [shape for shape in gathered if shape.startswith(f"{B},") and not shape.endswith(",1")]
    (value, aux), grads, _ = compiled(params, bad, state)
    single_params, single_batch = problem()
    single = single_batch | {"x": single_batch["x"].at[3].set(jnp.inf)}
    (expected_value, _), expected, _ = value_and_grad(losses, SELECT)(single_params, single, state)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert int(aux.dropped) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_taken_rows_lie_as_the_batch_does(kind):
    (_, batch, _), axis = placed("4x2", kind)
    taken = jax.jit(lambda b, w: take(b, w, 8, rows_axis=axis))(batch, jnp.arange(float(B)))
    assert taken.batch["x"].sharding.spec[0] in ("data", ("data",))
    np.testing.assert_array_equal(taken.batch["x"], np.asarray(batch["x"])[::-1][:8])


@pytest.mark.parametrize(
    ("name", "rows_axis", "k", "message"),
    [
        ("4x2", None, 8, r"rows_axis is None on a mesh with the axes \['data', 'model'\]"),
        ("8", "dta", 8, r"rows_axis is 'dta', wanted axes of the mesh: \['data'\] \(did you mean 'data'\?\)"),
        ("8", "data", 12, r"12 rows are to be taken, wanted a multiple of the 8 devices along \('data',\)"),
    ],
)
def test_an_unclear_axis_or_an_uneven_share_is_named(name, rows_axis, k, message):
    (params, batch, state), _ = placed(name, "auto")
    with pytest.raises(ValueError, match=message):
        jax.jit(value_and_grad(losses, SELECT, gather=k, rows_axis=rows_axis)).lower(params, batch, state)


def test_micro_batches_keep_every_device_busy():
    (params, batch, state), axis = placed("8", "auto")
    step = jax.jit(value_and_grad(losses, SELECT, gather=K, micro_batches=2, rows_axis=axis))
    (value, _), grads, _ = step(params, batch, state)
    (expected_value, _), expected, _ = value_and_grad(losses, SELECT, gather=K)(*problem(), state)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
