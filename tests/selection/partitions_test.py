import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

N, K = 60, 5
choose = jax.jit(selection.partitioned_medoids, static_argnames=("k", "num_parts"))


def clusters(seed):
    rng = np.random.default_rng(seed)
    return (4 * rng.normal(size=(8, 2))[rng.integers(8, size=N)] + rng.normal(size=(N, 2))).astype(np.float32)


def value(x, chosen):
    """Minus the sum of squared distances to the nearest chosen item, from that of the worst single item."""
    distances = ((x[:, None] - x[None, np.asarray(chosen)]) ** 2).sum(-1)
    return N * 4 * ((x - x.mean(0)) ** 2).sum(1).max() - distances.min(1).sum()


def test_one_part_is_the_greedy_itself():
    x = jnp.asarray(clusters(0))
    exact = selection.facility_location_from_features(x, K).indices
    assert sorted(choose(x, K, 1).tolist()) == sorted(exact.tolist())


def test_parts_cost_little():
    gains = []
    for seed in range(4):
        x = clusters(seed)
        exact = selection.facility_location_from_features(jnp.asarray(x), K).indices
        parts = choose(jnp.asarray(x), K, 4)
        random = np.mean([value(x, np.random.default_rng(i).choice(N, K, replace=False)) for i in range(20)])
        assert len(set(parts.tolist())) == K
        gains.append((value(x, parts) - random) / (value(x, exact) - random))
    assert min(gains) > 0.7 and np.mean(gains) > 0.8, gains


def test_rows_that_do_not_exist_are_never_chosen():
    x, exists = clusters(1), np.arange(N) % 3 != 1
    expected = choose(jnp.asarray(x), K, 4, where=jnp.asarray(exists))
    assert exists[np.asarray(expected)].all()
    spoilt = jnp.asarray(np.where(exists[:, None], x, np.nan))
    np.testing.assert_array_equal(choose(spoilt, K, 4, where=jnp.ones(N, bool)), expected)
    few = choose(jnp.asarray(x), K, 4, where=jnp.arange(N) % 20 == 0)
    assert sorted(few.tolist()) == [0, 20, 40, N, N]


def test_bad_input_is_named():
    x = jnp.ones((6, 2))
    with pytest.raises(ValueError, match="features has 6 rows, wanted a multiple of num_parts = 4"):
        selection.partitioned_medoids(x, 1, 4)
    with pytest.raises(ValueError, match="k is 3, wanted at most 2"):
        selection.partitioned_medoids(x, 3, 3)
    with pytest.raises(TypeError, match="where has dtype int32"):
        selection.partitioned_medoids(x, 1, 2, where=jnp.ones(6, int))
