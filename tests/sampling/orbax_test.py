"""Orbax saves the state of every sampler, keys too, and a process that starts afresh draws the same rows from it."""

import subprocess
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from minibatch_jax.interop.grain import sampled_dataset
from minibatch_jax.sampling import shuffled, weighted
from tests.sampling.conformance_test import CASES


def made(case, seed):
    """A sampler and its first state, made from scratch."""
    sampler = case.make()
    return sampler, jax.jit(sampler.init)(seed, **case.arrays(np.random.default_rng(0)))


def steps(case, sampler, state, seeds):
    """Draw and feed back; what is fed back depends on the number of the step alone."""
    sample, drawn = jax.jit(sampler.sample), []
    update = jax.jit(lambda state, rows, signals: sampler.update(state, rows, **signals))
    for seed in seeds:
        rows, state = sample(state)
        drawn.append(rows)
        on_host = jax.tree.map(np.asarray, rows)
        state = update(state, rows, dict(case.signals(np.random.default_rng(seed), on_host)))
    return drawn, state


def numbers(tree):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_restored_sampler_goes_on_to_the_same_bits(case, tmp_path):
    _, middle = steps(case, *made(case, 0), range(4))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "middle", middle)
    expected = steps(case, case.make(), middle, range(4, 9))

    sampler, other = made(case, 99)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "middle", other)
    np.testing.assert_equal(numbers(restored), numbers(middle))
    found = steps(case, sampler, restored, range(4, 9))
    np.testing.assert_equal(numbers(found), numbers(expected))


FRESH = """
import sys
import jax
import orbax.checkpoint as ocp
from minibatch_jax.sampling import shuffled

sampler = shuffled(48, 16)
with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(sys.argv[1], jax.eval_shape(sampler.init, 0))
print(sampler.sample(state)[0].indices.tolist())
"""


def test_a_new_process_goes_on(tmp_path):
    sampler = shuffled(48, 16)
    _, state = sampler.sample(sampler.init(7))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    command = [sys.executable, "-c", FRESH, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(sampler.sample(state)[0].indices.tolist())


def test_the_iterator_of_a_grain_pipeline_is_saved_beside_the_parameters(tmp_path):
    sampler = weighted(4, decay=0.5)
    dataset = sampled_dataset(sampler, sampler.init(0, weights=jnp.ones(10)), np.arange(10), read_ahead=1)

    def draw(iterator):
        rows = next(iterator).rows
        iterator.update(rows, losses=rows.indices.astype(np.float32))
        return rows.indices.tolist()

    iterator = iter(dataset)
    for _ in range(3):
        draw(iterator)
    params = {"w": jnp.arange(3.0)}
    with ocp.CheckpointManager(tmp_path) as manager:
        args = {"params": ocp.args.StandardSave(params), "data": grain.checkpoint.CheckpointSave(iterator)}
        manager.save(3, args=ocp.args.Composite(**args))
        manager.wait_until_finished()
        expected = [draw(iterator) for _ in range(4)]
        again = iter(dataset)
        args = {"params": ocp.args.StandardRestore(params), "data": grain.checkpoint.CheckpointRestore(again)}
        restored = manager.restore(3, args=ocp.args.Composite(**args))
    np.testing.assert_array_equal(restored["params"]["w"], params["w"])
    assert [draw(restored["data"]) for _ in range(4)] == expected
