"""What losses and miners check of their pairs, and the pairs without those of a value that is not finite.

All of them compute in float32 at least: in half precision sums stall and ranks tie.
"""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

import jax
import jax.core
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_floating, check_number, check_shape
from minibatch_jax.weights import weight_dtype

Arguments = ParamSpec("Arguments")


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
    """Check the pairs, set values that are not finite to 0 and remove them from the masks; float32 at least."""
    check_pairs(name, values, positives, negatives)
    finite = jnp.isfinite(values)
    return jnp.where(finite, values, 0).astype(weight_dtype(values.dtype)), positives & finite, negatives & finite


def check_one_set(wanted: str, positives: jax.Array, negatives: jax.Array) -> jax.Array:
    """Raise if an item is in a pair with itself: then the references are another view, and `wanted` must be given.

    Traced masks pass. Whether they hold such a pair is returned.
    """
    views = jnp.any(jnp.diagonal(positives | negatives))
    if not isinstance(views, jax.core.Tracer) and bool(views):
        raise ValueError(
            f"{wanted} is not given and a pair on the diagonal is in a mask, wanted {wanted} between the references, "
            "which are another view than the anchors."
        )
    return views


def keeps_dtype(loss: Callable[Arguments, jax.Array]) -> Callable[Arguments, jax.Array]:
    """Return the loss with its result in the dtype of its first argument, whatever it computes in."""
    first = next(iter(inspect.signature(loss).parameters))

    @functools.wraps(loss)
    def narrowed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> jax.Array:
        result = loss(*args, **kwargs)
        return result.astype(jnp.result_type(args[0] if args else kwargs[first]))

    return narrowed
