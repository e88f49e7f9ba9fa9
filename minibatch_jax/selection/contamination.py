"""How much of each row of tokens stands in a test set, too: n-grams of training rows among those of the test rows.

A model that was trained on its test set scores too well. Rows that share n-grams with a test set are left out, or
counted; 13 tokens are common, with fewer for short rows.

References:
  Brown et al., Language models are few-shot learners, 2020 (arXiv 2005.14165), appendix C.

Method: n-gram overlap with a test set
Paper: 2005.14165
Experiment: clean_pool
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax._vector import nonzero
from minibatch_jax.selection._ngrams import NO_NGRAM, ngram_hashes, token_rows
from minibatch_jax.weights import weight_transformation

SEEDS = (0x9E3779B9, 0x2545F491)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NgramSet:
    """The n-grams of a set of rows, by 64 bits of hash each, sorted. Two n-grams are mistaken for one in 2^64.

    Attributes:
      high: `[M]` uint32, first half of each hash.
      low: `[M]` uint32, second half.
      ngram: tokens of an n-gram, static.
    """

    high: jax.Array
    low: jax.Array
    ngram: int = dataclasses.field(metadata={"static": True})


def ngram_set(tokens: jax.Array, ngram: int = 13, *, mask: jax.Array | None = None, block_size: int = 1024) -> NgramSet:
    """Return the n-grams of the rows of a test set, for `ngram_overlap`. It takes 8 bytes for each token.

    Args:
      tokens: `[M, T]` int, T at least `ngram`; a negative token is none, 0 is one like any other.
      ngram: tokens of an n-gram, static. A row with tokens but fewer than `ngram` in a row counts as one n-gram of its
        own: it is found only in a row of the same tokens.
      mask: `[M, T]` bool, which tokens exist; all that are not negative by default.
      block_size: rows at a time, static.

    Returns:
      `NgramSet(high, low, ngram)`, a pytree.

    Raises:
      TypeError: if the tokens are not integers, the mask is not bool or a count is not a static int.
      ValueError: if shapes do not match, a count is below 1, `ngram` is above T, or tokens that are known
        while tracing do not fit into int32.

    References:
      Brown et al., 2020 (arXiv 2005.14165).

    Examples:
      >>> ngram_set(jnp.array([[1, 2, 3, 4]]), ngram=3).high.shape
      (2,)
    """
    check_count("block_size", block_size)
    rows = token_rows("tokens", tokens, ngram, mask)
    high, low = map_rows(bind(_fingerprints, ngram=ngram), rows, block_size=block_size)[:2]
    high, low = jax.lax.sort((high.reshape(-1), low.reshape(-1)), num_keys=2)
    return NgramSet(high, low, ngram)


def ngram_overlap(
    tokens: jax.Array, test_ngrams: NgramSet, *, mask: jax.Array | None = None, block_size: int = 1024
) -> jax.Array:
    """Return which fraction of its n-grams each row shares with a test set.

    The mask of contaminated rows is `ngram_overlap(...) > 0`, or with a larger number, where rows may share phrases.
    Rows of any number can be looked up a part at a time. O(N T log M) time for M n-grams of the test set.

    Args:
      tokens: `[N, T]` int; a negative token is none, 0 is one like any other.
      test_ngrams: n-grams of the test set, from `ngram_set`, of at most T tokens.
      mask: `[N, T]` bool, which tokens exist; all that are not negative by default.
      block_size: rows at a time, static.

    Returns:
      `[N]` float32 in [0, 1]; 0 for a row without n-gram.

    Raises:
      TypeError: if the tokens are not integers, the mask is not bool or a count is not a static int.
      ValueError: if shapes do not match, the block size is below 1 or the n-grams have more than T tokens.

    References:
      Brown et al., 2020 (arXiv 2005.14165).

    Examples:
      >>> test = ngram_set(jnp.array([[1, 2, 3, 4]]), ngram=2)
      >>> ngram_overlap(jnp.array([[0, 1, 2, 3, 0], [5, 6, 7, 8, 9]]), test).tolist()
      [0.5, 0.0]
    """
    check_count("block_size", block_size)
    rows = token_rows("tokens", tokens, test_ngrams.ngram, mask)
    ngrams = test_ngrams.high, test_ngrams.low
    return map_rows(bind(_overlap, *ngrams, ngram=test_ngrams.ngram), rows, block_size=block_size)


def keep_without_overlap(
    test_ngrams: NgramSet, max_fraction: float | jax.Array = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Keep examples that share few n-grams with a test set, weights unchanged. Signal: `tokens` [B, T], < 0 for none.

    Args:
      test_ngrams: n-grams of the test set, from `ngram_set`.
      max_fraction: largest fraction of its n-grams that a kept example shares with the test set, in [0, 1].

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if `max_fraction` is no number or, in `update`, the tokens are not integers.
      ValueError: if `max_fraction` is outside [0, 1] or, in `update`, the tokens are not `[B, T]` with T at least the
        tokens of an n-gram.

    References:
      Brown et al., 2020 (arXiv 2005.14165).

    Examples:
      >>> tx = keep_without_overlap(ngram_set(jnp.array([[1, 2, 3, 4]]), ngram=2))
      >>> tokens = jnp.array([[0, 1, 2, 0], [5, 6, 7, 8]])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), tokens=tokens)[0].tolist()
      [0.0, 1.0]
    """
    check_number("max_fraction", max_fraction, 0, 1)

    def update(weights, state, params=None, *, tokens, **extra_args):
        check_shape("tokens", tokens, (*weights.shape, None))
        return jnp.where(ngram_overlap(tokens, test_ngrams) <= max_fraction, weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _fingerprints(row, *, ngram):
    tokens, exists = row
    (high, found), (low, _) = (ngram_hashes(tokens, exists, ngram, jnp.uint32(seed)) for seed in SEEDS)
    none = jnp.uint32(NO_NGRAM)
    return jnp.where(found, high, none), jnp.where(found, low, none), found


def _overlap(high, low, row, *, ngram):
    own_high, own_low, found = _fingerprints(row, ngram=ngram)
    size = high.shape[0]
    step = bind(_halve, high, low, own_high, own_low)
    bounds = jnp.zeros(own_high.shape, jnp.int32), jnp.full(own_high.shape, size, jnp.int32)
    place = jnp.minimum(fori_loop(0, size.bit_length(), step, bounds)[0], size - 1)
    shared = found & (high[place] == own_high) & (low[place] == own_low)
    total = jnp.sum(found, dtype=jnp.int32).astype(jnp.float32)
    return jnp.sum(shared, dtype=jnp.int32).astype(jnp.float32) / nonzero(total)


def _halve(high, low, own_high, own_low, _, bounds):
    """Halve the interval of the first hash that is not below each own one."""
    left, right = bounds
    middle = jnp.minimum((left + right) // 2, high.shape[0] - 1)
    below = (high[middle] < own_high) | ((high[middle] == own_high) & (low[middle] < own_low))
    goes_on = left < right
    return jnp.where(goes_on & below, middle + 1, left), jnp.where(goes_on & ~below, middle, right)
