"""Train an embedding and a vector of each class: ArcFace, CosFace, SphereFace, SoftTriple, proxy anchor.

Method: losses of class vectors: ArcFace, CosFace, SphereFace, SoftTriple, proxy anchor
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, loss, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)

    def objective(params, batch):
        z, classes = embed(params["embedder"], batch["x"]), jnp.arange(10)
        similarities = mining.cosine_similarity(z, params["classes"])
        masks = (mask(batch["y"], classes) for mask in (mining.positive_mask, mining.negative_mask))
        return loss(similarities, *masks)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=100)[0][0]


def proxy_anchor(similarities, positives, negatives):
    return mining.proxy_anchor_loss(similarities.T, positives.T, negatives.T)


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(mining.margin_softmax_loss, angle=0.3, scale=16.0),
        pytest.param(functools.partial(mining.margin_softmax_loss, cosine=0.2, scale=16.0), marks=pytest.mark.slow),
        pytest.param(functools.partial(mining.margin_softmax_loss, multiple=2, scale=16.0), marks=pytest.mark.slow),
        proxy_anchor,
    ],
    ids=["ArcFace", "CosFace", "SphereFace", "proxy_anchor"],
)
def test_the_embedding_and_the_class_vectors_are_learned(loss):
    vectors = jax.random.normal(jax.random.key(1), (10, 16))
    params = {"embedder": digits.init_embedder(), "classes": vectors}
    params = digits.run(recipe, digits.embed, loss, params, digits.OPTIMIZER, digits.train(), digits.KEY(0))
    assert digits.precision(params["embedder"]) > 0.75 > digits.pixel_precision()
    test = digits.held_out()
    z, vectors = (np.asarray(a) for a in (digits.embed(params["embedder"], test["x"]), params["classes"]))
    nearest = np.argmax(z @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T, axis=1)
    assert np.mean(nearest == test["y"]) > 0.8
