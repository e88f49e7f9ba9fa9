"""The measurements of a run on domains, losses at equal time, and all arms on a tiny text."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.mixing import _domain_training, online_mixing, online_mixing_with_noise
from experiments.mixing._domain_training import compare_at_equal_time, measured


def splits(per_domain=40, length=4, domains=12):
    rng = np.random.default_rng(0)
    sizes = per_domain + 10 * np.arange(domains)
    domain = np.repeat(np.arange(domains, dtype=np.int32), sizes)
    tokens = (10 * domain[:, None] + rng.integers(0, 5, (len(domain), length))).astype(np.uint8)
    held_out = (10 * np.repeat(np.arange(domains), 8)[:, None] + rng.integers(0, 5, (8 * domains, length))).astype("u1")
    return {"train": {"tokens": tokens, "domain": domain}, "validation": {"tokens": held_out}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args, **kwargs: [])
    monkeypatch.setattr(_domain_training, "text_domains", lambda *args, **kwargs: splits())
    _domain_training.domains_of.cache_clear()
    yield
    _domain_training.domains_of.cache_clear()


def test_losses_are_means_over_the_real_domains():
    found = measured(("a", "b", "noise"), np.array([1.0, 3.0, 9.0]), np.array([2, 2, 4]))
    assert found == {
        **{"mean_loss": 2.0, "worst_loss": 3.0, "loss_a": 1.0, "loss_b": 3.0},
        **{"share_a": 0.25, "share_b": 0.25, "share_noise": 0.5},
    }


def test_a_slow_arm_and_one_with_a_proxy_are_read_off_earlier(tmp_path):
    def records(arm, ms, proxy):
        for step in (100, 200, 300, 400):
            metrics = {"loss": 5.0 - step / 100, "step_cpu_ms": ms}
            yield {"arm": arm, "seed": 0, "step": step, "metrics": metrics | ({"proxy": proxy} if step == 400 else {})}

    config = online_mixing.Config(seeds=(0,), out=str(tmp_path))
    made = [*records("plain", 10.0, 0.0), *records("slow", 20.0, 0.0), *records("proxy", 10.0, 1.5)]
    made += records("costly", 10.0, 5.0)
    found = compare_at_equal_time(config, made, "plain", {"loss": "lower"}, "proxy")
    by_arm = {r["arm"]: (r["metrics"]["loss"], r["metrics"]["steps"]) for r in found}
    assert by_arm == {"plain": (1.0, 400.0), "slow": (3.0, 200.0), "proxy": (2.5, 250.0), "costly": (None, 0.0)}


def test_noise_is_a_domain_that_is_not_measured(tmp_path):
    small: dict[str, Any] = {"steps": 8, "evaluate_every": 4, "batch_size": 52, "length": 4, "width": 8, "held_out": 8}
    config = online_mixing_with_noise.Config((0,), str(tmp_path), ("natural", "uniform"), **small)
    natural, uniform = (r["metrics"] for r in online_mixing_with_noise.main(config) if r["step"] == 8)
    assert uniform["share_noise"] == pytest.approx(1 / 13) and "loss_noise" not in uniform
    domains = _domain_training.domains_of(config, 0, True)
    names = [f"share_{name}" for name in domains.names]
    np.testing.assert_allclose([uniform[name] for name in names], 1 / 13, rtol=1e-6)
    np.testing.assert_allclose([natural[name] for name in names], domains.sizes / domains.sizes.sum(), atol=1 / 52)
    assert domains.sizes[12] == len(splits()["train"]["domain"]) // 12 and jnp.max(domains.tokens[-50:]) > 200
