"""For a training loop in torch: tensors to arrays and back, a plan sampler, miners of index tuples, subsets of rows.

Weights, plans and mined indices are constants for the backward pass, so no gradient crosses between the libraries.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from minibatch_jax._checks import check_choice, check_count, check_number
from minibatch_jax._extras import require
from minibatch_jax.compose import weights_of
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.entropic.balanced import sinkhorn
from minibatch_jax.coupling.entropic.partial import partial_sinkhorn
from minibatch_jax.coupling.entropic.unbalanced import unbalanced_sinkhorn
from minibatch_jax.coupling.exact.assignments import assignment
from minibatch_jax.coupling.exact.transports import transport
from minibatch_jax.mining.choices import triplet_choice
from minibatch_jax.mining.distances import euclidean_distances, normalize_embeddings
from minibatch_jax.mining.masks import negative_mask, positive_mask

torch = require("torch", "torch")
data = require("torch.utils.data", "torch")

METHODS = ("exact", "sinkhorn", "unbalanced", "partial")
TRIPLETS = ("all", "easy", "semihard", "violating")


def to_jax(tensor: Any) -> jax.Array:
    """Return a tensor as an array, without a copy where JAX can use its memory.

    The array then shares the memory of the tensor: an operation in place on the tensor changes the array, which JAX
    takes for constant. Give it `tensor.clone()` if the tensor is written to later. The gradient stops here. A tensor
    with gaps is copied, and so is one of 64 bits unless JAX runs with 64 bits.

    Args:
      tensor: dense, on a device that JAX has too.

    Returns:
      The array, on the device of the tensor.

    Raises:
      TypeError: if it is no dense tensor.
      ValueError: if JAX does not have the device, or a whole number does not fit in 32 bits.

    Examples:
      >>> to_jax(torch.tensor([1.0, 2.0, 3.0])[::2]).tolist()
      [1.0, 3.0]
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensor is a {type(tensor).__name__}, wanted a torch.Tensor.")
    if tensor.layout != torch.strided:
        raise TypeError(f"tensor has the layout {tensor.layout}, wanted a dense one: tensor.to_dense().")
    if not _jax_has(tensor.device):
        raise ValueError(
            f"tensor is on {tensor.device}, wanted one that JAX has ({_platforms()}): tensor.cpu() is a copy there."
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.int64 and not jax.config.read("jax_enable_x64"):
        narrow = tensor.to(torch.int32)
        if not torch.equal(narrow.to(torch.int64), tensor):
            raise ValueError("tensor holds numbers beyond int32, wanted smaller ones, or jax_enable_x64.")
        tensor = narrow
    elif tensor.dtype == torch.float64 and not jax.config.read("jax_enable_x64"):
        tensor = tensor.to(torch.float32)
    return jax.dlpack.from_dlpack(tensor.contiguous())


def to_torch(array: jax.Array) -> Any:
    """Return an array as a tensor that shares its memory.

    An operation in place on the tensor would change the array, which JAX takes for constant: write to
    `to_torch(array).clone()`. The tensor does not require a gradient.

    Args:
      array: of numbers or bools, on one device.

    Returns:
      The tensor, on the device of the array.

    Raises:
      TypeError: if it is no array of numbers or bools, or is traced.
      ValueError: if it lies on several devices, or torch does not have the device.

    Examples:
      >>> to_torch(jnp.arange(3)).tolist()
      [0, 1, 2]
    """
    if isinstance(array, Tracer):
        raise TypeError("array is traced, wanted a concrete one: call to_torch outside of jit.")
    if not isinstance(array, jax.Array) or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        kind = array.dtype if isinstance(array, jax.Array) else type(array).__name__
        raise TypeError(f"array is a {kind}, wanted a jax.Array of numbers or bools.")
    if len(array.devices()) != 1:
        names = ", ".join(sorted(map(str, array.devices())))
        raise ValueError(f"array lies on {names}, wanted one device.")
    (device,) = array.devices()
    if device.platform != "cpu" and not (device.platform == "gpu" and torch.cuda.is_available()):
        raise ValueError(f"array is on {device}, wanted a device that torch has: jax.device_put it on a CPU.")
    return torch.from_dlpack(array)


class OTPlanSampler:
    """Pair two batches of tensors by optimal transport, with the arguments and methods of torchcfm's `OTPlanSampler`.

    The cost is the squared Euclidean distance, the marginals are uniform. Plans and draws are computed on the device of
    the tensors if JAX has it, else on the CPU. What differs from torchcfm: draws come from `seed`, not from numpy's
    global state, `sample_trajectory` returns a tensor, and a plan that did not converge warns and is returned as it is,
    where torchcfm takes a uniform plan.

    Args:
      method: `'exact'`, `'sinkhorn'`, `'unbalanced'` or `'partial'` (entropic, of all the mass, as in torchcfm).
      reg: entropic regularization of all methods but `'exact'`.
      reg_m: price of departing from the marginals, of `'unbalanced'`.
      normalize_cost: whether to divide the cost by its maximum.
      num_threads: taken so that a call need not change; XLA chooses its threads.
      warn: whether to warn of a plan that did not converge.
      seed: of the draws.

    Raises:
      ValueError: if the method is unknown or a number is not positive.

    References:
      Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport, 2023
      (arXiv 2302.00482).

    Examples:
      >>> sampler = OTPlanSampler("exact")
      >>> x0, x1 = torch.tensor([[0.0], [5.0]]), torch.tensor([[5.1], [0.1]])
      >>> sampler.get_map(x0, x1).tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """

    def __init__(
        self,
        method: str,
        reg: float = 0.05,
        reg_m: float = 1.0,
        normalize_cost: bool = False,
        num_threads: int | str = 1,
        warn: bool = True,
        *,
        seed: int = 0,
    ):
        """Check the arguments; nothing is computed."""
        check_choice("method", method, METHODS)
        check_number("reg", reg, 0, open_low=True)
        check_number("reg_m", reg_m, 0, open_low=True)
        self.method, self.reg, self.reg_m = method, reg, reg_m
        self.normalize_cost, self.num_threads, self.warn = normalize_cost, num_threads, warn
        self._random = np.random.default_rng(seed)

    def get_map(self, x0: Any, x1: Any) -> np.ndarray:
        """Return the plan `[B0, B1]` of two batches of tensors `[B0, ...]` and `[B1, ...]`, as a numpy array."""
        found, error, converged = _solve(_rows(x0), _rows(x1), self.reg, self.reg_m, self.method, self.normalize_cost)
        matrix = np.asarray(found, np.float64)
        if not (np.isfinite(matrix).all() and matrix.sum() > 0):
            raise ValueError("the plan holds no mass or numbers that are not finite, wanted tensors of finite numbers.")
        if self.warn and not bool(converged):
            warnings.warn(f"The plan did not converge: its error is {float(error):.2g}.", stacklevel=2)
        return matrix

    def sample_map(self, pi: np.ndarray, batch_size: int, replace: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Draw pairs in proportion to a plan `[B0, B1]`; returns their rows and their columns, `[batch_size]` each."""
        check_count("batch_size", batch_size)
        mass = np.asarray(pi, np.float64).ravel()
        positive = int(np.count_nonzero(mass > 0))
        if not replace and batch_size > positive:
            raise ValueError(f"batch_size is {batch_size}, wanted at most {positive} (the pairs of the plan).")
        chosen = self._random.choice(mass.size, size=batch_size, replace=replace, p=mass / mass.sum())
        row, column = np.divmod(chosen, pi.shape[1])
        return row, column

    def sample_plan(self, x0: Any, x1: Any, replace: bool = True) -> tuple[Any, Any]:
        """Draw as many pairs as `x0` has rows; returns their sources and their targets."""
        return self.sample_plan_with_labels(x0, x1, replace=replace)[:2]

    def sample_plan_with_labels(
        self, x0: Any, x1: Any, y0: Any = None, y1: Any = None, replace: bool = True
    ) -> tuple[Any, Any, Any, Any]:
        """Draw pairs; returns sources, targets, and the labels of both, None where none were given."""
        i, j = self.sample_map(self.get_map(x0, x1), x0.shape[0], replace)
        return _take(x0, i), _take(x1, j), _take(y0, i), _take(y1, j)

    def sample_trajectory(self, X: Any) -> Any:
        """Chain the populations of a tensor `[B, times, ...]`: row by row, each next place drawn from the plan."""
        rows, places = np.arange(X.shape[0]), [X[:, 0]]
        for time in range(1, X.shape[1]):
            reached = np.cumsum(self.get_map(X[:, time - 1], X[:, time])[rows], axis=1)
            drawn = self._random.random(len(rows))[:, None] * reached[:, -1:]
            rows = np.argmax(reached > drawn, axis=1)
            places.append(_take(X[:, time], rows))
        return torch.stack(places, dim=1)


class PairMiner:
    """A miner for losses of pytorch-metric-learning: any `mine_*` without a state, as a tuple of indices of pairs.

    Args:
      miner: transformation of weights of pairs, such as `mine_multi_similarity()`.
      distances: function of embeddings and references; by default Euclidean between rows of length 1.

    Examples:
      >>> from minibatch_jax.mining import mine_pair_margin
      >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 0, 1])
      >>> [i.tolist() for i in PairMiner(mine_pair_margin(0.2, 0.8))(embeddings, labels)]
      [[0, 1], [1, 0], [1, 2], [2, 1]]
    """

    def __init__(self, miner: optax.GradientTransformationExtraArgs, distances: Callable[..., jax.Array] | None = None):
        """Keep the miner and the distances, compiled at the first call for each shape."""
        self._weights = jax.jit(functools.partial(_mined, miner, distances or _unit_distances))

    def __call__(self, embeddings: Any, labels: Any, ref_emb: Any = None, ref_labels: Any = None) -> tuple[Any, ...]:
        """Return anchors and positives, then anchors and negatives: four int64 tensors on the device of the batch."""
        kept, positives = self._weights(*_batch(embeddings, labels, ref_emb, ref_labels))
        kept, positives = np.asarray(kept), np.asarray(positives)
        return _indices(embeddings, *np.nonzero(kept & positives), *np.nonzero(kept & ~positives))


class TripletMiner:
    """A miner for losses of pytorch-metric-learning: a tuple of indices of triplets.

    Args:
      mining: which triplets: `'all'` with d_an - d_ap at most the margin; of these `'violating'`, where the negative is
        not farther (`"hard"` there), or `'semihard'`, where it is; `'easy'`, beyond the margin. Or a pair such as
        `("hard", "semihard")`: the positive and the negative of `triplet_choice`, one triplet for each anchor.
      margin: of the four kinds.
      distances: function of embeddings and references; by default Euclidean between rows of length 1.

    Raises:
      ValueError: if the kind is unknown.

    Examples:
      >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 0, 1])
      >>> [i.tolist() for i in TripletMiner("violating")(embeddings, labels)]
      [[0, 1], [1, 0], [2, 2]]
    """

    def __init__(
        self,
        mining: str | tuple[str, str] = "all",
        margin: float = 0.2,
        distances: Callable[..., jax.Array] | None = None,
    ):
        """Keep the kind of triplets and the distances, compiled at the first call for each shape."""
        if isinstance(mining, str):
            check_choice("mining", mining, TRIPLETS)
        check_number("margin", margin)
        find = _triplet_cube if isinstance(mining, str) else _chosen_triplets
        self._find = jax.jit(functools.partial(find, mining, margin, distances or _unit_distances))

    def __call__(self, embeddings: Any, labels: Any, ref_emb: Any = None, ref_labels: Any = None) -> tuple[Any, ...]:
        """Return anchors, positives and negatives: three int64 tensors on the device of the batch."""
        found = self._find(*_batch(embeddings, labels, ref_emb, ref_labels))
        if isinstance(found, tuple):
            positive, negative, valid = map(np.asarray, found)
            return _indices(embeddings, np.nonzero(valid)[0], positive[valid], negative[valid])
        return _indices(embeddings, *np.nonzero(np.asarray(found)))


def subset(dataset: Any, rows: Any) -> Any:
    """Return the `Subset` of a data set that a selection kept, for a `DataLoader`.

    Args:
      dataset: a torch `Dataset` with a length.
      rows: int `[k]`, rows of the data set, where -1 is padding; or a mask, bool `[N]`. An array of either library.

    Returns:
      A `torch.utils.data.Subset`, its rows in the order given.

    Raises:
      TypeError: if `rows` is neither whole numbers nor bool.
      ValueError: if it does not fit the data set.

    Examples:
      >>> list(subset([10, 11, 12], jnp.array([2, 0, -1])))
      [12, 10]
    """
    numbers, size = np.asarray(rows.detach().cpu() if isinstance(rows, torch.Tensor) else rows), len(dataset)
    if numbers.ndim != 1:
        raise ValueError(f"rows has the shape {list(numbers.shape)}, wanted one axis.")
    if numbers.dtype == bool:
        if len(numbers) != size:
            raise ValueError(f"rows has {len(numbers)} entries, wanted {size} (the rows of the data set).")
        numbers = np.nonzero(numbers)[0]
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"rows has the dtype {numbers.dtype}, wanted whole numbers or bool.")
    if numbers.size and (numbers.min() < -1 or numbers.max() >= size):
        raise ValueError(f"rows has numbers from {numbers.min()} to {numbers.max()}, wanted -1 to {size - 1}.")
    return data.Subset(dataset, numbers[numbers >= 0].tolist())


def _jax_has(device: Any) -> bool:
    if device.type == "cuda":
        return any(d.platform == "gpu" and d.local_hardware_id == device.index for d in jax.local_devices())
    return device.type == "cpu"


def _platforms() -> str:
    return ", ".join(sorted({str(d) for d in jax.local_devices()} | {"cpu"}))


def _near(tensor: Any) -> jax.Array:
    """Return the tensor as an array, copied to the CPU if JAX lacks its device."""
    return to_jax(tensor if not isinstance(tensor, torch.Tensor) or _jax_has(tensor.device) else tensor.cpu())


def _rows(x: Any) -> jax.Array:
    array = _near(x)
    return array.reshape(array.shape[0], -1)


@functools.partial(jax.jit, static_argnames=("method", "normalize"))
def _solve(x0: jax.Array, x1: jax.Array, reg: Any, reg_m: Any, method: str, normalize: bool) -> tuple[jax.Array, ...]:
    """Return the plan, its error and whether it converged."""
    cost = squared_euclidean_cost(x0, x1)
    if normalize:
        cost = cost / jnp.max(cost)
    if method == "exact" and cost.shape[0] == cost.shape[1]:  # one of the cheapest plans pairs each row with one column
        columns = assignment(cost).columns
        paired = jax.nn.one_hot(columns, cost.shape[1], dtype=cost.dtype) / cost.shape[0]
        return paired, jnp.mean(columns < 0), jnp.all(columns >= 0)
    if method == "exact":
        plan = transport(cost)
    elif method == "sinkhorn":
        plan = sinkhorn(cost, epsilon=reg)
    elif method == "unbalanced":
        plan = unbalanced_sinkhorn(cost, epsilon=reg, rho=reg_m)
    else:
        plan = partial_sinkhorn(cost, 1.0, epsilon=reg)
    return plan.matrix, plan.error, plan.converged


def _take(x: Any, rows: np.ndarray) -> Any:
    return None if x is None else x[torch.as_tensor(rows, device=x.device)]


def _unit_distances(embeddings: jax.Array, references: jax.Array) -> jax.Array:
    return euclidean_distances(normalize_embeddings(embeddings), normalize_embeddings(references))


def _batch(embeddings: Any, labels: Any, ref_emb: Any, ref_labels: Any) -> tuple[jax.Array | None, ...]:
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("one of ref_emb and ref_labels is None, wanted both or neither.")
    return tuple(None if x is None else _near(x) for x in (embeddings, labels, ref_emb, ref_labels))


def _pairs(distances: Callable[..., jax.Array], embeddings: Any, labels: Any, ref_emb: Any, ref_labels: Any) -> Any:
    found = distances(embeddings, embeddings if ref_emb is None else ref_emb)
    return found, positive_mask(labels, ref_labels), negative_mask(labels, ref_labels)


def _mined(miner: Any, distances: Any, *batch: Any) -> tuple[jax.Array, jax.Array]:
    found, positives, negatives = _pairs(distances, *batch)
    start = (positives | negatives).astype(found.dtype)
    signals = {"distances": found, "positives": positives, "negatives": negatives}
    return weights_of(miner, start, **signals) > 0, positives


def _triplet_cube(mining: str, margin: float, distances: Any, *batch: Any) -> jax.Array:
    found, positives, negatives = _pairs(distances, *batch)
    gap = found[:, None, :] - found[:, :, None]
    near = gap <= margin
    kinds = {"all": near, "easy": gap > margin, "violating": near & (gap <= 0), "semihard": near & (gap > 0)}
    return kinds[mining] & positives[:, :, None] & negatives[:, None, :]


def _chosen_triplets(mining: tuple[str, str], margin: float, distances: Any, *batch: Any) -> tuple[jax.Array, ...]:
    found, positives, negatives = _pairs(distances, *batch)
    return tuple(triplet_choice(found, positives, negatives, *mining))


def _indices(like: Any, *indices: np.ndarray) -> tuple[Any, ...]:
    return tuple(torch.as_tensor(i.astype(np.int64), device=like.device) for i in indices)
