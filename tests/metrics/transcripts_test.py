import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import metrics

N, T, R = 40, 9, 7
RNG = np.random.default_rng(0)
TOKENS, REFERENCES = RNG.integers(0, 4, (N, T)), RNG.integers(0, 4, (N, R))
LENGTHS, REFERENCE_LENGTHS = RNG.integers(0, T + 1, N), RNG.integers(0, R + 1, N)
LENGTHS[:3], REFERENCE_LENGTHS[:3] = [0, 4, 0], [5, 0, 0]


def distance(a, b):
    """The recursion of the definition."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = min(table[i][j + 1] + 1, table[i + 1][j] + 1, table[i][j] + (x != y))
    return table[-1][-1]


PAIRS = [(list(t[:n]), list(r[:m])) for t, n, r, m in zip(TOKENS, LENGTHS, REFERENCES, REFERENCE_LENGTHS, strict=True)]


def given():
    return tuple(jnp.asarray(x) for x in (TOKENS, LENGTHS, REFERENCES, REFERENCE_LENGTHS))


def test_distances_are_those_of_the_recursion_whatever_the_padding_is():
    expected = np.array([distance(a, b) for a, b in PAIRS])
    found = metrics.edit_distances(*given())
    np.testing.assert_array_equal(found, expected)
    assert expected.max() > 4 and np.mean(expected == np.abs(LENGTHS - REFERENCE_LENGTHS)) < 0.8
    noise = np.where(np.arange(T)[None] < LENGTHS[:, None], TOKENS, -9)
    np.testing.assert_array_equal(metrics.edit_distances(jnp.asarray(noise), *given()[1:]), expected)


def test_rates_divide_by_the_reference_and_may_exceed_one():
    expected = [distance(a, b) / max(1, len(b)) for a, b in PAIRS]
    np.testing.assert_allclose(metrics.error_rates(*given()), expected, rtol=1e-6)
    assert max(expected) > 1


def test_lengths_out_of_range_give_no_distance():
    tokens, lengths, references, others = given()
    lengths, others = lengths.at[4].set(T + 1), others.at[5].set(-1)
    found = jax.jit(metrics.edit_distances)(tokens, lengths, references, others)
    rates = jax.jit(metrics.error_rates)(tokens, lengths, references, others)
    assert np.flatnonzero(found < 0).tolist() == [4, 5] == np.flatnonzero(np.isnan(rates)).tolist()
    with pytest.raises(ValueError, match=r"lengths of tokens has the entry 10, wanted numbers in \[0, 9\]"):
        metrics.edit_distances(tokens, lengths, *given()[2:])
    with pytest.raises(ValueError, match=r"references has shape \[39, 7\], wanted \[40"):
        metrics.error_rates(tokens, given()[1], references[1:], others[1:])
    with pytest.raises(TypeError, match="tokens has dtype float32"):
        metrics.edit_distances(tokens.astype(jnp.float32), *given()[1:])
