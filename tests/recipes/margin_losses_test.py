"""Train an embedding on a loss with margins.

Method: losses of margins: margin, binomial deviance, sigmoid, ranked list, intra-pair variance, threshold-consistent
"""

import jax
import optax
import pytest

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, loss, compare, params, optimizer, data, key):
    sampler = sampling.by_class(10, 10, 6)

    def objective(params, batch):
        items, labels = compare(embed(params, batch["x"])), batch["y"]
        return loss(items, mining.positive_mask(labels), mining.negative_mask(labels))

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key, labels=data["y"])
    return jax.lax.scan(step, start, length=100)[0][0]


@pytest.mark.parametrize(
    "loss, compare",
    [
        (mining.margin_loss, mining.euclidean_distances),
        pytest.param(mining.binomial_deviance_loss, mining.cosine_similarity, marks=pytest.mark.slow),
        pytest.param(mining.ranked_list_loss, mining.euclidean_distances, marks=pytest.mark.slow),
        pytest.param(mining.threshold_consistent_loss, mining.cosine_similarity, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_embedding_is_learned(loss, compare):
    params = digits.run(
        recipe, digits.embed, loss, compare, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    assert digits.precision(params) > 0.8 > digits.pixel_precision()
