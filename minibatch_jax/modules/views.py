"""Self-supervision from three views with one online network and two targets: TriBYOL.

Two targets that start equal and are updated together stay equal, and the method becomes BYOL with three views. The two
targets are therefore updated in turn.

References:
  Grill et al., Bootstrap your own latent: a new approach to self-supervised learning, 2020 (arXiv 2006.07733).
  Li et al., TriBYOL: triplet BYOL for self-supervised representation learning, 2022 (arXiv 2206.03012).

Method: TriBYOL
Paper: 2206.03012
Experiment: small_batch_self_supervision
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._extras import require
from minibatch_jax.mining.distances import normalize_embeddings

require("flax.nnx", "modules")

from flax import nnx


class Targets(NamedTuple):
    """Two moving averages of the online parameters.

    Attributes:
      first: pytree like the online parameters, the first target.
      second: pytree like the online parameters, the second target.
      num_updates: `[]` int32, updates so far.
    """

    first: Any
    second: Any
    num_updates: jax.Array


class Projector(nnx.Module):
    """Linear, batch norm, ReLU, linear: the projector and the predictor of BYOL.

    Args:
      features: width of the input.
      hidden: width in between.
      out: width of the output.
      rngs: for the parameters.

    Raises:
      TypeError: if a size is not a static int.
      ValueError: if a size is below 1.

    Examples:
      >>> from flax import nnx
      >>> Projector(8, rngs=nnx.Rngs(0))(jnp.ones((4, 8))).shape
      (4, 128)
    """

    def __init__(self, features: int, *, hidden: int = 512, out: int = 128, rngs: nnx.Rngs):
        for name, value in (("features", features), ("hidden", hidden), ("out", out)):
            check_count(name, value)
        self.expand, self.contract = nnx.Linear(features, hidden, rngs=rngs), nnx.Linear(hidden, out, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, features]` to `[B, out]`."""
        return self.contract(nnx.relu(self.norm(self.expand(x))))


def init_targets(parameters: Any) -> Targets:
    """Start both targets at the online parameters.

    Args:
      parameters: pytree of the encoder and projector, such as `nnx.state(model, nnx.Param)`; it may hold the statistics
        of batch norms as well.

    Returns:
      `Targets`; keep them in the training state.

    Examples:
      >>> init_targets({"w": jnp.ones(2)}).second["w"].tolist()
      [1.0, 1.0]
    """
    copy = jax.tree.map(jnp.asarray, parameters)
    return Targets(copy, copy, jnp.zeros((), jnp.int32))


def update_targets(
    targets: Targets, parameters: Any, decay: float | jax.Array = 0.996, *, alternate: bool = True
) -> Targets:
    """Move the targets towards the online parameters, after the optimizer's step.

    Args:
      targets: the targets so far.
      parameters: online parameters, a pytree of the structure given to `init_targets`.
      decay: share of the old target in the average, in [0, 1], may be traced.
      alternate: True updates the first target at even updates and the second at odd ones. False updates both every
        time, so that they stay equal.

    Returns:
      The new targets.

    Raises:
      ValueError: if the decay is out of range.

    Examples:
      >>> targets = update_targets(init_targets({"w": jnp.ones(1)}), {"w": jnp.zeros(1)}, 0.75)
      >>> targets.first["w"].tolist(), targets.second["w"].tolist()
      ([0.75], [1.0])
    """
    check_number("decay", decay, 0, 1)
    turn = targets.num_updates % 2

    def moved(old: Any, due: jax.Array | bool) -> Any:
        return jax.tree.map(
            lambda o, p: jnp.where(due, (decay * o + (1 - decay) * p).astype(o.dtype), o), old, parameters
        )

    first_due, second_due = (turn == 0, turn == 1) if alternate else (True, True)
    return Targets(moved(targets.first, first_due), moved(targets.second, second_due), targets.num_updates + 1)


def byol_losses(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 2 - 2 cos(prediction, target) of each example. The targets are constants for the gradient.

    Args:
      predictions: `[B, D]`, floating point.
      targets: `[B, D]`, same dtype.

    Returns:
      `[B]` in [0, 4].

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if shapes do not match.

    References:
      Grill et al., Bootstrap your own latent, 2020 (arXiv 2006.07733).

    Examples:
      >>> byol_losses(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
      [0.0, 2.0]
    """
    check_shape("predictions", predictions, (None, None))
    check_shape("targets", targets, predictions.shape)
    check_floating("predictions", predictions)
    check_floating("targets", targets)
    fixed = jax.lax.stop_gradient(targets)
    return 2 - 2 * jnp.sum(normalize_embeddings(predictions) * normalize_embeddings(fixed), axis=1)


def tri_byol_losses(
    predictions: tuple[jax.Array, jax.Array, jax.Array],
    first_targets: tuple[jax.Array, jax.Array],
    second_targets: tuple[jax.Array, jax.Array],
    *,
    symmetric: bool = True,
) -> jax.Array:
    """Return the TriBYOL losses: view 1 against view 2 by the first target network, against view 3 by the second.

    Args:
      predictions: predictions of the online network for views 1, 2 and 3, each `[B, D]`.
      first_targets: projections of views 1 and 2 by the first target network, each `[B, D]`.
      second_targets: projections of views 1 and 3 by the second target network, each `[B, D]`.
      symmetric: True predicts in both directions and averages the two losses. False predicts from view 1 only.

    Returns:
      `[B]` in [0, 8], one loss for each example.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not match.

    References:
      Li et al., TriBYOL, 2022 (arXiv 2206.03012).

    Examples:
      >>> z = jnp.array([[1.0, 0.0]])
      >>> tri_byol_losses((z, z, z), (z, z), (-z, -z)).tolist()
      [4.0]
    """
    p1, p2, p3 = predictions
    forth = byol_losses(p1, first_targets[1]), byol_losses(p1, second_targets[1])
    if not symmetric:
        return forth[0] + forth[1]
    back = byol_losses(p2, first_targets[0]), byol_losses(p3, second_targets[0])
    return (forth[0] + back[0]) / 2 + (forth[1] + back[1]) / 2
