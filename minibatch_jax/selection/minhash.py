"""Near-duplicates of token rows: MinHash signatures, and bands of them that show which rows to compare (LSH).

Two rows are near-duplicates if the Jaccard similarity of their sets of n-grams, shared ones over all, is at least a
threshold. A signature is the smallest hash of the set under each of many random hash functions; two signatures agree at
the place of one function with a probability of exactly that similarity. Rows that agree in a whole band of places fall
into one bucket, and only rows of one bucket are compared, by the agreement of their whole signatures.

References:
  Broder, On the resemblance and containment of documents, 1997.
  Indyk & Motwani, Approximate nearest neighbors: towards removing the curse of dimensionality, STOC 1998.
  Lee et al., Deduplicating training data makes language models better, ACL 2022 (arXiv 2107.06499).

Method: near-duplicates by MinHash
Paper: 2107.06499
Experiment: clean_pool
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax.selection._buckets import compare_band, first_of_chains
from minibatch_jax.selection._ngrams import NO_NGRAM, mixed, ngram_hashes, token_rows
from minibatch_jax.weights import weight_dtype, weight_transformation

WEIGHTINGS = ("own", "represented")
TRACED = 0.5
"""threshold that the bands are for if it is not known while tracing"""


class NearDuplicates(NamedTuple):
    """Which rows are near-duplicates of earlier ones.

    Attributes:
      keep: `[N]` bool, False for a near-duplicate of an earlier row and for a row that does not exist.
      originals: `[N]` int32, the kept row that each row is a copy of, directly or through other copies: a kept row is
        its own; -1 for a row that does not exist.
      similarities: `[N]` float32, largest similarity to an earlier row that the row was compared with; 0 without one.
    """

    keep: jax.Array
    originals: jax.Array
    similarities: jax.Array


def minhash_signatures(
    tokens: jax.Array,
    num_hashes: int = 128,
    ngram: int = 5,
    key: jax.Array | int = 0,
    *,
    mask: jax.Array | None = None,
    block_size: int = 256,
) -> jax.Array:
    """Return MinHash signatures of the sets of n-grams of rows of tokens.

    Signatures of equal `num_hashes`, `ngram` and `key` can be compared, so a pool that exceeds memory goes through this
    function a part at a time, and only the signatures are kept: 4 `num_hashes` bytes a row. O(N T num_hashes) time.

    Args:
      tokens: `[N, T]` int, T at least `ngram`; a negative token is none, 0 is one like any other.
      num_hashes: number of hash functions, static. The standard error of an estimated similarity s is
        `sqrt(s (1 - s) / num_hashes)`.
      ngram: tokens of an n-gram, static. A row with tokens but fewer than `ngram` in a row counts as one n-gram of its
        own: only a row of the same tokens is its copy.
      key: int seed or key of the hash functions.
      mask: `[N, T]` bool, which tokens exist; all that are not negative by default.
      block_size: rows at a time, static.

    Returns:
      `[N, num_hashes]` uint32; 2^32 - 1 everywhere for a row without tokens.

    Raises:
      TypeError: if the tokens are not integers, the mask is not bool, a count is not a static int or the key is no key.
      ValueError: if shapes do not match, a count is below 1, `ngram` is above T, or tokens that are known
        while tracing do not fit into int32.

    References:
      Broder, On the resemblance and containment of documents, 1997.

    Examples:
      >>> tokens = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2, 3]])
      >>> signatures = minhash_signatures(tokens, num_hashes=64, ngram=2)
      >>> signatures.shape, float(estimated_jaccard(signatures[0], signatures[2]))
      ((3, 64), 0.515625)
    """
    check_count("num_hashes", num_hashes)
    check_count("block_size", block_size)
    numbers, exists = token_rows("tokens", tokens, ngram, mask)
    bits = jax.random.bits(as_key(key), (2 * num_hashes + 1,), jnp.uint32)
    functions = bits[0], bits[1 : num_hashes + 1] | jnp.uint32(1), bits[num_hashes + 1 :]
    return map_rows(bind(_signature, functions, ngram=ngram), (numbers, exists), block_size=block_size)


def estimated_jaccard(signatures: jax.Array, others: jax.Array) -> jax.Array:
    """Return the estimated Jaccard similarity of the sets of two signatures: how many of their entries agree.

    Args:
      signatures: `[..., num_hashes]` uint32.
      others: the same, of the same hash functions.

    Returns:
      `[...]` float32; 0 where a signature is that of a row without tokens.

    Raises:
      ValueError: if the shapes differ.

    Examples:
      >>> estimated_jaccard(jnp.array([[1, 2, 3, 4]]), jnp.array([[1, 2, 3, 5]])).tolist()
      [0.75]
    """
    check_shape("others", others, signatures.shape)
    agree = (signatures == others) & (signatures.astype(jnp.uint32) != jnp.uint32(NO_NGRAM))
    return jnp.mean(agree, axis=-1, dtype=jnp.float32)


def lsh_bands(threshold: float, num_hashes: int, recall: float = 0.95) -> tuple[int, int]:
    """Return into how many bands of how many entries to cut signatures: as few buckets as the wanted recall allows.

    Rows of similarity s share a bucket in at least one of b bands of r entries with probability `1 - (1 - s^r)^b`.

    Args:
      threshold: similarity of rows that are near-duplicates, in (0, 1], static.
      num_hashes: entries of a signature, static.
      recall: wanted probability at the threshold, in [0, 1]; more similar rows meet more often.

    Returns:
      (bands, entries of a band); one entry each if nothing reaches the recall.

    Raises:
      TypeError: if the count is not a static int or another argument is no number.
      ValueError: if a number is out of its range.

    Examples:
      >>> lsh_bands(0.8, 128)
      (18, 7)
    """
    check_number("threshold", threshold, 0, 1, open_low=True)
    check_count("num_hashes", num_hashes)
    check_number("recall", recall, 0, 1)
    for entries in range(num_hashes, 1, -1):
        bands = num_hashes // entries
        if 1 - (1 - threshold**entries) ** bands >= recall:
            return bands, entries
    return num_hashes, 1


def near_duplicates(
    signatures: jax.Array,
    threshold: float | jax.Array = 0.8,
    *,
    bands: tuple[int, int] | None = None,
    where: jax.Array | None = None,
) -> NearDuplicates:
    """Return which rows are near-duplicates of earlier ones, from their MinHash signatures.

    In each band, a row is compared with the first row of its bucket and with the one before it in the bucket. It is a
    near-duplicate if it agrees with one of them in at least the threshold of all entries. So the first of each group of
    near-duplicates is kept, and no two kept rows were found to be near-duplicates. A row without tokens is not kept.

    One changed token costs up to n n-grams, so two rows of T tokens that differ in one share about
    (T - 2 n + 1) / (T + 1) of all: 0.52 for T = 20 and n = 5, 0.80 for T = 50.

    The time is that of one sort of N numbers for each band, and of the comparisons; no matrix `[N, N]` is made.

    Args:
      signatures: `[N, num_hashes]` uint32, from `minhash_signatures`, of at most 2^31 - 1 rows.
      threshold: estimated Jaccard similarity from which rows are near-duplicates, in (0, 1].
      bands: (number of bands, entries of a band), static; `lsh_bands(threshold, num_hashes)` by default, with 0.5 in
        place of a threshold that is traced, so that near-duplicates below 0.5 may then be missed.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `NearDuplicates(keep, originals, similarities)`.

    Raises:
      TypeError: if `where` is not bool or a number is none.
      ValueError: if shapes do not match, the threshold is out of range, or the bands have more than all entries.

    References:
      Broder, 1997. Lee et al., ACL 2022 (arXiv 2107.06499).

    Examples:
      >>> tokens = jnp.array([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5], [1, 2, 3, 4, 5], [-1, -1, -1, -1, -1]])
      >>> found = near_duplicates(minhash_signatures(tokens, ngram=2))
      >>> found.keep.tolist(), found.originals.tolist()
      ([True, True, False, False], [0, 1, 0, -1])
    """
    check_shape("signatures", signatures, (None, None))
    size, num_hashes = signatures.shape
    check_number("threshold", threshold, 0, 1, open_low=True)
    known = TRACED if isinstance(threshold, jax.Array) else threshold
    number, entries = lsh_bands(known, num_hashes) if bands is None else bands
    check_count("the number of bands", number)
    check_count("the entries of all bands", number * entries, num_hashes, "the entries of a signature")
    signatures = signatures.astype(jnp.uint32)
    exists = mask_or_all("where", where, (size,)) & jnp.any(signatures != jnp.uint32(NO_NGRAM), axis=1)
    itself = jnp.arange(size, dtype=jnp.int32)
    wanted = jnp.ceil(jnp.asarray(threshold, jnp.float32) * num_hashes - 1e-4).astype(jnp.int32)
    step = bind(compare_band, signatures, exists, wanted, entries=entries)
    earlier, agreeing = fori_loop(0, number, step, (itself, jnp.zeros(size, jnp.int32)))
    originals = first_of_chains(earlier)
    similarities = agreeing.astype(jnp.float32) / num_hashes
    return NearDuplicates(exists & (originals == itself), jnp.where(exists, originals, -1), similarities)


def keep_distinct(
    threshold: float | jax.Array = 0.8,
    *,
    ngram: int = 5,
    num_hashes: int = 128,
    key: jax.Array | int = 0,
    weighting: str = "own",
) -> optax.GradientTransformationExtraArgs:
    """Keep the first of each group of near-duplicates, by MinHash. Signal: `tokens` [B, T], negative for none.

    It is `near_duplicates` of `minhash_signatures`, among the examples with a weight. An example without tokens is not
    kept.

    Args:
      threshold: estimated Jaccard similarity of the sets of n-grams from which examples are near-duplicates, in (0, 1];
        one that is traced may miss near-duplicates below 0.5.
      ngram: tokens of an n-gram, static.
      num_hashes: hash functions of a signature, static.
      key: int seed or key of the hash functions, the same at every step.
      weighting: "own" leaves the kept weights as they came; with "represented" a kept example has the weights of all
        its copies, too.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the tokens are not integers.
      ValueError: if a number is out of range, the weighting is unknown or, in `update`, the tokens are not `[B, T]`
        with T at least `ngram`.

    References:
      Lee et al., ACL 2022 (arXiv 2107.06499).

    Examples:
      >>> tx = keep_distinct(ngram=2, weighting="represented")
      >>> tokens = jnp.array([[1, 2, 3], [7, 8, 9], [1, 2, 3]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), tokens=tokens)[0].tolist()
      [2.0, 1.0, 0.0]
    """
    check_number("threshold", threshold, 0, 1, open_low=True)
    check_count("ngram", ngram)
    check_count("num_hashes", num_hashes)
    check_choice("weighting", weighting, WEIGHTINGS)
    hash_key = as_key(key)

    def update(weights, state, params=None, *, tokens, **extra_args):
        check_shape("tokens", tokens, (*weights.shape, None))
        signatures = minhash_signatures(tokens, num_hashes, ngram, hash_key)
        found = near_duplicates(signatures, threshold, where=weights != 0)
        return weights_of_distinct(weights, found, weighting), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def weights_of_distinct(weights: jax.Array, found: NearDuplicates, weighting: str) -> jax.Array:
    """Return the weights of kept rows, with those of their copies if they represent them; 0 for all others.

    Args:
      weights: `[N]`.
      found: near-duplicates of N rows.
      weighting: "own" or "represented".

    Returns:
      `[N]`, float32 (float64 if the weights are).

    Examples:
      >>> found = NearDuplicates(jnp.array([True, False]), jnp.array([0, 0]), jnp.zeros(2))
      >>> weights_of_distinct(jnp.ones(2), found, "represented").tolist()
      [2.0, 0.0]
    """
    weights = weights.astype(weight_dtype(weights.dtype))
    if weighting == "own":
        return jnp.where(found.keep, weights, 0)
    size = weights.shape[0]
    copied = jnp.where(found.originals >= 0, found.originals, size)
    return jnp.where(found.keep, jnp.zeros_like(weights).at[copied].add(weights, mode="drop"), 0)


def _signature(functions, row, *, ngram):
    seed, multipliers, offsets = functions
    tokens, exists = row
    hashes, found = ngram_hashes(tokens, exists, ngram, seed)
    permuted = mixed(hashes[:, None] * multipliers[None] + offsets[None])
    return jnp.min(jnp.where(found[:, None], permuted, jnp.uint32(NO_NGRAM)), axis=0)
