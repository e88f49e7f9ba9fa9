"""Estimates of each example's gradient in one parameter, from forward passes alone.

The parameter is moved a little forth and back along a random probe z. The difference of the losses of an example is the
derivative of its loss along z, and this derivative times z is on average its gradient. CoLM compares the examples of a
language model by such estimates for the last value projection.

References:
  Malladi et al., Fine-tuning language models with just forward passes, NeurIPS 2023 (arXiv 2305.17333).
  Nguyen et al., Mini-batch coresets for memory-efficient language model training on data mixtures, ICLR 2025
  (arXiv 2407.19580).
"""

import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax.boundaries._models import chosen_leaves
from minibatch_jax.weights import weight_dtype


def zeroth_order_scale(losses_plus: jax.Array, losses_minus: jax.Array, step: float = 1e-3) -> jax.Array:
    """Return the derivative of each loss along a probe z, from two forward passes: `(plus - minus) / (2 * step)`.

    The derivative times z estimates the gradient of an example. All examples share z, so the estimates from one probe
    lie on one line. `zeroth_order_features` does all of this for one parameter.

    Args:
      losses_plus: `[B]`, or `[B, Q]` for Q probes, floating point, losses at the parameters plus `step * z`.
      losses_minus: like `losses_plus`, losses at the parameters minus `step * z`.
      step: length of the probe, positive.

    Returns:
      The shape of the losses, float32 (float64 if the losses are).

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the shapes differ or the step is not positive.

    References:
      Malladi et al., NeurIPS 2023 (arXiv 2305.17333).

    Examples:
      >>> zeroth_order_scale(jnp.array([1.5]), jnp.array([0.5]), step=0.25).tolist()
      [2.0]
    """
    check_floating("losses_plus", losses_plus)
    check_shape("losses_minus", losses_minus, losses_plus.shape)
    check_number("step", step, 0, open_low=True)
    dtype = weight_dtype(losses_plus.dtype)
    return (losses_plus.astype(dtype) - losses_minus.astype(dtype)) / (2 * step)


def zeroth_order_features(
    key: jax.Array | int,
    losses_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    *,
    parameter: Any,
    step: float = 1e-3,
    num_probes: int = 1,
) -> jax.Array:
    """Return an estimate of each example's gradient in one parameter, by two forward passes for each probe.

    No gradient is taken, so nothing is stored for a backward pass. All examples share the probes: with one probe, as
    published, the estimates lie on one line, and with many their error falls with the square root of D / num_probes.
    `losses_fn` need not run the whole model: close over what enters the last block, and run only this block.

    Args:
      key: typed PRNG key or int seed, of the probes; another one in each step.
      losses_fn: `losses_fn(params, batch) -> losses [B]`, without dropout, where a loss depends on its own row alone.
      params: pytree of arrays: a dict, variables of flax linen, a module of equinox, a state or a module of flax nnx.
      batch: pytree of arrays `[B, ...]`.
      parameter: which array of the parameters is moved: its path, such as "blocks/3/value/lora_b", or a part of its
        path between slashes that no other array has, such as "3/value/lora_b" (paths of flax nnx end in "/value", which
        may be left out so); or a tree of bools that is a prefix of `params`, or a function of a path. No filter of nnx.
      step: how far to go along a probe, whose entries are standard normal; positive. The parameter plus a step is
        rounded to its dtype, so take a larger step for bfloat16.
      num_probes: number of probes whose estimates are averaged, at least 1, static.

    Returns:
      `[B, D]`, one row for each example, D the size of the parameter; float32 (float64 if the losses are).

    Raises:
      TypeError: if the losses are not floating point, `num_probes` is not a static int, a mask holds other than bools
        or the parameter is a filter of nnx.
      ValueError: if not exactly one floating-point array is named, the losses are not `[B]`, the step is not positive
        or `num_probes` is below 1.

    References:
      Malladi et al., NeurIPS 2023 (arXiv 2305.17333).

    Examples:
      >>> losses_fn = lambda params, x: x * params["head"]["scale"] ** 2
      >>> params, x = {"head": {"scale": jnp.array(3.0)}, "bias": jnp.zeros(2)}, jnp.array([1.0, 2.0])
      >>> features = zeroth_order_features(0, losses_fn, params, x, parameter="head/scale", step=0.1)
      >>> features.shape, round(float(features[1, 0] / features[0, 0]), 3)
      ((2, 1), 2.0)
    """
    check_number("step", step, 0, open_low=True)
    check_count("num_probes", num_probes)
    value, replaced = _one_parameter(params, parameter)
    dtype = weight_dtype(value.dtype)
    probes = jax.random.normal(as_key(key), (num_probes, *value.shape), dtype)

    def estimate(probe):
        def losses(sign):
            moved = (value.astype(dtype) + sign * step * probe).astype(value.dtype)
            found = losses_fn(replaced(moved), batch)
            if jnp.ndim(found) != 1:
                shape = list(jnp.shape(found))
                raise ValueError(
                    f"losses has shape {shape}, wanted [B], one for each example: average over its tokens."
                )
            return found

        slopes = zeroth_order_scale(losses(1), losses(-1), step)
        return slopes[:, None] * probe.reshape(1, -1).astype(slopes.dtype)

    first = estimate(probes[0])
    if num_probes == 1:
        return first
    total, _ = jax.lax.scan(lambda total, probe: (total + estimate(probe), None), first, probes[1:])
    return total / num_probes


def _one_parameter(params: Any, parameter: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Return the array that is named, and a function that puts another array in its place."""
    paths, structure = jax.tree.flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    leaves = [leaf for _, leaf in paths]
    by_path = isinstance(parameter, str)
    if parameter is None or parameter is ... or isinstance(parameter, type):
        raise TypeError(f"parameter is {parameter!r}, wanted a path, a tree of bools or a function of a path.")
    named = _named(parameter, names) if by_path else chosen_leaves(params, parameter, names, "parameter")
    candidates = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
    found = [i for i in candidates if named[i]]
    if len(found) != 1:
        what = repr(parameter) if by_path else "a function" if callable(parameter) else "a mask"
        known = [names[i] for i in candidates]
        if found:
            raise ValueError(
                f"parameter is {what}, which names {[names[i] for i in found]}, wanted exactly one of these."
            )
        near = difflib.get_close_matches(parameter, known, 3, 0.4) if by_path else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"parameter is {what}, which names no floating-point array{hint}, wanted one of {known}.")
    place = found[0]

    def replaced(value):
        return structure.unflatten([*leaves[:place], value, *leaves[place + 1 :]])

    return jnp.asarray(leaves[place]), replaced


def _named(parameter: str, names: list[str]) -> list[bool]:
    """Return which paths are the given one, or else contain it between slashes."""
    if parameter in names:
        return [name == parameter for name in names]
    return [f"/{parameter}/" in f"/{name}/" for name in names]


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
