"""Rounds of hard batches against a plain replay of the published loop."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.sampling import Rows, hard_batches
from minibatch_jax.sampling.rounds import hard_batch_mask


def recorded_losses(num_batches, steps, seed=0):
    """Loss of batch p if it is visited at step t: distinct values, so that no order is a matter of ties."""
    return np.random.default_rng(seed).permutation(num_batches * steps).reshape(steps, num_batches) / 10 + 1


def replay(table, fraction, full_round_every=0):
    """The published loop: visit all, then rounds over the largest last-seen losses in the order of the data set."""
    number = table.shape[1]
    last, visited, todo, rounds = {}, [], list(range(number)), 0
    for step in range(len(table)):
        if not todo:
            rounds += 1
            hardest = sorted(sorted(last, key=last.get, reverse=True)[: max(1, int(fraction * number))])
            full = full_round_every and rounds % full_round_every == 0
            todo = list(range(number)) if full or not last else hardest
        batch = todo.pop(0)
        if np.isfinite(table[step, batch]):
            last[batch] = table[step, batch]
        visited.append(batch)
    return visited


def visits(sampler, table, batch_size):
    """Batches that the sampler draws when the mean loss of batch p at step t is `table[t, p]`."""
    spread = jnp.linspace(-0.5, 0.5, batch_size) if batch_size > 1 else jnp.zeros(1)

    def step(state, losses):
        rows, state = sampler.sample(state)
        batch = rows.indices[0] // batch_size
        around = spread - jnp.sum(spread * rows.weights)
        state = sampler.update(state, rows, losses=jnp.where(rows.indices < 0, jnp.nan, losses[batch] + around))
        return state, rows.indices

    state, indices = jax.jit(lambda s, t: jax.lax.scan(step, s, t))(sampler.init(0), jnp.asarray(table, jnp.float32))
    return state, np.asarray(indices)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(4, 4), (9, 3), (38, 4), (5, 1)])
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.8, 1.0])
def test_visits_what_the_published_loop_visits(num_examples, batch_size, fraction):
    batches = [list(range(num_examples))[i : i + batch_size] for i in range(0, num_examples, batch_size)]
    table = recorded_losses(len(batches), 60)
    state, drawn = visits(hard_batches(num_examples, batch_size, fraction=fraction), table, batch_size)
    wanted = [batches[p] + [-1] * (batch_size - len(batches[p])) for p in replay(table, fraction)]
    np.testing.assert_array_equal(drawn, wanted)
    assert int(state.ignored) == 0


def test_fraction_one_draws_all_in_order():
    _, drawn = visits(hard_batches(10, 2, fraction=1.0), recorded_losses(5, 20), 2)
    np.testing.assert_array_equal(drawn.reshape(4, 10), np.tile(np.arange(10), (4, 1)))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_full_rounds(every):
    table = recorded_losses(6, 50, seed=1)
    _, drawn = visits(hard_batches(12, 2, fraction=0.34, full_round_every=every), table, 2)
    assert (drawn[:, 0] // 2).tolist() == replay(table, 0.34, every)


def test_a_batch_never_measured_is_left_out_and_none_measured_means_all():
    table = np.tile([1.0, np.nan, 2.0, 3.0], (9, 1))
    state, drawn = visits(hard_batches(4, 1, fraction=1.0), table, 1)
    assert drawn[:, 0].tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 2] and int(state.ignored) == 1
    _, drawn = visits(hard_batches(3, 1), np.full((6, 3), np.nan), 1)
    assert drawn[:, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_loss_that_is_not_finite_leaves_the_last():
    sampler = hard_batches(5, 2)
    rows, state = sampler.sample(sampler.init(0))
    state = sampler.update(state, rows, losses=jnp.array([1.0, 3.0]))
    for losses in ([jnp.nan, 1.0], [jnp.inf, 1.0]):
        state = sampler.update(state, rows, losses=jnp.array(losses))
    np.testing.assert_array_equal(state.last_losses, [2, -np.inf, -np.inf])
    assert int(state.ignored) == 2


def test_feedback_is_of_the_batch_drawn_late_and_in_any_order_and_other_rows_are_ignored():
    sampler = hard_batches(5, 2, shuffle=True)
    state, drawn = sampler.init(3), []
    for _ in range(3):
        rows, state = sampler.sample(state)
        drawn.append(rows)
    for i in (2, 0, 1):
        state = sampler.update(state, drawn[i], losses=jnp.array([i, i + 1.0]))
    np.testing.assert_array_equal(state.last_losses, [0.5, 1.5, 2.0])
    first = drawn[0].indices
    strangers = (first.at[1].set(-1), jnp.array([-1, -1]), first[::-1], jnp.array([7, 8]), first.at[0].set(-1))
    for number, indices in enumerate(strangers, 1):
        state = sampler.update(state, Rows(indices, jnp.full(2, 0.5)), losses=jnp.full(2, 9.0))
        assert int(state.ignored) == number
    np.testing.assert_array_equal(state.last_losses, [0.5, 1.5, 2.0])


def test_the_mean_is_weighted():
    sampler = hard_batches(4, 2)
    rows, state = sampler.sample(sampler.init(0))
    state = sampler.update(state, Rows(rows.indices, jnp.array([0.25, 0.0])), losses=jnp.array([3.0, jnp.nan]))
    assert float(state.last_losses[0]) == 3
    state = sampler.update(state, Rows(rows.indices, jnp.array([0.75, 0.25])), losses=jnp.array([4.0, 8.0]))
    assert float(state.last_losses[0]) == 5


def test_a_shuffled_partition_is_a_random_one_of_all_rows_and_stays():
    sampler = hard_batches(10, 3, fraction=1.0, shuffle=True)
    for seed in range(2):
        state, rounds = sampler.init(seed), []
        for _ in range(2):
            round_ = []
            for _ in range(4):
                rows, state = sampler.sample(state)
                round_.append(rows.indices)
            rounds.append(np.asarray(round_))
        np.testing.assert_array_equal(*rounds)
        assert sorted(rounds[0].reshape(-1)) == [-1, -1, *range(10)]
        assert rounds[0].reshape(-1)[:10].tolist() != list(range(10))
    assert sampler.init(0).partition.tolist() != sampler.init(1).partition.tolist()


def test_fraction_and_spacing_may_be_traced():
    table = recorded_losses(8, 40, seed=2)

    traces = []

    @jax.jit
    def drawn(fraction, every):
        traces.append(None)
        sampler = hard_batches(8, 1, fraction=fraction, full_round_every=every)

        def step(state, losses):
            rows, state = sampler.sample(state)
            return sampler.update(state, rows, losses=losses[rows.indices]), rows.indices[0]

        return jax.lax.scan(step, sampler.init(0), jnp.asarray(table, jnp.float32))[1]

    assert drawn(0.25, 3).tolist() == replay(table, 0.25, 3)
    assert drawn(0.5, 0).tolist() == replay(table, 0.5)
    assert len(traces) == 1


def test_mask_is_the_largest_fraction():
    for number in (10, 100):
        losses = np.random.default_rng(0).permutation(number).astype(np.float32)
        for fraction in ("0.01", "0.1", "0.29", "0.3", "0.55", "0.57", "1"):
            kept = np.flatnonzero(hard_batch_mask(jnp.asarray(losses), float(fraction)))
            wanted = max(1, int(Fraction(fraction) * number))
            assert set(losses[kept]) == set(np.sort(losses)[::-1][:wanted])


@pytest.mark.parametrize("losses", [[-0.0, 0.0, 0.0], [0.0, -0.0, 0.0], [1.0, 1.0, jnp.inf]])
def test_ties_go_to_the_first(losses):
    assert hard_batch_mask(jnp.array(losses), 0.4).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hard_batches(4, 5), ValueError, r"batch_size is 5, wanted at most 4 \(the number of examples\)"),
        (lambda: hard_batches(0, 1), ValueError, "num_examples is 0"),
        (lambda: hard_batches(4, 2, fraction=0.0), ValueError, r"fraction is 0\.0, wanted a number in \(0, 1\]"),
        (lambda: hard_batches(4, 2, fraction=float("nan")), ValueError, r"fraction is nan"),
        (lambda: hard_batches(4, 2, full_round_every=-1), ValueError, "full_round_every is -1, wanted at least 0"),
        (lambda: hard_batches(4, 2, full_round_every=0.5), TypeError, r"full_round_every is 0\.5, wanted an int"),
        (lambda: hard_batches(4, 2, shuffle=1), TypeError, "shuffle is 1, wanted a bool"),
        (lambda: fed(jnp.arange(2)), TypeError, "losses has dtype int32"),
        (lambda: fed(jnp.ones(3)), ValueError, r"losses has shape \[3\], wanted \[2\]"),
        (lambda: fed(jnp.ones(3), Rows(jnp.arange(3), jnp.ones(3))), ValueError, r"indices has shape \[3\]"),
        (lambda: hard_batch_mask(jnp.arange(3), 0.5), TypeError, "last_losses has dtype int32"),
        (lambda: hard_batch_mask(jnp.ones(3), 1.5), ValueError, "fraction is 1.5"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def fed(losses, rows=None):
    sampler = hard_batches(4, 2)
    drawn, state = sampler.sample(sampler.init(0))
    return sampler.update(state, drawn if rows is None else rows, losses=losses)
