"""Rows of the device run: laws of a method of every noun on the device, and on several devices."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.speed._device_rows import CHECK, Row, Values, largest_gap, on_device, on_host
from minibatch_jax import coupling, mining, mixing, normalize, sampling, schedules, selection, value_and_grad
from minibatch_jax.scores import gradient_norms
from minibatch_jax.testing import CHECKS, ROWS, SAMPLER_CHECKS, Case, SamplerCase, draw

LAWS = ("jit", "padding nan", "signals nan", "vmap", "scan", "gradient", "donation", "bfloat16", "mass", "structure")
SHARDED_LAWS = ("shard_map and pmap", "sharded jit, Auto", "sharded jit, Explicit")
SAMPLER_LAWS = ("rows", "scan", "vmap", "donation")


def losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"losses": rng.gamma(2.0, size=ROWS).astype(np.float32)}


def features(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"features": rng.normal(size=(ROWS, 3)).astype(np.float32)}


def pair_losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    names = ("pair_losses", "reference_pair_losses")
    return {name: rng.gamma(2.0, size=(ROWS, ROWS)).astype(np.float32) for name in names}


def cost(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"cost": rng.gamma(2.0, size=(ROWS, ROWS)).astype(np.float32)}


def distances(rng: np.random.Generator) -> dict[str, np.ndarray]:
    points = rng.normal(size=(ROWS, 2)).astype(np.float32)
    apart = np.sqrt(np.sum((points[:, None] - points[None]) ** 2, -1))
    return {"distances": apart / 2, "labels": rng.permutation(np.arange(ROWS) % 3).astype(np.int32)}


def domain_losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    counts = rng.integers(1, 9, ROWS).astype(np.int32)
    return {"domain_losses": rng.gamma(2.0, size=ROWS).astype(np.float32), "domain_counts": counts}


def nothing(rng: np.random.Generator) -> dict[str, np.ndarray]:
    del rng
    return {}


DIVERSE = Case(lambda: selection.keep_diverse(4, key=0, bandwidth=1.0), features)
"""The rounding of eigenvectors decides what it draws, so it may draw other items than on the CPU."""
CASES = {
    "selection, keep_by_jest": Case(lambda: selection.keep_by_jest(6, 3, key=0), pair_losses),
    "coupling, couple_assignment": Case(coupling.couple_assignment, cost, lowers_mass=False, tolerance=1e-6),
    "mining, mine_semihard": Case(lambda: mining.mine_semihard(0.2), distances, tolerance=1e-6),
    "mixing, mix_by_odm": Case(
        lambda: mixing.mix_by_odm(loss_scale=4.0, floor=0.01), domain_losses, lowers_mass=False, tolerance=1e-5
    ),
    "schedules, keep_scheduled": Case(
        lambda: schedules.keep_scheduled(schedules.batch_size_schedule([3, 9], [1])),
        nothing,
        lowers_mass=False,
        tolerance=1e-6,
    ),
    "selection, keep_topk and normalize": Case(
        lambda: optax.chain(selection.keep_topk(5), normalize()), losses, lowers_mass=False, tolerance=1e-6
    ),
    "coupling, couple_sinkhorn": Case(
        lambda: coupling.couple_sinkhorn(0.1, relative_to="mean"), cost, lowers_mass=False, tolerance=1e-5
    ),
    "coupling, couple_partial": Case(lambda: coupling.couple_partial(0.6), cost, tolerance=1e-5),
    "coupling, couple_transport": Case(coupling.couple_transport, cost, lowers_mass=False, tolerance=1e-5),
    "selection, keep_medoids": Case(lambda: selection.keep_medoids(4), features, lowers_mass=False, tolerance=1e-6),
    "mining, mine_distance_weighted": Case(
        lambda: mining.mine_distance_weighted(3, key=0, farthest=1.9), distances, tolerance=1e-6
    ),
    "selection, keep_diverse": DIVERSE,
}


def laws(small: bool) -> Iterator[Row]:
    """Laws of `minibatch_jax.testing` for transformations and a sampler, and what the boundaries and scores return."""
    chosen, cases = (LAWS[1:2], list(CASES.items())[:4]) if small else (LAWS, list(CASES.items()))
    yield Row("sampling, by_class", partial(_sampler_laws, SAMPLER_LAWS[:1] if small else SAMPLER_LAWS), CHECK)
    yield Row("boundaries, value_and_grad(gather=8)", _gathered_step, CHECK)
    yield Row("scores, gradient_norms", _norms, CHECK)
    for name, case in cases:
        yield Row(name, partial(_transformation_laws, case, chosen), CHECK)


def _transformation_laws(case: Case, chosen: tuple[str, ...]) -> Values:
    _check(CHECKS, chosen, case)
    tx, (weights, signals) = case.make(), draw(case)
    update = partial(_updated, tx)
    gap = largest_gap(on_device(update, weights, signals), on_host(update, weights, signals))
    if case is not DIVERSE:
        assert gap <= max(10 * case.tolerance, 1e-5), f"the weights differ from those on the CPU by {gap:.1e}"
    return {"laws": len(chosen), "difference from the CPU": gap}


def _check(checks: Mapping[str, Callable[[Any], None]], chosen: tuple[str, ...], case: Any) -> None:
    """Raise for the first law that is broken; products are of float32, as laws compare two programs."""
    with jax.default_matmul_precision("highest"):
        for law in chosen:
            checks[law](case)


def _updated(tx: Any, weights: jax.Array, signals: dict[str, jax.Array]) -> jax.Array:
    return tx.update(weights, tx.init(weights), **signals)[0]


def _sampler_laws(chosen: tuple[str, ...]) -> Values:
    labels = {"labels": np.arange(48, dtype=np.int32) % 6}
    case = SamplerCase(lambda: sampling.by_class(6, 4, 2), 48, lambda rng: labels)
    _check(SAMPLER_CHECKS, chosen, case)
    return {"laws": len(chosen)}


def _linear_losses(params: jax.Array, batch: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(batch * params[None]), axis=1)


def _gathered_step() -> Values:
    """The gradient of the eight rows of the highest losses is that of their weighted mean, in float64 by numpy."""
    x, params = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32), np.ones(5, np.float32)
    select = optax.chain(selection.keep_topk(8), normalize())
    step = value_and_grad(_linear_losses, select, gather=8)
    gradient = on_device(lambda p, b: step(p, b, select.init(jnp.zeros(16)))[1], params, x)
    kept = np.argsort(-np.sum(x.astype(np.float64) ** 2, axis=1))[:8]
    gap = largest_gap(gradient, 2 * np.mean(x[kept].astype(np.float64) ** 2, axis=0))
    assert gap <= 1e-5, f"the gradient differs from numpy's by {gap:.1e}"
    return {"difference from numpy": gap}


def _norms() -> Values:
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    norms = on_device(lambda p, b: gradient_norms(_linear_losses, p, b), np.ones(5, np.float32), x)
    gap = largest_gap(norms, np.linalg.norm(2 * x.astype(np.float64) ** 2, axis=1))
    assert gap <= 1e-5, f"the norms differ from numpy's by {gap:.1e}"
    return {"difference from numpy": gap}


def shards(small: bool) -> Iterator[Row]:
    """With more than one device, what they do together against what one does."""
    devices = jax.device_count()
    if devices == 1:
        yield Row("sharded paths", lambda: {"devices": "one: nothing to compare"}, CHECK)
        return
    for name, case in list(CASES.items())[: 1 if small else None]:
        yield Row(f"{name}, {devices} devices", partial(_sharded_laws, case), CHECK)


def _sharded_laws(case: Case) -> Values:
    _check(CHECKS, SHARDED_LAWS, case)
    return {"laws": len(SHARDED_LAWS)}
