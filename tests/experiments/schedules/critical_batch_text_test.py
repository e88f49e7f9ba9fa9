"""What is special about the model of bytes: its warm-up, and held-out windows of every domain."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.schedules import _workloads as workloads


def test_the_first_step_of_adam_is_the_share_of_the_rate_that_the_warm_up_says():
    task = workloads.byte_task(4, 1, 4)
    params = task.start(jax.random.key(0))
    optimizer = task.optimizer(jnp.float32(0.5), jnp.float32(10))
    ones = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(ones, optimizer.init(params), params)
    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -0.05, rtol=1e-4)
    updates, _ = optimizer.update(ones, state, params)
    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -0.1, rtol=1e-4)
    losses = task.losses(params, jnp.zeros((3, 4), jnp.uint8))
    assert losses.shape == (3,) and 4 < float(losses[0]) < 7  # log 256 is 5.5


def test_held_out_windows_come_from_every_domain(monkeypatch):
    windows = np.repeat(np.arange(12, dtype=np.uint8), 6)[:, None] * np.ones((1, 4), np.uint8)
    splits = {"train": {"tokens": windows}, "validation": {"tokens": windows}}
    monkeypatch.setattr(workloads, "text_domains", lambda length, validate: splits)
    workloads.byte_data.cache_clear()
    _, held_out = workloads.byte_data(4, 24)
    workloads.byte_data.cache_clear()
    np.testing.assert_array_equal(held_out[:, 0], np.repeat(np.arange(12), 2))
