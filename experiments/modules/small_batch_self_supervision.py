"""Self-supervision in small batches: three views and two targets (TriBYOL) against two views and one (BYOL).

Claim: at batch sizes of 16 to 64, TriBYOL gives a better representation than BYOL.
Data: 5000 images of MNIST without labels, averaged to 14x14 pixels; the probes use their labels, and 2000 test images.
  First `python -m experiments.datasets fetch mnist` (11.5 MB).
Command: `python -m experiments small_batch_self_supervision`
Minutes: 11 on one shared CPU core
Expected: mean ± standard error over 3 seeds of initial parameters, batches and views; B is the batch size:

  linear probe, all labels                  B = 16         B = 32         B = 64
  BYOL                                      0.940 ± 0.001  0.943 ± 0.004  0.942 ± 0.002
  TriBYOL, equal steps                      0.946 ± 0.003  0.941 ± 0.000  0.940 ± 0.001
  TriBYOL, equal gradients                  0.942 ± 0.003  0.944 ± 0.001  0.936 ± 0.001
  three views, one target, equal gradients  0.935 ± 0.005  0.934 ± 0.004  0.936 ± 0.005
  untrained encoder 0.925 ± 0.003, pixels 0.903
  linear probe, ten labels for each class
  BYOL                                      0.770 ± 0.001  0.767 ± 0.004  0.766 ± 0.003
  TriBYOL, equal steps                      0.762 ± 0.002  0.766 ± 0.001  0.758 ± 0.004
  TriBYOL, equal gradients                  0.758 ± 0.004  0.762 ± 0.003  0.758 ± 0.005
  three views, one target, equal gradients  0.754 ± 0.005  0.768 ± 0.001  0.765 ± 0.002
  untrained encoder 0.722 ± 0.007, pixels 0.744 ± 0.001
  five nearest neighbors, all labels
  BYOL                                      0.913 ± 0.000  0.907 ± 0.003  0.909 ± 0.004
  TriBYOL, equal steps                      0.917 ± 0.003  0.916 ± 0.002  0.921 ± 0.004
  TriBYOL, equal gradients                  0.909 ± 0.002  0.919 ± 0.003  0.925 ± 0.003
  three views, one target, equal gradients  0.905 ± 0.001  0.906 ± 0.005  0.916 ± 0.003
  untrained encoder 0.922 ± 0.004, pixels 0.946

  Not reproduced: by the linear probe all methods are even, with few labels BYOL is ahead by 0.001 to 0.013, and only
  the nearest neighbors favor TriBYOL, by up to 0.016, most at the largest batch, though not with equal gradients at
  B = 16. But there training helps nobody: the pixels are better, and so is the untrained encoder except for TriBYOL
  with equal gradients at B = 64. BYOL itself does not suffer from batches of 16 here, so there is nothing for a third
  view to mend; this small network says little about large ones. The second target (against three views and one) is
  worth 0.01 by the linear probe and by the nearest neighbors.
  `--dataset fashion_mnist`, 3 seeds with the settings tuned on MNIST, for B = 16, 32, 64 (errors up to 0.007):
    linear probe         BYOL 0.818 0.812 0.818  TriBYOL, equal steps 0.821 0.825 0.818  untrained 0.822  pixels 0.802
    ten labels           BYOL 0.679 0.682 0.686  TriBYOL, equal steps 0.685 0.688 0.692  untrained 0.684  pixels 0.695
    nearest neighbors    BYOL 0.781 0.788 0.788  TriBYOL, equal steps 0.793 0.792 0.786  untrained 0.768  pixels 0.800
  There TriBYOL is ahead by up to 0.013, for half as many gradients more; equal gradients were not run with 3 seeds.
Verdict: not reproduced: by the linear probe all methods are even, and with few labels BYOL is ahead.
Cost: BYOL sees 64 000 images at every batch size, so 4000 steps at B = 16. A step of TriBYOL differentiates 3 B views,
  not 2 B, and projects 4 B by the targets, not 2 B; it took 1.4 to 1.7 times the CPU time. "Equal gradients" makes two
  thirds of the steps and took 1.0 to 1.1 times the CPU time of BYOL.
Tuning: learning rate {1e-3, 3e-3, 1e-2} and decay of the targets {0.99, 0.996}, by the sum of the three accuracies on
  held-out training images with --validate, seed 10 and B = 32; TriBYOL at equal steps. Before that the encoder was
  chosen with BYOL alone: a perceptron in place of the convolutions learned nothing beyond its initial state.
Reference: Li et al., TriBYOL: triplet BYOL for self-supervised representation learning, 2022 (arXiv 2206.03012).
"""

