import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from minibatch_jax import selection
from minibatch_jax.selection.jest_embeddings import PairEmbeddings
from tests.case import Case
from tests.selection import draws as drawn

CASES = {
    "keep_by_jest": Case(lambda: selection.keep_by_jest(6, 3, key=0), drawn.pair_losses),
}


B = 24
STATIC = ("k", "num_chunks", "first_chunk", "include_self")
jest_indices = jax.jit(selection.jest_indices, static_argnames=STATIC[:3])
softmax_jest_indices = jax.jit(selection.softmax_jest_indices, static_argnames=STATIC)
jest_indices_from_embeddings = jax.jit(selection.jest_indices_from_embeddings, static_argnames=STATIC[:3])


def scores(seed, size=B, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, (size, size)).astype(np.float32)


def embeddings(seed, width=5, scale=4.0, bias=-1.0):
    rng = np.random.default_rng(seed)
    first, second = (rng.normal(size=(B, width)).astype(np.float32) for _ in range(2))
    return PairEmbeddings(jnp.asarray(first), jnp.asarray(second), scale, bias)


def noise_of(key, num_chunks, size=B):
    return [np.asarray(jax.random.gumbel(key, (size,)), np.float64) for key in jax.random.split(key, num_chunks)]


def draw_from_pseudo_code(noise, sc, k, first="learnability"):
    """Algorithm 1 with the Gumbel noise given: sums over the chosen by matrix products with the indicator."""
    sc = sc.astype(np.float64)
    chosen, indicator = [], np.zeros(len(sc))
    for n, gumbel in enumerate(noise):
        logits = np.diag(sc) + sc @ indicator + indicator @ sc
        if n == 0 and first == "uniform":
            logits = np.zeros(len(sc))
        logits = logits - 1e8 * indicator + gumbel
        new = np.argsort(-logits)[: k // len(noise)]
        indicator[new] = 1
        chosen += list(new)
    return chosen


def softmax_joint_loss(a, chosen):
    """Mean over both directions of the contrastive loss of a batch, not averaged over its items."""
    sub = a[np.ix_(chosen, chosen)]
    return -np.trace(sub) + 0.5 * (scipy.special.logsumexp(sub, 1).sum() + scipy.special.logsumexp(sub, 0).sum())


def softmax_logits(a, r, chosen, include_self):
    """Loss of each item given the chosen ones, learner minus reference, one item at a time."""

    def loss(m, i):
        others = [*chosen, i] if include_self else chosen
        row, column = scipy.special.logsumexp(m[i, others]), scipy.special.logsumexp(m[others, i])
        return -m[i, i] + 0.5 * (row + column)

    if not chosen:
        return np.diag(r) - np.diag(a)
    return np.array([loss(a, i) - loss(r, i) for i in range(len(a))])


@pytest.mark.parametrize("first", ["learnability", "uniform"])
@pytest.mark.parametrize("num_chunks", [1, 2, 4, 12])
def test_draws_what_the_pseudo_code_draws(num_chunks, first):
    for seed in range(3):
        key, sc = jax.random.key(seed), scores(seed)
        expected = draw_from_pseudo_code(noise_of(key, num_chunks), sc, 12, first)
        actual = jest_indices(key, jnp.asarray(sc), 12, num_chunks, first_chunk=first)
        assert actual.tolist() == expected


@pytest.mark.parametrize("include_self", [True, False])
def test_softmax_draws_what_the_pseudo_code_draws(include_self):
    for seed in range(3):
        key, a, r = jax.random.key(seed), scores(seed, scale=3.0), scores(seed + 10, scale=3.0)
        chosen = []
        for gumbel in noise_of(key, 4):
            logits = softmax_logits(a.astype(float), r.astype(float), chosen, include_self) + gumbel
            logits[chosen] = -np.inf
            chosen = chosen + list(np.argsort(-logits)[:3])
        actual = softmax_jest_indices(key, jnp.asarray(a), jnp.asarray(r), 12, 4, include_self=include_self)
        assert actual.tolist() == chosen


def test_law_is_what_enumeration_gives():
    """P(i, j) for B = 6, two chunks of one: each factor a softmax of increments of the sum of scores in the batch."""
    sc = scores(3, size=6, scale=0.7).astype(float)
    total = lambda chosen: sc[np.ix_(chosen, chosen)].sum()  # noqa: E731
    first = scipy.special.softmax([total([i]) for i in range(6)])
    law = np.zeros((6, 6))
    for i in range(6):
        rest = [j for j in range(6) if j != i]
        law[i, rest] = first[i] * scipy.special.softmax([total([i, j]) - total([i]) for j in rest])
    assert_law(lambda key: jest_indices(key, jnp.asarray(sc, jnp.float32), 2, 2), law)


def test_law_of_the_softmax_is_what_enumeration_gives():
    a, r = (scores(seed, size=6).astype(float) for seed in (5, 6))
    law = np.zeros((6, 6))
    first = scipy.special.softmax(softmax_logits(a, r, [], True))
    for i in range(6):
        rest = [j for j in range(6) if j != i]
        law[i, rest] = first[i] * scipy.special.softmax(softmax_logits(a, r, [i], True)[rest])
    assert_law(lambda key: softmax_jest_indices(key, jnp.float32(a), jnp.float32(r), 2, 2), law)


def assert_law(draw, law, draws=50_000):
    pairs = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws)))
    counts = np.zeros((6, 6))
    np.add.at(counts, tuple(pairs.T), 1)
    off = ~np.eye(6, dtype=bool)
    assert counts[~off].sum() == 0
    assert scipy.stats.chisquare(counts[off], draws * law[off]).pvalue > 1e-3
    flat = np.full(30, draws / 30)
    assert scipy.stats.chisquare(counts[off], flat).pvalue < 1e-6


