"""Every public sampler keeps the laws of `minibatch_jax.testing.check_sampler`, on one device and on eight."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import sampling, value_and_grad
from minibatch_jax.mixing import mix_by_odm
from minibatch_jax.sampling import Rows, Sampler
from minibatch_jax.testing import SAMPLER_CHECKS, SamplerCase

N = 48


def labels(rng):
    return {"labels": rng.permutation(np.arange(N) % 6).astype(np.int32)}


def hierarchy(rng):
    own = labels(rng)["labels"]
    return {"labels": own, "groups": own // 2}


def domains(rng):
    return {"domains": labels(rng)["labels"]}


def labeled(rng):
    return {"labeled": rng.permutation(np.arange(N) < 10)}


def weights(rng):
    return {"weights": rng.gamma(2.0, size=N).astype(np.float32)}


def losses(rng, rows):
    return {"losses": rng.gamma(2.0, size=len(rows.indices)).astype(np.float32)}


def embeddings(rng, rows):
    return {"embeddings": rng.normal(size=(len(rows.indices), 3)).astype(np.float32)}


POINTS = np.random.default_rng(1).normal(size=(N, 2)).astype(np.float32)


def scores(params, batch):
    """Losses and features for `crest`."""
    return jnp.sum((batch * params[None]) ** 2, axis=1), {"features": batch * params[None]}


CASES = {
    "shuffled": SamplerCase(lambda: sampling.shuffled(N, 16), N),
    "by_class": SamplerCase(lambda: sampling.by_class(6, 4, 2), N, labels),
    "by_hierarchy": SamplerCase(
        lambda: sampling.by_hierarchy(6, 3, groups_per_batch=2, classes_per_group=2, per_class=2), N, hierarchy
    ),
    "labelled_quota": SamplerCase(lambda: sampling.labelled_quota(16, 4), N, labeled),
    "fixed_triplets": SamplerCase(lambda: sampling.fixed_triplets(20, 8), N, labels),
    "weighted": SamplerCase(lambda: sampling.weighted(16, decay=0.5), N, weights, losses, any_order=True),
    "hard_batches": SamplerCase(
        lambda: sampling.hard_batches(N, 16, shuffle=True), N, signals=losses, any_order=True, tolerance=1e-6
    ),
    "crest": SamplerCase(
        lambda: sampling.crest(scores, batch_size=24, num_classes=6, subset_size=24, max_coresets=6),
        N,
        lambda rng: labels(rng) | {"params": np.ones(2, np.float32)},
        lambda rng, rows: {"params": np.array([0.5, 2], np.float32), "data": POINTS},
        tolerance=1e-5,
    ),
    "mixture": SamplerCase(
        lambda: sampling.mixture(6, 16, mix_by_odm("perplexity", decay=0.5)), N, domains, losses, tolerance=1e-6
    ),
    "by_proxies": SamplerCase(lambda: sampling.by_proxies(6, 4, 2, 3), N, labels, embeddings),
}


FEATURES = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
PARAMS = {"w": np.eye(5, dtype=np.float32), "v": np.ones(5, np.float32)}


def loss_fn(params, batch):
    return jnp.square(jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"])


def train(case, place, steps=20):
    """Rows that were drawn and the parameters after training on them; `place(tree, sharded)` puts on devices."""
    sampler, rng = case.make(), np.random.default_rng(1)
    data = place({"x": FEATURES, "y": FEATURES[:, 0] ** 2}, False)
    state, params = place((sampler.init(0, **case.arrays(rng)), PARAMS), False)

    @jax.jit
    def step(params, batch, weights):
        (_, aux), grads, _ = value_and_grad(loss_fn, optax.identity())(
            params, batch, optax.EmptyState(), weights=weights
        )
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), aux.items

    sample = jax.jit(sampler.sample)
    update = jax.jit(lambda state, rows, signals: sampler.update(state, rows, **signals))
    drawn = []
    for _ in range(steps):
        rows, state = sample(state)
        drawn.append(np.asarray(rows.indices))
        batch = {name: value[rows.indices] for name, value in data.items()}
        batch, weights = place((batch, rows.weights), True)
        params, items = step(params, batch, weights)
        signals = dict(case.signals(rng, Rows(*map(np.asarray, rows))))
        state = update(state, rows, signals | ({"losses": items} if "losses" in signals else {}))
    return drawn, params


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training_on_eight_devices_is_training_on_one(case):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def spread(tree, sharded):
        return jax.device_put(tree, NamedSharding(mesh, P("data") if sharded else P()))

    expected, wanted = train(case, lambda tree, sharded: tree)
    drawn, params = train(case, spread)
    np.testing.assert_array_equal(drawn, expected)
    for name, value in params.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def public_samplers():
    for name, value in inspect.getmembers(sampling, inspect.isfunction):
        if inspect.signature(value).return_annotation in (Sampler, "Sampler"):
            yield name


def test_every_public_sampler_has_a_case():
    assert set(public_samplers()) == set(CASES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("check", SAMPLER_CHECKS.values(), ids=SAMPLER_CHECKS)
def test_every_sampler_keeps_every_law(check, case):
    check(case)
