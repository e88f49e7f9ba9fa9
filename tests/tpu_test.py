"""The real XLA:TPU compiler takes a train step of each noun: `pip install 'jax[tpu]' && pytest -m tpu -s`.

No TPU is needed: the steps are compiled for a described topology. The collectives and the memory that the compiler
shows are printed, and the gradients' reduction must be among them.
"""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import minibatch_jax
from minibatch_jax import across, coupling, mining, mixing, normalize, sampling, value_and_grad
from minibatch_jax.coupling.exact import assignments
from minibatch_jax.devices import gather_rows
from minibatch_jax.selection import keep_topk

pytestmark = pytest.mark.tpu
B, D, H = 1024, 256, 512
COLLECTIVES = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def topology_mesh(name):
    topologies = pytest.importorskip("jax.experimental.topologies")
    pytest.importorskip("libtpu")
    description = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return Mesh(np.array(description.devices).ravel(), ("data",))


def struct(mesh, spec, *shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def selection_step(mesh):
    selection = optax.chain(across("data", keep_topk(B // 4)), across("data", normalize()))
    optimizer = optax.sgd(0.1)

    def loss_fn(params, batch):
        logits = jnp.dot(jax.nn.relu(jnp.dot(batch["x"], params["w"])), params["v"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    step = value_and_grad(loss_fn, selection, gather=B // 4, axis_name="data")

    def train(params, batch):
        _, grads, _ = step(params, batch, selection.init(jnp.zeros(B)))
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params))[0])

    params = {"w": struct(mesh, P(), D, H), "v": struct(mesh, P(), H, 10)}
    batch = {"x": struct(mesh, P("data"), B, D), "y": struct(mesh, P("data"), B, dtype=jnp.int32)}
    sharded = jax.shard_map(train, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    return sharded, (params, batch)


def coupling_step(mesh, solver):
    couple = across("data", solver)

    def train(params, x0, x1):
        cost = coupling.costs.squared_euclidean_cost(x0, gather_rows(x1, "data"))
        weights = jnp.full_like(cost, 1 / cost.shape[1] ** 2)
        plan, _ = couple.update(weights, couple.init(weights), cost=cost)
        source, target, weights = minibatch_jax.sample_pairs(0, plan, mode="rows")
        t, xt, ut = coupling.conditional_path(1, x0[source], gather_rows(x1, "data")[target])

        def loss(params):
            velocity = jnp.dot(jax.nn.relu(jnp.dot(xt, params["w"]) + t[:, None]), params["v"])
            return jnp.sum(weights * jnp.mean(jnp.square(velocity - ut), axis=1))

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    rows = B // 4
    params = {"w": struct(mesh, P(), D, H), "v": struct(mesh, P(), H, D)}
    x0, x1 = struct(mesh, P("data"), rows, D), struct(mesh, P("data"), rows, D)
    sharded = jax.shard_map(train, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    return sharded, (params, x0, x1)


def mining_step(mesh):
    mine = across("data", mining.mine_semihard(0.2))

    def train(params, x, labels):
        def distances(params, x):
            embeddings = mining.normalize_embeddings(jnp.dot(x, params["w"]))
            return mining.euclidean_distances(embeddings, gather_rows(embeddings, "data"))

        state = mine.init(jnp.ones((x.shape[0], B)))
        fn = value_and_grad(distances, mine, items="distances", axis_name="data")
        references = {"reference_labels": gather_rows(labels, "data")}
        _, grads, _ = fn(params, x, state, labels=labels, **references)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    arguments = (
        {"w": struct(mesh, P(), D, H)},
        struct(mesh, P("data"), B, D),
        struct(mesh, P("data"), B, dtype=jnp.int32),
    )
    return jax.shard_map(train, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()), arguments


def many_pairs_step(mesh):
    """Pairs of a device in blocks of rows; the gradient is that of a scale of the distances."""
    pairs = [struct(mesh, P("data"), 4 * B, 4 * B, dtype=dtype) for dtype in (jnp.float32, jnp.bool_, jnp.bool_)]

    def train(scale, distances, positives, negatives):
        def loss(scale):
            return mining.ranked_list_loss(scale * distances, positives, negatives)

        return scale - 0.1 * jax.grad(loss)(scale)

    return train, (struct(mesh, P()), *pairs)


def mixing_step(mesh):
    """A batch of domains in proportions that are learned, of a data set on all devices."""
    rows, domains = 16 * B, 8
    sampler = sampling.mixture(domains, B, mixing.mix_by_odm("perplexity"))
    batches = NamedSharding(mesh, P("data"))

    def loss_fn(params, batch):
        return jnp.mean((jnp.dot(batch["x"], params["w"]) - batch["x"]) ** 2, axis=1)

    def train(params, state, x):
        drawn, state = sampler.sample(state)
        batch = {"x": jax.lax.with_sharding_constraint(x[drawn.indices], batches)}
        step = value_and_grad(loss_fn, optax.identity())
        (_, aux), grads, _ = step(params, batch, optax.EmptyState(), weights=drawn.weights)
        state = sampler.update(state, drawn, losses=aux.items)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state

    started = jax.eval_shape(lambda d: sampler.init(0, domains=d), jax.ShapeDtypeStruct((rows,), jnp.int32))
    everywhere = NamedSharding(mesh, P())
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), started)
    return train, ({"w": struct(mesh, P(), D, D)}, state, struct(mesh, P("data"), rows, D))


STEPS = {
    "selection": selection_step,
    "exact": lambda mesh: coupling_step(mesh, coupling.couple_assignment()),
    "sinkhorn": lambda mesh: coupling_step(mesh, coupling.couple_sinkhorn(0.05, relative_to="mean")),
    "mining": mining_step,
    "many pairs": many_pairs_step,
    "mixing": mixing_step,
}


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5e:4x4"])
@pytest.mark.parametrize("noun", STEPS)
def test_train_step_compiles_for_tpu(noun, topology):
    mesh = topology_mesh(topology)
    step, arguments = STEPS[noun](mesh)
    compiled = jax.jit(step).lower(*arguments).compile()
    collectives = collections.Counter(re.findall(COLLECTIVES, compiled.as_text()))
    memory = compiled.memory_analysis()
    mebibytes = [size / 2**20 for size in (memory.temp_size_in_bytes, memory.argument_size_in_bytes)]
    print(
        f"\n{noun:10} {topology}: {dict(collectives)}, MiB temporaries {mebibytes[0]:.1f}, arguments {mebibytes[1]:.1f}"
    )
    assert collectives["all-reduce"] > 0


def pairing(*shape):
    """Return the exact pairing of reduced costs, mapped over all axes but the last two, and its arguments."""
    *stack, n, m = shape
    function = functools.reduce(lambda f, _: jax.vmap(f), stack, assignments._pair)
    vectors = (n, bool), (n, jnp.int32), (m, jnp.int32), (m, jnp.float32)
    return function, [jax.ShapeDtypeStruct((*stack, size), dtype) for size, dtype in vectors]


def of_costs(function, *shape):
    return function, []


KERNELS = {
    "assignment": (of_costs, coupling.assignment, 1024, 1024),
    "assignments on lanes": (of_costs, jax.vmap(coupling.assignment), 256, 64, 64),
    "partial assignments": (of_costs, coupling.partial_assignments, 1024, 1024),
    "stack of partial assignments": (of_costs, jax.vmap(coupling.partial_assignments), 3, 100, 300),
    "small pairing": (pairing, 20, 24),
    "pairing that copies a row a step": (pairing, 3000, 8192),
    "stack": (pairing, 4, 1024, 1024),
    "stack that copies a row a step": (pairing, 2, 2048, 2048),
    "largest on lanes": (pairing, 32, 128, 128),
    "lanes of few rows": (pairing, 10, 30, 20, 33),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_of_exact_pairings_compile_for_tpu(kernel):
    make, *shape = KERNELS[kernel]
    function, vectors = make(*shape)
    costs = jax.ShapeDtypeStruct([size for size in shape if isinstance(size, int)], jnp.float32)
    sharding = jax.sharding.SingleDeviceSharding(topology_mesh("v5e:2x2").devices.flat[0])
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in (costs, *vectors)]
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 1
