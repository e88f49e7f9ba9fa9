"""What the items of a mini-batch are: their shape, the weights they start with, and how weights become a cotangent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.devices import axis_size, gather_rows, one_row, own_rows, replicate, shard_like, sum_over
from minibatch_jax.signals import pair_signals
from minibatch_jax.weights import weight_dtype

PairLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
KINDS = ("losses", "pair_losses", "distances", "similarities")
_SHAPES = {
    "losses": "[B] or [B, T], one loss for each example or token: drop the mean or, for a term of the "
    "whole batch, use jnp.broadcast_to",
    "pair_losses": "[B0, B1], one loss for each pair",
    "distances": "[A, M], one distance for each anchor and reference",
    "similarities": "[A, M], one similarity for each anchor and reference",
}


class Items(NamedTuple):
    """What kind of items a function returns, and what is done with them.

    Attributes:
      kind: one of `KINDS`.
      loss: of distances or similarities, positives and negatives; None for all others.
      axis_name: mapped axis over which the rows are sharded, or None.
    """

    kind: str
    loss: PairLoss | None
    axis_name: str | None

    @property
    def of_pairs(self) -> bool:
        """Whether the items are a matrix of pairs."""
        return self.kind != "losses"

    def check(self, items: Any, name: str) -> None:
        """Raise unless every array of items that the function returned has the rank of its kind and floating point."""
        leaves, wanted = jax.tree.leaves(items), _SHAPES[self.kind]
        one = self.kind in ("distances", "similarities")
        if not leaves or (one and not isinstance(items, jax.Array)) or isinstance(items, list | tuple):
            raise TypeError(f"{name} returned {type(items).__name__}, wanted {wanted}{'' if one else ', or a dict'}.")
        for leaf in leaves:
            ranks = (2,) if self.of_pairs else (1, 2)
            if jnp.ndim(leaf) not in ranks or jnp.size(leaf) == 0:
                raise ValueError(f"{name} returned {list(jnp.shape(leaf))}, wanted {wanted}.")
            check_floating(self.kind, leaf)
        if len({leaf.shape[0] for leaf in leaves}) > 1:
            raise ValueError(f"{name} returned {[list(x.shape) for x in leaves]}, wanted as many rows in each task.")

    def start(self, items: Any, given: Any = None) -> Any:
        """Return the given weights, or those to start with: 1/number of items for losses, 1 for distances."""
        if given is not None:
            if jax.tree.structure(given) != jax.tree.structure(items):
                raise ValueError(
                    f"weights have the structure {jax.tree.structure(given)}, wanted {jax.tree.structure(items)}."
                )
            jax.tree.map(lambda w, x: check_shape("weights", w, jnp.shape(x)), given, items)
            return jax.tree.map(as_weights, given)
        devices = axis_size(self.axis_name)

        def start_one(x):
            number = 1 if self.kind in ("distances", "similarities") else x.size * devices
            return jnp.full_like(x, 1 / number, dtype=weight_dtype(jnp.zeros(()).dtype))

        return jax.tree.map(start_one, items)

    def signals(self, items: Any) -> dict[str, Any]:
        """Return the items under the name by which the transformation sees them."""
        if self.kind == "similarities":
            return {"distances": jax.tree.map(lambda x: 1 - x.astype(weight_dtype(x.dtype)), items)}
        return {self.kind: items}

    def cotangent(self, items: Any, start: Any, weights: Any, signals: dict[str, Any]) -> tuple[jax.Array, Any]:
        """Return this device's share of the value, and the cotangent of the items; both are constants."""
        if self.loss is not None:
            value, slopes = self._loss_and_slopes(self.loss, items, start, weights, signals)
            return value, slopes.astype(items.dtype)
        values = jax.tree.map(lambda x, w: jnp.where(w == 0, 0, x.astype(w.dtype)), items, weights)
        if self.kind not in ("distances", "similarities"):
            slopes = weights
        else:
            positives = pair_signals(signals, items.shape)["positives"]
            slopes = jnp.where(positives == (self.kind == "distances"), weights, -weights)
        value = sum_tree(jax.tree.map(lambda s, v: jnp.sum(s * v), slopes, values))
        return value, jax.tree.map(lambda s, x: s.astype(x.dtype), slopes, items)

    def _loss_and_slopes(
        self, loss: PairLoss, items: Any, start: Any, weights: Any, signals: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The loss sees the masks of the pairs with weight, and the values of the pairs that it could have seen.

        A loss that compares positives with negatives reads pairs that are in no mask. Their slope counts as it is.
        """
        masks, used = pair_signals(signals, items.shape), weights != 0
        visible = (start != 0) & jnp.isfinite(items)
        values = jnp.where(visible, items.astype(weights.dtype), 0)
        pairs = values, masks["positives"] & used, masks["negatives"] & used
        if self.axis_name is not None:
            pairs = tuple(gather_rows(x, self.axis_name) for x in pairs)
        value, slopes = jax.value_and_grad(loss)(*replicate(pairs))
        if self.axis_name is not None:
            slopes = own_rows(slopes, values.shape[0], self.axis_name)
        slopes = jnp.where(visible, shard_like(values, slopes), 0) * jnp.where(used, weights, 1)
        return value / axis_size(self.axis_name), slopes

    def counts(self, weights: Any, items: Any) -> tuple[jax.Array, jax.Array]:
        """Return how many items have a weight, and how many of those are finite."""
        weighted = jax.tree.map(lambda w: w != 0, weights)
        return count(weighted), count(jax.tree.map(lambda w, x: w & jnp.isfinite(x), weighted, items))


def as_weights(weights: jax.Array) -> jax.Array:
    """Return weights in float32 (float64 with x64), 0 where they are not finite."""
    weights = jnp.asarray(weights).astype(weight_dtype(jnp.zeros(()).dtype))
    return jnp.where(jnp.isfinite(weights), weights, 0)


def without_hidden(batch: Any, weights: Any, items: Items, *, columns_are_others: bool = False) -> Any:
    """Overwrite the examples that have no weight with the heaviest one, because 0 * NaN is NaN.

    An example of a matrix of pairs is overwritten if neither its row nor its column has weight. Rows and columns are
    the same examples unless the batch of pair losses is a tuple (rows, columns) or the matrix is not square. Where
    there are more columns than rows and the batch has only rows, the first columns may be the batch (as with a memory)
    or not (as with proxies): they count as the batch unless `columns_are_others`.
    """
    if not items.of_pairs:
        return overwrite_without(batch, row_mass(weights))
    rows, columns = row_mass(weights), row_mass(jax.tree.map(jnp.transpose, weights))
    if items.axis_name is not None and columns.shape[0] == rows.shape[0] * axis_size(items.axis_name):
        columns = own_rows(sum_over(columns, items.axis_name), rows.shape[0], items.axis_name)
    if items.kind == "pair_losses" and isinstance(batch, tuple) and len(batch) == 2:
        return overwrite_without(batch[0], rows), overwrite_without(batch[1], columns)
    if columns_may_hold_the_batch(batch, rows.shape[0], columns.shape[0]) and not columns_are_others:
        return overwrite_without(batch, rows + columns[: rows.shape[0]])
    if rows.shape == columns.shape:
        return overwrite_without(batch, rows + columns)
    return overwrite_without(overwrite_without(batch, rows), columns)


def columns_may_hold_the_batch(batch: Any, rows: int, columns: int) -> bool:
    """Return whether there are more columns than rows, and no array of the batch has one row for each column."""
    return columns > rows and all(jnp.ndim(x) == 0 or x.shape[0] != columns for x in jax.tree.leaves(batch))


def overwrite_without(batch: Any, mass: jax.Array) -> Any:
    """Overwrite the rows without mass by the heaviest one, in every leaf that has one row for each mass."""
    heaviest = jnp.argmax(replicate(mass))

    def overwrite(x):
        if x.ndim == 0 or x.shape[0] != mass.shape[0]:
            return x
        hidden = jnp.expand_dims(mass == 0, range(1, x.ndim))
        return jnp.where(hidden, one_row(x, heaviest), x)

    return jax.tree.map(overwrite, batch)


def any_over(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Return whether a condition holds on any device of an axis."""
    return sum_over(x.astype(jnp.int32), axis_name) > 0


def row_mass(weights: Any) -> jax.Array:
    """Return the sum of the weights of each row, over all arrays of weights."""
    return sum_tree([jnp.sum(w.reshape(w.shape[0], -1), axis=1) for w in jax.tree.leaves(weights)])


def count(tree: Any) -> jax.Array:
    """Return how many entries are True in all arrays together."""
    return sum_tree(jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32), tree))


def sum_tree(tree: Any) -> jax.Array:
    """Return the sum of all leaves."""
    total, *others = jax.tree.leaves(tree)
    for leaf in others:
        total = total + leaf
    return total
