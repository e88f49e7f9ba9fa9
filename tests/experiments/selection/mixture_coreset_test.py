"""The windows, the gradient estimates and what each arm keeps, against loops and autodiff; a short run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.datasets import arrays
from experiments.engine import folders
from experiments.selection import mixture_coreset
from experiments.selection._byte_model import head_losses, init_model, trunk, window_losses
from experiments.selection.mixture_coreset import DOMAINS, TINY, Config
from minibatch_jax import weights_of

SMALL = Config(width=8, layers=2, length=8, batch_size=16, keep=6, coordinates=16, tiny_windows=50)


@functools.cache
def few_rows(name, split):
    """A hundred rows of each source."""
    data = arrays(name, split)
    rows = np.concatenate([np.flatnonzero(data["label"] == i)[:100] for i in range(3)])
    return {k: v[rows] for k, v in data.items()}


@pytest.fixture
def model():
    params = init_model(jax.random.key(0), SMALL.width, SMALL.layers, SMALL.length)
    return params, jax.random.randint(jax.random.key(1), (SMALL.batch_size, SMALL.length), 0, 128)


def test_windows_are_the_bytes_in_order_and_few_of_the_tiny_source_are_left(monkeypatch):
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    data = mixture_coreset.text(Config(length=100, tiny_windows=7))
    tokens, domain = data["train"]["tokens"], data["train"]["domain"]
    assert np.bincount(domain).tolist() == [200, 7, 200]
    source = few_rows("python_text", "train")
    wanted = [min(int(b), 127) for b in source["tokens"][0][100:200]]
    assert tokens[1].tolist() == wanted
    prose = bytes(tokens[domain == TINY].reshape(-1).astype(np.uint8)).decode("ascii")
    python = bytes(tokens[domain == DOMAINS.index("python")].reshape(-1).astype(np.uint8)).decode("ascii")
    assert "self." in python and "self." not in prose
    assert {name: len(rows) for name, rows in data["test"].items()} == dict.fromkeys(DOMAINS, 200)


def test_validation_windows_are_not_trained_on(monkeypatch):
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    data = mixture_coreset.text(Config(length=256, tiny_windows=1000, validate=True))
    train, test = ({row.tobytes() for row in rows} for rows in (data["train"]["tokens"], data["test"]["prose"]))
    assert len(data["train"]["tokens"]) == 270 and len(test) == 10 and not train & test


def test_no_place_sees_later_bytes(model):
    params, tokens = model
    changed = tokens.at[:, 4].set((tokens[:, 4] + 1) % 128)

    @functools.partial(jax.jit, static_argnums=1)
    def of_the_first(tokens, places):
        hidden = trunk(params, tokens)[:, :places]
        return head_losses(params, hidden, tokens[:, :places], params["blocks"][-1]["value"])

    np.testing.assert_allclose(of_the_first(tokens, 4), of_the_first(changed, 4), rtol=1e-6)
    assert float(jnp.abs(of_the_first(tokens, 8) - of_the_first(changed, 8)).max()) > 0.01
    np.testing.assert_allclose(of_the_first(tokens, 8), window_losses(params, tokens), rtol=1e-5)


def test_estimates_are_the_derivative_along_the_probe_times_the_probe(model):
    params, tokens = model
    batch = {"tokens": tokens, "domain": jnp.zeros(len(tokens), jnp.int32)}
    estimates = jax.jit(mixture_coreset.gradient_estimates)(jax.random.key(2), params, batch)["features"]
    value = params["blocks"][-1]["value"]
    gradient = jax.jit(jax.jacobian(lambda v: head_losses(params, trunk(params, tokens), tokens, v)))(value)
    probe = np.asarray(jax.random.normal(jax.random.key(2), value.shape)).reshape(-1)
    along = np.asarray(gradient).reshape(len(tokens), -1) @ probe
    np.testing.assert_allclose(estimates, along[:, None] * probe[None], atol=3e-3)
    assert np.abs(along).max() > 0.05


def test_arms_keep_their_number_of_rows_and_the_tiny_source(model):
    params, tokens = model
    domain = jnp.array([2] * 10 + [0] * 5 + [TINY], jnp.int32)
    kept = {}
    for name, method in mixture_coreset.methods(SMALL).items():
        batch = {"tokens": tokens[: method.read], "domain": domain[: method.read]}

        def weigh(key, method=method, batch=batch):
            signals = method.score(key, params, batch)
            return weights_of(method.transformation, jnp.ones(method.read), **signals)

        weights = np.asarray(jax.jit(weigh)(jax.random.key(3)))
        assert (weights > 0).sum() <= method.kept and weights.sum() == pytest.approx(1)
        kept[name] = np.bincount(np.asarray(batch["domain"])[weights > 0], minlength=3).tolist()
    assert kept["whole super-batch"] == [5, 1, 10]
    assert kept["CoLM"] == kept["random by source"] == [2, 1, 3]
    assert kept["medoids by source"] == [2, 1, 3]
    assert kept["random"] == [0, 0, 6]


def test_small_batches_learn_and_need_less_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(mixture_coreset, "arrays", few_rows)
    config = dataclasses.replace(SMALL, seeds=(0,), out=str(tmp_path / "out"), arms=("CoLM", "whole super-batch"))
    config = dataclasses.replace(config, steps=50, evaluate_every=25, checkpoint_every=50, learning_rate=0.02, layers=1)
    records = mixture_coreset.main(config)
    for arm in config.arms:
        first, last = (r["metrics"] for r in records if r["arm"] == arm)
        assert last["mean_bits"] < first["mean_bits"] < 7.5
        assert last["mean_bits"] == pytest.approx(np.mean([last[f"{name}_bits"] for name in DOMAINS]), rel=1e-5)
    table = (tmp_path / "out/memory/table.md").read_text().splitlines()
    megabytes = {line.split(" | ")[0][2:]: float(line.split(" | ")[2].strip(" |")) for line in table[2:]}
    assert megabytes["CoLM"] < megabytes["whole super-batch"]
