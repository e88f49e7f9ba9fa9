"""Pool, clean set, choice and schedules of the experiment with a tiny model."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection.clean_text_filter import ARMS, CLEAN, Config, chosen, draw_texts, schedule
from experiments.shared import byte_runs


def test_pool_and_clean_set_share_no_window():
    domain = np.repeat(np.arange(12, dtype=np.int32), 100)
    train = {"tokens": np.arange(1200)[:, None], "domain": domain}
    pool, clean = draw_texts(Config(pool=900, clean=90), train, 3)
    assert len(np.unique(np.concatenate([pool["tokens"], clean["tokens"]]))) == 990
    counts = np.bincount(clean["domain"], minlength=12)
    assert all(counts[k] == 30 for k in CLEAN) and counts.sum() == 90
    np.testing.assert_array_equal(pool["domain"], domain[pool["tokens"][:, 0]])


def test_windows_are_chosen_by_the_order_of_their_losses():
    losses = np.random.default_rng(0).gamma(2.0, size=60)
    order = np.argsort(losses)
    for which, expected in {"lowest": order[:20], "highest": order[-20:], "all": order}.items():
        np.testing.assert_array_equal(chosen(which, jnp.asarray(losses), 20, 0), np.sort(expected))
    assert len(set(chosen("random", jnp.asarray(losses), 20, 0))) == 20


@pytest.mark.parametrize("name", ARMS)
def test_a_run_sees_its_share_of_clean_windows(name):
    config = Config()
    mixture, rates = schedule(config, name)
    table = np.asarray(byte_runs.values(mixture, config.steps))
    assert table[:, 1].mean() == pytest.approx(ARMS[name][1], abs=1e-6)
    if name.endswith("end"):
        assert np.all(table[:360, 1] == 0) and np.all(table[360:, 1] == 1)
    assert float(rates(config.steps - 1)) == 0
