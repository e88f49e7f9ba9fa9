import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from minibatch_jax import mixing
from minibatch_jax.mixing import mix_by_skills, skill_mixture
from tests.case import ROWS, Case
from tests.mixing import draws

GRAPH = np.random.default_rng(0).uniform(0, 1, (ROWS, ROWS)).astype(np.float32)
CASES = {
    "mix_by_skills": Case(
        lambda: mixing.mix_by_skills(jnp.asarray(GRAPH), 0.3),
        draws.losses,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-5,
    )
}
HALF = jnp.full(2, 0.5)


def steps(tx, losses, prior=HALF):
    """Return the mixtures of updates with these losses, every domain drawn."""
    state, found = tx.init(prior), []
    for row in losses:
        counts = jnp.ones(len(prior), jnp.int32)
        mixture, state = tx.update(prior, state, domain_losses=jnp.array(row), domain_counts=counts)
        found.append(np.asarray(mixture))
    return found


def test_two_domains_by_hand():
    """The first teaches both, the second itself: scores (l1 + l2 / 2, l2), so the difference is l1 - l2 / 2."""
    found = steps(
        mix_by_skills(jnp.array([[1.0, 0.5], [0.0, 1.0]]), 0.5, window=2), [[3.0, 1.0], [1.0, 2.0], [1.0, 4.0]]
    )
    expected = [1 / (1 + np.exp(-0.5 * d)) for d in (3 - 0.5, 4 - 1.5, 2 - 3)]
    np.testing.assert_allclose([f[0] for f in found], expected, rtol=1e-6)


def test_no_graph_gives_the_prior_and_the_unit_graph_a_softmax_of_the_losses():
    prior, losses = jnp.array([0.2, 0.5, 0.3]), [1.0, 2.0, 0.5]
    np.testing.assert_allclose(steps(mix_by_skills(jnp.zeros((3, 3)), 1.0), [losses], prior)[0], prior, rtol=1e-6)
    uniform = jnp.full(3, 1 / 3)
    found = steps(mix_by_skills(jnp.eye(3), 0.8, window=1), [[9.0, 9.0, 0.0], losses], uniform)[1]
    np.testing.assert_allclose(found, softmax(0.8 * np.array(losses)), rtol=1e-6)


def test_the_function_is_the_first_update():
    graph, losses, prior = jnp.asarray(GRAPH[:3, :3]), jnp.array([1.0, 2.0, 0.5]), jnp.array([0.2, 0.5, 0.3])
    expected = steps(mix_by_skills(graph, 0.7), [losses], prior)[0]
    np.testing.assert_allclose(skill_mixture(graph, losses, 0.7, prior), expected, rtol=1e-6)
    start = skill_mixture(jnp.asarray(GRAPH[:4, :3]), jnp.ones(3), 0.7)
    np.testing.assert_allclose(start, softmax(0.7 * GRAPH[:4, :3].sum(axis=1)), rtol=1e-5)


def test_before_the_first_loss_the_incoming_mixture_passes():
    tx, prior = mix_by_skills(jnp.ones((3, 2)), 1.0, losses="targets"), jnp.array([0.2, 0.5, 0.3])
    mixture, state = tx.update(prior, tx.init(prior), target_losses=jnp.full(2, jnp.nan))
    np.testing.assert_allclose(mixture, prior, rtol=1e-6)
    assert not np.any(state.window)


@pytest.mark.parametrize("growing_step", [False, True])
def test_a_domain_that_leaves_takes_its_losses_with_it(growing_step):
    tx, counts = mix_by_skills(jnp.asarray(GRAPH[:3, :3]), 0.4, growing_step=growing_step), jnp.ones(3, jnp.int32)
    found = []
    for loss in (1.0, 50.0):
        state = tx.init(jnp.ones(3))
        for prior in (jnp.full(3, 1 / 3), jnp.array([0.4, 0.6, 0.0])):
            losses = jnp.array([1.0, 2.0, loss])
            mixture, state = tx.update(prior, state, domain_losses=losses, domain_counts=counts)
        found.append(mixture)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_graph_in_half_precision_is_summed_in_float32(dtype):
    graph, losses = jnp.ones((2, 300), dtype).at[0, 0].set(0), jnp.ones(300, dtype)
    found = skill_mixture(graph, losses, 1.0)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, softmax([299.0, 300.0]), rtol=1e-5)


def test_a_target_that_is_not_finite_counts_as_zero_in_jit():
    found = jax.jit(skill_mixture)(jnp.eye(3), jnp.array([1.0, jnp.nan, 0.0]), 1.0)
    np.testing.assert_allclose(found, softmax([1.0, 0, 0]), rtol=1e-6)


BAD = {
    "rank": (lambda: mix_by_skills(jnp.ones(3), 1.0), ValueError, r"graph has shape \[3\]"),
    "square": (
        lambda: mix_by_skills(jnp.ones((3, 2)), 1.0),
        ValueError,
        r"graph has shape \[3, 2\], wanted \[3, 3\], or losses='targets'",
    ),
    "nan": (lambda: mix_by_skills(jnp.full((2, 2), jnp.nan), 1.0), ValueError, "graph has an entry that is not finite"),
    "losses": (lambda: mix_by_skills(jnp.eye(2), 1.0, losses="all"), ValueError, "losses is 'all', wanted one of"),
    "window": (lambda: mix_by_skills(jnp.eye(2), 1.0, window=0), ValueError, "window is 0, wanted at least 1"),
    "domains": (lambda: steps(mix_by_skills(jnp.eye(3), 1.0), [[1.0, 2.0]]), ValueError, r"weights has shape \[2\]"),
    "prior": (
        lambda: skill_mixture(jnp.eye(2), jnp.ones(2), 1.0, jnp.array([0.5, 0.6])),
        ValueError,
        r"prior has the sum 1.1, wanted 1",
    ),
    "integers": (
        lambda: skill_mixture(jnp.eye(2, dtype=jnp.int32), jnp.ones(2), 1.0),
        TypeError,
        "graph has dtype int32, wanted a floating-point dtype",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
