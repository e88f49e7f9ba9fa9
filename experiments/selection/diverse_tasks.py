"""TODO"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.engine import compare, descend, init_mlp, mlp, without_losses
from experiments.engine.panels import draw_panels
from experiments.selection._emoji_tasks import PIXELS, SHOTS, WAYS, Tasks, make_tasks, taxonomy_features
from minibatch_jax import normalize, value_and_grad, weights_of
from minibatch_jax.selection import keep_diverse, keep_random

SIZES = (PIXELS, 32, WAYS)
CLASSES = jnp.repeat(jnp.arange(WAYS), SHOTS)

Order = Literal["second", "first"]


@dataclass(frozen=True)
class Config:
    """All arms but the last take k tasks a step."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/diverse_tasks"
    arms: tuple[str, ...] = ()
    order: Literal["both", "second", "first"] = "both"
    """whether the meta-gradient is differentiated through the inner steps, or taken at the adapted parameters"""
    num_tasks: int = 64
    k: int = 6
    steps: tuple[int, ...] = (0, 100, 300)
    """of training, after which the error of the meta-gradient and the accuracy are measured"""
    draws: int = 300
    """of k tasks, for the error of the meta-gradient"""
    inner_steps: int = 3
    inner_rate: float = 0.1
    learning_rate: float = 1e-3


def main(config: Config):
    """Measure all arms and report."""
    orders: tuple[Order, ...] = ("second", "first") if config.order == "both" else (config.order,)
    tasks = functools.cache(lambda seed: make_tasks(seed, config.num_tasks))
    records = {}
    for order in orders:
        changed = dataclasses.replace(config, order=order, out=str(Path(config.out) / order))
        way = functools.cache(functools.partial(trained_on_all, changed, tasks))
        arms = {name: arm(changed, tasks, way, *chosen) for name, chosen in selections(config.k).items()}
        records[order] = compare(changed, arms, xlabel="steps", summary=by_step)
    for metric in ("relative_error", "accuracy"):
        draw_panels(records, metric, "steps", Path(config.out) / f"{metric}.png", log=(False, False))
    return [record for made in records.values() for record in made]


Selection = Callable[[jax.Array], optax.GradientTransformationExtraArgs]
"""key -> transformation of the weights of tasks"""
Features = Callable[[Tasks], jax.Array]


def selections(k: int) -> dict[str, tuple[Selection | None, Features]]:
    """Name -> selection of tasks, and the features that it looks at."""

    def diverse(weighting, *last):
        return lambda key: optax.chain(keep_diverse(k, key, weighting=weighting), *last)

    return {
        "uniform": (lambda key: optax.chain(keep_random(k, key), normalize()), taxonomy_features),
        "k-DPP": (diverse("plain", normalize()), taxonomy_features),
        "k-DPP, unbiased": (diverse("unbiased"), taxonomy_features),
        "k-DPP, self-normalized": (diverse("unbiased", normalize()), taxonomy_features),
        "k-DPP of images, self-normalized": (diverse("unbiased", normalize()), mean_images),
        "all tasks": (None, taxonomy_features),
    }


def mean_images(tasks: Tasks) -> jax.Array:
    """What the data say of the likeness of tasks: inner products of their mean images, of length 1, and 0.2 apart."""
    means = tasks.support.mean(1)
    means = means - means.mean(0)
    means = np.sqrt(0.8) * means / jnp.linalg.norm(means, axis=1, keepdims=True)
    return jnp.concatenate([means, np.sqrt(0.2) * jnp.eye(len(means))], axis=1)


Way = dict[int, Any]
"""Parameters after some numbers of meta-updates."""


def arm(
    config: Config,
    tasks: Callable[[int], tuple[Tasks, Tasks]],
    way_of_all: Callable[[int], Way],
    selection: Selection | None,
    features: Features,
) -> Callable[[int], Any]:
    """Metrics by the number of steps: of the meta-gradient on the way of all tasks, of accuracy on the arm's own."""

    def measured(seed):
        train, test = tasks(seed)
        metrics: dict[int, dict[str, Any]] = {step: {} for step in config.steps}
        way = way_of_all(seed)
        if selection is not None:
            weights = drawn(selection, features(train), jax.random.key(seed + 1000), config.draws)
            for step, params in way.items():
                metrics[step] |= errors(weights, meta_gradients(config, params, train))
            way = trained(config, selection, features(train), train, seed)
        for step, params in way.items():
            metrics[step] |= accuracies(config, params, test)
            metrics[step]["train_loss"] = jax.vmap(task_loss(config), (None, 0))(params, train).mean()
        return metrics

    return measured


