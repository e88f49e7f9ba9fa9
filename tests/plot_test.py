"""Pictures hold the data that they are given, and touch nothing outside of their own figure."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.plot import COLORS, plot_mixture, plot_plan, plot_retrieval, plot_weights

pytest.importorskip("matplotlib")


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def test_weights_stand_in_descending_order_and_those_left_out_apart():
    axes = plot_weights(jnp.array([0.25, 0.0, 0.5, 0.25], jnp.bfloat16))
    kept, left_out = axes.lines
    np.testing.assert_array_equal(kept.get_xydata(), [[0, 0.5], [1, 0.25], [2, 0.25]])
    np.testing.assert_array_equal(left_out.get_xydata(), [[3, 0]])
    assert legend(axes) == ["kept: 3 of 4", "left out"]
    assert labels(axes) == ("item, by weight", "weight")
    assert kept.get_marker() != left_out.get_marker()


def test_weights_stand_at_their_scores():
    axes = plot_weights(np.array([0.0, 1.0, 0.0]), scores=np.array([3.0, 1.0, 2.0]), score_name="loss")
    kept, left_out = axes.lines
    np.testing.assert_array_equal(kept.get_xydata(), [[1, 1]])
    np.testing.assert_array_equal(left_out.get_xydata(), [[3, 0], [2, 0]])
    assert axes.get_xlabel() == "loss"


def test_a_batch_that_is_kept_whole_names_nothing_left_out():
    assert legend(plot_weights(np.ones(3))) == ["kept: 3 of 3"]


def test_a_plan_is_shown_as_it_is():
    plan = np.array([[0.5, 0.0, 0.1], [0.0, 0.25, 0.15]])
    axes = plot_plan(plan)
    np.testing.assert_array_equal(axes.images[0].get_array(), plan)
    assert labels(axes) == ("target", "source")
    assert axes.images[0].colorbar.ax.get_ylabel() == "mass of the pair"


def test_the_pairs_of_a_plan_are_lines_as_dark_as_their_mass():
    plan = np.array([[0.5, 0.0, 0.1], [0.0, 0.25, 0.15]])
    sources, targets = np.array([[0.0, 1], [2, 3]]), np.array([[4.0, 5], [6, 7], [8, 9]])
    axes = plot_plan(plan, sources=sources, targets=targets, max_pairs=3)
    (lines,) = axes.collections
    drawn = {tuple(np.ravel(line)): alpha for line, alpha in zip(lines.get_segments(), lines.get_alpha())}
    assert drawn == {(0, 1, 4, 5): 1.0, (2, 3, 6, 7): 0.5, (2, 3, 8, 9): 0.3}
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), sources)
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), targets)
    assert legend(axes) == ["source", "target"]


def test_each_domain_of_a_mixture_is_a_line_of_its_own_look():
    mixtures = np.full((3, 10), 0.1) + np.arange(3)[:, None] * np.linspace(-0.04, 0.04, 10)
    axes = plot_mixture(mixtures, steps=[0, 50, 100])
    assert [line.get_label() for line in axes.lines] == legend(axes) == [f"domain {i}" for i in range(10)]
    for line, shares in zip(axes.lines, mixtures.T):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([[0, 50, 100], shares], 1))
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 10
    assert labels(axes) == ("step", "share of the batch")


def test_frames_of_retrieved_rows_tell_right_from_wrong():
    queries, found = np.array([3, 7]), np.array([[3, 1, 3], [7, 7, 3]])
    axes = plot_retrieval(queries, found)
    frames = {(round(p.get_y() + 0.45), round(p.get_x() + 0.45)): p for p in axes.patches}
    wrong = {place for place, frame in frames.items() if frame.get_linestyle() == "--"}
    assert wrong == {(0, 2), (1, 3)}
    assert len(frames) == 8
    texts = {tuple(t.get_position()[::-1]): t.get_text() for t in axes.texts}
    assert texts == {
        (0, 0): "3",
        (0, 1): "3",
        (0, 2): "1",
        (0, 3): "3",
        (1, 0): "7",
        (1, 1): "7",
        (1, 2): "7",
        (1, 3): "3",
    }
    assert legend(axes) == ["query", "right: 4 of 6", "wrong"]
    assert axes.get_xticklabels()[0].get_text() == "query"


def test_images_stand_in_their_frames():
    rows = np.arange(2 * 2 * 4).reshape(2, 2, 2, 2)
    axes = plot_retrieval([3, 7], [[3, 3], [7, 7]], images=(rows[:, 0] + 100, rows))
    shown = {(round(np.mean(i.get_extent()[2:])), round(np.mean(i.get_extent()[:2]))): i for i in axes.images}
    np.testing.assert_array_equal(shown[1, 0].get_array(), rows[1, 0] + 100)
    np.testing.assert_array_equal(shown[1, 2].get_array(), rows[1, 1])
    assert legend(axes) == ["query", "right: 4 of 4"]


def test_given_axes_are_drawn_on():
    axes = plot_weights(np.ones(2))
    assert plot_mixture(np.ones((2, 2)), axes=axes) is axes
    assert len(axes.lines) == 3


def test_neighboring_colors_differ_in_gray():
    bright = [np.dot([0.299, 0.587, 0.114], [int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in COLORS]
    assert abs(bright[0] - bright[1]) > 20
    assert len(set(COLORS)) == 8


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot_weights(np.ones((2, 2))), r"weights has shape \(2, 2\), wanted \(any\)"),
        (lambda: plot_weights(np.ones(2), scores=np.ones(3)), r"scores has shape \(3,\), wanted \(2\)"),
        (lambda: plot_plan(np.ones((2, 3)), sources=np.ones((2, 2))), "targets is None, wanted both points or neither"),
        (
            lambda: plot_plan(np.ones((2, 3)), sources=np.ones((2, 2)), targets=np.ones((2, 2))),
            r"targets has shape \(2, 2\), wanted \(3, 2\)",
        ),
        (
            lambda: plot_mixture(np.ones((4, 2)), names=["one"]),
            r"names has 1 entries, wanted 2 \(the number of domains\)",
        ),
        (lambda: plot_mixture(np.ones((4, 2)), steps=np.ones(3)), r"steps has shape \(3,\), wanted \(4\)"),
        (
            lambda: plot_retrieval(np.ones(2), np.ones((3, 2))),
            r"retrieved_labels has shape \(3, 2\), wanted \(2, any\)",
        ),
        (
            lambda: plot_retrieval([1], [[1]], images=(np.ones((1, 2, 2)), np.ones((1, 2, 2, 2)))),
            r"images have shapes \[\(1,\), \(1, 2\)\] before height, wanted \[\(1,\), \(1, 1\)\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def test_a_missing_matplotlib_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib is missing, wanted it here: .*'minibatch_jax\[plot\]'$"):
        plot_weights(np.ones(2))


def test_the_figures_of_pyplot_stay_as_they_were():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before, settings = pyplot.get_fignums(), dict(pyplot.rcParams)
    plot_weights(np.ones(2))
    plot_plan(np.ones((2, 2)))
    assert (pyplot.get_fignums(), dict(pyplot.rcParams)) == (before, settings)
