"""The rows that the teacher labels are of newsgroups that it has not seen; the summary is by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import distill_texts
from experiments.selection.distill_texts import Config, keep_confident, keep_right, summarize
from minibatch_jax import weights_of


@pytest.mark.parametrize("validate", [False, True])
def test_the_teacher_labels_posts_of_groups_that_it_has_not_seen(validate, monkeypatch):
    """Four domains of three groups; the first feature tells the group, so a teacher of two cannot know the third."""
    group = np.repeat(np.arange(12), 20)
    features = np.eye(12, dtype=np.float32)[group] + 0.1 * np.eye(4, dtype=np.float32).repeat(3, 0)[group] @ np.eye(
        4, 12
    )
    posts = {"features": features.astype(np.float32), "label": (group // 3).astype(np.int32), "group": group}
    monkeypatch.setattr(distill_texts, "hashed_posts", lambda split: posts)
    made = distill_texts.labeled_by_teacher(5, validate)
    unseen = np.unique(made["train"]["group"])
    assert sorted(unseen // 3) == [0, 1, 2, 3]  # one group of each domain is new
    assert set(np.unique(made["test"]["group"])) == set(unseen)
    assert len(made["train"]["label"]) == (64 if validate else 80)
    confidence = made["train"]["confidence"]
    assert np.all((confidence > 0.25) & (confidence < 0.9))
    other = distill_texts.labeled_by_teacher(6, validate)
    assert set(np.unique(other["train"]["group"])) != set(unseen)


def test_rows_are_kept_by_the_signals_of_their_names():
    weights, sure = jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.array([0.4, 0.9, 1.0, 0.8])
    assert weights_of(keep_confident(2), weights, teacher_confidences=sure).tolist() == [0, 1, 0, 1]
    right = jnp.array([True, False, True, False])
    assert weights_of(keep_right(), weights, right=right).tolist() == [1, 0, 0, 0]


def test_the_summary_counts_rows_and_interpolates():
    records = [
        {"metrics": {"kept": kept, "test_accuracy": accuracy, "right_share_of_kept": right}}
        for kept, accuracy, right in ((0.5, 0.2, 1.0), (0.25, 0.4, 0.4), (0.25, 0.8, 0.4))
    ]
    found = summarize(Config(evaluate_every=10, batch_size=40, at_rows=250), records)
    assert found["rows"] == 400 and found["rows_to_goal"] == 400 and found["test_accuracy"] == 0.8
    assert math.isnan(summarize(Config(), records[:2])["rows_to_goal"])
    assert found["accuracy_at_equal_rows"] == pytest.approx(0.3)
    assert found["right_share_of_kept"] == pytest.approx(0.7) and found["kept"] == pytest.approx(1 / 3)