def trained_on_all(config: Config, tasks: Callable[[int], tuple[Tasks, Tasks]], seed: int) -> Way:
    """The way of training on all tasks."""
    train = tasks(seed)[0]
    return trained(config, None, taxonomy_features(train), train, seed)


def drawn(selection: Selection, features: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Weights `[count, T]` of so many draws, each with the key after that of the one before."""
    even = even_weights(len(features))

    def draw(key, _):
        return jax.random.split(key)[0], weights_of(selection(key), even, features=features)

    return jax.jit(lambda key: jax.lax.scan(draw, key, length=count)[1])(key)


def errors(weights: jax.Array, gradients: jax.Array) -> dict[str, jax.Array]:
    """Mean squared error of `weights @ gradients` and squared bias, as shares of the mean gradient's squared length."""
    mean = gradients.mean(0)
    off = weights @ gradients - mean[None]
    length = jnp.sum(mean**2)
    return {"relative_error": jnp.sum(off**2, 1).mean() / length, "bias": jnp.sum(off.mean(0) ** 2) / length}


def trained(config: Config, selection: Selection | None, features: jax.Array, tasks: Tasks, seed: int) -> Way:
    """Parameters after some numbers of meta-updates on the selected tasks, on all if there is no selection."""
    optimizer, start = optax.adam(config.learning_rate), init_mlp(jax.random.key(seed), SIZES)
    chosen = normalize() if selection is None else selection(jax.random.key(seed))
    k = None if selection is None else config.k
    gradient = value_and_grad(jax.vmap(task_loss(config), (None, 0)), chosen, gather=k, score_fn=without_losses)

    def step(state, _):
        params, opt_state, selection_state = state
        _, grads, selection_state = gradient(params, tasks, selection_state, features=features)
        params, opt_state = descend(optimizer, grads, params, opt_state)
        return (params, opt_state, selection_state), None

    advance = jax.jit(lambda state, length: jax.lax.scan(step, state, length=length)[0], static_argnums=1)
    state, found, before = (start, optimizer.init(start), chosen.init(even_weights(len(features)))), {}, 0
    for number in config.steps:
        state = advance(state, number - before)
        found[number], before = state[0], number
    return found


def meta_gradients(config: Config, params: Any, tasks: Tasks) -> jax.Array:
    """Meta-gradient of each task, `[T, P]`."""
    slope = jax.grad(task_loss(config))
    return jax.jit(lambda p: jax.lax.map(lambda task: ravel_pytree(slope(p, task))[0], tasks))(params)


def task_loss(config: Config) -> Callable[[Any, Tasks], jax.Array]:
    """Cross-entropy on the query images of a task, after a few steps of gradient descent on its support images."""

    def loss(params, task):
        return cross_entropy(adapted(config, params, task), task.query)

    return loss


def adapted(config: Config, params: Any, task: Tasks) -> Any:
    """Parameters after the inner steps; of first order, their gradients count as constants."""
    for _ in range(config.inner_steps):
        grads = jax.grad(cross_entropy)(params, task.support)
        if config.order == "first":
            grads = jax.lax.stop_gradient(grads)
        params = jax.tree.map(lambda p, g: p - config.inner_rate * g, params, grads)
    return params


def cross_entropy(params: Any, images: jax.Array) -> jax.Array:
    """Mean over the images of a task, two of each class."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, images), CLASSES).mean()


def accuracies(config: Config, params: Any, tasks: Tasks) -> dict[str, float]:
    """Accuracy on the query images of adapted parameters: mean over tasks, and over subcategories."""

    def one(params, task):
        return jnp.mean(mlp(adapted(config, params, task), task.query).argmax(1) == CLASSES)

    right = np.asarray(jax.jit(jax.vmap(one, (None, 0)))(params, tasks))
    kinds, of_kind = np.unique(np.asarray(tasks.subcategory), return_inverse=True)
    balanced = np.mean([right[of_kind == kind].mean() for kind in range(len(kinds))])
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(balanced)}


def even_weights(count: int) -> jax.Array:
    """`1 / T` for each task."""
    return jnp.full(count, 1 / count)


def by_step(records) -> dict[str, float]:
    """The numbers of the table: error and bias of the meta-gradient at each step, and what the last one reached."""
    last = records[-1]["metrics"]
    names = [name for name in ("relative_error", "bias") if name in last]
    found = {f"{name}, step {r['step']}": r["metrics"][name] for name in names for r in records}
    return found | {name: last[name] for name in ("accuracy", "balanced_accuracy", "train_loss")}
