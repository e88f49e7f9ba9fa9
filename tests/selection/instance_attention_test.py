"""The attention layer against a loop, what rows receive against sums, and planted classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import graph_attention, instance_attention
from minibatch_jax.selection.instance_graphs import InstanceGraph
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_attention": Case(
        lambda: selection.keep_by_attention(5, 3, 0, num_steps=2, num_heads=2, head_width=2),
        draws.labeled_features,
        tolerance=1e-4,
    ),
    "keep_by_attention, represented": Case(
        lambda: selection.keep_by_attention(
            6, 3, 0, graph="multilevel_hash", weighting="represented", num_steps=1, num_heads=1, head_width=2
        ),
        draws.labeled_features,
        draws.uneven,
        lowers_mass=False,
        tolerance=1e-4,
    ),
}


def small(seed=0, size=5, width=3, heads=2, out=2):
    rng = np.random.default_rng(seed)
    neighbors = np.array([[1, 2, size], [0, 3, 4], [size, size, size], [2, size, size], [0, 1, 3]])
    graph = InstanceGraph(jnp.asarray(neighbors, jnp.int32), jnp.asarray(rng.normal(size=(size, 3)), jnp.float32))
    layer = graph_attention.init_layer(seed, width, heads, out)
    layer |= {name: jnp.asarray(rng.normal(size=layer[name].shape), jnp.float32) for name in ("edge", "bias")}
    return layer, jnp.asarray(rng.normal(size=(size, width)), jnp.float32), graph


def test_the_layer_is_the_loop():
    layer, inputs, graph = small()
    outputs, attention = graph_attention.attention_layer(layer, inputs, graph)
    p = {name: np.asarray(value, np.float64) for name, value in layer.items()}
    x, weights = np.asarray(inputs, np.float64), np.asarray(graph.weights, np.float64)
    for head in range(2):
        for i, listed in enumerate(np.asarray(graph.neighbors)):
            scores = {}
            for place, j in enumerate(listed):
                if j < 5:
                    z = x[i] @ p["target"][:, head] + x[j] @ p["source"][:, head] + weights[i, place] * p["edge"][head]
                    scores[place] = p["attention"][head] @ np.where(z > 0, z, 0.2 * z)
            total, out = sum(np.exp(s) for s in scores.values()), p["bias"][2 * head : 2 * head + 2].copy()
            for place, score in scores.items():
                share = np.exp(score) / total
                np.testing.assert_allclose(attention[i, place, head], share, rtol=1e-5)
                out += share * (x[listed[place]] @ p["source"][:, head])
            np.testing.assert_allclose(outputs[i, 2 * head : 2 * head + 2], out, rtol=1e-4, atol=1e-5)
    assert not np.any(np.asarray(attention)[np.asarray(graph.neighbors) == 5])


def test_as_much_is_received_as_there_are_rows_with_neighbors():
    layer, inputs, graph = small()
    attention = graph_attention.attention_layer(layer, inputs, graph)[1]
    found = np.asarray(graph_attention.received(graph, attention))
    np.testing.assert_allclose(found.sum(), 4, rtol=1e-6)
    expected = np.zeros(6)
    for i, listed in enumerate(np.asarray(graph.neighbors)):
        for place, j in enumerate(listed):
            expected[j] += np.asarray(attention)[i, place].mean()
    np.testing.assert_allclose(found, expected[:5], rtol=1e-5)


def test_a_permutation_of_the_rows_permutes_the_outputs():
    layer, inputs, graph = small()
    order = np.array([3, 0, 4, 1, 2])
    place = np.append(np.argsort(order), 5)
    moved = InstanceGraph(jnp.asarray(place[np.asarray(graph.neighbors)[order]]), graph.weights[order])
    outputs, attention = graph_attention.attention_layer(layer, inputs, graph)
    found = graph_attention.attention_layer(layer, inputs[order], moved)
    np.testing.assert_allclose(found[0], outputs[order], rtol=1e-5)
    np.testing.assert_allclose(
        graph_attention.received(moved, found[1]), graph_attention.received(graph, attention)[order], rtol=1e-5
    )


@functools.cache
def planted():
    """Two classes, one with a tenth of the rows, and five rows with the other label."""
    rng = np.random.default_rng(0)
    rare = np.arange(120) < 12
    rows = rng.normal(size=(120, 4)) + np.where(rare, 4.0, 0.0)[:, None]
    labels = rare.astype(np.int32)
    labels[50:55] = 1
    return rows.astype(np.float32), labels


@functools.partial(jax.jit, static_argnames="label_probability")
def scored(rows, labels, where, label_probability=True):
    graph = selection.distance_graph(0, rows, labels, 8, where=where)
    options = {"num_steps": 60, "num_heads": 4, "head_width": 4, "learning_rate": 0.02}
    return selection.attention_scores(
        0, rows, labels, graph, 2, where=where, label_probability=label_probability, **options
    )


def test_rows_that_look_mislabeled_are_worth_little():
    rows, labels = planted()
    found = scored(rows, labels, np.ones(120, bool))
    assert found.held_out_loss < 0.3
    wrong = np.arange(50, 55)
    assert np.median(np.asarray(found.scores)[wrong]) < 0.5 * np.median(np.asarray(found.scores))
    plain = np.asarray(scored(rows, labels, np.ones(120, bool), label_probability=False).scores)
    np.testing.assert_allclose(plain.sum(), 120, rtol=1e-5)


def test_a_table_without_a_row_held_out_is_learned():
    rows, labels = (x[np.r_[0:6, 20:26]] for x in planted())
    graph = InstanceGraph(jnp.asarray((np.arange(12)[:, None] // 6 * 6 + np.arange(6)) % 12), jnp.ones((12, 6)))
    assert not np.any(
        jax.random.uniform(jax.random.split(jax.random.key(4), 3)[2], (12,)) < instance_attention.HELD_OUT
    )
    found = jax.jit(
        lambda x, y: selection.attention_scores(4, x, y, graph, 2, num_steps=60, num_heads=2, head_width=2)
    )(rows, labels)
    assert 0 < found.held_out_loss < 0.5


def test_rows_that_do_not_exist_influence_nothing():
    rows, labels = planted()
    where, spoilt, other = np.arange(120) % 7 != 0, rows.copy(), labels.copy()
    spoilt[~where] = np.where(np.arange(120)[~where, None] % 2, 99.0, np.nan)
    other[~where] = 1
    found, expected = (np.asarray(scored(x, y, where).scores) for x, y in ((spoilt, other), (rows, labels)))
    np.testing.assert_allclose(found[where], expected[where], rtol=1e-3)
    assert np.all(np.isneginf(found[~where]))


def test_each_class_leads_once_and_the_rest_is_the_top():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=40).astype(np.float32), np.minimum(rng.integers(9, size=40), 3)
    scores[labels == 2] -= 10
    scores[[3, 9]] = np.nan
    for k in (2, 4, 9):
        kept = np.asarray(selection.top_with_all_classes(jnp.asarray(scores), jnp.asarray(labels), k, 4))
        order = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
        leaders = [next(i for i in order if labels[i] == c) for c in range(4)]
        leaders = sorted(leaders, key=order.index)[:k]
        rest = [i for i in order if i not in leaders][: k - len(leaders)]
        assert set(np.flatnonzero(kept)) == set(leaders + rest)


def test_kept_rows_stand_for_their_class():
    rows, labels = planted()
    weights = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2, 120), jnp.float32)
    tx = selection.keep_by_attention(10, 2, 0, weighting="represented", num_steps=2, num_heads=2, head_width=2)
    update = jax.jit(lambda w, x, y: tx.update(w, tx.init(w), features=x, labels=y)[0])
    kept = np.asarray(update(weights, rows, labels))
    assert np.sum(kept > 0) == 10
    for label in range(2):
        np.testing.assert_allclose(kept[labels == label].sum(), weights[labels == label].sum(), rtol=1e-5)
        assert len(set(kept[(labels == label) & (kept > 0)])) == 1


def test_bad_input_is_named():
    rows, labels = jnp.ones((6, 2)), jnp.zeros(6, jnp.int32)
    graph = InstanceGraph(jnp.zeros((5, 2), jnp.int32), jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"graph.neighbors has shape \[5, 2\]"):
        selection.attention_scores(0, rows, labels, graph, 2)
    with pytest.raises(ValueError, match="graph is 'l2', wanted one of 'distance'"):
        selection.keep_by_attention(2, 2, 0, graph="l2")
    with pytest.raises(ValueError, match="weighting is 'mean'"):
        selection.keep_by_attention(2, 2, 0, weighting="mean")
    with pytest.raises(ValueError, match=r"k is 7, wanted at most 6 \(the number of rows\)"):
        selection.top_with_all_classes(rows[:, 0], labels, 7, 2)
    with pytest.raises(TypeError, match="num_classes is 2.0"):
        selection.keep_by_attention(2, 2.0, 0)
