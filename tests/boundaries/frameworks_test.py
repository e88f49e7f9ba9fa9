"""The boundary with all rows kept, against the training loop that users of each framework write, for 20 steps."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_topk

B, D, CLASSES, STEPS = 16, 6, 3, 20
ALL = keep_topk(B)
X64 = pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def promotion():
    """Flax and optax rely on implicit promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def data(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(STEPS, B, D)), dtype)
    return {"x": x, "y": jnp.asarray(rng.integers(0, CLASSES, (STEPS, B)), jnp.int32)}


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def agree(ours, theirs, dtype):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12 if dtype == jnp.float64 else 1e-5)


def batches(dtype):
    everything = data(dtype)
    return [{k: v[i] for k, v in everything.items()} for i in range(STEPS)]


class Net(nnx.Module):
    def __init__(self, rngs, dtype):
        self.hidden = nnx.Linear(D, 8, rngs=rngs, param_dtype=dtype, dtype=dtype)
        self.norm = nnx.BatchNorm(8, rngs=rngs, param_dtype=dtype, dtype=dtype)
        self.norm.mean, self.norm.var = nnx.BatchStat(jnp.zeros(8, dtype)), nnx.BatchStat(jnp.ones(8, dtype))
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(8, CLASSES, rngs=rngs, param_dtype=dtype, dtype=dtype)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.hidden(x)))))


def nnx_losses(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


def everything_of(model):
    leaves = jax.tree.leaves(nnx.state(model))
    return [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]


@X64
def test_nnx_with_batch_norm_and_dropout(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        ours, theirs = Net(nnx.Rngs(0), dtype), Net(nnx.Rngs(0), dtype)
        optimizers = [nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param) for model in (ours, theirs)]
        state = ALL.init(jnp.zeros(B))

        @nnx.jit
        def our_step(model, optimizer, batch):
            (loss, _), grads, _ = value_and_grad(nnx_losses, ALL)(model, batch, state)
            optimizer.update(model, grads)
            return loss

        @nnx.jit
        def their_step(model, optimizer, batch):
            loss, grads = nnx.value_and_grad(lambda m, b: jnp.mean(nnx_losses(m, b)))(model, batch)
            optimizer.update(model, grads)
            return loss

        for batch in batches(dtype):
            agree(our_step(ours, optimizers[0], batch), their_step(theirs, optimizers[1], batch), dtype)
        for a, b in zip(everything_of(ours), everything_of(theirs), strict=True):
            agree(a, b, dtype)
        assert int(ours.drop.rngs.count[...]) == STEPS and np.abs(ours.norm.mean[...]).max() > 0.01


def test_nnx_with_gather_only_the_differentiated_pass_writes_state():
    model, once = Net(nnx.Rngs(0), jnp.float32), Net(nnx.Rngs(0), jnp.float32)
    batch = batches(jnp.float32)[0]
    select = keep_topk(4)
    (_, aux), _, _ = value_and_grad(nnx_losses, select, gather=4)(model, batch, select.init(jnp.zeros(B)))
    nnx_losses(once, jax.tree.map(lambda x: x[aux.indices], batch))
    np.testing.assert_allclose(model.norm.mean[...], once.norm.mean[...], rtol=1e-6)
    assert int(model.drop.rngs.count[...]) == 1


def test_nnx_filters_choose_what_is_differentiated():
    class Adapted(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.LoRALinear(D, CLASSES, lora_rank=2, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    model, batch = Adapted(nnx.Rngs(0)), batches(jnp.float32)[0]
    _, grads, _ = value_and_grad(nnx_losses, ALL, wrt=nnx.LoRAParam)(model, batch, ALL.init(jnp.zeros(B)))
    mean_loss = lambda m: jnp.mean(nnx_losses(m, batch))  # noqa: E731
    expected = nnx.grad(mean_loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(model)
    assert jax.tree.structure(grads) == jax.tree.structure(expected) and len(jax.tree.leaves(grads)) == 2
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="wrt selects no variable"):
        value_and_grad(nnx_losses, ALL, wrt=nnx.BatchStat)(model, batch, ALL.init(jnp.zeros(B)))


@X64
def test_equinox(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        model = eqx.nn.MLP(D, CLASSES, 8, 2, activation=jax.nn.silu, key=jax.random.key(0), dtype=dtype)
        optimizer = optax.adam(1e-2)
        losses = lambda m, b: cross_entropy(jax.vmap(m)(b["x"]), b["y"])  # noqa: E731

        @eqx.filter_jit
        def our_step(model, opt_state, batch):
            (loss, _), grads, _ = value_and_grad(losses, ALL)(model, batch, ALL.init(jnp.zeros(B)))
            updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), opt_state, loss

        @eqx.filter_jit
        def their_step(model, opt_state, batch):
            loss, grads = eqx.filter_value_and_grad(lambda m, b: jnp.mean(losses(m, b)))(model, batch)
            updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), opt_state, loss

        states = [(model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)))] * 2
        for batch in batches(dtype):
            *ours, loss = our_step(*states[0], batch)
            *theirs, expected = their_step(*states[1], batch)
            agree(loss, expected, dtype)
            states = [ours, theirs]


