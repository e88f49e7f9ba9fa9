import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

B, D, CHEAP = 8, 4, 3


def towers(params):
    """A patch embedding at two resolutions: on all entries, and on means of pairs of them with pairs of weights."""
    full = lambda x: x @ params  # noqa: E731
    cheap = lambda x: x.reshape(-1, D // 2, 2).mean(2) @ params.reshape(D // 2, 2, -1).sum(1)  # noqa: E731
    return cheap, full


def data(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(B, D)), jnp.float32), jnp.asarray(rng.normal(size=(D, 2)), jnp.float32)


def embed(key, x, params):
    return selection.embed_at_two_resolutions(key, x, *towers(params), num_cheap=CHEAP)


def test_rows_keep_their_place_and_are_cheap_at_random():
    """Each row is embedded by one of the two, the same number of them cheaply, all equally often and in all pairs."""
    x, params = data()
    cheap, full = (np.asarray(f(x)) for f in towers(params))
    z = np.asarray(jax.jit(jax.vmap(embed, (0, None, None)))(jax.random.split(jax.random.key(0), 3000), x, params))
    is_cheap = np.isclose(z, cheap, atol=1e-5).all(2)
    assert (is_cheap != np.isclose(z, full, atol=1e-5).all(2)).all()
    assert (is_cheap.sum(1) == CHEAP).all()
    together = is_cheap.T.astype(float) @ is_cheap / len(z)
    np.testing.assert_allclose(np.diag(together), CHEAP / B, atol=0.03)
    pairs = CHEAP * (CHEAP - 1) / (B * (B - 1))
    np.testing.assert_allclose(together[~np.eye(B, dtype=bool)], pairs, atol=0.03)


def test_gradient_is_that_of_the_rows_by_hand():
    x, params = data()
    key = jax.random.key(3)
    cheap, _ = towers(params)
    is_cheap = np.isclose(np.asarray(embed(key, x, params)), np.asarray(cheap(x)), atol=1e-5).all(1)[:, None]
    contrast = lambda z: jnp.sum(jax.nn.softplus(z @ z.T))  # noqa: E731

    def by_hand(params):
        cheap, full = towers(params)
        return contrast(jnp.where(jnp.asarray(is_cheap), cheap(x), full(x)))

    actual = jax.jit(jax.grad(lambda p: contrast(embed(key, x, p))))(params)
    np.testing.assert_allclose(actual, jax.grad(by_hand)(params), rtol=1e-5, atol=1e-5)


def test_each_function_sees_its_rows_alone():
    seen = []
    f = lambda tree: (seen.append(tree["x"].shape), tree["x"])[1]  # noqa: E731
    selection.embed_at_two_resolutions(jax.random.key(0), {"x": data()[0]}, f, f, num_cheap=CHEAP)
    assert seen == [(CHEAP, D), (B - CHEAP, D)]


def test_scores_from_the_cheap_pass_choose_and_the_mixed_batch_trains():
    """Flexi-JEST from its parts: cheap scores of 32, 8 of them chosen, half of these embedded cheaply."""
    rng = np.random.default_rng(0)
    images, texts, params = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((32, D), (32, 2), (D, 2)))

    @jax.jit
    def step(key, params):
        cheap, _ = towers(params)
        learner = selection.jest_embeddings.PairEmbeddings(cheap(images), texts)
        reference = selection.jest_embeddings.PairEmbeddings(jnp.zeros_like(texts), texts)
        keys = jax.random.split(key)
        rows = selection.jest_indices_from_embeddings(keys[0], learner, reference, B, 2)

        def loss(params):
            cheap, full = towers(params)
            z = selection.embed_at_two_resolutions(keys[1], images[rows], cheap, full, num_cheap=B // 2)
            return jnp.mean(
                selection.jest_embeddings.sigmoid_pair_losses(selection.jest_embeddings.PairEmbeddings(z, texts[rows]))
            )

        return rows, *jax.value_and_grad(loss)(params)

    rows, before, gradient = step(jax.random.key(0), params)
    assert len(set(rows.tolist())) == B
    again, after, _ = step(jax.random.key(0), params - 1e-4 * gradient)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_allclose(before - after, 1e-4 * np.sum(np.square(gradient)), rtol=0.05)


BAD = {
    "all cheap": ({"num_cheap": B}, ValueError, f"num_cheap is {B}, wanted at most {B - 1}"),
    "none cheap": ({"num_cheap": 0}, ValueError, "num_cheap is 0"),
    "rows": ({"batch": {"x": jnp.ones(3), "y": jnp.ones(4)}}, ValueError, "batch has the shapes"),
    "shapes": ({"cheap": lambda x: x[:, :1]}, ValueError, "cheap and full gave"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(changes, error, message):
    arguments = {"batch": data()[0], "cheap": lambda x: x, "full": lambda x: x, "num_cheap": CHEAP} | changes
    with pytest.raises(error, match=message):
        selection.embed_at_two_resolutions(jax.random.key(0), **arguments)
