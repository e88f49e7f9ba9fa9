"""Which signals a weight transformation wants and does not get."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from minibatch_jax import weights_of

WANTED = re.compile(r"wanted '(\w+)'")


def missing_signals(
    transformation: optax.GradientTransformationExtraArgs,
    weights: jax.Array | jax.ShapeDtypeStruct,
    signals: Mapping[str, Any],
) -> list[str]:
    """Return the signals without which a transformation cannot run, as its errors name them; nothing is computed.

    Args:
      transformation: of the weights.
      weights: of any shape that the transformation takes, or their shape and dtype.
      signals: those that there are, name -> array or its shape and dtype.

    Returns:
      Names of the signals that it also wants, in the order in which it asks for them; empty if it runs.

    Raises:
      TypeError: if it fails for another reason than a missing signal.
      ValueError: if it does not fit the shapes.
    """
    given, missing = dict(signals), []
    while True:
        try:
            jax.eval_shape(lambda w, s: weights_of(transformation, w, **s), weights, given)
            return missing
        except (TypeError, ValueError) as error:
            wanted = WANTED.search(str(error))
            if wanted is not None and wanted[1] not in given:
                missing.append(wanted[1])
                given[wanted[1]] = weights  # has another shape or dtype perhaps: only the next missing name counts now
            elif missing:
                return missing
            else:
                raise
