"""Label 20 images at a time in rounds whose state is on disk: train, choose, ask somebody.

Method: labeling in rounds
"""

import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.pool import label_in_rounds
from minibatch_jax.selection import keep_uncertain
from tests.recipes import digits, labeling


def recipe(fit, outputs, ask, folder):
    def train(labels, number):
        logits, _ = outputs(fit(jnp.asarray(labels >= 0, jnp.float32)))
        return {"logits": logits}

    options = {"num_classes": 10, "num_rounds": 4, "num_first": 20}
    options |= {"state_folder": folder, "progress": False}
    return label_in_rounds(train, keep_uncertain(20, key=0), ask, labeling.POOL, **options)


def test_labeling_goes_on_where_somebody_left(tmp_path):
    y, asked = np.asarray(digits.train()["y"]), []

    def ask(rows):
        asked.append(rows)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return y[rows]

    with pytest.raises(KeyboardInterrupt):
        recipe(labeling.fit, labeling.outputs, ask, tmp_path)
    found = recipe(labeling.fit, labeling.outputs, ask, tmp_path)
    assert np.bincount(found.rounds[found.rounds >= 0]).tolist() == [20] * 5 and len(asked) == 6
    np.testing.assert_array_equal(found.labels[found.labels >= 0], y[: labeling.POOL][found.labels >= 0])
    assert (
        digits.accuracy(labeling.fit(jnp.asarray(found.labels >= 0, jnp.float32))) > labeling.random_accuracy() - 0.05
    )
