"""Arithmetic of steps: exact for integers, and without overflow for counts of tokens, which are floats."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_whole

LARGEST = np.iinfo(np.int32).max


def real(value: Any) -> jax.Array:
    """Return an array in float32, or in float64 if it is already."""
    array = countable(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize > 2 else _float32(array)


def since(step: Any, start: Any) -> jax.Array:
    """Return `step - start` as a float: of integers exactly up to 2^24 steps from the start, however late it is."""
    step = countable(step)
    if jnp.issubdtype(step.dtype, jnp.floating):
        return real(step) - jnp.asarray(start, real(step).dtype)
    near = _float32(step.astype(jnp.int32) - whole(start))
    if step.dtype == jnp.int32 or step.dtype.itemsize < 4:
        return near
    far = _float32(step)  # uint32 and int64 reach beyond int32
    return jnp.where(jnp.abs(far) <= LARGEST, near, far - jnp.asarray(start, jnp.float32))


def countable(step: Any) -> jax.Array:
    """Return a number as an array, an int beyond int32, such as a number of tokens, as a float."""
    whole_number = isinstance(step, int) or (isinstance(step, np.ndarray | np.integer) and step.dtype.kind in "iu")
    if whole_number and np.any(np.abs(np.asarray(step, np.float64)) > LARGEST):
        step = np.asarray(step, jnp.zeros(()).dtype)
    return jnp.asarray(step)


def whole(number: Any) -> jax.Array:
    """Return integers as int32; those beyond its range are at its end, which no step reaches."""
    return number.astype(jnp.int32) if isinstance(number, jax.Array) else jnp.asarray(np.minimum(number, LARGEST), "i4")


def check_boundaries(boundaries: Sequence[int], stages: int) -> None:
    """Raise unless these are the steps, increasing ints above 0, at which all stages but the first begin."""
    if len(boundaries) != stages - 1:
        raise ValueError(f"boundaries has {len(boundaries)} steps, wanted {stages - 1}.")
    for boundary in boundaries:
        check_whole("boundaries", boundary)
    check_increasing(boundaries)


def check_increasing(boundaries: Any) -> None:
    """Raise unless numbers are above 0 and each is larger than the one before."""
    for left, right in itertools.pairwise([0, *boundaries]):
        if right <= left:
            raise ValueError(f"boundaries has {right} after {left}, wanted increasing steps above 0.")


def _float32(array: jax.Array) -> jax.Array:
    return array.astype(jnp.float32)
