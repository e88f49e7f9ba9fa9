"""Noise scales against enumeration, the sample covariance of NumPy, and gradients formed one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from minibatch_jax import scores
from minibatch_jax.scores import group_sums, grouped_value_and_grad, noise_scale, noise_scale_from_groups

MEAN, SPREAD = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, -1.0])
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))  # all noises of six examples, equally likely


def estimates(gradients, weights, cuts):
    """Estimates from groups `gradients[cuts[j]:cuts[j + 1]]` of one batch, by NumPy up to the norms."""
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    masses = np.array([weights[part].sum() for part in parts])
    sizes = np.array([weights[part].sum() ** 2 / (weights[part] ** 2).sum() for part in parts])
    means = [weights[part] @ gradients[part] / weights[part].sum() for part in parts]
    mean = weights @ gradients / weights.sum()
    return np.array([m @ m for m in means]), sizes, masses, mean @ mean


@pytest.mark.parametrize("weights", [np.ones(6), np.array([3.0, 1.0, 1.0, 2.0, 0.5, 4.0])], ids=["equal", "weighted"])
@pytest.mark.parametrize("cuts", [(0, 2, 4, 6), (0, 1, 2, 3, 4, 5, 6), (0, 1, 4, 6)], ids=["pairs", "each", "uneven"])
def test_the_mean_over_all_batches_that_can_come_is_exact(weights, cuts):
    gradients = MEAN + SIGNS[..., None] * SPREAD  # variance of one example: |SPREAD|^2
    inputs = [np.array(x) for x in zip(*(estimates(g, weights, cuts) for g in gradients))]
    found = jax.vmap(lambda n, s, m, b: noise_scale_from_groups(group_sums(n, s, masses=m), b))(
        *(jnp.asarray(x, jnp.float32) for x in inputs)
    )
    np.testing.assert_allclose(np.mean(found.gradient_square), MEAN @ MEAN, rtol=1e-5)
    np.testing.assert_allclose(np.mean(found.variance), SPREAD @ SPREAD, rtol=1e-5)


def test_estimates_are_unbiased_within_three_standard_errors():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(5, 5))
    gradients = rng.normal(size=5) + rng.normal(size=(2000, 8, 4, 5)) @ spread
    mean = gradients.mean(axis=(0, 1, 2))  # its own error is a tenth of that of the estimates
    groups = gradients.mean(axis=2)
    norms, batch = (groups**2).sum(-1), (groups.mean(axis=1) ** 2).sum(-1)
    found = jax.vmap(lambda n, b: noise_scale_from_groups(group_sums(n, 4), b))(
        jnp.asarray(norms, jnp.float32), jnp.asarray(batch, jnp.float32)
    )
    for values, expected in ((found.variance, np.trace(spread @ spread.T)), (found.gradient_square, mean @ mean)):
        assert abs(np.mean(values) - expected) < 3 * np.std(values) / 2000**0.5


@pytest.mark.parametrize("weights", [np.ones(7), np.arange(1.0, 8.0)])
def test_single_examples_give_the_trace_of_the_sample_covariance(weights):
    gradients = np.random.default_rng(1).normal(size=(7, 3))
    norms, mean = (gradients**2).sum(1), weights @ gradients / weights.sum()
    groups = group_sums(jnp.asarray(norms, jnp.float32), 1, masses=jnp.asarray(weights, jnp.float32))
    found = noise_scale_from_groups(groups, jnp.float32(mean @ mean))
    covariance = np.cov(gradients.T, aweights=weights)
    np.testing.assert_allclose(found.variance, np.trace(covariance), rtol=1e-5)


def test_groups_without_mass_influence_nothing_and_one_group_says_nothing():
    norms = jnp.array([5.0, jnp.nan, 3.0])
    masses = jnp.array([1.0, 0.0, 1.0])
    padded = noise_scale_from_groups(group_sums(norms, 4, masses=masses), jnp.float32(3.5))
    plain = noise_scale_from_groups(group_sums(jnp.array([5.0, 3.0]), 4), jnp.float32(3.5))
    assert [float(x) for x in padded] == [float(x) for x in plain] == [3.0, 4.0, pytest.approx(4 / 3), True]
    alone = noise_scale_from_groups(group_sums(norms, 4, masses=jnp.array([1.0, 0.0, 0.0])), jnp.float32(5))
    assert np.isnan(alone[:3]).all() and not alone.usable
    negative = noise_scale_from_groups(group_sums(jnp.array([5.0, 3.0]), 4), jnp.float32(1.0))
    assert negative.gradient_square < 0 and np.isnan(negative.noise_scale) and not negative.usable


@pytest.mark.parametrize("sizes, masses", [([4, -4], None), ([4, 4], [1, -1]), ([4, 0], [1, 1]), ([4, np.nan], [1, 1])])
def test_negative_counts_and_sizes_of_zero_are_flagged(sizes, masses):
    masses = None if masses is None else jnp.asarray(masses, jnp.float32)
    groups = group_sums(jnp.array([5.0, 3.0]), jnp.asarray(sizes, jnp.float32), masses=masses)
    _, state = noise_scale().update(jnp.ones(1), noise_scale().init(None), groups=groups)
    assert not noise_scale_from_groups(groups, jnp.float32(3.5)).usable and int(state.skipped) == 1


def test_the_monitor_divides_averages_and_counts_what_it_flags():
    squares = [3.5, np.nan, 1.0, 3.0]  # of the batch; the groups give 5 and 3
    tx = noise_scale(0.9)
    state = tx.init(None)
    groups = group_sums(jnp.array([5.0, 3.0]), 4)
    seen = []
    for square in squares:
        updates = jnp.array([np.sqrt(square)], jnp.float32)
        passed, state = jax.jit(tx.update)(updates, state, groups=groups)
        np.testing.assert_array_equal(passed, updates)
        seen.append(float(state.noise_scale))
    # by hand: tr(S) = 8 (4 - square), |G|^2 = 2 square - 4; averages 0.9 old + 0.1 new, over 1 - 0.9^steps
    variance = (0.81 * 4 + 0.9 * 24 + 8) * 0.1 / (1 - 0.9**3)
    gradient_square = (0.81 * 3 + 0.9 * -2 + 2) * 0.1 / (1 - 0.9**3)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(state.gradient_square, gradient_square, rtol=1e-5)
    np.testing.assert_allclose(seen[:2] + seen[3:], [4 / 3, 4 / 3, variance / gradient_square], rtol=1e-5)
    assert (int(state.steps), int(state.negative), int(state.skipped)) == (3, 1, 1)


def test_a_gradient_of_zero_is_no_negative_estimate():
    _, state = noise_scale().update(jnp.zeros(2), noise_scale().init(None), groups=group_sums(jnp.zeros(3), 1))
    assert np.isnan(state.noise_scale) and (int(state.steps), int(state.negative), int(state.skipped)) == (1, 0, 0)


def test_the_ratio_is_unknown_while_the_averages_allow_none():
    tx = noise_scale()
    groups = group_sums(jnp.array([5.0, 3.0]), 4)
    assert np.isnan(tx.init(None).noise_scale)
    _, state = tx.update(jnp.ones(1), tx.init(None), groups=groups)
    assert state.gradient_square < 0 and np.isnan(state.noise_scale)


def losses(params, batch):
    return jnp.logaddexp(0, batch["x"] @ params["w"] * batch["y"]) + params["b"] ** 2 * batch["x"][:, 0]


def problem(rows):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(rows, 3)), rng.choice([-1.0, 1.0], rows)
    batch = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.float32(0.3)}
    jacobian = jax.jacobian(losses)(params, batch)
    return params, batch, np.concatenate([np.asarray(jacobian["w"]), np.asarray(jacobian["b"])[:, None]], axis=1)


@pytest.mark.parametrize("blocks", [2, 4])
def test_gradients_in_groups_measure_the_micro_batches(blocks):
    params, batch, gradients = problem(16)
    weights = np.random.default_rng(3).uniform(0.1, 1, 16).astype(np.float32)
    weights[[0, 5]] = 0
    batch["x"] = batch["x"].at[0].set(jnp.inf)  # a row without weight
    gradients[0] = 0
    fn = jax.jit(grouped_value_and_grad(losses, optax.identity(), micro_batches=blocks))
    (_, aux), grads, _, groups = fn(params, batch, optax.EmptyState(), weights=jnp.asarray(weights))
    own = np.concatenate([np.asarray(grads["w"]), np.asarray(grads["b"])[None]])
    np.testing.assert_allclose(own, weights @ gradients, rtol=1e-4)
    np.testing.assert_array_equal(aux.weights, weights)
    order = np.arange(16).reshape(-1, blocks).T.reshape(-1)  # a block has every `blocks`-th row
    norms, sizes, masses, _ = estimates(weights.sum() * gradients[order], weights[order], range(0, 17, 16 // blocks))
    expected = group_sums(
        *(jnp.asarray(v, jnp.float32) for v in (norms, sizes)), masses=jnp.asarray(masses, jnp.float32)
    )
    np.testing.assert_allclose(groups, expected, rtol=1e-4)


def test_a_row_of_tokens_is_one_example():
    params, batch, gradients = problem(4)
    both = lambda p, b: jnp.stack([losses(p, b), 3 * losses(p, b)], axis=1)  # noqa: E731
    fn = jax.jit(grouped_value_and_grad(both, optax.identity(), micro_batches=2))
    found = fn(params, batch, optax.EmptyState())[3]
    norms = ((2 * gradients[[0, 2, 1, 3]].reshape(2, 2, -1).mean(1)) ** 2).sum(1)  # the mean of the two is twice one
    expected = group_sums(jnp.asarray(norms, jnp.float32), 2, masses=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_eight_devices_agree_with_one():
    params, batch, _ = problem(32)
    start = optax.EmptyState()
    tx = noise_scale(axis_name="data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def on_each(batch):
        _, grads, _, groups = grouped_value_and_grad(losses, optax.identity(), axis_name="data")(params, batch, start)
        summed = noise_scale().update(grads, tx.init(None), groups=groups)[1]
        varying = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), params)
        own = jax.grad(lambda p: jnp.mean(losses(p, batch)))(varying)
        mean = jax.lax.pmean(own, "data")
        by_size = tx.update(own, tx.init(None), group_size=4)[1]
        local = group_sums(optax.tree.norm(own, squared=True)[None], 4)
        return summed, by_size, tx.update(mean, tx.init(None), groups=local)[1]

    shard = jax.shard_map(on_each, mesh=mesh, in_specs=P("data"), out_specs=P())
    strided = jax.tree.map(lambda x: x.reshape(4, 8, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape), batch)
    _, grads, _, groups = grouped_value_and_grad(losses, optax.identity(), micro_batches=8)(params, batch, start)
    expected = noise_scale().update(grads, tx.init(None), groups=groups)[1]
    for found in jax.jit(shard)(strided):
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-6)


def test_bad_input_is_named():
    ones, state = jnp.ones(4), noise_scale().init(None)
    bad = [
        (lambda: group_sums(ones, 0), "sizes is 0, wanted a number in"),
        (lambda: group_sums(ones, -3), "sizes is -3"),
        (lambda: group_sums(ones, 1, masses=-1.0), "masses is -1.0"),
        (lambda: group_sums(ones, jnp.ones(3)), r"sizes has shape \[3\], wanted \[4\]"),
        (lambda: noise_scale_from_groups(group_sums(ones, 1), ones), r"batch_sq_norm has shape \[4\]"),
        (lambda: noise_scale(1.0), "decay is 1.0, wanted a number in"),
        (lambda: noise_scale().update(ones, state), "both or neither of groups and group_size"),
        (lambda: noise_scale(axis_name="data").update(ones, state, group_size=4), "at least two devices"),
        (
            lambda: grouped_value_and_grad(losses, optax.identity())(None, None, None),
            "micro_batches is 1 on one device",
        ),
    ]
    for call, message in bad:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_gradients_that_are_averaged_already_are_refused():
    tx, mesh = noise_scale(axis_name="data"), jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    update = lambda x: tx.update(jax.lax.pmean(x, "data"), tx.init(None), group_size=1)[1]  # noqa: E731
    with pytest.raises(ValueError, match="updates are the same on all devices of 'data'"):
        jax.shard_map(update, mesh=mesh, in_specs=P("data"), out_specs=P())(jnp.ones(8))


def test_groups_that_are_summed_already_are_refused():
    tx, mesh = noise_scale(axis_name="data"), jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def update(x):
        groups = jax.lax.psum(group_sums(x, 1), "data")
        return tx.update(jax.lax.pmean(x, "data"), tx.init(None), groups=groups)[1]

    with pytest.raises(ValueError, match="groups are the same on all devices of 'data', wanted those of each device"):
        jax.shard_map(update, mesh=mesh, in_specs=P("data"), out_specs=P())(jnp.ones(8))


def test_negative_weights_of_rows_are_flagged():
    params, batch, _ = problem(4)
    fn = grouped_value_and_grad(losses, optax.identity(), micro_batches=2)
    weights = jnp.array([0.5, 0.5, -0.25, 0.25])
    _, grads, _, groups = fn(params, batch, optax.EmptyState(), weights=weights)
    assert not noise_scale_from_groups(groups, optax.tree.norm(grads, squared=True)).usable


def test_norms_of_examples_from_this_library_are_groups_of_one():
    params, batch, gradients = problem(8)
    groups = group_sums(scores.gradient_norms(losses, params, batch) ** 2, 1)
    mean = gradients.mean(0)
    found = noise_scale_from_groups(groups, jnp.float32(mean @ mean))
    np.testing.assert_allclose(found.variance, np.trace(np.cov(gradients.T)), rtol=1e-4)
