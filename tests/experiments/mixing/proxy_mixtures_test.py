"""What proxies find on tiny texts of which two and two are alike, and the arms that train on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.mixing import _domain_training, _proxies, proxy_mixtures


def splits(per_domain=60, length=4, domains=12):
    """Domains 2 i and 2 i + 1 have the same bytes."""
    rng = np.random.default_rng(0)
    domain = np.repeat(np.arange(domains, dtype=np.int32), per_domain)
    tokens = 20 * (domain[:, None] // 2) + rng.integers(0, 4, (len(domain), length))
    held_out = 20 * (np.repeat(np.arange(domains), 8)[:, None] // 2) + rng.integers(0, 4, (8 * domains, length))
    return {
        "train": {"tokens": tokens.astype(np.uint8), "domain": domain},
        "validation": {"tokens": held_out.astype(np.uint8)},
    }


def config(out, **others):
    return proxy_mixtures.Config(
        **{"seeds": (0,), "out": str(out), "steps": 4, "evaluate_every": 2, "batch_size": 24, "length": 4, "width": 8},
        **{"depth": 1, "held_out": 8, "proxy_width": 8, "graph_steps": 15, "measured": 8},
        **{"proxy_steps": 10, **others},
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args, **kwargs: [])
    monkeypatch.setattr(_domain_training, "text_domains", lambda *args, **kwargs: splits())
    _domain_training.domains_of.cache_clear()
    yield
    _domain_training.domains_of.cache_clear()


def data():
    train = splits()["train"]
    return jnp.asarray(train["tokens"]), jnp.asarray(train["domain"]), jax.random.key(0)


def test_the_graph_says_which_domains_are_alike():
    windows = jnp.asarray(splits()["validation"]["tokens"].reshape(12, 8, 4))
    graph, seconds = _proxies.Timed(_proxies.skill_graph(config("unused")))(*data(), windows)
    graph = np.asarray(graph)
    np.testing.assert_allclose(np.diagonal(graph), 1)
    assert seconds > 0 and np.all(graph[np.arange(12), np.arange(12) ^ 1] > 0.8)
    unlike = np.arange(12)[:, None] // 2 != np.arange(12)[None] // 2
    assert graph[unlike].mean() < 0.4


def test_doremi_without_steps_is_the_prior():
    find = _proxies.Timed(_proxies.doremi(config("unused"), 0.0))
    np.testing.assert_allclose(find(*data())[0], np.full(12, 1 / 12), rtol=1e-4)


def test_the_arms_train_and_count_their_proxies(tmp_path):
    made = config(tmp_path, arms=("natural", "Skill-It"))
    last = {r["arm"]: r["metrics"] for r in proxy_mixtures.main(made) if r["step"] == 4}
    assert last["natural"]["proxy_cpu_seconds"] == 0 < last["Skill-It"]["proxy_cpu_seconds"]
    for metrics in last.values():
        assert sum(value for name, value in metrics.items() if name.startswith("share_")) == pytest.approx(1)
