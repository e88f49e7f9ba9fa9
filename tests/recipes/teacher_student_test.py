"""Distill from a teacher: train on the examples that it is sure of and the student is not.

Method: LLKD
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, logits, teacher, params, optimizer, data, key):
    labels, sure = selection.teacher_labels(jax.nn.softmax(logits(teacher, data["x"])))
    data = data | {"y": labels, "sure": sure}
    sampler = sampling.shuffled(len(labels), 64)
    select = optax.chain(selection.keep_by_teacher_student(10), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        signals = {
            "teacher_confidences": batch["sure"],
            "pseudo_labels": batch["y"],
            "logits": logits(params, batch["x"]),
        }
        (_, aux), grads, state = value_and_grad(losses, select)(params, batch, state, **signals)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, labels, seen


def test_less_than_half_of_the_rows_is_enough_to_learn_what_the_teacher_knows():
    data, known = digits.train(), digits.first(digits.train(), 60)
    teacher = digits.fit(digits.init(), known, 30)
    arguments = digits.losses, digits.logits, teacher, digits.init(1), digits.OPTIMIZER, data, digits.KEY(0)
    params, labels, (rows, weights) = digits.run(recipe, *arguments)
    kept, wrong = weights > 0, (labels != np.asarray(data["y"]))[rows]
    first, late = kept[:20], kept[-20:]
    assert 0.1 < np.mean(kept) < 0.5
    assert np.mean(wrong[:20][first]) < 0.85 * np.mean(wrong)  # at first, while the student is uncertain of all
    assert digits.accuracy(params) > digits.accuracy(teacher) - 0.02, np.mean(wrong[-20:][late])
