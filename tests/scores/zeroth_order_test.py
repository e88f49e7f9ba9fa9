"""Estimates against the derivative along the probe, and against the gradient over many; how a parameter is named."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minibatch_jax.scores import zeroth_order_features, zeroth_order_scale

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)


def lora_losses(params, x):
    """A frozen matrix and its low-rank correction; only `lora_b` is moved in these tests."""
    block = params["blocks"][1]["value"]
    hidden = jnp.tanh(x @ params["blocks"][0]["value"]["kernel"])
    logits = hidden @ block["kernel"] + hidden @ block["lora_a"] @ block["lora_b"]
    return jnp.sum(jnp.logaddexp(0, logits) + 0.1 * logits**2, axis=1)


@pytest.fixture
def params():
    keys = iter(jax.random.split(jax.random.key(1), 4))
    draw = lambda *shape: 0.3 * jax.random.normal(next(keys), shape)  # noqa: E731
    first, second = {"kernel": draw(8, 8)}, {"kernel": draw(8, 8), "lora_a": draw(8, 2), "lora_b": draw(2, 8)}
    return {"blocks": [{"value": first}, {"value": second}], "steps": jnp.zeros((), jnp.int32)}


def exact(params):
    def losses(lora_b):
        block = {**params["blocks"][1]["value"], "lora_b": lora_b}
        return lora_losses({"blocks": [params["blocks"][0], {"value": block}]}, X)

    return np.asarray(jax.jacobian(losses)(params["blocks"][1]["value"]["lora_b"])).reshape(4, -1)


def test_one_probe_gives_the_derivative_along_the_probe_times_the_probe(params):
    found = zeroth_order_features(3, lora_losses, params, X, parameter="blocks/1/value/lora_b", step=1e-2)
    probe = np.asarray(jax.random.normal(jax.random.key(3), (2, 8))).reshape(-1)
    np.testing.assert_allclose(found, (exact(params) @ probe)[:, None] * probe[None], rtol=1e-2, atol=1e-3)
    assert np.linalg.matrix_rank(np.asarray(found), tol=1e-3) == 1


def test_the_mean_over_ten_probes_for_each_coordinate_approaches_the_gradient(params):
    estimate = jax.jit(
        lambda key: zeroth_order_features(
            key, lora_losses, params, X, parameter="blocks/1/value/lora_b", step=1e-2, num_probes=160
        )
    )
    found, wanted = np.stack([np.asarray(estimate(jax.random.key(seed))) for seed in range(3)]), exact(params)
    cosine = np.sum(found * wanted, 2) / np.linalg.norm(found, axis=2) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.9
    np.testing.assert_allclose(np.sum(found.mean(0) * wanted, 1) / np.sum(wanted**2, 1), 1, atol=0.3)


def test_scales_of_several_probes_are_differences_of_losses():
    plus, minus = jnp.array([[1.5, 2.0]]), jnp.array([[0.5, 2.5]])
    assert zeroth_order_scale(plus, minus, step=0.25).tolist() == [[2.0, -1.0]]


@pytest.mark.parametrize("parameter", ["1/value/lora_b", "lora_b", lambda path: path.endswith("lora_b"), "mask"])
def test_every_way_to_name_a_parameter_gives_the_same(params, parameter):
    if parameter == "mask":
        parameter = jax.tree.map_with_path(lambda path, _: "lora_b" in jax.tree_util.keystr(path), params)
    found = zeroth_order_features(0, lora_losses, params, X, parameter=parameter)
    wanted = zeroth_order_features(0, lora_losses, params, X, parameter="blocks/1/value/lora_b")
    np.testing.assert_array_equal(found, wanted)


def linear_losses(apply, x):
    return apply(x)[:, 0]


def test_equinox_linen_and_nnx_name_their_parameters():
    """The loss is linear in the kernel, so the estimate is the input's derivative along the probe."""
    model = eqx.nn.MLP(8, 1, 4, 0, key=jax.random.key(0))
    found = zeroth_order_features(0, lambda m, x: linear_losses(jax.vmap(m), x), model, X, parameter="layers/0/weight")
    mask = eqx.tree_at(lambda m: m.layers[0].weight, jax.tree.map(lambda _: False, model), True)
    masked = zeroth_order_features(0, lambda m, x: linear_losses(jax.vmap(m), x), model, X, parameter=mask)
    np.testing.assert_array_equal(found, masked)

    dense = nn.Dense(1)
    variables = dense.init(jax.random.key(0), X)
    of_linen = zeroth_order_features(
        0, lambda v, x: linear_losses(lambda x: dense.apply(v, x), x), variables, X, parameter="params/kernel"
    )
    module = nnx.Linear(8, 1, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    of_state = zeroth_order_features(
        0, lambda s, x: linear_losses(nnx.merge(graph, s), x), state, X, parameter="kernel"
    )
    of_module = zeroth_order_features(0, linear_losses, module, X, parameter="kernel")
    probe = jax.random.normal(jax.random.key(0), (8,))
    wanted = np.asarray(X @ probe)[:, None] * np.asarray(probe)[None]
    for features in (found, of_linen, of_state, of_module):
        np.testing.assert_allclose(features, wanted, atol=3e-3)


def test_the_lora_matrix_of_nnx_is_found():
    module = nnx.LoRA(8, 2, 1, base_module=nnx.Linear(8, 1, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    found = zeroth_order_features(0, linear_losses, module, X, parameter="lora_b")
    assert found.shape == (4, 2) and float(jnp.abs(found).max()) > 0.01


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("kernel", r"parameter is 'kernel', which names \['blocks/0/value/kernel', 'blocks/1/value/kernel'\], wanted"),
        ("lora", r"parameter is 'lora', which names no floating-point array.* wanted one of \['blocks/0/v"),
        ("steps", "parameter is 'steps', which names no floating-point array"),
        (True, "parameter is a mask, which names .*, wanted exactly one of"),
        ("blocks/1/valu/lora_b", r"did you mean 'blocks/1/value/lora_b'\?"),
        (lambda path: False, "parameter is a function, which names no floating-point array"),
        ({"blocks": True}, "parameter has the structure .*, wanted a function of a path"),
    ],
)
def test_a_parameter_that_is_not_one_array_is_told_which_there_are(params, parameter, message):
    with pytest.raises(ValueError, match=message):
        zeroth_order_features(0, lora_losses, params, X, parameter=parameter)


def test_bad_input_is_named(params):
    with pytest.raises(ValueError, match="losses_minus has shape"):
        zeroth_order_scale(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ValueError, match="step is 0, wanted"):
        zeroth_order_features(0, lora_losses, params, X, parameter="lora_b", step=0)
    with pytest.raises(ValueError, match="num_probes is 0"):
        zeroth_order_features(0, lora_losses, params, X, parameter="lora_b", num_probes=0)
    with pytest.raises(ValueError, match=r"losses has shape \[\]"):
        zeroth_order_features(0, lambda p, x: lora_losses(p, x).sum(), params, X, parameter="lora_b")


def test_a_parameter_in_low_precision_is_moved_in_its_own_dtype(params):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, params)
    losses = lambda p, x: lora_losses(jax.tree.map(lambda v: v.astype(jnp.float32), p), x)  # noqa: E731
    found = zeroth_order_features(0, losses, low, X, parameter="lora_b", step=0.1)
    wanted = zeroth_order_features(0, lora_losses, params, X, parameter="lora_b", step=0.1)
    np.testing.assert_allclose(found, wanted, atol=0.1)


@pytest.mark.parametrize("parameter", [nnx.LoRAParam, None, ...])
def test_filters_of_nnx_are_refused(params, parameter):
    with pytest.raises(TypeError, match="wanted a path, a tree of bools or a function of a path"):
        zeroth_order_features(0, lora_losses, params, X, parameter=parameter)
