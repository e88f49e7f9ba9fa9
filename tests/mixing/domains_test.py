import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax.mixing import domain_to_example_weights, losses_by_domain

ROWS, DOMAINS = 64, 5


def batch(seed=0):
    rng = np.random.default_rng(seed)
    losses = rng.gamma(2.0, size=ROWS).astype(np.float32)
    domains = rng.integers(-2, DOMAINS + 3, ROWS).astype(np.int32)
    weights = rng.integers(0, 4, ROWS).astype(np.float32)
    losses[::9], domains[domains == 3] = np.nan, 2  # one domain has no example
    losses[4], weights[5], weights[6], weights[7] = np.inf, np.nan, -1, np.inf
    return losses, domains, weights


def by_hand(losses, domains, weights):
    """Collect the losses of each domain in a list."""
    found = [[] for _ in range(DOMAINS)]
    for loss, domain, weight in zip(losses.tolist(), domains.tolist(), weights.tolist()):
        if 0 <= domain < DOMAINS and np.isfinite(loss) and np.isfinite(weight) and weight > 0:
            found[domain].append((loss, weight))
    means = [sum(a * b for a, b in pairs) / sum(b for _, b in pairs) if pairs else 0.0 for pairs in found]
    return means, [len(pairs) for pairs in found]


def test_means_and_counts_are_those_of_the_usable_examples_of_each_domain():
    losses, domains, weights = batch()
    for given in (weights, None):
        expected = by_hand(losses, domains, np.ones(ROWS) if given is None else given)
        found = losses_by_domain(
            jnp.asarray(losses), jnp.asarray(domains), DOMAINS, weights=None if given is None else jnp.asarray(given)
        )
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        assert found[1].tolist() == expected[1] and expected[1][3] == 0


def test_sums_over_devices_are_added_before_they_are_divided():
    losses, domains, weights = (jnp.asarray(x) for x in batch(1))
    means, counts = by_hand(*batch(1))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(losses, domains, weights):
        return losses_by_domain(losses, domains, DOMAINS, weights=weights, axis_name="data")

    shard = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    found = jax.jit(shard)(losses, domains, weights)
    np.testing.assert_allclose(found[0], means, rtol=1e-6)
    assert found[1].tolist() == counts


def test_a_batch_on_an_explicit_mesh_gives_what_one_device_gives():
    losses, domains, weights = (jnp.asarray(x) for x in batch(2))
    mixture, proportions = jnp.full(DOMAINS, 0.2), jnp.array([0.1, 0.2, 0.3, 0.3, 0.1])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, P("data"))
    placed = [jax.device_put(x, rows) for x in (losses, domains, weights)]
    with jax.set_mesh(mesh):
        found = losses_by_domain(placed[0], placed[1], DOMAINS, weights=placed[2])
        spread = domain_to_example_weights(mixture, proportions, placed[1])
    np.testing.assert_allclose(found[0], by_hand(*batch(2))[0], rtol=1e-6)
    np.testing.assert_allclose(spread, domain_to_example_weights(mixture, proportions, domains), rtol=1e-6)
    assert jax.typeof(spread).sharding.spec[0] == "data"


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_losses_in_half_precision_are_added_in_float32(dtype):
    losses, counts = losses_by_domain(jnp.full(5000, 3.0, dtype), jnp.zeros(5000, jnp.int8), 2)
    assert losses.dtype == jnp.float32 and losses.tolist() == [3.0, 0.0] and counts.tolist() == [5000, 0]


def test_re_weighted_means_estimate_the_loss_of_the_other_mixture():
    """The expectation over all batches of one row, drawn from q, of weight x loss is the loss of the mixture p."""
    p, q = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.2, 0.2, 0.6])
    domains = jnp.array([0, 0, 1, 1, 2, 2, 2, 2, 2, 2])  # in the proportions q
    losses = jnp.array([1.0, 3.0, 5.0, 5.0, 7.0, 7.0, 7.0, 7.0, 7.0, 1.0])
    weights = domain_to_example_weights(p, q, domains)
    np.testing.assert_allclose(jnp.sum(weights * losses), 0.5 * 2 + 0.3 * 5 + 0.2 * 6, rtol=1e-6)