@X64
def test_linen_with_batch_statistics_and_train_state(dtype):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, dtype=dtype, param_dtype=dtype)(x)
            x = nn.BatchNorm(use_running_average=False, dtype=dtype, param_dtype=dtype)(x)
            return nn.Dense(CLASSES, dtype=dtype, param_dtype=dtype)(nn.relu(x))

    class State(TrainState):
        batch_stats: dict

    with jax.enable_x64(dtype == jnp.float64):
        model, first = Model(), batches(dtype)[0]
        variables = model.init(jax.random.key(0), first["x"])
        make = lambda: State.create(apply_fn=model.apply, tx=optax.adam(1e-2), **variables)  # noqa: E731

        def losses(params, batch, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, new = model.apply(variables, batch["x"], mutable=["batch_stats"])
            return cross_entropy(logits, batch["y"]), new["batch_stats"]

        @jax.jit
        def our_step(train, batch):
            fn = value_and_grad(losses, ALL, has_state=True)
            (loss, aux), grads, _ = fn(train.params, batch, ALL.init(jnp.zeros(B)), model_state=train.batch_stats)
            return train.apply_gradients(grads=grads).replace(batch_stats=aux.model_state), loss

        @jax.jit
        def their_step(train, batch):
            def mean_loss(params):
                values, stats = losses(params, batch, train.batch_stats)
                return jnp.mean(values), stats

            (loss, stats), grads = jax.value_and_grad(mean_loss, has_aux=True)(train.params)
            return train.apply_gradients(grads=grads).replace(batch_stats=stats), loss

        ours, theirs = make(), make()
        for batch in batches(dtype):
            ours, loss = our_step(ours, batch)
            theirs, expected = their_step(theirs, batch)
            agree(loss, expected, dtype)
        for a, b in zip(jax.tree.leaves(ours.batch_stats), jax.tree.leaves(theirs.batch_stats), strict=True):
            agree(a, b, dtype)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@X64
def test_haiku(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, CLASSES])(x)))
        params = net.init(jax.random.key(0), batches(dtype)[0]["x"])
        losses = lambda p, b: cross_entropy(net.apply(p, b["x"]), b["y"])  # noqa: E731
        check_plain(losses, params, dtype)


@X64
def test_plain_trees(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        rng = np.random.default_rng(1)
        params = {"w": jnp.asarray(rng.normal(size=(D, CLASSES)), dtype), "b": jnp.zeros(CLASSES, dtype)}
        check_plain(lambda p, b: cross_entropy(jnp.dot(b["x"], p["w"]) + p["b"][None], b["y"]), params, dtype)


def check_plain(losses, params, dtype):
    optimizer = optax.sgd(0.1)

    @jax.jit
    def our_step(params, opt_state, batch):
        (loss, _), grads, _ = value_and_grad(losses, ALL)(params, batch, ALL.init(jnp.zeros(B)))
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    @jax.jit
    def their_step(params, opt_state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    states = [(params, optimizer.init(params))] * 2
    for batch in batches(dtype):
        *ours, loss = our_step(*states[0], batch)
        *theirs, expected = their_step(*states[1], batch)
        agree(loss, expected, dtype)
        states = [ours, theirs]


@pytest.mark.parametrize("wrt", [lambda path: "lora" in path, {"base": False, "lora_a": True, "lora_b": True}])
def test_lora_trains_a_subset_by_path_or_mask(wrt):
    rng = np.random.default_rng(2)
    shapes = {"base": (D, CLASSES), "lora_a": (D, 2), "lora_b": (2, CLASSES)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    batch = batches(jnp.float32)[0]
    losses = lambda p, b: cross_entropy(jnp.dot(b["x"], p["base"] + jnp.dot(p["lora_a"], p["lora_b"])), b["y"])  # noqa: E731
    _, grads, _ = value_and_grad(losses, ALL, wrt=wrt)(params, batch, ALL.init(jnp.zeros(B)))
    expected = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
    assert grads["base"] is None
    for name in ("lora_a", "lora_b"):
        np.testing.assert_allclose(grads[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_filter_that_selects_nothing_lists_what_there_is():
    params = {"layer": {"kernel": jnp.ones((D, CLASSES)), "steps": jnp.zeros((), jnp.int32)}}
    fn = value_and_grad(lambda p, b: b["x"][:, 0], ALL, wrt=lambda path: "lora" in path)
    with pytest.raises(ValueError, match=r"wrt selects no parameter, wanted at least one of \['layer/kernel'\]"):
        fn(params, batches(jnp.float32)[0], ALL.init(jnp.zeros(B)))
    fn = value_and_grad(lambda p, b: b["x"][:, 0], ALL, wrt={"other": True})
    with pytest.raises(ValueError, match="wanted a function of a path such as 'layer/kernel'"):
        fn(params, batches(jnp.float32)[0], ALL.init(jnp.zeros(B)))
    with pytest.raises(TypeError, match=r"params has the leaves \['n'\], wanted at least one array of floating point"):
        fn({"n": jnp.zeros(3, jnp.int32)}, batches(jnp.float32)[0], ALL.init(jnp.zeros(B)))


def test_a_mask_of_a_callable_module_is_a_mask_and_no_function():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    mask = eqx.tree_at(lambda m: m.layers[1].bias, jax.tree.map(lambda _: False, model), True)
    fn = value_and_grad(lambda m, x: jax.vmap(m)(x).sum(1), normalize(), wrt=mask)
    (_, _), grads, _ = fn(model, jnp.ones((4, 3)), normalize().init(jnp.ones(4)))
    assert grads.layers[0].weight is None and grads.layers[1].weight is None
    np.testing.assert_allclose(grads.layers[1].bias, 1)
