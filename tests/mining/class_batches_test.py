import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4, 5], [2, 5, 9, 4, 30]))


def draws(num_classes, per_class, count=300):
    index = mining.index_classes(jnp.asarray(LABELS), 6)
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda k: mining.sample_classes(k, index, num_classes, per_class)))(keys))


def test_rows_are_different_classes_of_different_examples():
    for batch in draws(3, 4):
        classes = LABELS[batch]
        assert np.all(classes == classes[:, :1]) and len(set(classes[:, 0])) == 3
        for row in batch:
            if np.sum(LABELS[row[0]] == LABELS) >= 4:
                assert len(set(row)) == 4


def test_classes_and_examples_are_drawn_evenly():
    batches = draws(2, 4, 4000)
    share = np.bincount(LABELS[batches[:, :, 0]].reshape(-1), minlength=6) / 8000
    np.testing.assert_allclose(share, [0.2, 0.2, 0.2, 0, 0.2, 0.2], atol=0.02)
    for c in (0, 1, 5):  # with replacement, without, without from many
        members = np.flatnonzero(c == LABELS)
        drawn = batches[np.isin(batches, members)]
        counts = np.bincount(drawn, minlength=len(LABELS))[members]
        np.testing.assert_allclose(counts / counts.sum(), 1 / len(members), atol=0.25 / len(members))


def test_surplus_classes_are_marked():
    batch = draws(6, 2, 1)[0]
    assert np.sum(np.all(batch == -1, axis=1)) == 1
    assert set(LABELS[batch[batch[:, 0] >= 0, 0]]) == {0, 1, 2, 4, 5}


def test_bad_input_is_named():
    index = mining.index_classes(jnp.asarray(LABELS), 6)
    with pytest.raises(ValueError, match=r"num_classes is 7, wanted at most 6 \(the number of classes of the index\)"):
        mining.sample_classes(jax.random.key(0), index, 7, 2)
    with pytest.raises(ValueError, match="per_class is 0"):
        mining.sample_classes(jax.random.key(0), index, 2, 0)
    with pytest.raises(TypeError, match="labels has dtype float32"):
        mining.index_classes(jnp.ones(3), 2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("num_classes", [3, 127, 128, 129, 255, 256, 300, 70_000])
def test_labels_of_every_width_are_counted(dtype, num_classes):
    limits = np.iinfo(dtype)
    labels = np.random.default_rng(0).integers(limits.min, min(limits.max, num_classes + 9), 500, endpoint=True)
    labels = np.append(labels, [limits.min, 0, limits.max]).astype(dtype)
    index = mining.index_classes(jnp.asarray(labels), num_classes)
    known = (labels >= 0) & (labels < num_classes)
    np.testing.assert_array_equal(index.sizes, np.bincount(labels[known], minlength=num_classes))
    drawn = np.asarray(mining.sample_classes(jax.random.key(0), index, min(num_classes, 9), 2))
    assert np.all(known[drawn[drawn >= 0]])
    proxies = mining.proxies.update_proxies(
        mining.proxies.init_proxies(num_classes, 1), jnp.ones((503, 1)), jnp.asarray(labels)
    )
    np.testing.assert_array_equal(proxies.seen, index.sizes > 0)


def test_the_largest_label_of_int8():
    sizes = mining.index_classes(jnp.array([127, 0], jnp.int8), 128).sizes
    assert np.flatnonzero(sizes).tolist() == [0, 127]