def test_softmax_score_with_self_is_the_new_items_own_loss():
    """Within a batch of two the joint loss is the sum of both items' losses, each with itself among its negatives."""
    a = scores(7, size=4).astype(float)
    zero = np.zeros_like(a)
    for i, j in itertools.combinations(range(4), 2):
        own = softmax_logits(a, zero, [i], True)[j] + softmax_logits(a, zero, [j], True)[i] + 2 * np.log(2)
        np.testing.assert_allclose(own, softmax_joint_loss(a, [i, j]), rtol=1e-10)


def test_one_chunk_is_independent_gumbel_top_k():
    key, sc = jax.random.key(2), scores(2)
    gumbel = noise_of(key, 1)[0]
    expected = np.argsort(-(np.diag(sc) / 0.5 + gumbel))[:10]
    actual = jest_indices(key, jnp.asarray(sc), 10, 1, temperature=0.5)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("num_chunks", [1, 3, 12])
def test_embeddings_give_what_the_scores_give(num_chunks):
    learner, reference = embeddings(0), embeddings(1, width=3, scale=2.0, bias=-3.0)
    sc = selection.jest_embeddings.sigmoid_pair_losses(learner) - selection.jest_embeddings.sigmoid_pair_losses(
        reference
    )
    allowed = jnp.arange(B) % 5 != 1
    for seed in range(3):
        key = jax.random.key(seed)
        dense = jest_indices(key, sc, 12, num_chunks, where=allowed)
        lazy = jest_indices_from_embeddings(key, learner, reference, 12, num_chunks, where=allowed)
        np.testing.assert_array_equal(lazy, dense)


def test_pair_losses_are_softplus():
    first, second, scale, bias = embeddings(4, scale=30.0)
    logits = scale * np.asarray(first, float) @ np.asarray(second, float).T + bias
    signs = 2 * np.eye(B) - 1
    np.testing.assert_allclose(
        selection.jest_embeddings.sigmoid_pair_losses(PairEmbeddings(first, second, scale, bias)),
        np.logaddexp(0, -signs * logits),
        rtol=1e-5,
        atol=1e-6,
    )


