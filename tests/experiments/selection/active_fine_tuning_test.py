"""The model, the data and the adaptive stop of the experiment against loops and hand-made steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine import init_mlp
from experiments.selection import _passages as data
from experiments.selection import active_fine_tuning as experiment
from experiments.selection.active_fine_tuning import Config, Outcome


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0))
    sizes = (experiment.CONTEXT * experiment.EMBEDDING, 16, experiment.BYTES)
    return jax.random.normal(keys[0], (experiment.BYTES, experiment.EMBEDDING)), init_mlp(keys[1], sizes)


@pytest.fixture
def numbered(monkeypatch):
    """A file of 400 windows of Python after 20 of C; each begins with the four digits of its number, and holds words of
    its own and of the windows around it."""
    windows = [f"{n:04d} " + " ".join(f"w{m:04d}" for m in range(n, n + 12)) for n in range(400)]
    tokens = np.stack([np.frombuffer(f"{text:256.256s}".encode(), np.uint8) for text in windows])
    tokens = np.concatenate([np.full((20, 256), 32, np.uint8), tokens])
    label = np.repeat([0, data.PYTHON], [20, 400])
    test = np.arange(420) % 5 == 4
    splits = {"train": ~test, "test": test}
    monkeypatch.setattr(
        data, "arrays", lambda name, split: {"tokens": tokens[splits[split]], "label": label[splits[split]]}
    )
    for name, size in {"POOL": 100, "DIMENSIONS": 20}.items():
        monkeypatch.setattr(data, name, size)
    caches = data.draw_problem, experiment.base_model
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def numbers(windows):
    return [int(bytes(row[:4].tolist())) for row in np.asarray(windows)]


def test_a_byte_is_predicted_from_the_twelve_before_it(params):
    window = np.random.default_rng(0).integers(1, 256, 40)
    table, ((kernel, bias), (last_kernel, last_bias)) = params
    expected = []
    for place in range(40):
        before = [window[i] if i >= 0 else 0 for i in range(place - 12, place)]
        hidden = np.maximum(np.concatenate([table[b] for b in before]) @ kernel + bias, 0)
        logits = hidden @ last_kernel + last_bias
        expected.append(np.log(np.exp(logits).sum()) - logits[window[place]])
    np.testing.assert_allclose(experiment.losses(params, jnp.asarray(window)), expected, rtol=1e-4)


@pytest.mark.slow
def test_bits_are_of_the_second_half_after_each_step_of_adam(params):
    rng = np.random.default_rng(0)
    passages, windows = (jnp.asarray(rng.integers(256, size=shape), jnp.uint8) for shape in ((2, 2, 256), (2, 256)))
    found = np.asarray(experiment.continued(params, passages, windows, 1e-2))
    optimizer = optax.adam(1e-2)
    gradient = jax.grad(lambda params, passage: jnp.mean(experiment.losses(params, passage)))
    for query in range(2):
        moved: Any = params
        opt_state = optimizer.init(params)
        for step in range(3):
            bits = np.mean(np.asarray(experiment.losses(moved, windows[query]))[128:]) / np.log(2)
            assert found[query, step] == pytest.approx(bits, rel=1e-4)
            if step < 2:
                updates, opt_state = optimizer.update(gradient(moved, passages[query, step]), opt_state)
                moved = optax.apply_updates(moved, updates)


def test_queries_lie_among_the_pool_and_tuning_sees_others(numbered):
    seen = {}
    for validate in (False, True):
        found = data.draw_problem(8, validate, "single", 0)
        pool, seen[validate] = numbers(found.passages), set(numbers(found.windows))
        assert len(pool) == 100 and min(pool) >= 150 and not seen[validate] & set(pool)
        assert all(min(pool) - 5 <= number <= max(pool) + 5 for number in seen[validate])
        assert max(numbers(found.passages)) - min(pool) <= 125
    assert len(seen[False]) == 8 and not seen[False] & seen[True]
    before = [row for row in data.windows_before() if row[0] != 32]
    assert not set(numbers(before)) & (set(pool) | seen[False] | seen[True])


def test_copies_fill_the_nearest_but_not_sifts_choice(numbered):
    pool, copies = (data.draw_problem(8, False, pool, 0) for pool in ("single", "duplicates"))
    assert len(copies.passages) == 100 + 15 * 25
    assert numbers(copies.passages)[:17] == [numbers(pool.passages)[0]] * 16 + numbers(pool.passages)[1:2]
    nearest = experiment.choose(pool, "nearest", 3, 0.1, 0)
    order = np.argsort(-np.asarray(pool.queries @ pool.features.T), axis=1)
    np.testing.assert_array_equal(nearest, order[:, :3])

    def distinct(problem, chooser):
        return np.mean([len(set(numbers(problem.passages[jnp.asarray(row)]))) for row in chosen(problem, chooser)])

    def chosen(problem, chooser):
        return experiment.choose(problem, chooser, 6, 0.01, 0)

    assert distinct(copies, "nearest") < 4 < distinct(pool, "nearest") == 6
    assert distinct(copies, "SIFT") == distinct(pool, "SIFT") > distinct(copies, "nearest")


def test_near_copies_have_a_few_other_bytes(numbered):
    exact, near = (data.draw_problem(8, False, pool, 0) for pool in ("duplicates", "near copies"))
    other = np.asarray(exact.passages) != np.asarray(near.passages)
    first = np.unique(near.original, return_index=True)[1]
    assert not other[first].any()
    assert np.delete(other, first, axis=0).mean() == pytest.approx(0.02, rel=0.7)  # many of the others are blanks too
    np.testing.assert_array_equal(exact.windows, near.windows)
    cosines = np.sum(np.asarray(exact.features) * np.asarray(near.features), axis=1)
    assert cosines[first] == pytest.approx(1, abs=1e-5) and 0.5 < cosines.min() < 0.999


def test_each_query_stops_for_itself(numbered):
    config = Config(queries=8, passages=6, noise=0.1, stops=(2.0,), steps_before=1)
    used = experiment.fine_tuned(config, "SIFT", 0).used[2.0]
    problem = data.draw_problem(8, False, "single", 0)
    expected = []
    for row in np.asarray(experiment.sift(problem, 6, 0.1, None).variances):
        n = 0
        while n < 6 and np.sqrt(row[n]) <= 1 / (2.0 * (n + 1)):
            n += 1
        expected.append(n)
    np.testing.assert_array_equal(used, expected)
    assert 0 < np.mean(expected) < 6


def test_stopping_is_compared_with_the_same_mean_number_for_all():
    bits = np.random.default_rng(0).normal(size=(3, 7))
    outcome = Outcome(bits, np.ones(3), {0.5: np.array([1, 0, 4])})
    measured = experiment.stopped(lambda name, seed: outcome, "SIFT", 0)[0.5]
    assert measured["passages"] == pytest.approx(5 / 3)
    assert measured["bits_per_byte"] == pytest.approx((bits[0, 1] + bits[1, 0] + bits[2, 4]) / 3)
    assert measured["same_number_for_all"] == pytest.approx(bits[:, 1].mean() / 3 + bits[:, 2].mean() * 2 / 3)


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_plots(numbered, tmp_path):
    config = Config(seeds=(0,), out=str(tmp_path), queries=2, passages=2, stops=(0.5,), steps_before=2)
    records = experiment.main(config)
    start = [r["metrics"]["bits_per_byte"] for r in records if r["step"] == 0]
    assert len(start) == 7 and len(set(start)) == 1
    assert (tmp_path / "curves.png").exists() and (tmp_path / "stopping" / "table.md").exists()
