"""One of two processes: `python -m tests.distributed_worker PORT PROCESS`. Fails unless both agree with one process."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minibatch_jax import across, normalize, value_and_grad
from minibatch_jax.processes import check_same_arguments
from minibatch_jax.selection import keep_topk
from minibatch_jax.signals import SIGNALS
from minibatch_jax.testing import ROWS, draw, run


def place(mesh, tree, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: np.asarray(x)[i]), tree)


def everywhere(tree):
    return multihost_utils.process_allgather(tree, tiled=True)


def check_factory(mesh, name, case):
    weights, signals = draw(case)
    expected, _ = run(case, weights, signals)
    tx = across("data", case.make())
    specs = {k: P() if SIGNALS[k].replicated else P("data") for k in signals}
    kept = jax.jit(
        jax.shard_map(
            lambda w, x: tx.update(w, tx.init(w), **x)[0], mesh=mesh, in_specs=(P("data"), specs), out_specs=P("data")
        )
    )(place(mesh, weights, P("data")), {k: place(mesh, v, specs[k]) for k, v in signals.items()})
    np.testing.assert_allclose(
        everywhere(kept), expected, rtol=case.tolerance, atol=case.tolerance / ROWS, err_msg=name
    )


def loss_fn(params, batch):
    return jnp.square(jnp.dot(jnp.tanh(jnp.dot(batch["x"], params["w"])), params["v"]) - batch["y"])


def train(step, params, batch, steps=3):
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(params)
    for _ in range(steps):
        grads = step(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def check_training(mesh, gather):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 5)).astype(np.float32), "v": rng.normal(size=5).astype(np.float32)}
    batch = {"x": rng.normal(size=(ROWS, 5)).astype(np.float32), "y": rng.normal(size=ROWS).astype(np.float32)}
    selection = optax.chain(keep_topk(8), normalize())
    state = selection.init(jnp.zeros(ROWS))
    expected = train(
        jax.jit(lambda p, b: value_and_grad(loss_fn, selection, gather=gather)(p, b, state)[1]), params, batch
    )
    sharded = value_and_grad(loss_fn, across("data", selection), gather=gather, axis_name="data")
    step = jax.shard_map(lambda p, b: sharded(p, b, state)[1], mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    actual = train(jax.jit(step), place(mesh, params, P()), place(mesh, batch, P("data")))
    for name, value in actual.items():
        local = value.addressable_data(0)
        np.testing.assert_allclose(local, expected[name], rtol=1e-5, atol=1e-6, err_msg=f"{name}, gather={gather}")


def run_sampler(case, put, steps=5):
    """Rows and last state, with what goes in put on devices by `put(tree, spec)`."""
    sampler, rng = case.make(), np.random.default_rng(0)
    arrays = {name: put(value, P()) for name, value in case.arrays(rng).items()}
    state = jax.jit(sampler.init)(put(np.int32(3), P()), **arrays)
    sample = jax.jit(sampler.sample)
    update = jax.jit(lambda state, rows, signals: sampler.update(state, rows, **signals))
    drawn = []
    for _ in range(steps):
        rows, state = sample(state)
        drawn.append(jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), rows))
        signals = {}
        for name, value in case.signals(rng, drawn[-1]).items():
            one_row_each = np.shape(value)[:1] == drawn[-1].indices.shape
            signals[name] = put(value, P("data") if one_row_each else P())
        state = update(state, rows, signals)
    keys_as_numbers = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(state)
    ]
    return drawn, [np.asarray(x.addressable_data(0)) for x in keys_as_numbers]


def check_sampler(mesh, name, case):
    alone = run_sampler(case, lambda tree, spec: jax.tree.map(jnp.asarray, tree))
    together = run_sampler(case, lambda tree, spec: place(mesh, tree, spec))
    for found, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=case.tolerance, atol=0, err_msg=name)


def check_arguments(process):
    check_same_arguments(seed=jax.random.key(0), k=8, pool={"x": np.arange(6.0)}, metric="cosine")
    for arguments, wrong in (
        ({"seed": process, "k": 8}, "^seed: got other values"),
        ({"k": 8, "pool": np.arange(6.0) + (np.arange(6) == 3) * process}, "^pool: got other values"),
        ({"k" if process else "size": 8}, "^the names of the arguments: got"),
    ):
        try:
            check_same_arguments(**arguments)
        except ValueError as error:
            assert re.match(wrong, str(error)), error
        else:
            raise AssertionError(f"{arguments} on two processes raised nothing")


def main(port: str, process: int, names: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    from tests.conformance_test import CASES  # test files compute, which must come after the devices are known
    from tests.sampling.conformance_test import CASES as SAMPLERS

    check_arguments(process)
    for name in names or CASES:
        check_factory(mesh, name, CASES[name])
    for name, case in SAMPLERS.items():
        check_sampler(mesh, name, case)
    for gather in (None, 8):
        check_training(mesh, gather)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
