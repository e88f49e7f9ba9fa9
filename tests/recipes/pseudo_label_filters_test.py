"""Distill from the transcripts of a teacher that filters keep, without a label: sure, without loops, as a proxy reads.

Method: label-free filters of pseudo-labels
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mask_rows, normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, proxy, key):
    scores = [
        selection.token_confidences(data["log_p"], data["length"]),
        selection.distinct_ngrams(data["y"], data["length"]),
        selection.proxy_agreements(data["y"], data["length"], proxy["y"], proxy["length"]),
    ]
    kept = selection.top_fraction_mask(selection.combined_ranks(jnp.stack(scores)), 0.5, key).mask
    sampler = sampling.shuffled(len(kept), 32)
    select = optax.chain(mask_rows(), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(losses, select)
        _, grads, state = fn(params, batch, state, mask=kept[rows.indices])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state, place), None

    start = params, optimizer.init(params), select.init(jnp.zeros(32)), sampler.init(key)
    (params, *_), _ = jax.lax.scan(step, start, length=150)
    return params, kept


def losses(params, batch):
    each = optax.softmax_cross_entropy_with_integer_labels(digits.logits(params, batch["x"]), batch["y"])
    return jnp.mean(each, axis=1)


def transcribe(teacher, stuck):
    """192 lines of eight digits, read by a teacher that repeats itself at the end of some."""
    images = digits.train()["x"].reshape(192, 8, 64)
    logs = np.array(jax.nn.log_softmax(digits.logits(teacher, images)))
    read, sure = logs.argmax(-1), logs.max(-1)
    read[stuck, 2:], sure[stuck, 2:] = np.tile(read[stuck, :2], 3), -0.01
    return {"x": images, "y": jnp.asarray(read, jnp.int32), "log_p": jnp.asarray(sure), "length": jnp.full(192, 8)}


def test_loops_and_wrong_transcripts_are_left_out():
    known, stuck = digits.train(), np.random.default_rng(0).permutation(192)[:40]
    parts = [jax.tree.map(lambda a, i=i: a[i : i + 60], known) for i in (0, 60)]
    teacher, proxy = (digits.fit(digits.init(i), part, 40) for i, part in enumerate(parts))
    data, others = transcribe(teacher, stuck), transcribe(proxy, stuck[:0])
    params, kept = digits.run(recipe, losses, digits.init(2), digits.OPTIMIZER, data, others, digits.KEY(0))
    wrong = np.mean(np.asarray(data["y"]) != np.asarray(known["y"]).reshape(192, 8), axis=1)
    assert kept.sum() == 96 and np.mean(~kept[stuck]) > 0.9
    assert wrong[kept].mean() < 0.6 * wrong.mean()
    assert digits.accuracy(params) > digits.accuracy(teacher) - 0.02
