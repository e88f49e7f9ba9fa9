"""Train an embedding so that its cosines are the similarities that a teacher gives.

Method: regression of similarities
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining
from tests.recipes import digits


def recipe(embed, teacher, params, optimizer, images, key):
    def objective(params, batch):
        cosines = mining.cosine_similarity(embed(params, batch))
        every = ~jnp.eye(64, dtype=bool)
        targets = mining.cosine_similarity(teacher(batch))
        return mining.similarity_regression_loss(cosines, every, ~every, targets=targets)

    def step(carry, key):
        params, opt_state = carry
        batch = jax.random.choice(key, images, (64,))
        loss, grads = jax.value_and_grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    start = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, losses


def test_the_student_takes_over_the_classes_of_the_teacher():
    classifier = digits.fit(digits.init(), digits.train())
    teacher = lambda x: jax.nn.softmax(digits.logits(classifier, x))  # noqa: E731
    run = digits.init_embedder(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    params, losses = digits.run(recipe, digits.embed, teacher, *run)
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:3])
    assert digits.precision(params) > 0.8 > digits.pixel_precision()
