"""Train a vector for each class that keeps away from the others.

Method: regularizers of embeddings and class vectors
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, value_and_grad
from tests.recipes import digits


def recipe(embed, params, optimizer, data, strength, key):
    def items(params, batch):
        cosines = mining.cosine_similarity(embed(params["net"], batch["x"]), params["classes"])
        return optax.softmax_cross_entropy_with_integer_labels(10 * cosines, batch["y"])

    def penalty(params):
        return strength * mining.nearest_center_penalty(params["classes"])

    fn = value_and_grad(items, optax.identity(), regularizer=penalty)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(data["y"]), (64,))
        batch = jax.tree.map(lambda a: a[rows], data)
        grads = fn(params, batch, optax.EmptyState())[1]
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 100))[0][0]


def test_classes_are_farther_apart_and_the_digits_are_learned():
    classes = 1 + 0.3 * jax.random.normal(jax.random.key(1), (10, 16))
    params = {"net": digits.init_embedder(), "classes": classes}
    run = params, digits.OPTIMIZER, digits.train()
    trained = [digits.run(recipe, digits.embed, *run, jnp.float32(s), digits.KEY(0)) for s in (0.0, 10.0)]
    plain, apart = (np.asarray(mining.nearest_center_penalty(p["classes"])) for p in trained)
    assert apart < plain - 0.1
    held_out = digits.held_out()
    cosines = digits.embed(trained[1]["net"], held_out["x"]) @ trained[1]["classes"].T
    cosines /= np.linalg.norm(trained[1]["classes"], axis=1)[None]
    assert np.mean(np.argmax(cosines, axis=1) == held_out["y"]) > 0.9
