import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import coupling, record
from minibatch_jax.coupling import (
    couple_assignment,
    couple_by_kernel,
    couple_partial,
    couple_partial_sinkhorn,
    couple_quantized,
    couple_semidiscrete,
    couple_sinkhorn,
    couple_transport,
    couple_unbalanced,
    flow_matching_pairs,
    hierarchical_plan,
)
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.plans import SolverReport
from minibatch_jax.selection import keep_random

FRACTION = optax.linear_schedule(0.25, 1.0, 3)
CARRYING = {
    "potentials": couple_semidiscrete(0.5, 0.1),
    "width": couple_by_kernel(1.0, normalization="ema"),
    "schedule": optax.inject_hyperparams(couple_partial)(FRACTION),
    "key": optax.chain(keep_random(2, 0), couple_assignment()),
    "behind a report": optax.chain(record({"mass": jnp.sum}), couple_semidiscrete(0.5, 0.1)),
}
FORGETFUL = {
    "none": couple_sinkhorn(0.5),
    "chain": optax.chain(couple_by_kernel(1.0), couple_assignment()),
    "report": optax.chain(couple_assignment(), record({"mass": jnp.sum})),
}


def batch(seed, size=4):
    x = np.random.default_rng(seed).normal(size=(2, size, 2)).astype(np.float32)
    return jnp.asarray(x[0]), jnp.asarray(x[1] + 1)


@pytest.mark.parametrize("name", CARRYING)
def test_a_coupling_whose_plan_depends_on_earlier_batches_needs_a_state(name):
    with pytest.raises(ValueError, match=r"coupling is a coupling that keeps \d arrays .* wanted a state: first coup"):
        flow_matching_pairs(0, *batch(0), CARRYING[name])
    cost = jnp.ones((4, 4, 3, 3))
    with pytest.raises(ValueError, match=r"outer is a coupling that keeps .* wanted a state: first outer\.init"):
        hierarchical_plan(cost, couple_assignment(), CARRYING[name])
    with pytest.raises(ValueError, match=r"inner is a coupling that keeps .* wanted none: there is no order"):
        hierarchical_plan(cost, CARRYING[name], couple_assignment())


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_coupling_without_memory_runs_without_a_state(name):
    fresh = FORGETFUL[name].init(jnp.ones((4, 4)) / 16)
    pairs = [flow_matching_pairs(0, *batch(0), FORGETFUL[name], state=state) for state in (None, fresh)]
    jax.tree.map(np.testing.assert_array_equal, *pairs)
    assert jax.tree.structure(pairs[0].state) == jax.tree.structure(fresh)


def test_potentials_are_learned_over_batches():
    tx, (_, x1) = couple_semidiscrete(0.5, 0.5), batch(9)
    weights = jnp.ones((4, 4)) / 16

    def step(state, seed):
        x0 = jax.random.normal(jax.random.key(seed), (4, 2))
        return flow_matching_pairs(0, x0, x1, tx, mode="rows", state=state).state, None

    final, _ = jax.lax.scan(step, tx.init(weights), jnp.arange(5))
    expected = tx.init(weights)
    for seed in range(5):
        x0 = jax.random.normal(jax.random.key(seed), (4, 2))
        _, expected = tx.update(weights, expected, cost=squared_euclidean_cost(x0, x1))
    assert int(final.num_updates) == 5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), final, expected)


def test_a_schedule_goes_on():
    tx, state = CARRYING["schedule"], CARRYING["schedule"].init(jnp.ones((4, 4)))
    kept = []
    for seed in range(4):
        pairs = flow_matching_pairs(0, *batch(seed), tx, mode="permutation", state=state)
        state = pairs.state
        kept.append(float(jnp.sum(pairs.weights)))
    np.testing.assert_allclose(kept, [0.25, 0.5, 0.75, 1.0], rtol=1e-5)


