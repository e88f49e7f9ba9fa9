"""Which pseudo-labeled sequences to distill from, without a label: what the teacher, a proxy and the text itself say.

A teacher (of speech, of handwriting) has transcribed every row. Each filter gives one score for a row, larger for one
to keep; NaN where a row cannot be scored, as one without tokens. `combined_ranks` puts several filters together, and
`top_fraction_mask` keeps the best. A score from elsewhere, such as the perceptual similarity between a recording and
the speech synthesized from its transcript, goes to these two as it is. The mask then is a column of the data, which
`minibatch_jax.mask_rows` reads in the training step.

- What a teacher is sure of: `token_confidences`, `negative_entropies`. Both fail on loops, the same words again and
  again, of which a teacher is very sure; so does the likelihood under a language model, `mean_log_likelihoods`. A
  filter by `distinct_ngrams` finds them.
- What another model says: `proxy_agreements`, and `embedding_agreements` of input and transcript in a common space.

References:
  Waheed et al., uDistil-Whisper: label-free data filtering for knowledge distillation in low-data regimes, NAACL 2025
    (arXiv 2407.01257).

Method: label-free filters of pseudo-labels
Paper: 2407.01257
Experiment: pseudo_label_filters
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._vector import as_index, doubled_ranks, nonzero
from minibatch_jax.geometry import finite_rows, unit_rows
from minibatch_jax.metrics.transcripts import check_lengths, check_sequences, error_rates, valid_lengths
from minibatch_jax.weights import weight_dtype

COMBINATIONS = ("mean", "all", "any")
ROUNDING = 0.01
"""How far a log-probability or an entropy may be out of its range, to count as the end of the range."""


class Filtered(NamedTuple):
    """What a filter keeps.

    Attributes:
      mask: `[N]` bool, True for what is kept.
      num_unscored: `[]` int32, rows that were allowed but had no finite score, and were dropped.
    """

    mask: jax.Array
    num_unscored: jax.Array


def token_confidences(log_probabilities: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return the geometric mean of the probabilities that a teacher gave to the tokens of its transcript.

    The mean over tokens, not their product, which would prefer short transcripts.

    Args:
      log_probabilities: `[N, T]`, floating point, at most 0; -inf for a probability of 0.
      lengths: `[N]` int, how many tokens each row has, from 0 to T; what follows is padding.

    Returns:
      `[N]` in [0, 1], float32 (float64 if the log-probabilities are); NaN for a row without tokens or with a NaN.

    Raises:
      TypeError: if the log-probabilities are not floating point or the lengths not integers.
      ValueError: if shapes do not match or, of concrete arrays, a length or a log-probability is out of range.

    Examples:
      >>> token_confidences(jnp.log(jnp.array([[0.25, 1.0], [0.5, 0.1]])), jnp.array([2, 1])).tolist()
      [0.5, 0.5]
    """
    return jnp.exp(mean_log_likelihoods(log_probabilities, lengths))


