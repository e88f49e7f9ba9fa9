import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mining import pairs_that_count
from experiments.mining.pairs_that_count import Config


@pytest.mark.parametrize(
    "name",
    [
        "all pairs",
        "the 8 nearest negatives",
        "all pairs, two categories a batch",
        "memory of 1024",
        "triplets, 2000 fixed",
        "triplets, wide angles",
    ],
)
def test_classes_never_seen_are_found(name):
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(30, 1, 16, 16, 3)).astype(np.float32)
    views = jnp.asarray(classes + 0.7 * rng.normal(size=(30, 4, 16, 16, 3)).astype(np.float32))
    data = {"train": views[:20], "test": views[20:], "category": jnp.arange(20, dtype=jnp.int32) % 9}
    config = Config(steps=20, classes=4, width=8, dimensions=8)
    found = pairs_that_count.one_run(config, name, data, 0)
    if name == "the 8 nearest negatives":
        assert found["pairs_that_count"] == 16 * (3 + 8)
    assert found["recall_at_1"] > 0.3  # by chance 3 / 39


def test_past_embeddings_of_the_class_attract_and_others_repel():
    embeddings = jnp.array([[1.0, 0.0], [0.8, 0.6]])
    memory = pairs_that_count.mining.remember(
        pairs_that_count.mining.init_memory(2, 2), embeddings, jnp.array([0, 1], jnp.int32)
    )
    batch = pairs_that_count.Batch(jnp.array([[0.6, 0.8], [1.0, 0.0]]), jnp.array([0, 2], jnp.int32))
    loss, _ = pairs_that_count.with_memory(lambda params, images: images, (), memory, batch)
    margin = pairs_that_count.MARGIN
    pull = [1 - 0.6]
    push = [margin - (1 - 0.96), margin - (1 - 0.6), margin - (1 - 0.6), margin - 0.0, margin - (1 - 0.8)]
    np.testing.assert_allclose(loss, np.mean(pull) + np.mean(push), rtol=1e-5)
