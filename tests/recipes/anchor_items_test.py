"""Judge a new model on a few items, by the answers of earlier models to all of them.

Method: anchor items
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(logits, earlier, new, data):
    guesses = lambda params, x: jnp.argmax(logits(params, x), axis=1)  # noqa: E731
    record = jax.vmap(lambda params: guesses(params, data["x"]) == data["y"])(earlier)
    anchors = selection.anchor_items(0, record.T.astype(jnp.float32), 24)
    items = jax.tree.map(lambda a: a[anchors.indices], data)
    right = jax.vmap(lambda params: guesses(params, items["x"]) == items["y"])(new)
    return selection.anchor_mean(anchors, right.astype(jnp.float32)), jnp.mean(record, axis=1)


def models(seeds):
    """Classifiers of different quality: some steps into training."""
    start = digits.init()
    noise = [
        jax.tree.map(lambda a, s=s: 0.25 * (s % 6) * jax.random.normal(jax.random.key(s), a.shape), start)
        for s in seeds
    ]
    trained = digits.fit(start, digits.train())
    return jax.tree.map(lambda a, *n: jnp.stack([a + x for x in n]), trained, *noise)


def test_few_items_tell_good_models_from_bad_ones():
    new = models(range(40, 52))
    found, _ = digits.run(recipe, digits.logits, models(range(24)), new, digits.held_out())
    _, truth = digits.run(recipe, digits.logits, new, new, digits.held_out())
    assert np.mean(np.abs(found - truth)) < 0.06 and np.corrcoef(found, truth)[0, 1] > 0.9
