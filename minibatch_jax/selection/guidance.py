"""Weights by a small network that learns which examples move the parameters as trusted ones would (GORL).

In offline reinforcement learning, a constraint keeps the policy at the actions of the data, and how much of it each
transition should get depends on who acted. A few hundred transitions of an expert tell: a transition is worth the
constraint if its gradient points along theirs. The network sees features of a transition and generalizes what the
gradients say of those before. Outside reinforcement learning the same rule weighs examples with wrong labels.

References:
  Yang et al., Hundreds guide millions: adaptive offline reinforcement learning with expert guidance, 2023
  (arXiv 2309.01448).
  Shu et al., Meta-Weight-Net: learning an explicit mapping for sample weighting, NeurIPS 2019 (arXiv 1902.07379).

Method: weights learned from guiding examples (GORL)
Paper: 2309.01448, 1902.07379
Experiment: guided_constraints
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import measurable_rows
from minibatch_jax.weights import weight_transformation


class GuidanceState(NamedTuple):
    """State of `reweigh_by_guidance`.

    Attributes:
      params: kernels and biases of the network, float32.
      opt_state: state of its optimizer.
    """

    params: list[tuple[jax.Array, jax.Array]]
    opt_state: Any


def reweigh_by_guidance(
    num_features: int,
    key: jax.Array | int,
    *,
    optimizer: optax.GradientTransformation | None = None,
    hidden: int = 32,
    floor: float = 0.05,
) -> optax.GradientTransformationExtraArgs:
    """Weigh examples by a network that learns from alignments. Signals: `features` [B, D], `alignments` [B].

    The alignments are those of `scores.alignment`: inner products of each example's gradient with the gradient of the
    loss on the guiding examples. A step of the parameters along weighted examples changes the guiding loss by minus the
    sum of weights times alignments, to first order, so at each update the network takes a step that raises this sum,
    and then weighs the batch. New weights are the old ones times the output of the network, scaled to their sum.

    The output is a sigmoid plus the floor, without which examples could lose their weight for good. Without weight
    decay, alignments that are positive on average drive it to 1 for all examples, and it learns no more. Alignments are
    divided by their root mean square over the batch, so that their scale does not matter. The features should be values
    that were not differentiated, such as losses, and of order one.

    In offline reinforcement learning each row has two losses: return them as a dict from `losses_fn`, and weigh one of
    them by `optax.masked(reweigh_by_guidance(...), {"constraint": True, "improvement": False},
    mask_compatible_extra_args=True)`.

    Args:
      num_features: D, static.
      key: typed PRNG key or int seed of the network's parameters.
      optimizer: of the network; by default SGD with a rate of 0.5, momentum 0.9 and weight decay 0.01.
      hidden: width of its one hidden layer, static.
      floor: added to the output, in [0, 1].

    Returns:
      A transformation over `[B]` weights. Examples with features or alignments that are not finite teach nothing; those
      without finite features, or with features too large to square, get weight 0.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, a signal is not floating point.
      ValueError: if a count is below 1, the floor is not in [0, 1] or, in `update`, shapes do not match.

    References:
      Yang et al., 2023 (arXiv 2309.01448).

    Examples:
      >>> tx = reweigh_by_guidance(1, key=0)
      >>> features, alignments = jnp.array([[-1.0], [1.0]]), jnp.array([-1.0, 1.0])
      >>> state = tx.init(jnp.ones(2))
      >>> for _ in range(20):
      ...   weights, state = tx.update(jnp.ones(2), state, features=features, alignments=alignments)
      >>> bool(weights[1] > 2 * weights[0]), round(float(weights.sum()), 4)
      (True, 2.0)
    """
    check_count("num_features", num_features)
    check_count("hidden", hidden)
    check_number("floor", floor, 0, 1)
    first, second = jax.random.split(as_key(key))
    learner = optimizer
    if learner is None:
        learner = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.5, momentum=0.9))

    def init(weights):
        params = [
            (jax.random.normal(first, (num_features, hidden)) * (2 / num_features) ** 0.5, jnp.zeros(hidden)),
            (jax.random.normal(second, (hidden, 1)) * hidden**-0.5, jnp.zeros(1)),
        ]
        params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        return GuidanceState(params, learner.init(params))

    def update(weights, state, params=None, *, features, alignments, **extra_args):
        check_shape("features", features, (*weights.shape, num_features))
        check_shape("alignments", alignments, weights.shape)
        rows, usable = measurable_rows(features.astype(jnp.float32))
        masses = jnp.where(usable, weights, 0).astype(jnp.float32)
        teaches = (masses != 0) & jnp.isfinite(alignments)
        slopes = jnp.where(teaches, alignments.astype(jnp.float32), 0)
        slopes = slopes / nonzero(jnp.max(jnp.abs(slopes)))  # no square overflows
        slopes = slopes / nonzero(jnp.sqrt(jnp.sum(jnp.square(slopes)) / nonzero(jnp.sum(teaches, dtype=jnp.float32))))

        def guiding_loss(params):
            return -jnp.sum(masses * slopes * _outputs(params, rows)) / nonzero(jnp.sum(masses))

        grads = jax.grad(guiding_loss)(state.params)
        updates, opt_state = learner.update(grads, state.opt_state, state.params)
        learned: Any = optax.apply_updates(state.params, updates)
        outputs = masses * (floor + _outputs(learned, rows))
        new_weights = (outputs * (jnp.sum(masses) / nonzero(jnp.sum(outputs)))).astype(weights.dtype)
        return new_weights, GuidanceState(learned, opt_state)

    return weight_transformation(init, update)


def _outputs(params: list[tuple[jax.Array, jax.Array]], rows: jax.Array) -> jax.Array:
    (kernel, bias), (last, offset) = params
    return jax.nn.sigmoid(jax.nn.relu(rows @ kernel + bias[None]) @ last + offset[None])[:, 0]
