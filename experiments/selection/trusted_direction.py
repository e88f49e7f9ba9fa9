"""Weights from the gradient of a few trusted examples, where many labels are wrong.

Claim: examples weighed by how far their gradients point along that of a few examples with right labels (learning to
  reweight examples) make a network robust to wrong labels, better than training on the trusted examples alone or on
  all of them together.
Data: Fashion-MNIST at 14x14 pixels: 10 000 images drawn by the seed, of which 40 % have a wrong label (any other class,
  or the next class), 200 others with right labels, and the test images.
  `python -m experiments.datasets fetch fashion_mnist`.
Command: `python -m experiments trusted_direction`
Minutes: 1 on one CPU core
Expected: test accuracy, and the share of the weight on wrong labels (0.40 of the rows), mean ± standard error over 3
  seeds; wrong labels are any other class, or the next class:

  | arm                                  | any           | weight on wrong | next          | weight on wrong |
  |--------------------------------------|---------------|-----------------|---------------|-----------------|
  | uniform                              | 0.820 ± 0.003 | 0.400 ± 0.001   | 0.694 ± 0.008 | 0.399 ± 0.001   |
  | uniform, same time                   | 0.807 ± 0.005 | 0.400 ± 0.001   | 0.635 ± 0.003 | 0.399 ± 0.000   |
  | uniform, with the trusted, same time | 0.810 ± 0.001 | 0.392 ± 0.001   | 0.654 ± 0.004 | 0.393 ± 0.001   |
  | trusted alone, same time             | 0.743 ± 0.005 | 0               | 0.743 ± 0.005 | 0               |
  | lowest losses                        | 0.834 ± 0.004 | 0.063 ± 0.002   | 0.607 ± 0.006 | 0.286 ± 0.003   |
  | reweigh_by_alignment                 | 0.798 ± 0.002 | 0.165 ± 0.002   | 0.814 ± 0.002 | 0.114 ± 0.004   |
  | reweigh, last layer                  | 0.791 ± 0.005 | 0.164 ± 0.001   | 0.806 ± 0.001 | 0.094 ± 0.003   |
  | keep_by_alignment                    | 0.809 ± 0.002 | 0.122 ± 0.004   | 0.821 ± 0.002 | 0.092 ± 0.004   |

  Reproduced where errors have a pattern. With the next class as the wrong label a low loss says little, and the trusted
  rows say much: 0.82 in place of 0.64 to 0.69 uniform and 0.74 on them alone. The last layer alone loses less than a
  point. Not reproduced where errors are spread over all classes: they cancel out, uniform rows reach 0.82 in as many
  updates, the rows of lowest loss 0.83, and alignments at most 0.81. Keeping the best half is better than weighing by
  the alignment.
Verdict: partly: weights from trusted rows win by far where wrong labels have a pattern, and lose to uniform rows and to
  the lowest losses where they have none.
Tuning: none; SGD with momentum 0.9 and a rate of 0.05, decayed by a cosine, for all arms.
Reference: Ren et al., Learning to reweight examples for robust deep learning, ICML 2018 (arXiv 1803.09050).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, init_mlp, mlp, with_wrong_labels
from experiments.shared.fashion import fashion
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.scores import alignment, last_layer_alignment, last_layer_gradients
from minibatch_jax.selection import keep_bottomk, keep_by_alignment, reweigh_by_alignment

CLASSES = 10
NOISES = ("any", "next")
Align = Callable[[Any, dict[str, jax.Array], dict[str, jax.Array]], jax.Array]


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the weights of the rows alone, but for those of the same time."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/trusted_direction"
    arms: tuple[str, ...] = ()
    examples: int = 10_000
    trusted: int = 200
    noise: float = 0.4
    """share of wrong labels"""
    steps: int = 800
    batch_size: int = 128
    same_time: int = 3
    """updates on uniform rows in the time of one that computes a direction, all alignments and an update"""
    hidden: int = 128
    learning_rate: float = 0.05
    validate: bool = False
    """test on images left out of the training set: for tuning"""


class Problem(NamedTuple):
    """Rows to train on with right and wrong labels, and trusted and test rows: dicts of `x` and `y`."""

    train: dict[str, jax.Array]
    right: jax.Array
    trusted: dict[str, jax.Array]
    test: dict[str, jax.Array]


def main(config: Config):
    """Train all arms with both kinds of wrong labels."""
    pixels = functools.cache(lambda: fashion(2, config.validate))
    problem = functools.cache(lambda kind, seed: make_problem(config, pixels(), kind, seed))
    few, half = round((1 - config.noise) * config.batch_size), config.batch_size // 2
    uniform = functools.partial(train, config, normalize(), None)
    slow = config.same_time * config.steps
    arms = {
        "uniform": functools.partial(uniform, config.steps),
        "uniform, same time": functools.partial(uniform, slow),
        "uniform, with the trusted, same time": functools.partial(uniform, slow, add_trusted=True),
        "trusted alone, same time": functools.partial(uniform, slow, trusted_alone=True),
        "lowest losses": functools.partial(train, config, optax.chain(keep_bottomk(few), normalize()), None, slow),
        "reweigh_by_alignment": functools.partial(train, config, reweigh_by_alignment(), whole, config.steps),
        "reweigh, last layer": functools.partial(train, config, reweigh_by_alignment(), last_layer, config.steps),
        "keep_by_alignment": functools.partial(
            train, config, optax.chain(keep_by_alignment(half), normalize()), whole, config.steps
        ),
    }

    def both(arm):
        def measured(seed):
            made = {kind: arm(problem(kind, seed), jax.random.key(seed)) for kind in NOISES}
            return {f"{kind}_{name}": value for kind, found in made.items() for name, value in found.items()}

        return measured

    better = {f"{kind}_accuracy": "higher" for kind in NOISES}
    return compare(
        config, {name: both(arm) for name, arm in arms.items()}, baseline="uniform, same time", better=better
    )


def losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["y"])


def whole(params: Any, batch: dict[str, jax.Array], trusted: dict[str, jax.Array]) -> jax.Array:
    """Alignments of all parameters with the gradient of the trusted loss."""
    direction = jax.grad(lambda p: jnp.mean(losses(p, trusted)))(params)
    return alignment(losses, params, batch, direction)


def last_layer(params: Any, batch: dict[str, jax.Array], trusted: dict[str, jax.Array]) -> jax.Array:
    """Alignments in the last layer."""
    (residuals, features), (right, inputs) = (of_last_layer(params, rows) for rows in (batch, trusted))
    return last_layer_alignment(residuals, features, inputs.T @ right / len(right), right.mean(0))


def of_last_layer(params: Any, rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Gradients in the logits, and the inputs of the last layer."""
    features = jax.nn.relu(mlp(params[:-1], rows["x"]))
    return last_layer_gradients(mlp(params[-1:], features), rows["y"]), features


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), static_argnames=("add_trusted", "trusted_alone"))
def train(
    config: Config,
    selection: Any,
    align: Align | None,
    steps: int,
    problem: Problem,
    key: jax.Array,
    *,
    add_trusted: bool = False,
    trusted_alone: bool = False,
) -> dict[str, jax.Array]:
    """Test accuracy after training, and the mass of wrong labels among the weights."""
    fn = value_and_grad(losses, selection)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, steps), momentum=0.9)
    rows, right = problem.train, problem.right
    if add_trusted:
        rows = jax.tree.map(lambda *both: jnp.concatenate(both), rows, problem.trusted)
        right = jnp.concatenate([right, problem.trusted["y"]])
    if trusted_alone:
        rows, right = problem.trusted, problem.trusted["y"]

    def step(carry, key):
        params, opt_state, state = carry
        drawn = jax.random.randint(key, (config.batch_size,), 0, len(right))
        batch = jax.tree.map(lambda x: x[drawn], rows)
        signals = {} if align is None else {"alignments": align(params, batch, problem.trusted)}
        (_, aux), grads, state = fn(params, batch, state, **signals)
        wrong = jnp.sum(aux.weights * (batch["y"] != right[drawn]))
        return (*descend(optimizer, grads, params, opt_state), state), wrong

    start, draws = jax.random.split(key)
    params = init_mlp(start, (rows["x"].shape[1], config.hidden, CLASSES))
    state = selection.init(jnp.zeros(config.batch_size))
    (params, *_), wrong = jax.lax.scan(step, (params, optimizer.init(params), state), jax.random.split(draws, steps))
    predicted = jnp.argmax(mlp(params, problem.test["x"]), axis=1)
    return {"accuracy": jnp.mean(predicted == problem.test["y"]), "wrong": jnp.mean(wrong)}


def make_problem(config: Config, pixels: dict[str, Any], kind: Literal["any", "next"], seed: int) -> Problem:
    """Draw the rows and make labels wrong."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pixels["train"]["label"]))[: config.examples + config.trusted]
    images, labels = (pixels["train"][name][chosen] for name in ("image", "label"))
    cut, noisy = config.examples, labels[: config.examples].copy()
    if kind == "any":
        noisy = with_wrong_labels(noisy, config.noise, CLASSES, seed)
    else:
        wrong = rng.permutation(cut)[: round(config.noise * cut)]
        noisy[wrong] = (noisy[wrong] + 1) % CLASSES

    def rows(image, label):
        return {"x": jnp.asarray(image, jnp.float32), "y": jnp.asarray(label, jnp.int32)}

    test = rows(pixels["test"]["image"], pixels["test"]["label"])
    right = jnp.asarray(labels[:cut], jnp.int32)
    return Problem(rows(images[:cut], noisy), right, rows(images[cut:], labels[cut:]), test)