def mean_log_likelihoods(log_probabilities: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return the mean log-probability of the tokens of each row, here under a language model of transcripts.

    Args:
      log_probabilities: `[N, T]`, floating point, at most 0; -inf for a probability of 0.
      lengths: `[N]` int, how many tokens each row has, from 0 to T; what follows is padding.

    Returns:
      `[N]`, at most 0, float32 (float64 if the log-probabilities are); NaN for a row without tokens or with a NaN.

    Raises:
      TypeError: if the log-probabilities are not floating point or the lengths not integers.
      ValueError: if shapes do not match or, of concrete arrays, a length or a log-probability is out of range.

    Examples:
      >>> mean_log_likelihoods(jnp.array([[-1.0, -3.0, 0.0], [-9.0, 0.0, 0.0]]), jnp.array([2, 0])).tolist()
      [-2.0, nan]
    """
    return _mean_of_tokens("log_probabilities", log_probabilities, lengths, high=0)


def negative_entropies(entropies: jax.Array, lengths: jax.Array, vocabulary: int) -> jax.Array:
    """Return minus the mean entropy of a teacher's predictions of the tokens of each row, over ln of the vocabulary.

    Args:
      entropies: `[N, T]`, floating point, of the prediction of each token in nats, at least 0.
      lengths: `[N]` int, how many tokens each row has, from 0 to T; what follows is padding.
      vocabulary: number of different tokens, at least 2, static.

    Returns:
      `[N]` in [-1, 0], float32 (float64 if the entropies are); NaN for a row without tokens or with a NaN.

    Raises:
      TypeError: if the entropies are not floating point, or the lengths or the vocabulary not integers.
      ValueError: if shapes do not match, the vocabulary has one token or, of concrete arrays, a length or an entropy is
        out of range.

    Examples:
      >>> negative_entropies(jnp.log(jnp.array([[2.0, 1.0], [4.0, 4.0]])), jnp.array([2, 1]), 4).tolist()
      [-0.25, -1.0]
    """
    check_count("vocabulary", vocabulary)
    if vocabulary < 2:
        raise ValueError(f"vocabulary is {vocabulary}, wanted at least 2.")
    largest = float(np.log(vocabulary))
    return -_mean_of_tokens("entropies", entropies, lengths, low=0, high=largest) / largest


def proxy_agreements(
    tokens: jax.Array, lengths: jax.Array, proxy_tokens: jax.Array, proxy_lengths: jax.Array
) -> jax.Array:
    """Return minus the error rate of each transcript, with that of another model, the proxy, as its reference.

    Args:
      tokens: `[N, T]` int, transcripts of the teacher, normalized.
      lengths: `[N]` int, how many tokens each has, from 0 to T; what follows is padding.
      proxy_tokens: `[N, R]` int, transcripts of the proxy, with the same tokens.
      proxy_lengths: `[N]` int, from 0 to R.

    Returns:
      `[N]` float32, at most 0; it may be below -1. NaN for a transcript without tokens.

    Raises:
      TypeError: if an argument does not hold integers.
      ValueError: if shapes do not match or, of concrete arrays, a length is out of range.

    Examples:
      >>> proxy = jnp.array([[1, 2], [3, 4]]), jnp.array([2, 2])
      >>> proxy_agreements(jnp.array([[1, 2, 9], [3, 3, 4]]), jnp.array([2, 3]), *proxy).tolist()
      [0.0, -0.5]
    """
    rates = error_rates(tokens, lengths, proxy_tokens, proxy_lengths)
    return jnp.where(lengths > 0, 0 - rates, jnp.nan)


def embedding_agreements(inputs: jax.Array, transcripts: jax.Array) -> jax.Array:
    """Return the cosine between the embedding of each input and that of its transcript, from one joint space.

    Args:
      inputs: `[N, D]`, floating point.
      transcripts: `[N, D]`, floating point.

    Returns:
      `[N]` in [-1, 1], float32 (float64 if one of the two is); NaN where an embedding is 0 or not finite.

    Raises:
      TypeError: if the embeddings are not floating point.
      ValueError: if the shapes differ.

    Examples:
      >>> embedding_agreements(jnp.array([[2.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
      [1.0, 0.0]
    """
    check_shape("inputs", inputs, (None, None))
    check_shape("transcripts", transcripts, inputs.shape)
    check_floating("inputs", inputs)
    check_floating("transcripts", transcripts)
    dtype = weight_dtype(jnp.promote_types(inputs.dtype, transcripts.dtype))
    usable, units = jnp.ones(inputs.shape[0], bool), []
    for rows in (inputs, transcripts):
        rows, finite = finite_rows(rows)
        unit = unit_rows(rows).astype(dtype)
        usable &= finite & jnp.any(unit != 0, axis=1)
        units.append(unit)
    return jnp.where(usable, jnp.clip(jnp.sum(units[0] * units[1], axis=1), -1, 1), jnp.nan)


def distinct_ngrams(tokens: jax.Array, lengths: jax.Array, n: int = 2) -> jax.Array:
    """Return how many of the runs of n tokens in each row are different, as a share of all: low for a loop.

    It does what a compression ratio does. Short rows of few different tokens repeat by chance; long ones, too: compare
    it with a threshold below what sound transcripts reach.

    Args:
      tokens: `[N, T]` int.
      lengths: `[N]` int, how many tokens each row has, from 0 to T; what follows is padding.
      n: length of a run, static, at most T.

    Returns:
      `[N]` float32 in (0, 1]; 1 where a row has tokens but no run, NaN where it has no token.

    Raises:
      TypeError: if tokens or lengths do not hold integers or n is not a static int.
      ValueError: if shapes do not match, n is not in [1, T] or, of a concrete array, a length is out of range.

    Examples:
      >>> distinct_ngrams(jnp.array([[1, 2, 3, 4, 5], [1, 2, 1, 2, 1]]), jnp.array([5, 5])).tolist()
      [1.0, 0.5]
    """
    check_sequences("tokens", tokens, lengths)
    check_count("n", n, tokens.shape[1], "the number of tokens of a row")
    tokens, lengths, runs = as_index(tokens), as_index(lengths), tokens.shape[1] - n + 1
    number = jnp.where(valid_lengths(tokens, lengths), lengths, 0).astype(jnp.int32)  # unsigned, it has no -1
    number = jnp.maximum(number - n + 1, 0)
    beyond = jnp.arange(runs, dtype=jnp.int32)[None] >= number[:, None]
    columns = [beyond.astype(jnp.int32), *(tokens[:, start : start + runs] for start in range(n))]
    ordered = jax.lax.sort(columns, dimension=1, num_keys=n + 1)
    changes = jnp.zeros((tokens.shape[0], runs - 1), bool)
    for column in ordered[1:]:
        changes |= column[:, 1:] != column[:, :-1]
    different = 1 + jnp.sum(changes & (ordered[0][:, 1:] == 0), axis=1, dtype=jnp.int32)
    shares = jnp.where(number > 0, different.astype(jnp.float32) / nonzero(number).astype(jnp.float32), 1)
    return jnp.where((lengths > 0) & valid_lengths(tokens, lengths), shares, jnp.nan)


def combined_ranks(scores: jax.Array, how: str = "mean", *, where: jax.Array | None = None) -> jax.Array:
    """Return one score of each row from those of several filters, by ranks: their scales do not matter.

    A rank is in (0, 1), the highest score has the highest, and equal scores share their mean rank. At a threshold t,
    "all" keeps what each filter alone would keep in its best 1 - t, and "any" what at least one of them would.

    Args:
      scores: `[S, N]`, floating point, larger for rows to keep.
      how: "mean" of the ranks, "all" for the lowest, "any" for the highest.
      where: `[N]` bool, which rows take part; all by default.

    Returns:
      `[N]` float32 in (0, 1); NaN for a row that takes no part, that a filter gives no finite score or, with "any",
      that none of them does.

    Raises:
      TypeError: if scores are not floating point or `where` does not hold bools.
      ValueError: if shapes do not match or the combination is unknown.

    Examples:
      >>> scores = jnp.array([[0.1, 0.5, 0.9, 0.8], [7.0, 9.0, 9.0, 1.0]])
      >>> combined_ranks(scores).tolist()
      [0.25, 0.5625, 0.8125, 0.375]
    """
    check_shape("scores", scores, (None, None))
    check_floating("scores", scores)
    check_choice("how", how, COMBINATIONS)
    usable = jnp.isfinite(scores) & mask_or_all("where", where, scores.shape[1:])[None]
    ranks = jax.vmap(_ranks)(jnp.where(usable, scores.astype(weight_dtype(scores.dtype)), jnp.inf), usable)
    if how == "any":
        return jnp.where(jnp.any(usable, axis=0), jnp.max(jnp.where(usable, ranks, 0), axis=0), jnp.nan)
    combined = jnp.mean(ranks, axis=0) if how == "mean" else jnp.min(ranks, axis=0)
    return jnp.where(jnp.all(usable, axis=0), combined, jnp.nan)


def top_fraction_mask(
    scores: jax.Array, fraction: float | jax.Array, key: jax.Array | int, *, where: jax.Array | None = None
) -> Filtered:
    """Return the mask of the rows with the highest scores, a fraction of those that have one; ties go at random.

    Args:
      scores: `[N]`, floating point; rows whose score is not finite are dropped, and counted.
      fraction: in [0, 1], may be traced; the number kept is rounded, half to even.
      key: typed PRNG key or int seed, for the ties.
      where: `[N]` bool, which rows take part; all by default.

    Returns:
      `Filtered(mask, num_unscored)`.

    Raises:
      TypeError: if the scores are not floating point, the fraction is no number or the key is no key.
      ValueError: if shapes do not match or the fraction is not in [0, 1].

    Examples:
      >>> mask, dropped = top_fraction_mask(jnp.array([0.5, jnp.nan, 0.9, 0.1, 0.7]), 0.5, key=0)
      >>> mask.tolist(), int(dropped)
      ([False, False, True, False, True], 1)
    """
    check_shape("scores", scores, (None,))
    check_floating("scores", scores)
    check_number("fraction", fraction, 0, 1)
    allowed = mask_or_all("where", where, scores.shape)
    usable = jnp.isfinite(scores) & allowed
    wanted = jnp.round(jnp.asarray(fraction, jnp.float32) * jnp.sum(usable, dtype=jnp.float32)).astype(jnp.int32)
    lots = jax.random.permutation(as_key(key), scores.shape[0])
    order = jnp.lexsort((lots, jnp.where(usable, -scores, jnp.inf)))
    best = jnp.zeros(scores.shape, bool).at[order].set(jnp.arange(scores.shape[0], dtype=jnp.int32) < wanted)
    return Filtered(best & usable, jnp.sum(allowed & ~usable, dtype=jnp.int32))


def _mean_of_tokens(
    name: str, values: jax.Array, lengths: jax.Array, low: float = -np.inf, high: float = np.inf
) -> jax.Array:
    """Return the mean of the values of each row's tokens; NaN without tokens or where a value is out of range."""
    check_shape(name, values, (None, None))
    check_floating(name, values)
    check_lengths(name, values, lengths)
    values, lengths = values.astype(weight_dtype(values.dtype)), as_index(lengths)
    is_token = jnp.arange(values.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
    outside = is_token & ((values < low - ROUNDING) | (values > high + ROUNDING))
    if not isinstance(outside, jax.core.Tracer) and np.any(outside):
        entry = float(np.asarray(values)[np.asarray(outside)][0])
        raise ValueError(f"{name} has the entry {entry:.4g}, wanted numbers in [{low:.4g}, {high:.4g}].")
    total = jnp.sum(jnp.where(is_token, jnp.clip(values, low, high), 0), axis=1)
    usable = (lengths > 0) & valid_lengths(values, lengths) & ~jnp.any(outside, axis=1)
    return jnp.where(usable, total / jnp.maximum(lengths, 1).astype(values.dtype), jnp.nan)


def _ranks(scores: jax.Array, usable: jax.Array) -> jax.Array:
    """Return the mean rank of each score over the number of usable ones; the others are infinite."""
    number = jnp.maximum(jnp.sum(usable, dtype=jnp.float32), 1)
    return doubled_ranks(scores).astype(jnp.float32) / (2 * number)
