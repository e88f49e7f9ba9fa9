"""Models that learn from their mixture, correlations by hand, and a tiny run on made-up domains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.mixing import _byte_models, merged_proxies
from experiments.mixing.merged_proxies import UNIONS, Config, agreement
from experiments.shared.text_domains import by_domain


def domains(number, per_domain=4):
    """Windows of two letters of each domain."""
    letters = np.random.default_rng(0).integers(0, 2, (number, per_domain, 32))
    return (97 + letters + 2 * np.arange(number)[:, None, None]).astype(np.uint8)


def test_each_model_learns_the_domains_of_its_mixture():
    model, windows = _byte_models.byte_model(8), jnp.asarray(domains(2))
    starts = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    options = {"steps": 40, "batch_size": 4, "learning_rate": 3e-2}
    keys = jax.random.split(jax.random.key(1), 2)
    params = jax.jit(lambda *args: _byte_models.train_all(model, *args, **options))(starts, keys, windows, jnp.eye(2))
    losses = jax.jit(jax.vmap(jax.vmap(model.losses, in_axes=(None, 0)), in_axes=(0, None)))(params, windows).mean(2)
    assert losses[0, 0] < 2 < 5 < losses[0, 1] and losses[1, 1] < 2 < 5 < losses[1, 0]


def test_domains_are_cut_to_the_size_of_the_smallest():
    split = {"tokens": np.arange(7)[:, None].repeat(2, 1), "domain": np.array([0, 0, 0, 1, 1, 2, 2])}
    assert by_domain(split)[:, :, 0].tolist() == [[0, 1], [3, 4], [5, 6]]
    assert by_domain(split, 1)[:, :, 0].tolist() == [[0], [3], [5]]


def test_correlations_tell_an_order_within_sizes_from_one_between_them():
    assert len(UNIONS) == 20
    rng = np.random.default_rng(0)
    unions = rng.normal(size=(20, 12))
    same = agreement(2 * unions + 1, unions)
    assert [same[name] for name in ("by_domain", "by_other_domain", "of_mean")] == pytest.approx([1, 1, 1])
    sizes = np.array([[len(union)] for union in UNIONS])
    by_size = agreement(np.tile(-100.0 * sizes, 12), unions - 100.0 * sizes)
    assert by_size["of_mean"] > 0.8 and by_size["of_mean_within_size"] == 0
    assert agreement(unions + 0.5, unions)["loss_less_that_of_the_union"] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_tiny_run_has_a_figure_for_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    windows = jnp.asarray(domains(12))
    monkeypatch.setattr(merged_proxies, "_windows", lambda config: (windows, windows))
    config = Config(seeds=(0,), out=str(tmp_path), width=4, seed_steps=1, part_steps=1, batch_size=2)
    found = {record["arm"]: record["metrics"]["by_domain"] for record in merged_proxies.main(config)}
    assert set(found) == set(merged_proxies.ARMS) and found["merged"] > found["merged, other beginnings"]