def draw_with(method, key, where, poison):
    """Draw 12 of B; rows (and columns) 2 and 9 of every input are set to `poison`."""
    bad = np.isin(np.arange(B), [2, 9])
    if method == "embeddings":
        models = [m._replace(first=jnp.where(bad[:, None], poison, m.first)) for m in (embeddings(0), embeddings(1))]
        return jest_indices_from_embeddings(key, *models, 12, 3, where=where)
    spoil = lambda sc: jnp.where(bad[:, None] | bad, poison, sc)  # noqa: E731
    if method == "softmax":
        return softmax_jest_indices(key, spoil(scores(0)), spoil(scores(1)), 12, 3, where=where)
    return jest_indices(key, spoil(scores(0)), 12, 3, where=where)


@pytest.mark.parametrize("method", ["dense", "softmax", "embeddings"])
def test_padding_and_bad_items_are_never_drawn_and_change_nothing(method):
    key, bad = jax.random.key(0), np.isin(np.arange(B), [2, 9])
    expected = draw_with(method, key, jnp.asarray(~bad), 0.0)
    assert not np.isin(expected, [2, 9, B]).any()
    for poison in (jnp.nan, jnp.inf, -jnp.inf):
        np.testing.assert_array_equal(draw_with(method, key, None, poison), expected)
    np.testing.assert_array_equal(draw_with(method, key, jnp.asarray(~bad), 1e6), expected)


@pytest.mark.parametrize("method", ["dense", "softmax", "embeddings"])
def test_too_few_items_fill_up_with_one_past_the_end(method):
    drawn = draw_with(method, jax.random.key(1), jnp.arange(B) < 7, 0.0)
    assert sorted(drawn.tolist()) == [*range(7), *[B] * 5]


def test_a_pair_that_is_not_finite_counts_nothing():
    sc = scores(8)
    sc[3, 5] = 0.0
    spoilt = sc.copy()
    spoilt[3, 5] = np.nan
    key = jax.random.key(0)
    np.testing.assert_array_equal(*(jest_indices(key, jnp.asarray(s), 12, 4) for s in (sc, spoilt)))


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_transformation_keeps_the_drawn_items_and_moves_its_key(objective):
    losses, reference = jnp.asarray(scores(0)), jnp.asarray(scores(1))
    tx = selection.keep_by_jest(12, 3, key=7, objective=objective)
    weights = jnp.linspace(0.5, 1.5, B)
    state = tx.init(weights)
    kept, new_state = tx.update(weights, state, pair_losses=losses, reference_pair_losses=reference)
    key = jax.random.split(jax.random.key(7))[1]
    if objective == "sigmoid":
        drawn = jest_indices(key, losses - reference, 12, 3)
    else:
        drawn = softmax_jest_indices(key, -losses, -reference, 12, 3)
    np.testing.assert_array_equal(kept, np.where(np.isin(np.arange(B), drawn), weights, 0))
    again, _ = tx.update(weights, new_state, pair_losses=losses, reference_pair_losses=reference)
    assert not np.array_equal(kept, again)


def test_bad_input_is_named():
    key, sc = jax.random.key(0), jnp.zeros((6, 6))
    with pytest.raises(ValueError, match="k is 5, wanted a multiple of num_chunks = 2"):
        selection.keep_by_jest(5, 2, key)
    with pytest.raises(ValueError, match="num_chunks is 3, wanted at most 2"):
        selection.keep_by_jest(2, 3, key)
    with pytest.raises(ValueError, match="k is 8, wanted at most 6"):
        selection.jest_indices(key, sc, 8, 2)
    with pytest.raises(ValueError, match="first_chunk is 'best'"):
        selection.keep_by_jest(2, 1, key, first_chunk="best")
    with pytest.raises(ValueError, match="temperature is 0"):
        selection.keep_by_jest(2, 1, key, temperature=0.0)
    with pytest.raises(ValueError, match="objective is 'clip'"):
        selection.keep_by_jest(2, 1, key, objective="clip")
    with pytest.raises(TypeError, match="key has dtype float32"):
        selection.keep_by_jest(2, 1, jnp.zeros(2))
    with pytest.raises(ValueError, match="learnability has shape"):
        selection.jest_indices(key, jnp.zeros((6, 5)), 2, 1)
    with pytest.raises(TypeError, match="reference_logits has dtype int32"):
        selection.softmax_jest_indices(key, sc, jnp.zeros((6, 6), int), 2, 1)
    with pytest.raises(ValueError, match="where has shape"):
        selection.jest_indices(key, sc, 2, 1, where=jnp.ones(5, bool))
    with pytest.raises(ValueError, match="learner.second has shape"):
        learner = PairEmbeddings(jnp.ones((6, 2)), jnp.ones((5, 2)))
        selection.jest_indices_from_embeddings(key, learner, learner, 2, 1)


