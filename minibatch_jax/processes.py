"""Several processes that train together must be given the same arguments; this compares them."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def check_same_arguments(**arguments: Any) -> None:
    """Raise unless every process calls this with the same arguments; with one process it does nothing.

    Processes that disagree on a seed, on k or on the pool train on without an error, each on its own idea of the batch.
    Call it once before training with whatever the result depends on. It compares digests, so arrays stay where they
    are; values of no array and no Python number or text count by their `repr`.

    Args:
      **arguments: trees of arrays, keys, numbers and texts, by the names that the error shall show. Arrays are what
        this process holds of them, so do not pass arrays that are sharded over processes.

    Returns:
      None.

    Raises:
      ValueError: on every process, if names or values differ; it names the arguments that do.

    Examples:
      >>> check_same_arguments(seed=0, k=32, pool=np.arange(10))
    """
    if jax.process_count() == 1:
        return
    names = sorted(arguments)
    _compare(["the names of the arguments"], [_digest(names)], f"{names} on process {jax.process_index()}")
    _compare(names, [_digest(arguments[name]) for name in names], "other values on some process")


def _compare(names: list[str], digests: list[np.ndarray], got: str) -> None:
    everywhere = multihost_utils.process_allgather(np.stack(digests))  # [processes, names, 8]
    different = np.any(everywhere != everywhere[:1], axis=(0, 2))
    if np.any(different):
        wrong = [name for name, differs in zip(names, different) if differs]
        raise ValueError(f"{', '.join(wrong)}: got {got}, wanted the same on all {jax.process_count()} processes.")


def _digest(tree: Any) -> np.ndarray:
    leaves, structure = jax.tree.flatten(tree)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray | np.generic):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(leaf).encode())
    return np.frombuffer(digest.digest(), np.uint32)
