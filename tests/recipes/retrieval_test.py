"""Train an embedding and measure how well it retrieves.

Method: retrieval scores in blocks
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import metrics, mining
from tests.recipes import digits


def recipe(embed, params, optimizer, data, queries, key):
    def objective(params, batch):
        z, labels = embed(params, batch["x"]), batch["y"]
        masks = mining.positive_mask(labels), mining.negative_mask(labels)
        return mining.supcon_loss(mining.cosine_similarity(z), *masks)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(data["y"]), (64,))
        grads = jax.grad(objective)(params, jax.tree.map(lambda a: a[rows], data))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    params = jax.lax.scan(step, start, jax.random.split(key, 100))[0][0]
    pairs = embed(params, queries["x"]), queries["y"], 1, embed(params, data["x"]), data["y"]
    recall = metrics.recall_at_k(*pairs, block_size=64)
    return recall, metrics.retrieval_scores(*pairs[:2], block_size=64), pairs


def test_the_scores_are_those_of_all_similarities_and_above_those_of_pixels():
    run = digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.held_out(), digits.KEY(0)
    recall, scores, pairs = digits.run(recipe, digits.embed, *run)
    z, y, _, others, labels = (np.asarray(a) for a in pairs)
    np.testing.assert_allclose(recall, np.mean(labels[np.argmax(z @ others.T, axis=1)] == y), atol=1e-6)
    assert recall > 0.93
    similar = np.where(np.eye(256, dtype=bool), -np.inf, z @ z.T)
    right = y[np.argsort(-similar, axis=1)] == y[:, None]
    counts = np.bincount(y)[y] - 1
    np.testing.assert_allclose(
        scores.r_precision, np.mean([np.mean(row[:r]) for row, r in zip(right, counts, strict=True)]), atol=1e-3
    )
    x = digits.held_out()["x"]
    pixels = metrics.retrieval_scores(x / jnp.linalg.norm(x, axis=1, keepdims=True), digits.held_out()["y"])
    assert scores.r_precision > 1.2 * pixels.r_precision and scores.map_at_r > 1.3 * pixels.map_at_r
