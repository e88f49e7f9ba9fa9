"""The lines, their language and the planted loops are what the experiment says, and the scores see no true digit."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from experiments.selection import _slanted_lines as slanted
from experiments.selection import pseudo_label_filters
from experiments.selection._slanted_lines import LIMIT, LONGEST, SIDE
from experiments.selection.pseudo_label_filters import NAMES, Config, all_scores, losses

RNG = np.random.default_rng(0)
PIXELS, LABELS = RNG.random((40, 28, 28)).astype(np.float32), np.arange(40) % 10
GRAMMAR = slanted.language(RNG)
LINES = slanted.write_lines(RNG, 300, GRAMMAR, PIXELS, LABELS, 0.0)


def test_digits_follow_the_language_and_images_show_them():
    np.testing.assert_allclose(GRAMMAR.sum(axis=1), 1)
    pairs = np.zeros((10, 10))
    digits = np.asarray(LINES.digits)
    np.add.at(pairs, (digits[:, :-1].ravel(), digits[:, 1:].ravel()), 1)
    usual = GRAMMAR > 0.1
    assert np.all(usual.sum(axis=1) == 3) and abs(pairs[usual].sum() / pairs.sum() - 0.8) < 0.03
    of_label = [np.asarray(slanted.halved(PIXELS[digit == LABELS])) for digit in range(10)]
    for line in range(0, 300, 60):
        for place in range(LONGEST):
            distances = np.abs(of_label[digits[line, place]] - np.asarray(LINES.images[line, place])).max(axis=1)
            assert distances.min() < 1e-5


def test_a_quarter_turn_is_that_of_numpy():
    turned = slanted.turn(jnp.asarray(PIXELS[None, :LONGEST]), jnp.array([np.pi / 2]))
    expected = slanted.halved(np.rot90(PIXELS[:LONGEST], -1, axes=(1, 2)))
    np.testing.assert_allclose(turned[0], expected, atol=1e-4)


def test_loops_repeat_two_digits_up_to_the_limit_and_are_sure():
    logits = jnp.asarray(RNG.normal(size=(SIDE * SIDE, 10)), jnp.float32)
    found = slanted.transcribe([(logits, jnp.zeros(10))], LINES, np.random.default_rng(1), 0.25)
    assert 0.15 < found.loops.mean() < 0.35
    tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
    np.testing.assert_array_equal(lengths, np.where(found.loops, LIMIT, LINES.lengths))
    stuck = tokens[found.loops]
    np.testing.assert_array_equal(stuck[:, 6:], stuck[:, 4:-2])
    assert np.all(np.asarray(found.log_probabilities)[found.loops, 6:] > -0.03)
    scores = all_scores(LINES, found, found, GRAMMAR, jnp.ones((10, SIDE * SIDE)))
    assert [name for name in NAMES if name not in ("all lines", "truth")] == list(scores)
    np.testing.assert_array_equal(scores["proxy"], 0)
    repeated = scores["few repetitions"]
    assert repeated[found.loops].max() < 0.5 < np.median(repeated[~found.loops])
    hidden = LINES._replace(digits=jnp.zeros_like(LINES.digits))
    for name, value in all_scores(hidden, found, found, GRAMMAR, jnp.ones((10, SIDE * SIDE))).items():
        np.testing.assert_array_equal(value, scores[name])


def test_the_loss_of_a_line_is_the_mean_over_its_digits():
    params = [(jnp.zeros((SIDE * SIDE, 10)), jnp.arange(10.0))]
    usable = jnp.arange(LONGEST)[None] < jnp.array([2, 5])[:, None]
    found = losses(params, (LINES.images[:2], LINES.digits[:2], usable))
    logs = np.log(np.exp(np.arange(10)).sum()) - np.asarray(LINES.digits[:2])
    np.testing.assert_allclose(found, [logs[0, :2].mean(), logs[1, :5].mean()], rtol=1e-5)


def test_students_of_one_mask_are_equal_and_read_only_their_lines(monkeypatch):
    config = Config(steps=3, batch_size=4, hidden=8)
    given = slanted.Transcripts(LINES.digits, LINES.lengths, LINES.images, LINES.images, np.zeros(300, bool))
    spoilt = given._replace(tokens=jnp.where(jnp.arange(300)[:, None] < 50, LINES.digits, 0))
    masks = jnp.arange(300)[None] < jnp.array([50, 50])[:, None]
    train = jax.jit(inspect.unwrap(pseudo_label_filters.train_all), static_argnums=0)
    for one, two in zip(*(jax.tree.leaves(train(config, jax.random.key(0), LINES, x, masks)) for x in (given, spoilt))):
        np.testing.assert_array_equal(one[0], one[1])
        np.testing.assert_array_equal(one, two)