def test_the_proportions_of_the_batch_give_the_normalizer_for_each_domain():
    rng = np.random.default_rng(3)
    domains = np.append(np.arange(DOMAINS), rng.integers(0, DOMAINS, 11)).astype(np.int32)
    losses = rng.gamma(2.0, size=16).astype(np.float32)
    p = np.array([0.1, 0.4, 0.2, 0.05, 0.25], np.float32)
    means, counts = losses_by_domain(jnp.asarray(losses), jnp.asarray(domains), DOMAINS)
    weights = domain_to_example_weights(jnp.asarray(p), counts.astype(jnp.float32) / 16, jnp.asarray(domains))
    np.testing.assert_allclose(jnp.sum(weights * losses), np.dot(p, means), rtol=1e-6)  # DoReMi's paper
    q = jnp.full(DOMAINS, 0.2)
    weights = domain_to_example_weights(jnp.asarray(p), q, jnp.asarray(domains))
    np.testing.assert_allclose(weights, p[domains] / p[domains].sum(), rtol=1e-6)  # its code, with uniform proportions


def test_examples_of_no_domain_and_of_impossible_domains_get_no_weight():
    p, q = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.5, 0.0, 0.5])
    weights = domain_to_example_weights(p, q, jnp.array([0, 1, 2, -1, 3]))
    np.testing.assert_allclose(weights, [2 / 3, 0, 1 / 3, 0, 0], rtol=1e-6)
    assert domain_to_example_weights(p, q, jnp.array([1, 1, -1])).tolist() == [0, 0, 0]


def test_the_sum_of_the_weights_is_over_all_devices():
    p, q = jnp.array([0.7, 0.3]), jnp.array([0.5, 0.5])
    domains = jnp.array([0, 1, 1, 1, 0, 0, 0, 0], jnp.int32)
    local = jax.vmap(lambda d: domain_to_example_weights(p, q, d, axis_name="data"), axis_name="data")
    np.testing.assert_allclose(
        local(domains.reshape(4, 2)).ravel(), domain_to_example_weights(p, q, domains), rtol=1e-6
    )


def bad(weights=(0.5, 0.5), proportions=(0.5, 0.5)):
    return domain_to_example_weights(jnp.array(weights), jnp.array(proportions), jnp.array([0, 1]))


BAD = {
    "sum": (lambda: bad((0.5, 0.4)), ValueError, r"^weights has the sum 0\.9, wanted 1\.$"),
    "negative": (lambda: bad(proportions=(1.5, -0.5)), ValueError, "proportions has a negative or non-finite entry"),
    "nan": (lambda: bad((jnp.nan, 1.0)), ValueError, "weights has a negative or non-finite entry"),
    "sizes": (lambda: bad(proportions=(1.0,)), ValueError, r"proportions has shape \[1\], wanted \[2\]"),
    "counts": (
        lambda: domain_to_example_weights(jnp.array([1.0]), jnp.array([3]), jnp.array([0])),
        TypeError,
        "proportions has dtype int32, wanted a floating-point dtype",
    ),
    "no domains": (
        lambda: losses_by_domain(jnp.ones(2), jnp.array([0, 1]), 0),
        ValueError,
        "num_domains is 0, wanted at least 1",
    ),
    "float domains": (
        lambda: losses_by_domain(jnp.ones(2), jnp.ones(2), 2),
        TypeError,
        "domains has dtype float32, wanted an integer dtype",
    ),
    "rows": (lambda: losses_by_domain(jnp.ones(2), jnp.array([0]), 2), ValueError, r"domains has shape \[1\]"),
    "weights": (
        lambda: losses_by_domain(jnp.ones(2), jnp.array([0, 1]), 2, weights=jnp.ones(3)),
        ValueError,
        r"weights has shape \[3\], wanted \[2\]",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_mixture_that_is_none_gives_finite_weights_in_jit():
    weights = jax.jit(domain_to_example_weights)(
        jnp.array([jnp.nan, -1.0, 0.5]), jnp.array([0.2, 0.3, 0.5]), jnp.array([0, 1, 2, 2])
    )
    assert weights.tolist() == [0, 0, 0.5, 0.5]
