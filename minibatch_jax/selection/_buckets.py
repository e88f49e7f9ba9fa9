"""Comparisons of the signatures of rows that share a bucket, and chains of rows that are copies of earlier ones."""

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, fori_loop, while_loop
from minibatch_jax.selection._ngrams import mixed, row_hashes

COMPARED = 4096
"""rows compared at a time"""


def compare_band(signatures, exists, wanted, band, state, *, entries):
    """Sort the rows by the hash of a band, and compare those that share it with others."""
    size = signatures.shape[0]
    rows = jnp.arange(size, dtype=jnp.int32)
    columns = jax.lax.dynamic_slice_in_dim(signatures, band * entries, entries, axis=1)
    hashes = jnp.where(exists, row_hashes(columns, 1), mixed(rows.astype(jnp.uint32)))
    hashes, order = jax.lax.sort((hashes, rows), num_keys=1, is_stable=True)
    starts = jnp.concatenate([jnp.ones(1, bool), hashes[1:] != hashes[:-1]])
    firsts = jax.lax.cummax(jnp.where(starts, rows, 0))
    places = jnp.nonzero(~starts, size=size, fill_value=0)[0].astype(jnp.int32)
    places = jnp.pad(places, (0, -size % min(COMPARED, size)))
    blocks = (jnp.sum(~starts, dtype=jnp.int32) + COMPARED - 1) // COMPARED
    step = bind(_compare_block, signatures, exists, wanted, order, firsts, places)
    return fori_loop(0, blocks, step, state)


def _compare_block(signatures, exists, wanted, order, firsts, places, number, state):
    """Compare a block of rows with the first row of their bucket and with the one before them in it."""
    earlier, agreeing = state
    block = min(COMPARED, order.shape[0])
    places = jax.lax.dynamic_slice_in_dim(places, number * block, block)
    row, first, before = order[places], order[firsts[places]], order[jnp.maximum(places - 1, 0)]
    own = signatures[row]
    counts = [_agreement(own, signatures[other], exists[row] & exists[other]) for other in (first, before)]
    passing = jnp.where(counts[0] >= wanted, first, jnp.where(counts[1] >= wanted, before, row))
    valid = firsts[places] < places  # the blocks are filled up with the first place
    passing = jnp.where(valid, passing, row)
    counts = jnp.where(valid, jnp.maximum(*counts), 0)
    return earlier.at[row].min(passing), agreeing.at[row].max(counts)


def _agreement(own, others, exist):
    return jnp.where(exist, jnp.sum(own == others, axis=1, dtype=jnp.int32), 0)


def first_of_chains(earlier: jax.Array) -> jax.Array:
    """Return where each row ends up that is sent on to an earlier row again and again, until one is sent to itself."""
    return while_loop(_goes_on, _jump, earlier)


def _goes_on(earlier):
    return jnp.any(earlier[earlier] != earlier)


def _jump(earlier):
    return earlier[earlier]