import time
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.engine import compare, descend, init_mlp
from experiments.modules._self_supervision_probes import images, probes
from minibatch_jax.modules import byol_losses, init_targets, tri_byol_losses, update_targets
from minibatch_jax.modules.views import Projector

CHANNELS = (16, 64)


class Tuned(NamedTuple):
    """Learning rate and decay of the targets of one method, best on held-out training images with seed 10."""

    learning_rate: float
    decay: float


class Method(NamedTuple):
    """How many views, whether targets take turns, and the share of BYOL's steps that is made."""

    views: int
    alternate: bool = False
    steps: float = 1.0


PROBES = "linear_probe", "probe_of_100_labels", "nearest_neighbours"
METHODS = {
    "BYOL": Method(2),
    "TriBYOL, equal steps": Method(3, alternate=True),
    "TriBYOL, equal gradients": Method(3, alternate=True, steps=2 / 3),
    "three views, one target, equal gradients": Method(3, steps=2 / 3),
}
TUNED = {"BYOL": Tuned(1e-2, 0.99), "TriBYOL": Tuned(3e-3, 0.99), "three views": Tuned(1e-2, 0.996)}
"""before the comma of an arm's name -> what was tuned at a batch size of 32"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in views, targets and steps, and in what was tuned for each."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/small_batch_self_supervision"
    arms: tuple[str, ...] = ()
    dataset: Literal["mnist", "fashion_mnist", "digits"] = "mnist"
    """digits have 8x8 pixels; the others are averaged to 14x14"""
    num_images: int = 5000
    """to train on, without labels"""
    batch_sizes: tuple[int, ...] = (16, 32, 64)
    images_seen: int = 64_000
    """by BYOL at every batch size, counted before views are made"""
    head: int = 128
    """width of the hidden layer of projector and predictor"""
    projection: int = 32
    learning_rate: float | None = None
    """of Adam; None: as tuned for each method"""
    decay: float | None = None
    """of the targets; None: as tuned for each method"""
    validate: bool = False
    """hold out a fifth of the training images and test on those: for tuning"""


def main(config: Config):
    """Train all arms at all batch sizes and report."""
    train, test = images(config.dataset, config.num_images, config.validate)

    def unchanged(encode):
        def arm(seed):
            found = probes(encode(seed, train["image"]), encode(seed, test["image"]), train, test, seed)
            return dict.fromkeys(config.batch_sizes, found)

        return arm

    def trained(name, seed):
        return {size: one_run(config, train, test, name, size, seed) for size in config.batch_sizes}

    arms: dict[str, Any] = {name: partial(trained, name) for name in METHODS}
    arms["untrained encoder"] = unchanged(lambda seed, x: encode(initial_params(config, jax.random.key(seed)), x))
    arms["pixels"] = unchanged(lambda seed, x: x.reshape(len(x), -1))
    better = {f"{name}, B = {size}": "higher" for name in PROBES for size in config.batch_sizes}
    return compare(config, arms, xlabel="batch size", summary=by_batch_size, baseline="BYOL", better=better)


def by_batch_size(records) -> dict[str, float]:
    """The metrics of one run at every batch size."""
    metrics = records[-1]["metrics"]
    return {f"{name}, B = {r['step']}": r["metrics"][name] for name in metrics for r in records}


def one_run(config: Config, train, test, name: str, size: int, seed: int) -> dict[str, float]:
    """Train one method at one batch size; every method starts from the same parameters."""
    method, tuned = METHODS[name], TUNED[name.split(",")[0]]
    rate = tuned.learning_rate if config.learning_rate is None else config.learning_rate
    decay = tuned.decay if config.decay is None else config.decay
    steps = round(method.steps * config.images_seen / size)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    args = initial_params(config, jax.random.key(seed)), key, train["image"], jnp.float32(rate), jnp.float32(decay)
    compiled = program(config, method, size, steps, train["image"].shape)
    started = time.process_time()
    params = jax.block_until_ready(compiled(*args))
    seconds = time.process_time() - started
    found = probes(encode(params, train["image"]), encode(params, test["image"]), train, test, seed)
    return {**found, "gradient_evaluations": method.views * steps * size, "cpu_seconds": seconds}


@cache
def program(config: Config, method: Method, size: int, steps: int, shape: tuple[int, ...]):
    """`fit`, compiled once for all seeds, so that its time can be measured."""

    def example(key):
        return initial_params(config, key), key, jnp.zeros(shape), jnp.float32(0), jnp.float32(0)

    arguments = jax.eval_shape(example, jax.random.key(0))
    return jax.jit(partial(fit, config, method, size, steps)).lower(*arguments).compile()


def fit(config: Config, method: Method, size: int, steps: int, params, key: jax.Array, pool, rate, decay):
    """Online parameters after some steps of Adam on random batches of a pool of images."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, key):
        params, opt_state, targets = carry
        rows_key, *view_keys = jax.random.split(key, method.views + 1)
        batch = pool[jax.random.randint(rows_key, (size,), 0, len(pool))]
        views = jnp.stack([view(view_key, batch) for view_key in view_keys])
        grads = jax.grad(loss)(params, targets, views, config)
        params, opt_state = descend(optimizer, grads, params, opt_state)
        targets = update_targets(targets, without_predictor(params), decay, alternate=method.alternate)
        return (params, opt_state, targets), None

    carry = params, optimizer.init(params), init_targets(without_predictor(params))
    return jax.lax.scan(step, carry, jax.random.split(key, steps))[0][0]