@pytest.mark.slow
def test_joint_selection_finds_the_batch_that_independent_selection_misses():
    """The learner knows only clusters, the reference separates within them: negatives of one cluster are learnable."""
    size, k, found = 320, 64, {"uniform": [], "independent": [], "top": [], "joint": [], "joint, uniform start": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(20, 16))[rng.integers(20, size=size)]
        unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)  # noqa: E731
        views = [unit(centers + 0.5 * rng.normal(size=centers.shape)) for _ in range(2)]
        fine = unit(centers + rng.normal(size=centers.shape))
        sc = selection.jest_embeddings.sigmoid_pair_losses(PairEmbeddings(*views, 10.0, -5.0))
        sc -= selection.jest_embeddings.sigmoid_pair_losses(PairEmbeddings(fine, fine, 10.0, -5.0))
        key = jax.random.key(seed)
        drawn = {
            "uniform": selection.jest_indices(key, sc, k, 1, first_chunk="uniform"),
            "independent": selection.jest_indices(key, sc, k, 1),
            "top": jax.lax.top_k(jnp.diagonal(sc), k)[1],
            "joint": selection.jest_indices(key, sc, k, 16),
            "joint, uniform start": selection.jest_indices(key, sc, k, 16, first_chunk="uniform"),
        }
        for name, chosen in drawn.items():
            found[name].append(float(sc[chosen][:, chosen].sum()) / k)
    mean = {name: np.mean(values) for name, values in found.items()}
    assert mean["joint"] > 3 * max(mean["uniform"], mean["independent"], mean["top"])
    assert abs(mean["independent"] - mean["uniform"]) < 0.3 * mean["uniform"]
    assert mean["joint, uniform start"] > 0.7 * mean["joint"]


def test_key_is_checked_and_may_be_a_seed():
    learnability = jnp.asarray(scores(3))
    drawn = selection.jest_indices(0, learnability, 6, 2)
    np.testing.assert_array_equal(drawn, selection.jest_indices(jax.random.key(0), learnability, 6, 2))
    pairs = embeddings(4)
    for call in (
        lambda key: selection.jest_indices(key, learnability, 6, 2),
        lambda key: selection.softmax_jest_indices(key, learnability, learnability, 6, 2),
        lambda key: selection.jest_indices_from_embeddings(key, pairs, pairs, 6, 2),
    ):
        with pytest.raises(TypeError, match="key has dtype float32"):
            call(jnp.zeros(2))


def test_losses_of_sure_pairs_keep_their_precision():
    one = jnp.ones((1, 1))
    for logit in (17.0, 30.0, -17.0):
        loss = selection.jest_embeddings.sigmoid_pair_losses(PairEmbeddings(one, one, logit, 0.0))
        np.testing.assert_allclose(loss, np.log1p(np.exp(-logit)), rtol=1e-6)


def test_integer_pair_losses_are_refused():
    tx = selection.keep_by_jest(2, 1, key=0)
    ints, floats = jnp.zeros((3, 3), jnp.int32), jnp.zeros((3, 3))
    state = tx.init(jnp.ones(3))
    with pytest.raises(TypeError, match="pair_losses has dtype int32"):
        tx.update(jnp.ones(3), state, pair_losses=ints, reference_pair_losses=floats)
    with pytest.raises(TypeError, match="reference_pair_losses has dtype int32"):
        tx.update(jnp.ones(3), state, pair_losses=floats, reference_pair_losses=ints)
