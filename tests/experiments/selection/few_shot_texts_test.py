"""The byte classifier, and the draws of a few labels, against loops; a tiny run leaves its table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import _byte_classifiers as bytes_of
from experiments.selection import active_transformer, few_shot_texts
from experiments.selection._byte_classifiers import Size
from experiments.shared.backbones import functional
from tests.experiments.selection.active_texts_test import planted  # noqa: F401

SIZE = Size(length=16, width=8, depth=1, batch_size=4)


def test_features_of_a_text_do_not_see_the_spaces_after_it():
    network = functional(bytes_of._network(SIZE, bytes_of.nnx.Rngs(0)))[1]
    short = bytes_of.first_bytes([b"a b"], 16)
    assert bytes(short[0]) == b"a b" + 13 * b" "
    hidden = bytes_of.apply_of(SIZE).features(network, jnp.asarray(short[:, :3], jnp.int32))
    expected = np.concatenate([np.mean(hidden, axis=1), np.max(hidden, axis=1)], axis=1)
    np.testing.assert_allclose(bytes_of.features(SIZE, network, jnp.asarray(short)), expected, rtol=1e-4, atol=1e-5)


def test_windows_hold_all_bytes_in_order():
    found = bytes_of.windows([b"abcdefg", b"hij"], 4)
    assert found.tobytes() == b"abcdefg\n" and found.shape == (2, 4)


def test_more_shots_include_the_fewer():
    label = np.array([0, 0, 1, 0, 2, 1, 2, 1])
    assert few_shot_texts.rows_of_each_class(label, 3, 1).tolist() == [0, 2, 4]
    assert few_shot_texts.rows_of_each_class(label, 3, 3).tolist() == [0, 2, 4, 1, 5, 6, 3, 7]


def test_only_the_rows_that_count_are_trained_on():
    """Rows beyond the count have an impossible label: trained on, they would change the head of that class."""
    network = functional(bytes_of._network(SIZE, bytes_of.nnx.Rngs(0)))[1]
    tokens = jnp.asarray(np.random.default_rng(0).integers(97, 120, (6, 16)), jnp.uint8)
    labels = jnp.array([0, 1, 0, 1, 2, 2])
    options = {"size": SIZE, "steps": 30, "classes": 3, "learning_rate": 1e-2}
    standard = bytes_of.standard_of(bytes_of.all_features(network, tokens, size=SIZE))
    found = bytes_of.fine_tuned(network, standard, tokens, labels, jnp.array(4), jax.random.key(0), **options)
    logits = standard(bytes_of.all_features(found.network, tokens, size=SIZE)) @ found.head
    assert np.argmax(logits[:4], axis=1).tolist() == [0, 1, 0, 1]
    assert np.all(np.argmax(logits[4:], axis=1) < 2)


@pytest.mark.slow
def test_tiny_runs_leave_tables(planted, tmp_path):  # noqa: F811
    few = few_shot_texts.Config(seeds=(0,), out=str(tmp_path / "few"), shots=(2,), steps_before=2, steps=2, length=16)
    assert len(few_shot_texts.main(few)) == 5
    config = active_transformer.Config(
        seeds=(0,), out=str(tmp_path / "active"), first=9, rounds=1, labels=5, steps_before=2, steps=2, length=16
    )
    records = active_transformer.main(config)
    assert {r["step"] for r in records} == {9, 14}
    assert len({r["metrics"]["accuracy"] for r in records if r["step"] == 9}) == 1