def loss(params, targets, views: jax.Array, config: Config) -> jax.Array:
    """BYOL for two views `[2, B, H, W]`, TriBYOL for three."""
    project = jax.vmap(partial(projection, config), in_axes=(None, 0))
    predictions = jax.vmap(partial(head, config, "predictor"), in_axes=(None, 0))(params, project(params, views))
    if len(views) == 2:
        z = project(targets.first, views)
        return jnp.mean(byol_losses(predictions[0], z[1]) + byol_losses(predictions[1], z[0])) / 2
    first, second = project(targets.first, views[:2]), project(targets.second, views[::2])
    return jnp.mean(tri_byol_losses(tuple(predictions), tuple(first), tuple(second)))


def initial_params(config: Config, key: jax.Array) -> dict[str, Any]:
    """Encoder, projector and predictor."""
    encoder_key, *keys = jax.random.split(key, 3)
    kernel_keys = jax.random.split(encoder_key)
    encoder = init_mlp(kernel_keys[0], (9, CHANNELS[0])) + init_mlp(kernel_keys[1], (9 * CHANNELS[0], CHANNELS[1]))
    heads = {name: nnx.state(new_head(config, name, k), nnx.Param) for name, k in zip(("projector", "predictor"), keys)}
    return {"encoder": encoder, **heads}


def without_predictor(params: dict[str, Any]) -> dict[str, Any]:
    """What the targets average."""
    return {name: params[name] for name in ("encoder", "projector")}


def new_head(config: Config, name: str, key: jax.Array) -> Projector:
    """The module of the projector or predictor."""
    features = 4 * CHANNELS[1] if name == "projector" else config.projection
    return Projector(features, hidden=config.head, out=config.projection, rngs=nnx.Rngs(key))


def head(config: Config, name: str, params, x: jax.Array) -> jax.Array:
    """Apply the projector or predictor with the batch's own statistics, as the paper does for both networks."""
    module = new_head(config, name, jax.random.key(0))
    nnx.update(module, params[name])
    return module(x)


def encode(params, x: Any) -> jax.Array:
    """Representation `[B, 4 C]` of images `[B, H, W]`: convolutions, then the means of the four quarters."""
    x = jnp.asarray(x)[..., None]
    for kernel, bias in params["encoder"]:
        x = jax.nn.relu(patches(x) @ kernel + bias[None, None, None])
    half = x.shape[1] // 2
    return x.reshape(len(x), 2, half, 2, half, -1).mean((2, 4)).reshape(len(x), -1)


def patches(x: jax.Array) -> jax.Array:
    """The 3x3 neighbourhoods of every second place, `[B, H, W, C]` to `[B, H / 2, W / 2, 9 C]`; zeros around."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    end = (x.shape[1] + 1) // 2 * 2 - 1
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return jnp.concatenate([padded[:, i : i + end : 2, j : j + end : 2] for i, j in shifts], axis=-1)


def projection(config: Config, params, x: jax.Array) -> jax.Array:
    """What is compared between the networks."""
    return head(config, "projector", params, encode(params, x))


def view(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Images `[B, H, W]` moved by up to a seventh of their side, brightened, with noise and a square of zeros."""
    side = batch.shape[1]
    most, square = side // 7, side // 3
    keys = jax.random.split(key, 4)
    offsets = jax.random.randint(keys[0], (len(batch), 2), 0, 2 * most + 1)
    padded = jnp.pad(batch, ((0, 0), (most, most), (most, most)))
    moved = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, at, (side, side)))(padded, offsets)
    gain = jax.random.uniform(keys[1], (len(batch), 1, 1), minval=0.7, maxval=1.3)
    noisy = gain * moved + 0.1 * jax.random.normal(keys[2], batch.shape)
    corner = jax.random.randint(keys[3], (len(batch), 2, 1), 0, side - square + 1)
    places = jnp.arange(side)[None, None]
    inside = (places >= corner) & (places < corner + square)
    return jnp.where(inside[:, 0, :, None] & inside[:, 1, None, :], 0, noisy)
