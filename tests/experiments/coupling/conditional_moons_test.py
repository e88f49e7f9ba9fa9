"""Pairings and distances of the experiment against plain NumPy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from experiments.coupling import _flows
from experiments.coupling import conditional_moons as experiment


def test_transport_ties_the_noise_to_the_class_and_a_condition_aware_coupling_does_not():
    batch = {k: jnp.asarray(v[:64]) for k, v in experiment.data(0)["train"].items()}
    pairs = {
        name: experiment.paired(experiment.METHODS[f"class: {name}"], jax.random.key(0), batch)
        for name in ("independent", "exact OT", "condition-aware")
    }
    cost = {name: float(np.sum((p.x0 - p.x1) ** 2)) for name, p in pairs.items()}
    assert cost["exact OT"] < cost["condition-aware"] < cost["independent"]
    for label in (0, 1):
        mine = np.asarray(batch["label"]) == label
        noise = {name: np.asarray(p.x0)[mine] for name, p in pairs.items()}
        in_order = {name: x[np.lexsort(x.T)] for name, x in noise.items()}
        np.testing.assert_array_equal(in_order["condition-aware"], in_order["independent"])
        assert np.linalg.norm((noise["exact OT"] - noise["independent"]).mean(0)) > 1


def test_distances_count_the_condition(monkeypatch):
    """Of a field that stands still the samples are the noise; for the assignment scipy is asked."""
    monkeypatch.setattr(_flows, "velocity", lambda params, x, t: jnp.zeros((len(x), 2)))
    monkeypatch.setattr(experiment, "velocity", _flows.velocity)
    monkeypatch.setattr(experiment, "EULER_STEPS", (1,))
    splits = experiment.data(1)
    test, fresh = ({k: v[:40] for k, v in splits[name].items()} for name in ("test", "fresh"))
    found = experiment.measure((), jax.tree.map(jnp.asarray, test), jax.tree.map(jnp.asarray, fresh), "class")
    squares = 0
    for label in (0, 1):
        mine = test["label"] == label
        cost = np.sum((test["noise"][mine][:, None] - test["point"][mine][None]) ** 2, axis=2)
        squares += cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    assert float(found["w2_at_1"]) == pytest.approx((squares / 40) ** 0.5, rel=1e-4)
    assert found["floor"] < 0.3 * found["w2_at_1"]


def test_the_nearer_moon_is_the_one_a_point_was_drawn_from():
    moons = experiment.moons(np.random.default_rng(0), 200)
    found = np.asarray(experiment.nearest_moon(jnp.asarray(moons["point"])))
    assert np.mean(found == moons["label"]) > 0.98
    np.testing.assert_array_equal(experiment.nearest_moon(-jnp.asarray(moons["point"])), 1 - found)