def test_a_report_comes_back():
    pairs = flow_matching_pairs(0, *batch(0), FORGETFUL["report"])
    np.testing.assert_allclose(pairs.state[1].values["mass"], 1, rtol=1e-6)
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 4, 4)), jnp.float32)
    found = hierarchical_plan(cost, FORGETFUL["report"], FORGETFUL["report"])
    np.testing.assert_allclose(found.inner_state[1].values["mass"], np.ones((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.outer_state[1].values["mass"], 1, rtol=1e-6)


def test_the_outer_state_of_a_hierarchical_plan_goes_on():
    outer, cost = CARRYING["width"], jnp.asarray(np.random.default_rng(0).uniform(size=(2, 2, 3, 3)), jnp.float32)
    found = hierarchical_plan(cost, couple_assignment(), outer, outer_state=outer.init(jnp.ones((2, 2))))
    again = hierarchical_plan(4 * cost, couple_assignment(), outer, outer_state=found.outer_state)
    assert [int(p.outer_state.num_updates) for p in (found, again)] == [1, 2]
    np.testing.assert_allclose(jnp.sum(found.outer), 1, rtol=1e-6)
    assert float(jnp.sum(again.outer)) < 0.9


def test_only_a_transformation_has_a_state():
    for plan in (None, jnp.ones((4, 4)) / 16):
        with pytest.raises(ValueError, match="state is given for a coupling of type"):
            flow_matching_pairs(0, *batch(0), plan, state=optax.EmptyState())


SOLVING = {
    "sinkhorn": lambda n: couple_sinkhorn(1e-4, max_iterations=n),
    "unbalanced": lambda n: couple_unbalanced(1e-3, 10.0, max_iterations=n),
    "partial_sinkhorn": lambda n: couple_partial_sinkhorn(0.5, 1e-3, max_iterations=n),
}


@pytest.mark.parametrize("name", SOLVING)
def test_a_solver_that_did_not_finish_says_so_in_the_state(name):
    x0, x1 = batch(0, 16)
    for iterations, done in ((1, False), (100_000, True)):
        report = flow_matching_pairs(0, x0, x1, SOLVING[name](iterations)).state
        assert bool(report.converged) == done and (report.iterations <= iterations)
        assert (report.error > 1e-4) or done


def test_mass_that_cannot_be_shipped_is_in_the_state():
    weights = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    of_pairs = (couple_partial(1.0), couple_assignment(), couple_quantized(8))
    for tx, error in ((couple_transport(), 0), *((tx, 1 / 3) for tx in of_pairs)):
        assert not tx.init(weights).converged
        _, report = tx.update(weights, tx.init(weights), cost=jnp.ones((3, 3)))
        np.testing.assert_allclose(report.error, error, rtol=1e-6)
        assert bool(report.converged) == (error == 0)


WITHOUT_A_SOLVER = {"couple_by_kernel", "couple_hierarchical", "couple_independent", "couple_nearest"}
LEARNED_OVER_BATCHES = {"couple_semidiscrete"}
REPORTING = {
    "couple_assignment": couple_assignment(),
    "couple_partial": couple_partial(0.5),
    "couple_partial_sinkhorn": couple_partial_sinkhorn(0.5, 0.5),
    "couple_quantized": couple_quantized(8),
    "couple_sinkhorn": couple_sinkhorn(0.5),
    "couple_transport": couple_transport(),
    "couple_unbalanced": couple_unbalanced(0.5, 1.0),
}


def test_every_coupling_with_a_solver_reports():
    names = {name for name in vars(coupling) if name.startswith("couple_")}
    assert names == set(REPORTING) | WITHOUT_A_SOLVER | LEARNED_OVER_BATCHES


@pytest.mark.parametrize("name", REPORTING)
def test_a_report_is_no_memory(name):
    tx = REPORTING[name]
    pairs = flow_matching_pairs(0, *batch(0), tx, mode="joint")
    assert isinstance(pairs.state, SolverReport) and bool(pairs.state.converged)
    cost = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 2, 3, 3)), jnp.float32)
    found = hierarchical_plan(cost, tx, tx)
    assert np.all(found.inner_state.converged) and found.inner_state.converged.shape == (2, 2)
    assert bool(found.outer_state.converged)


@pytest.mark.parametrize("name", REPORTING)
def test_the_dtype_of_a_report_is_that_of_the_weights_whatever_the_cost(name):
    tx = REPORTING[name]
    with jax.enable_x64(True):
        for dtype, cost_dtype in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32), (jnp.bfloat16, jnp.float64)):
            weights = jnp.full((3, 3), 1 / 8, dtype)
            plan, report = tx.update(weights, tx.init(weights), cost=jnp.asarray(np.eye(3), cost_dtype))
            assert plan.dtype == dtype
            assert report.error.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
