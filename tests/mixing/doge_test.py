import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mixing
from minibatch_jax.mixing import domain_alignments, losses_by_domain, mix_by_doge
from tests.case import Case
from tests.mixing import draws

CASES = {
    "mix_by_doge": Case(
        lambda: mixing.mix_by_doge(0.05, smoothing=0.01),
        draws.alignments,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-5,
    )
}
DOMAINS = 4
HALF = jnp.full(2, 0.5)


def domain_losses(params, batch):
    losses = jnp.logaddexp(0, batch["x"] @ params["w"]) + params["b"] ** 2 * batch["x"][:, 0]
    return losses_by_domain(losses, batch["domains"], DOMAINS)[0]


def problem():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    batch = {"x": draw(12, 3), "domains": jnp.asarray(np.arange(12) % 3)}  # the last domain is absent
    return {"w": draw(3), "b": draw()}, batch, {"w": draw(3), "b": draw()}


def gradients(params, batch):
    """Return `[K, 4]` gradients, one backward pass for each domain."""
    rows = [jax.grad(lambda p, k=k: domain_losses(p, batch)[k])(params) for k in range(DOMAINS)]
    return np.array([np.append(row["w"], row["b"]) for row in rows], np.float64)


@pytest.mark.parametrize("normalize", [False, True])
def test_alignments_are_inner_products_of_gradients(normalize):
    params, batch, direction = problem()
    rows, target = gradients(params, batch), np.append(direction["w"], direction["b"])
    norm = np.linalg.norm(target) if normalize else 1
    found = domain_alignments(domain_losses, params, batch, direction, normalize=normalize)
    np.testing.assert_allclose(found, rows @ target / norm, rtol=1e-4)
    assert found[3] == 0
    norm = np.mean(np.linalg.norm(rows, axis=1)) if normalize else 1
    others = [sum(rows[k] @ rows[j] for j in range(DOMAINS) if j != k) / norm for k in range(DOMAINS)]
    found = domain_alignments(domain_losses, params, batch, normalize=normalize)
    np.testing.assert_allclose(found, others, rtol=1e-4, atol=1e-6)


def test_alignments_in_half_precision_are_computed_in_float32():
    params, batch, direction = problem()
    half, small = (jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree) for tree in (params, direction))
    wide, large = (jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (half, small))
    fn = lambda p, b: domain_losses(jax.tree.map(lambda x: x.astype(jnp.float32), p), b)  # noqa: E731
    found = domain_alignments(fn, half, batch, small)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, domain_alignments(fn, wide, batch, large), rtol=1e-6)


def test_one_update_by_hand():
    """Step 0.1 / 0.05 = 2: the factors are exp(0) for -3, clipped, and exp(2 x 0.5) = e."""
    tx = mix_by_doge(0.1)
    mixture, state = tx.update(HALF, tx.init(HALF), domain_alignments=jnp.array([-3.0, 0.5]))
    np.testing.assert_allclose(mixture, [1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-6)
    free = mix_by_doge(0.1, bounds=None)
    pushed, _ = free.update(HALF, free.init(HALF), domain_alignments=jnp.array([-3.0, 0.5]))
    np.testing.assert_allclose(pushed[0], 1 / (1 + np.exp(7.0)), rtol=1e-5)
    again, _ = tx.update(HALF, state, domain_alignments=jnp.array([9.0, 0.0]))  # 9 counts as 5
    np.testing.assert_allclose(again[0], np.exp(10) / (np.exp(10) + np.e), rtol=1e-5)


def test_orthogonal_gradients_keep_the_mixture_and_the_target_s_own_domain_wins():
    weights, tx = jnp.full(3, 1 / 3), mix_by_doge(0.05)
    losses = lambda params, batch: batch @ params  # noqa: E731
    for domain in range(3):
        found = domain_alignments(losses, jnp.zeros(3), jnp.eye(3), jnp.eye(3)[domain])
        mixture, _ = tx.update(weights, tx.init(weights), domain_alignments=found)
        assert int(jnp.argmax(mixture)) == domain and mixture[(domain + 1) % 3] == mixture[(domain + 2) % 3]
    apart = domain_alignments(losses, jnp.zeros(3), jnp.eye(3))
    np.testing.assert_allclose(tx.update(weights, tx.init(weights), domain_alignments=apart)[0], weights, rtol=1e-6)


BAD = {
    "rate": (lambda: mix_by_doge(-0.1), ValueError, r"learning_rate is -0.1, wanted a number in \[0, inf\)"),
    "mu": (lambda: mix_by_doge(0.1, mu=0.0), ValueError, r"mu is 0.0, wanted a number in \(0, inf\)"),
    "bounds": (lambda: mix_by_doge(0.1, bounds=(5.0, 0.0)), ValueError, r"bounds is \(5.0, 0.0\), wanted the smaller"),
    "alignments": (
        lambda: mix_by_doge(0.1).update(HALF, mix_by_doge(0.1).init(HALF), domain_alignments=jnp.ones(3)),
        ValueError,
        r"domain_alignments has shape \[3\], wanted \[2\]",
    ),
    "scalar": (
        lambda: domain_alignments(lambda p, b: jnp.sum(p * b), jnp.ones(2), jnp.ones(2)),
        ValueError,
        r"losses has shape \[\], wanted \[any size > 0\]",
    ),
    "direction": (
        lambda: domain_alignments(lambda p, b: p * b, jnp.ones(2), jnp.ones(2), {"w": jnp.ones(2)}),
        ValueError,
        "direction has the structure",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
