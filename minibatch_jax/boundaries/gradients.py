"""Boundary from weights to parameters: the gradient of a mini-batch whose items carry selected weights.

With `encode`, items compare the embeddings of a batch whose activations do not fit into memory.

Method: contrastive batches beyond memory (GradCache)
Paper: 2101.06983
Experiment: speed grad_cache
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_transformation
from minibatch_jax.boundaries._cached_gradients import checked_encoder
from minibatch_jax.boundaries._engine import Choice, Step, finite_only, heaviest, weights_of_batch, zero_unless
from minibatch_jax.boundaries._items import KINDS, Items, count, sum_tree
from minibatch_jax.boundaries._models import fixed_model, split_model
from minibatch_jax.compose import effective_sample_size
from minibatch_jax.devices import RowsAxis, bound_axis, gather_rows, sum_over


class MinibatchAux(NamedTuple):
    """What happened in a step. The scalars can go to a logger as they are; over a mapped axis they count all devices.

    Where `items_fn` returns a dict, so are the fields that have one entry for each array of items.

    Attributes:
      items: what `items_fn` returned for the whole batch; with `score_fn` for the rows that were differentiated.
      weights: weight of each item of the whole batch in the gradient, 0 for what was not differentiated.
      signals: what `items_fn` (or `score_fn`) returned beside the items, for the transformation.
      kept: `[]` float32 in [0, 1], fraction of the items of non-zero weight that the step began with which kept one.
      effective_sample_size: `[]`, of the weights.
      dropped: `[]` int32, items that had a weight and no finite value, and so lost the weight; with `score_fn` the
        scores that were not finite, too.
      indices: `[gather]` int32, rows that were differentiated; None without `gather` or with `encode`.
      model_state: what `items_fn` returned as its new state; None without `has_state`.
    """

    items: Any
    weights: Any
    signals: dict[str, Any]
    kept: Any
    effective_sample_size: Any
    dropped: Any
    indices: jax.Array | None
    model_state: Any


def value_and_grad(
    items_fn: Callable[..., Any],
    transformation: optax.GradientTransformation,
    *,
    items: str = "losses",
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    has_aux: bool = False,
    has_state: bool = False,
    score_fn: Callable[..., Any] | None = None,
    regularizer: Callable[[Any], jax.Array] | None = None,
    wrt: Any = None,
    gather: int | None = None,
    micro_batches: int = 1,
    encode: Callable[[Any, Any], Any] | None = None,
    block_size: int | None = None,
    rows_axis: RowsAxis = None,
    axis_name: str | None = None,
) -> Callable[..., tuple[tuple[jax.Array, MinibatchAux], Any, Any]]:
    """Make a function that returns the value and gradient of weighted items, with weights from a transformation.

    Without `gather`, one forward pass gives the items, the transformation changes their weights, and one backward pass
    applies the new weights. With `gather=k`, a forward pass without gradient gives the losses, and only the k heaviest
    rows are differentiated, which saves time if k is well below B. The weights stay as they are, so that what lies on
    further rows is lost; `aux.kept` and `aux.weights` show it.

    `items` says what `items_fn` returns, under which name the transformation sees it, and with which weights it starts:

    - `"losses"`: `[B]` or `[B, T]`; weights start at 1/number of items.
    - `"pair_losses"`: `[B0, B1]`; weights start at 1/(B0 B1).
    - `"distances"`: `[A, M]`; weights start at 1. With `loss`, the gradient is that of
      `loss(distances, positives, negatives)` on the pairs whose weight is not 0, each slope times the weight of its
      pair, and the value is that loss. Without `loss`, the gradient is that of the sum of weight x distance over the
      positives minus that over all others, which is right for triplet miners; the value is this sum, and lacks the
      margin. `positives` and `negatives` are signals, or made of `labels` and `reference_labels`.
    - `"similarities"`: `[A, M]`; as distances with the opposite sign. The transformation sees 1 - similarity as
      `distances`.

    Items that are not finite get weight 0, and no example without weight reaches the gradient: if such an example makes
    the gradient non-finite, because 0 * infinity is NaN, a second pass runs without it. Under `vmap` the second pass
    always runs and doubles the cost (triples it with `micro_batches`). Where examples influence each other in the model
    (BatchNorm, in-batch negatives, BatchFormer), examples without weight still influence the others; `gather` leaves
    them out. If no item that had a weight is finite, the value is NaN and the gradient 0. The value is for reports: do
    not differentiate it.

    With `encode` and `block_size`, embeddings of all rows are computed in blocks without a gradient, `items_fn`, the
    transformation and `loss` see these, and then blocks of rows are encoded again with a gradient, those alone in which
    an embedding has one. The gradient is that of the whole batch, whatever `items` are. It needs the memory of a block
    and of what `items_fn` computes: for losses without a matrix of all pairs see `mining.blockwise_losses`.

    Args:
      items_fn: `items_fn(params, batch) -> items`, floating point; `(items, signals)` with `has_aux`, where the dict of
        signals (such as `logits`) goes to the transformation. `items_fn(params, batch, model_state)` returns the new
        state last with `has_state`. With `encode` it is `items_fn(params, embeddings, batch)`. A dict of items (several
        tasks) has a dict of weights; the value is the sum.
      transformation: weight transformation, with its own state: `transformation.init(weights)`, where the weights have
        the shape of the items. Do not chain it with the optimizer of the parameters.
      items: `"losses"`, `"pair_losses"`, `"distances"` or `"similarities"`.
      loss: of the items and the bool masks of positives and negatives, all `[A, M]`. It must fit the items: losses of
        `mining` name their first argument, such as `contrastive_loss` of distances and `supcon_loss` of similarities.
        Weights multiply its slopes, so no `normalize()` belongs behind the miner.
      has_aux: whether `items_fn` returns signals.
      has_state: whether `items_fn` takes and returns a state, such as the statistics of BatchNorm. The transformation
        does not see it. Only the pass that is differentiated changes it, with micro-batches once in each. An nnx module
        needs no such state: its own is updated in place. Over a mapped axis each device has its own new state: average
        it with `jax.lax.pmean`.
      score_fn: `score_fn(score_params, batch) -> losses [B]` or `(losses, signals)`, a cheaper score (a proxy, a lower
        resolution) that the transformation sees in place of the losses; no gradient flows through it.
      regularizer: `regularizer(params) -> []`, added with weight 1 whatever the selection does.
      wrt: what to differentiate, all by default: a tree of bools (a prefix of `params`), or a function of the path of a
        parameter, such as `lambda path: "lora" in path` of `"decoder/lora_a"`; for an nnx module a filter of nnx. All
        else, and all that is no floating-point array, has None as its gradient.
      gather: number of rows to differentiate, static, at most B; for losses. With `encode` for all items: how many rows
        are left by the transformation. They are packed into as few blocks as hold them, so that an embedding may depend
        on no other row of its block. It changes no gradient: if more rows have one, all blocks that hold some are done.
      micro_batches: number of equal blocks in which rows are scored and differentiated, to save memory at the price of
        one more forward pass; for losses.
      encode: `encode(params, block) -> embeddings`, floating-point `[b, ...]` or a tree of them (two towers), of any
        number of rows. It runs twice on each block and must return the same: a mutable state is an error, and random
        numbers come from keys in the batch, one for each row. Of m blocks, block j has the rows j, j + m, j + 2m, ...
      block_size: rows of a block, static; it divides the rows of a device.
      rows_axis: with `gather` on a mesh of Auto axes, the one (or a tuple of those) along which the rows of the batch
        lie; by default the only axis; () if every device holds all rows.
      axis_name: the axis over which `shard_map` or `pmap` shards the batch. Weights then start at 1/(global number);
        value and gradients are summed over the devices; wrap the transformation in `across` for a global choice. With
        `gather`, every device differentiates its share of the k rows. Distances are `[A, M]` of the anchors of one
        device and the references of all.

    Returns:
      `fn(params, batch, state, *, weights=None, model_state=None, score_params=None, **signals)` which returns
      `((value, MinibatchAux), grads, state)`: `weights` replaces those at the start (0 on padding), `score_params` goes
      to `score_fn` in place of `params`, `signals` go to the transformation. The value is float32 (float64 with x64);
      gradients have the dtype of their parameters.

    Raises:
      TypeError: if an argument has a wrong type, items are not floating point, `items_fn` does not return what
        `has_aux` and `has_state` say, or the pairs have neither labels nor masks.
      ValueError: if shapes do not fit, arguments contradict each other, `gather` is not in [1, B] or no multiple of the
        number of devices, `micro_batches` or `block_size` does not divide the rows, a signal has two sources, or a
        module changes its state though it is encoded twice.

    References:
      Gao et al., Scaling deep contrastive learning batch size under memory limited setup (arXiv 2101.06983): `encode`.

    Examples:
      >>> from minibatch_jax import mining
      >>> from minibatch_jax.selection import keep_bottomk
      >>> loss_fn = lambda w, batch: (w * batch["x"] - batch["y"]) ** 2
      >>> selection = keep_bottomk(2)
      >>> batch = {"x": jnp.ones(3), "y": jnp.array([1.0, 2.0, 90.0])}
      >>> (value, aux), grad, state = value_and_grad(loss_fn, selection)(0.0, batch, selection.init(jnp.zeros(3)))
      >>> round(float(value), 4), float(grad), round(float(aux.kept), 4)
      (1.6667, -2.0, 0.6667)

      A loss of chosen pairs; each anchor keeps the pairs that multi-similarity mining finds informative:

      >>> similarities = lambda w, x: mining.cosine_similarity(jnp.stack([x, w * jnp.ones_like(x)], axis=1))
      >>> miner = mining.mine_multi_similarity()
      >>> fn = value_and_grad(similarities, miner, items="similarities", loss=mining.supcon_loss)
      >>> x, labels = jnp.array([1.0, 1.2, 3.0]), jnp.array([0, 0, 1])
      >>> (value, aux), grad, state = fn(2.0, x, miner.init(jnp.ones((3, 3))), labels=labels)
      >>> round(float(value), 3), round(float(grad), 3)
      (0.332, 0.008)
    """
    _check_arguments(transformation, items, loss, score_fn, gather, micro_batches, encode)
    options = {"micro_batches": micro_batches > 1, "score_fn": score_fn, "has_state": has_state}
    encoder = checked_encoder(encode, block_size, gather, rows_axis, options)
    update = optax.with_extra_args_support(transformation).update

    def fn(params, batch, state, *too_many, weights=None, model_state=None, score_params=None, **signals):
        if too_many:
            raise TypeError("fn takes (params, batch, state): put several arrays into one batch, such as (x, y).")
        batch = jax.tree.map(jnp.asarray, batch)
        kind = Items(items, loss, bound_axis(axis_name))
        step = Step(items_fn, kind, split_model(params, wrt), has_aux, has_state)
        scorer = step
        if score_fn is not None:
            fixed = fixed_model(params if score_params is None else score_params)
            scorer = Step(score_fn, kind, fixed, name="score_fn")
        if score_params is not None and score_fn is None:
            raise TypeError("score_params is given without score_fn, wanted both or neither.")
        if model_state is not None and not has_state:
            raise TypeError("model_state is given without has_state=True, wanted both or neither.")
        carried, scored = (step.model.rest, model_state), (scorer.model.rest, model_state)

        def choose(scores, own_signals):
            items_seen = kind.signals(scores).keys()
            clash = (own_signals.keys() & signals.keys()) | (items_seen & (own_signals.keys() | signals.keys()))
            if clash:
                raise ValueError(f"signals {sorted(clash)} come from items_fn and from the caller, wanted one source.")
            start = kind.start(scores, weights)
            _check_state(transformation, state, start)
            seen = {**own_signals, **signals, **kind.signals(scores)}
            chosen, new_state = update(start, state, None, **seen)
            return Choice(start, finite_only(scores, chosen), new_state, seen)

        if encoder is not None or (gather is None and micro_batches == 1 and score_fn is None):
            if encoder is None:
                passed = step.differentiate(batch, carried, choose)
            else:
                passed = encoder.differentiate(step, batch, choose)
            choice, found, own_signals, indices = passed.choice, passed.items, passed.signals, None
            counts = [(passed.weighted, passed.finite)]
        else:
            found, own_signals = scorer.score(batch, scored, micro_batches)
            choice = choose(found, own_signals)
            rows, row_weights, indices = batch, choice.weights, None
            if gather is not None:
                rows, row_weights, indices = heaviest(batch, choice.weights, gather, rows_axis, kind.axis_name)
            scored_alike = score_fn is None and not jax.tree.leaves(carried)  # then all gathered rows are finite
            recheck = gather is None or not scored_alike
            passed = step.differentiate_blocks(rows, row_weights, carried, micro_batches, recheck=recheck)
            counts = [kind.counts(choice.start, found), (passed.weighted, passed.finite)]
            weights_used = passed.choice.weights
            if indices is not None:
                weights_used = weights_of_batch(weights_used, indices, choice.weights, kind.axis_name)
            choice = choice._replace(weights=weights_used)

        value, grads, counts = sum_over((passed.value, passed.grads, counts), kind.axis_name)
        diverged = jnp.any(jnp.stack([(weighted > 0) & (finite == 0) for weighted, finite in counts]))
        if regularizer is not None:
            extra = jax.value_and_grad(lambda t, r=regularizer: r(step.model.merge(t, step.model.rest)))
            penalty, slopes = extra(step.model.trained)
            value, grads = value + penalty.astype(value.dtype), jax.tree.map(jnp.add, grads, slopes)
            grads = zero_unless(~diverged, grads)  # without a regularizer no weight is left that could make one
        value, grads = jnp.where(diverged, jnp.nan, value), step.model.gradient(grads)
        rest, new_model_state = passed.carried
        step.model.write(rest)
        aux = MinibatchAux(
            items=found if score_fn is None else passed.items,
            weights=choice.weights,
            signals=own_signals,
            kept=jax.tree.map(lambda old, new: _kept(old, new, kind.axis_name), choice.start, choice.weights),
            effective_sample_size=jax.tree.map(lambda w: _effective_size(w, kind.axis_name), choice.weights),
            dropped=sum_tree([weighted - finite for weighted, finite in counts]),
            indices=indices,
            model_state=new_model_state,
        )
        return (value, aux), grads, choice.state

    return fn


def _kept(start: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
    kept, all_items = sum_over((count(weights != 0), count(start != 0)), axis_name)
    return kept / jnp.maximum(all_items, 1)


def _effective_size(weights: jax.Array, axis_name: str | None) -> jax.Array:
    return effective_sample_size(weights if axis_name is None else gather_rows(weights, axis_name))


def _check_arguments(
    transformation: Any, items: str, loss: Any, score_fn: Any, gather: int | None, micro_batches: int, encode: Any
) -> None:
    check_transformation(transformation)
    check_choice("items", items, KINDS)
    if loss is not None and items not in ("distances", "similarities"):
        raise ValueError(f"loss is given with items={items!r}, wanted items='distances' or 'similarities'.")
    if gather is not None:
        check_count("gather", gather)
    check_count("micro_batches", micro_batches)
    if items != "losses" and encode is None:
        hints = {"gather": "; to see fewer pairs draw them with sample_pairs", "micro_batches": ", or encode"}
        for name, given in (("gather", gather), ("micro_batches", micro_batches > 1), ("score_fn", score_fn)):
            if given:
                raise ValueError(f"{name} is given with items={items!r}, wanted items='losses'{hints.get(name, '')}.")


def _check_state(transformation: Any, state: Any, weights: Any) -> None:
    wanted = jax.tree.structure(jax.eval_shape(transformation.init, weights))
    if jax.tree.structure(state) != wanted:
        raise TypeError(
            f"state has the structure {jax.tree.structure(state)}, wanted {wanted}: what transformation.init returns "
            f"for weights of the shape {jax.tree.map(lambda w: list(jnp.shape(w)), weights)}."
        )
