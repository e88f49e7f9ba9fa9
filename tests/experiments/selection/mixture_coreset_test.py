"""The sources, the adapters, the gradient estimates and what each arm keeps, by loops and autodiff; a short run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.datasets import arrays
from experiments.engine import folders
from experiments.selection import mixture_coreset
from experiments.selection._adapted_bytes import AdaptedBytes
from experiments.selection.mixture_coreset import DOMAINS, TINY, Config
from experiments.shared.backbones import ByteTransformer
from minibatch_jax import weights_of

SMALL = Config(width=8, depth=2, rank=2, length=8, batch_size=16, keep=8, coordinates=8, windows=(60, 20, 10))
SMALL = dataclasses.replace(SMALL, base_steps=20, base_batch_size=8, test_windows=30)


@functools.cache
def few_rows(name, split):
    """A hundred rows of each source; posts are made up."""
    if name == "newsgroups":
        return {"text": [f"{split} post {number}, and more of it".encode() for number in range(100)]}
    data = arrays(name, split)
    rows = np.concatenate([np.flatnonzero(data["label"] == i)[:100] for i in range(3)])
    return {k: v[rows] for k, v in data.items()}


@pytest.fixture
def model():
    """A model, its base, adapters that do something, and tokens."""
    made = AdaptedBytes(SMALL.length, SMALL.width, SMALL.depth, SMALL.rank)
    adapters = jax.tree.map(lambda x: x + 0.3, made.adapters(jax.random.key(1)))
    tokens = jax.random.randint(jax.random.key(2), (SMALL.batch_size, SMALL.length), 0, 128)
    return made, made.base(0), adapters, tokens


def test_windows_are_those_of_their_source_and_test_windows_are_others(monkeypatch):
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    data = mixture_coreset.text(dataclasses.replace(SMALL, length=32))
    tokens, domain = data["train"]["tokens"], data["train"]["domain"]
    assert np.bincount(domain).tolist() == [60, 20, 10]
    read = {name: bytes(tokens[domain == i].reshape(-1).astype(np.uint8)) for i, name in enumerate(DOMAINS)}
    assert b"train post" in read["posts"] and b"train post" not in read["c"] + read["prose"]
    assert b"#define" in read["c"] or b"/*" in read["c"]
    assert b"self." in bytes(data["before"].reshape(-1).astype(np.uint8))
    assert b"test post" in bytes(data["test"]["posts"].reshape(-1).astype(np.uint8))
    assert {name: len(rows) for name, rows in data["test"].items()} == dict.fromkeys(DOMAINS, 30)


def test_validation_windows_are_not_trained_on(monkeypatch):
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    mixture_coreset.texts.cache_clear()
    train, test = mixture_coreset.texts("prose", dataclasses.replace(SMALL, length=256, validate=True))
    assert (len(train), len(test)) == (90, 10)
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}


def test_new_adapters_change_nothing_and_others_change_two_projections(model):
    made, base, adapters, _ = model
    merged = made.merged(base, made.adapters(jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, merged, base)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), made.merged(base, adapters), base)
    for block in changed["blocks"].values():
        assert {n for n in ("query", "key", "value", "out") if block[n]["kernel"]} == {"query", "value"}
    assert sum(jax.tree.leaves(changed)) == 4


def test_losses_are_those_of_the_whole_model(model):
    made, base, _, tokens = model
    network = ByteTransformer(length=SMALL.length, width=SMALL.width, depth=SMALL.depth, rngs=nnx.Rngs(0))
    logits = np.asarray(network(tokens), np.float64)
    wanted = [
        np.mean([np.log(np.exp(place).sum()) - place[byte] for place, byte in zip(*window)])
        for window in zip(logits, np.asarray(tokens))
    ]
    np.testing.assert_allclose(jax.jit(made.losses)(base, tokens), wanted, rtol=1e-4)


def test_estimates_are_the_derivative_along_the_probe_times_the_probe(model):
    made, base, adapters, tokens = model
    estimate = jax.jit(lambda key: mixture_coreset.gradient_estimates(key, made, base, adapters, tokens))
    estimates = estimate(jax.random.key(3))

    def losses(b):
        last = adapters["block_1"] | {"value": adapters["block_1"]["value"] | {"b": b}}
        return made.losses(made.merged(base, adapters | {"block_1": last}), tokens)

    b = adapters["block_1"]["value"]["b"]
    probe = np.asarray(jax.random.normal(jax.random.key(3), b.shape)).reshape(-1)
    along = np.asarray(jax.jit(jax.jacobian(losses))(b)).reshape(len(tokens), -1) @ probe
    np.testing.assert_allclose(estimates, along[:, None] * probe[None], rtol=0.02, atol=3e-3)
    assert np.abs(along).max() > 0.01


def test_arms_keep_their_number_of_rows_and_the_tiny_source(model):
    made, base, adapters, tokens = model
    domain = jnp.array([0] * 10 + [1] * 5 + [TINY], jnp.int32)
    kept = {}
    for name, method in mixture_coreset.methods(SMALL, made, base).items():
        batch = {"tokens": tokens[: method.read], "domain": domain[: method.read]}

        def weigh(key, method=method, batch=batch):
            signals = method.score(key, adapters, batch)
            return weights_of(method.transformation, jnp.ones(method.read), **signals)

        weights = np.asarray(jax.jit(weigh)(jax.random.key(3)))
        assert (weights > 0).sum() <= method.kept and weights.sum() == pytest.approx(1)
        kept[name] = np.bincount(np.asarray(batch["domain"])[weights > 0], minlength=3).tolist()
    assert kept["whole super-batch"] == [10, 5, 1]
    assert kept["CoLM"] == kept["random by source"] == [4, 3, 1]
    assert kept["medoids by source"] == [5, 2, 1]
    assert kept["random"] == [8, 0, 0]


def test_adapters_learn_and_small_batches_need_less_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    monkeypatch.setattr(mixture_coreset, "print_step_costs", lambda *args, **options: {})
    mixture_coreset.texts.cache_clear()
    config = dataclasses.replace(SMALL, seeds=(0,), out=str(tmp_path / "out"), arms=("CoLM", "whole super-batch"))
    config = dataclasses.replace(config, base_steps=300, steps=50, evaluate_every=25, checkpoint_every=50)
    records = mixture_coreset.main(config)
    for arm in config.arms:
        first, last = (r["metrics"] for r in records if r["arm"] == arm)
        assert last["mean_bits"] < first["mean_bits"] < 8
        assert last["mean_bits"] == pytest.approx(np.mean([last[f"{name}_bits"] for name in DOMAINS]), rel=1e-5)
    lines = [line.strip("| ").split(" | ") for line in (tmp_path / "out/memory.md").read_text().splitlines()[2:]]
    megabytes = {name: float(value) for name, value in lines}
    assert megabytes["CoLM"] < megabytes["whole super-batch"]
