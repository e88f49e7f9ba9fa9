"""GOT-D on a file chooses what the scores of the array say, also if it is stopped in between."""

import functools

import jax
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.pool import _rounds, _transport, select_from_pool
from tests.pool.select_test import Killed, KilledAfter, assert_same
from tests.selection.got_d_test import samples

K = 40


def problem():
    pool, target = samples(2, 600)
    pool[[5, 170]], pool[9] = np.nan, 1e25
    return pool, target


def select(pool, target, **options):
    return select_from_pool(pool, K, method="got_d", queries=target, block_size=128, progress=False, **options)


@functools.cache
def expected():
    scores = jax.jit(lambda p, t: selection.transport_scores_in_blocks(p, t, block_size=128, tolerance=1e-5).scores)
    return np.asarray(scores(*problem()))


@pytest.mark.parametrize("sample", [60, 8192])
def test_chooses_the_lowest_scores(sample, monkeypatch, tmp_path):
    monkeypatch.setattr(_transport, "SAMPLE", sample)
    pool, target = problem()
    np.save(tmp_path / "pool.npy", pool)
    found = select(tmp_path / "pool.npy", target)
    spread = np.ptp(expected()[np.isfinite(expected())])
    np.testing.assert_allclose(found.values, expected()[found.indices], atol=2e-3 * spread)
    assert len(set(found.indices) & set(np.argsort(expected())[:K])) >= K - 1
    assert found.dropped == 3 and np.all(np.diff(found.values) >= 0) and found.weights.tolist() == [1] * K


def test_a_stopped_call_goes_on_to_the_same_result(tmp_path, monkeypatch):
    saves, arguments = KilledAfter(2), problem()
    monkeypatch.setattr(_transport, "SAMPLE", 60)
    monkeypatch.setattr(_rounds, "_save", saves)
    with pytest.raises(Killed):
        select(*arguments, state_folder=tmp_path)
    resumed = select(*arguments, state_folder=tmp_path)
    assert saves.count > 3
    assert_same(resumed, select(*arguments))
    with pytest.raises(ValueError, match=r"state_folder .* holds another call, \(saved, given\) = {'epsilon'"):
        select(*arguments, state_folder=tmp_path, epsilon=0.5)


def test_targets_that_cannot_be_measured_do_not_count_and_too_few_passes_are_told(monkeypatch):
    pool, target = problem()
    spoilt = np.append(target, [[np.nan] * 3, [1e25] * 3], 0).astype(np.float32)
    found = select(pool, spoilt)
    assert found.dropped_queries == 2
    assert_same(found._replace(dropped_queries=0), select(pool, target))
    monkeypatch.setattr(_transport, "PASSES", 2)
    monkeypatch.setattr(_transport, "SAMPLE", 50)
    with pytest.warns(RuntimeWarning, match="has the error .* after 2 passes, wanted at most 0.001: raise epsilon"):
        select(pool, target)


def test_bad_input_is_named():
    pool, target = problem()
    with pytest.raises(ValueError, match=r"queries is None, wanted \[Q, D\] for the method 'got_d'"):
        select(pool, None)
    with pytest.raises(ValueError, match="epsilon is 0.0"):
        select(pool, target, epsilon=0.0)
    with pytest.raises(ValueError, match="queries has no row of 1 that is finite"):
        select(pool, np.full((1, 3), np.nan))
