"""What losses and miners check of their pairs, and the pairs without those of a value that is not finite."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_floating, check_number, check_shape
from minibatch_jax.weights import weight_dtype


def check_pairs(name: str, values: jax.Array, positives: jax.Array, negatives: jax.Array) -> None:
    """Raise unless the values are a floating matrix and the masks are bool of its shape."""
    check_shape(name, values, (None, None))
    check_floating(name, values)
    for mask_name, mask in (("positives", positives), ("negatives", negatives)):
        check_shape(mask_name, mask, values.shape)
        check_bool(mask_name, mask)


def check_positive(**numbers: float | jax.Array) -> None:
    """Raise unless each is a number above 0; arrays may be traced and pass."""
    for name, number in numbers.items():
        check_number(name, number, 0, open_low=True)


def finite_pairs(
    name: str, values: jax.Array, positives: jax.Array, negatives: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check the pairs, set values that are not finite to 0 and remove them from the masks."""
    check_pairs(name, values, positives, negatives)
    finite = jnp.isfinite(values)
    return jnp.where(finite, values, 0), positives & finite, negatives & finite


def wide_pairs(
    distances: jax.Array, positives: jax.Array, negatives: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `finite_pairs` of distances, in float32 at least."""
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    return distances.astype(weight_dtype(distances.dtype)), positives, negatives
