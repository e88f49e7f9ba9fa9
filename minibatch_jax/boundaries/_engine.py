"""Forward and backward passes over items with weights; `value_and_grad` and `accumulate` are made of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count
from minibatch_jax.boundaries._blocks import branch, first_block, not_finite, number_of_rows, scan_blocks
from minibatch_jax.boundaries._items import (
    Items,
    any_over,
    columns_may_hold_the_batch,
    count,
    row_mass,
    without_hidden,
)
from minibatch_jax.boundaries._models import Model
from minibatch_jax.boundaries.chosen_rows import check_leading_axis, heaviest_rows, take
from minibatch_jax.devices import (
    RowsAxis,
    any_device,
    as_varying,
    axis_size,
    gather_rows,
    own_rows,
    own_taken_rows,
    replicate,
    shard_like,
    varying_like,
)


class Choice(NamedTuple):
    """Weights that a transformation chose.

    Attributes:
      start: weights that went in.
      weights: weights that came out, 0 where the item is not finite.
      state: new state of the transformation.
      signals: what the transformation could see.
    """

    start: Any
    weights: Any
    state: Any
    signals: dict[str, Any]


class Passed(NamedTuple):
    """Result of a pass with gradient, on this device.

    Attributes:
      value: `[]`, share of this device.
      grads: gradient of what is trained.
      items: what the pass computed.
      choice: the weights of the items.
      signals: what `items_fn` returned beside the items.
      carried: state of the model after the pass.
      weighted: `[]` int32, items that entered with a weight.
      finite: `[]` int32, those of them that are finite.
    """

    value: jax.Array
    grads: Any
    items: Any
    choice: Choice
    signals: dict[str, Any]
    carried: Any
    weighted: jax.Array
    finite: jax.Array


class Step(NamedTuple):
    """A function of items, its parameters taken apart, and what kind of items it returns.

    Attributes:
      items_fn: the user's function.
      kind: what it returns.
      model: its parameters.
      has_aux: whether it returns signals; None if the result tells.
      has_state: whether it takes and returns a state.
      name: what errors call it.
      rows_meet: whether an item depends on the rows of other devices, though it is no item of a pair.
    """

    items_fn: Callable[..., Any]
    kind: Items
    model: Model
    has_aux: bool | None = None
    has_state: bool = False
    name: str = "items_fn"
    rows_meet: bool = False

    def apply(self, trained: Any, batch: Any, carried: Any) -> tuple[Any, tuple[dict[str, Any], Any]]:
        """Run the user's function: return the items, and beside them the signals and the state of the model."""
        rest, user_state = carried
        params = self.model.merge(trained, rest)
        out = self.items_fn(params, batch, user_state) if self.has_state else self.items_fn(params, batch)
        items, signals, user_state = self._parts(out, user_state)
        self.kind.check(items, self.name)
        if self.kind.axis_name is not None:  # an item that is equal on all devices has a weight on each of them
            items = as_varying(items, self.kind.axis_name)
        if not self.kind.of_pairs:
            check_leading_axis("batch", batch, jax.tree.leaves(items)[0].shape[0])
        return items, (signals, (self.model.rest_of(params), user_state))

    def _parts(self, out: Any, user_state: Any) -> tuple[Any, dict[str, Any], Any]:
        has_aux = isinstance(out, tuple) if self.has_aux is None else self.has_aux
        names = ["items", *["dict of signals"] * has_aux, *["model_state"] * self.has_state]
        parts: tuple[Any, ...] = out if isinstance(out, tuple) else (out,)
        if len(parts) != len(names) or (has_aux and not isinstance(parts[1], dict)):
            got = jax.tree.map(lambda x: list(jnp.shape(x)), out)
            wanted = f"({', '.join(names)})"
            if len(names) == 1:
                wanted = "items alone, or has_aux=True for signals or has_state=True for a state beside them"
            raise TypeError(f"{self.name} returned {got}, wanted {wanted}.")
        return parts[0], parts[1] if has_aux else {}, parts[-1] if self.has_state else user_state

    def score(self, batch: Any, carried: Any, blocks: int) -> tuple[Any, dict[str, Any]]:
        """Return items and signals without a gradient, a block of rows at a time."""
        trained = jax.lax.stop_gradient(self.model.trained)

        def score_block(block):
            items, (signals, _) = self.apply(trained, block, carried)
            if blocks > 1:
                rows = jax.tree.leaves(items)[0].shape[0]
                for name, signal in signals.items():
                    if any(jnp.shape(x)[:1] != (rows,) for x in jax.tree.leaves(signal)):
                        raise ValueError(f"signal {name!r} has no row for each item, wanted one with micro_batches.")
            return jax.lax.stop_gradient((items, signals))

        if blocks == 1:
            return score_block(batch)
        check_divisor(batch, blocks)
        return scan_blocks(lambda nothing, block: (nothing, score_block(block)), (), batch, blocks)[1]

    def differentiate(
        self, batch: Any, carried: Any, choose: Callable[[Any, dict[str, Any]], Choice], *, recheck: bool = True
    ) -> Passed:
        """Do one pass forward and backward, with the weights that `choose(items, signals)` returns.

        If the gradient is not finite and `recheck` is set, a second pass leaves out what has no weight.
        """
        kind = self.kind
        trained = self.model.trained if kind.axis_name is None else as_varying(self.model.trained, kind.axis_name)
        items, vjp, (signals, new_carried) = jax.vjp(lambda t: self.apply(t, batch, carried), trained, has_aux=True)
        items = jax.lax.stop_gradient(items)
        choice = choose(items, signals)
        value, cotangent = kind.cotangent(items, choice.start, choice.weights, choice.signals)
        (grads,) = vjp(cotangent)
        if recheck:
            broken = any_device(not_finite(grads))
            has_tokens = any(x.ndim == 2 for x in jax.tree.leaves(items))
            if not kind.of_pairs and has_tokens:  # a row cannot be overwritten for one of its tokens only
                whole = jax.tree.map(whole_rows, items, choice.weights)
                weights = jax.tree.map(lambda new, old: jnp.where(broken, new, old), whole, choice.weights)
                choice = choice._replace(weights=weights)
                value, cotangent = kind.cotangent(items, choice.start, choice.weights, choice.signals)
            again = functools.partial(self._without_zeros, trained, batch, carried, choice.weights, cotangent)
            grads = branch(broken, again, lambda: grads)
        grads = zero_unless(self._has_weight(choice.weights), grads)
        return Passed(value, grads, items, choice, signals, new_carried, *kind.counts(choice.start, items))

    def _without_zeros(self, trained: Any, batch: Any, carried: Any, weights: Any, cotangent: Any) -> Any:
        """Return the gradient of a batch without the rows of weight 0, for each array of items by itself."""
        structure = jax.tree.structure(weights)

        def of_one(number, own_weights, own_cotangent, columns_are_others=False):
            rows = without_hidden(batch, own_weights, self.kind, columns_are_others=columns_are_others)
            one = lambda t: structure.flatten_up_to(self.apply(t, rows, carried)[0])[number]  # noqa: E731
            grads = zero_unless(self._has_weight(own_weights), jax.vjp(one, trained)[1](own_cotangent)[0])
            if columns_are_others or not (self.kind.of_pairs and columns_may_hold_the_batch(batch, *own_weights.shape)):
                return grads
            last = functools.partial(of_one, number, own_weights, own_cotangent, True)
            return branch(any_device(not_finite(grads)), last, lambda: grads)

        parts = zip(structure.flatten_up_to(weights), structure.flatten_up_to(cotangent))
        total, *others = [of_one(number, *part) for number, part in enumerate(parts)]
        for other in others:
            total = jax.tree.map(jnp.add, total, other)
        return total

    def _has_weight(self, weights: Any) -> jax.Array:
        has_weight = count(jax.tree.map(lambda w: w != 0, weights)) > 0
        return any_over(has_weight, self.kind.axis_name) if self.kind.of_pairs or self.rows_meet else has_weight

    def differentiate_blocks(self, batch: Any, weights: Any, carried: Any, blocks: int, *, recheck: bool) -> Passed:
        """Do passes over blocks of rows with given weights, and add up their gradients in float32 at least.

        With `recheck`, all is done again if the sum is not finite, and each block that made it so without the rows of
        weight 0. To look at each block at once would cost a copy of its gradient, a tenth of a step on few rows.
        """
        if blocks == 1:
            return self._one_block(batch, weights, carried, recheck)
        check_divisor(batch, blocks)
        passed = self._sum_of_blocks(batch, weights, carried, blocks, False)
        if not recheck:
            return passed
        again = functools.partial(self._sum_of_blocks, batch, weights, carried, blocks, True)
        checked = branch(any_device(not_finite(passed.grads)), again, lambda: passed)
        return checked._replace(carried=passed.carried)

    def _one_block(self, block: Any, weights: Any, carried: Any, recheck: bool) -> Passed:
        def keep(items, signals):
            self._check_as_scored(items, weights)
            return Choice(weights, finite_only(items, weights), (), {})

        return self.differentiate(block, carried, keep, recheck=recheck)

    def _sum_of_blocks(self, batch: Any, weights: Any, carried: Any, blocks: int, recheck: bool) -> Passed:
        one_block = functools.partial(self._one_block, recheck=recheck)

        def sums(passed):
            wide = jax.tree.map(lambda g: g.astype(wide_dtype(g.dtype)), passed.grads)
            return passed.value, wide, passed.weighted, passed.finite

        def add(carry, block):
            total, carried = carry
            rows, row_weights = block
            passed = one_block(rows, row_weights, carried)
            return (jax.tree.map(jnp.add, total, sums(passed)), passed.carried), passed._replace(
                value=(), grads=(), carried=(), weighted=(), finite=()
            )

        first, first_weights = first_block((batch, weights), blocks)
        shapes = jax.eval_shape(one_block, first, first_weights, carried)
        if jax.tree.structure(shapes.carried) != jax.tree.structure(carried):
            raise TypeError("items_fn changes the structure of its state, wanted the same in every micro-batch.")
        kinds = [jax.tree.map(_kind, tree) for tree in (shapes.carried, carried)]
        if kinds[0] != kinds[1]:
            changed = [f"{new}, wanted {old}" for new, old in zip(*map(jax.tree.leaves, kinds)) if new != old]
            raise TypeError(f"items_fn returned a state with {changed[0]} as it was given, in every micro-batch.")
        zeros = jax.tree.map(lambda t: jnp.zeros_like(t, dtype=wide_dtype(t.dtype)), self.model.trained)
        scalars = [jnp.zeros((), x.dtype) for x in (shapes.value, shapes.weighted, shapes.finite)]
        start = (scalars[0], zeros, *scalars[1:])
        start = varying_like(start, (shapes.value, shapes.grads, shapes.weighted, shapes.finite))
        begin = start, varying_like(carried, shapes.carried)
        ((value, wide, weighted, finite), carried), found = scan_blocks(add, begin, (batch, weights), blocks)
        grads = jax.tree.map(lambda g, t: g.astype(t.dtype), wide, self.model.trained)
        return found._replace(value=value, grads=grads, carried=carried, weighted=weighted, finite=finite)

    def _check_as_scored(self, items: Any, weights: Any) -> None:
        shapes = [jax.tree.map(lambda x: list(jnp.shape(x)), tree) for tree in (items, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{self.name} returned {shapes[0]} for a block of weights {shapes[1]}, wanted one shape.")


def _kind(x: Any) -> str:
    return f"{x.dtype if hasattr(x, 'dtype') else jnp.result_type(x)}{list(jnp.shape(x))}"


def whole_rows(items: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weights, 0 in rows that hold a token that is not finite; other items are rows by themselves."""
    if items.ndim == 1:
        return weights
    return jnp.where(jnp.all(jnp.isfinite(items), axis=1)[:, None], weights, 0)


def finite_only(items: Any, weights: Any) -> Any:
    """Return the weights, 0 where the item is not finite."""
    return jax.tree.map(lambda x, w: jnp.where(jnp.isfinite(x), w, 0), items, weights)


def heaviest(
    batch: Any, weights: Any, k: int, rows_axis: RowsAxis, axis_name: str | None
) -> tuple[Any, Any, jax.Array]:
    """Return the k heaviest rows, or this device's share of them, their weights, and the indices of all k."""
    mass = row_mass(weights)
    if axis_name is None:
        check_count("gather", k, mass.shape[0], "the number of rows")
        (rows, row_weights), top, indices = take((batch, weights), mass, k, rows_axis=rows_axis)
    else:
        mass = gather_rows(mass, axis_name)
        check_count("gather", k, mass.shape[0], "the number of rows")
        devices = axis_size(axis_name)
        if k % devices:
            raise ValueError(f"gather is {k}, wanted a multiple of the {devices} devices of {axis_name!r}.")
        top, indices = heaviest_rows(mass, k)
        rows, row_weights = jax.tree.map(lambda x: own_taken_rows(x, indices, axis_name), (batch, weights))
        top = own_rows(top, k // devices, axis_name)

    def without_repeats(w):
        empty = shard_like(w if w.ndim == 1 else w[:, 0], top) == 0
        return jnp.where(jnp.expand_dims(empty, range(1, w.ndim)), 0, w)

    return rows, jax.tree.map(without_repeats, row_weights), indices


def check_divisor(batch: Any, blocks: int) -> None:
    """Raise unless the rows of the batch can be cut into as many equal blocks."""
    rows = number_of_rows(batch)
    if rows % blocks:
        raise ValueError(f"micro_batches is {blocks}, wanted a divisor of the {rows} rows.")


def weights_of_batch(row_weights: Any, indices: jax.Array, like: Any, axis_name: str | None) -> Any:
    """Return the weights of the batch that the rows have which were differentiated, 0 elsewhere."""

    def scatter(rows, weights):
        if axis_name is None:
            whole = jnp.zeros(weights.shape, rows.dtype).at[indices].add(replicate(rows))
            return shard_like(weights, whole)
        whole = jnp.zeros((weights.shape[0] * axis_size(axis_name), *weights.shape[1:]), rows.dtype)
        return own_rows(whole.at[indices].add(gather_rows(rows, axis_name)), weights.shape[0], axis_name)

    return jax.tree.map(scatter, row_weights, like)


def wide_dtype(dtype: Any) -> Any:
    """Return the dtype in which gradients are added up: float32 at least."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def zero_unless(keep: jax.Array, grads: Any) -> Any:
    """Return the gradients, 0 where `keep` is False."""
    return jax.tree.map(lambda g: jnp.where(keep, g, jnp.zeros_like(g)), grads)
