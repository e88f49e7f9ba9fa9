"""Checks of arguments at trace time: each error names the argument, its value and what is wanted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_shape(name: str, array: jax.Array, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `array` has this shape; None matches any size except 0. TypeError if it is a list."""
    if isinstance(array, list | tuple):
        raise TypeError(f"{name} is a {type(array).__name__}, wanted an array: jnp.asarray({name}).")
    actual = jnp.shape(array)
    fits = len(actual) == len(shape) and all(a > 0 if s is None else a == s for a, s in zip(actual, shape))
    if not fits:
        wanted = "[" + ", ".join("any size > 0" if s is None else str(s) for s in shape) + "]"
        raise ValueError(f"{name} has shape {list(actual)}, wanted {wanted}.")


def check_floating(name: str, array: jax.Array) -> None:
    """Raise TypeError unless `array` is real floating point."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {dtype}, wanted a floating-point dtype.")


def check_integer(name: str, array: jax.Array) -> None:
    """Raise TypeError unless `array` holds integers."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {dtype}, wanted an integer dtype.")


def check_bool(name: str, array: jax.Array) -> None:
    """Raise TypeError unless `array` holds bools."""
    dtype = jnp.result_type(array)
    if dtype != jnp.bool_:
        raise TypeError(f"{name} has dtype {dtype}, wanted bool.")


def mask_or_all(name: str, mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask, or all True if it is None. Raise unless it holds bools and has this shape."""
    if mask is None:
        return jnp.ones(shape, bool)
    check_shape(name, mask, shape)
    check_bool(name, mask)
    return mask


def check_count(
    name: str, value: Any, upper: int | None = None, of: str = "the number of items", *, traced: bool = False
) -> None:
    """Raise unless `value` is a static int in [1, upper]; `of` says what `upper` counts; arrays pass if `traced`."""
    if traced and isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        hint = "; put it into static_args of optax.inject_hyperparams" if isinstance(value, jax.Array) else ""
        raise TypeError(f"{name} is {value!r}, wanted a static Python int{hint}.")
    if value < 1:
        raise ValueError(f"{name} is {value}, wanted at least 1.")
    if upper is not None and value > upper:
        raise ValueError(f"{name} is {value}, wanted at most {upper} ({of}).")


def check_whole(name: str, value: Any) -> None:
    """Raise unless `value` is a Python int of at least 0; arrays may be traced and pass."""
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}, wanted an int.")
    if value < 0:
        raise ValueError(f"{name} is {value}, wanted at least 0.")


def check_number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless a number lies in [low, high], without low if `open_low`, without high if `open_high`.

    Arrays may be traced and pass.
    """
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number | np.ndarray):
        raise TypeError(f"{name} is {value!r}, wanted a number.")
    too_low = low is not None and (value <= low if open_low else value < low)
    too_high = high is not None and (value >= high if open_high else value > high)
    if value != value or too_low or too_high:
        left = "(" if open_low or low is None else "["
        right = ")" if open_high or high is None else "]"
        low_text, high_text = ("-inf" if low is None else low), ("inf" if high is None else high)
        raise ValueError(f"{name} is {value}, wanted a number in {left}{low_text}, {high_text}{right}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, choices))}.")


def check_transformation(transformation: Any) -> None:
    """Raise TypeError unless it has `init` and `update`, as what a factory returns and the factory itself has not."""
    if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
        name = getattr(transformation, "__name__", repr(transformation))
        raise TypeError(f"transformation is {name}, wanted what a factory returns: keep_topk(32), not keep_topk.")


def as_key(key: jax.Array | int) -> jax.Array:
    """Return a typed PRNG key from an int seed, a typed key or a legacy `jax.random.PRNGKey`.

    Args:
      key: int seed, `jax.random.key(...)` or `jax.random.PRNGKey(...)`.

    Returns:
      The typed key.

    Raises:
      TypeError: if it is none of these.

    Examples:
      >>> bool(as_key(3) == as_key(jax.random.PRNGKey(3)))
      True
    """
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    array = jnp.asarray(key)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    if array.ndim == 0 and jnp.issubdtype(array.dtype, jnp.integer):  # a seed that went through a transformation
        return jax.random.key(array)
    if array.dtype == jnp.uint32 and array.ndim > 0:
        return jax.random.wrap_key_data(array)
    raise TypeError(f"key has dtype {array.dtype}, wanted an int seed, a key from jax.random.key or from PRNGKey.")
