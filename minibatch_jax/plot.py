"""Pictures of a batch: its weights, a plan, a mixture over time, what each query retrieved.

Each function takes arrays and returns a matplotlib `Axes`. It draws on the axes that it is given, or on a new figure of
its own, which pyplot does not know: `axes.figure.savefig("plan.png")` writes it. Colors are those of Okabe and Ito,
which color-blind readers can tell apart; a marker or a line style says the same as the color. Needs the extra `plot`.
The arrays are read on the host, so call these functions outside of `jit`.
"""

from typing import Any

import numpy as np

from minibatch_jax._extras import require

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Blue, vermilion, green, purple, orange, sky blue, black, yellow."""
STYLES = ("-", "--", "-.", ":")
GRAY = "#999999"
FRAMES = ({"ec": COLORS[6]}, {"ec": COLORS[0]}, {"ec": COLORS[1], "ls": "--"})  # a query, a right row, a wrong one


def plot_weights(weights: Any, *, scores: Any = None, score_name: str = "score", axes: Any = None) -> Any:
    """Draw the weights of a batch, kept items apart from those with weight 0.

    Without scores the items stand in descending order of weight. With scores each item stands at its score, which shows
    what a selection looks at.

    Args:
      weights: `[B]`.
      scores: `[B]`, or None.
      score_name: title of the axis of the scores.
      axes: matplotlib axes to draw on; None makes a figure.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the weights are not a vector, or the scores are not one for each weight.
      ImportError: if matplotlib is missing.

    Examples:
      >>> axes = plot_weights(jnp.array([0.5, 0.0, 0.5]), scores=jnp.array([0.1, 3.0, 0.2]), score_name="loss")
      >>> axes.get_xlabel(), [text.get_text() for text in axes.get_legend().get_texts()]
      ('loss', ['kept: 2 of 3', 'left out'])
    """
    weights = _array("weights", weights, 1)
    if scores is None:
        weights = -np.sort(-weights)
        where, title = np.arange(len(weights)), "item, by weight"
    else:
        where, title = _array("scores", scores, 1, len(weights)), score_name
    axes = _axes(axes)
    kept = weights != 0
    axes.plot(where[kept], weights[kept], "o", color=COLORS[0], ms=5, label=f"kept: {kept.sum()} of {len(kept)}")
    if not kept.all():
        axes.plot(where[~kept], weights[~kept], "x", color=COLORS[1], ms=5, label="left out")
    axes.set_ylim(bottom=min(0, 1.05 * weights.min(initial=0)) - 0.03 * np.abs(weights).max(initial=0))
    return _dress(axes, title, "weight")


def plot_plan(plan: Any, *, sources: Any = None, targets: Any = None, max_pairs: int = 500, axes: Any = None) -> Any:
    """Draw a plan: as a matrix, or as pairs where the points are given.

    A pair is a line from its source to its target, as dark as its mass is next to the largest mass. Of more than
    `max_pairs` pairs those of the largest mass are drawn; the lines of all others would only blacken the picture.

    Args:
      plan: `[B0, B1]`, not negative.
      sources: `[B0, 2]`; None, together with `targets`, draws the matrix.
      targets: `[B1, 2]`.
      max_pairs: number of lines at most.
      axes: matplotlib axes to draw on; None makes a figure.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if a shape does not fit the plan, or only one of `sources` and `targets` is given.
      ImportError: if matplotlib is missing.

    Examples:
      >>> axes = plot_plan(jnp.eye(2) / 2, sources=jnp.zeros((2, 2)), targets=jnp.ones((2, 2)))
      >>> len(axes.collections[0].get_segments())
      2
    """
    plan = _array("plan", plan, 2)
    if (sources is None) != (targets is None):
        raise ValueError(f"{'sources' if sources is None else 'targets'} is None, wanted both points or neither.")
    if sources is None:
        axes = _axes(axes)
        image = axes.imshow(plan, cmap="cividis", aspect="auto", interpolation="nearest", vmin=0)
        axes.figure.colorbar(image, ax=axes, label="mass of the pair")
        axes.set(xlabel="target", ylabel="source")
        return axes
    sources, targets = _array("sources", sources, 2, len(plan), 2), _array("targets", targets, 2, plan.shape[1], 2)
    rows, columns = np.nonzero(plan > 0)
    largest = np.argsort(-plan[rows, columns], kind="stable")[:max_pairs][::-1]  # the darkest last, on top
    rows, columns = rows[largest], columns[largest]
    axes = _axes(axes)
    lines = require("matplotlib.collections", "plot").LineCollection(
        np.stack([sources[rows], targets[columns]], 1), colors=GRAY, linewidths=1.0, zorder=1
    )
    lines.set_alpha(plan[rows, columns] / plan.max(initial=1e-30))
    axes.add_collection(lines)
    axes.plot(*sources.T, "o", color=COLORS[0], ms=4, label="source")
    axes.plot(*targets.T, "^", color=COLORS[1], ms=4, label="target")
    return _dress(axes, "first coordinate", "second coordinate")


def plot_mixture(mixtures: Any, *, names: Any = None, steps: Any = None, axes: Any = None) -> Any:
    """Draw the share of each domain over time, one line a domain.

    Args:
      mixtures: `[T, K]`, the mixture at each of T times.
      names: K names of the domains; None numbers them.
      steps: `[T]`, the step of each mixture; None counts them.
      axes: matplotlib axes to draw on; None makes a figure.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the mixtures are not a matrix, or names or steps are too many or too few.
      ImportError: if matplotlib is missing.

    Examples:
      >>> axes = plot_mixture(jnp.array([[0.5, 0.5], [0.2, 0.8]]), names=["prose", "code"])
      >>> [line.get_label() for line in axes.lines]
      ['prose', 'code']
    """
    mixtures = _array("mixtures", mixtures, 2)
    length, count = mixtures.shape
    names = [f"domain {i}" for i in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"names has {len(names)} entries, wanted {count} (the number of domains).")
    steps = np.arange(length) if steps is None else _array("steps", steps, 1, length)
    axes = _axes(axes)
    for i, name in enumerate(names):
        style = STYLES[i // len(COLORS) % len(STYLES)]
        axes.plot(steps, mixtures[:, i], style, color=COLORS[i % len(COLORS)], label=name)
    axes.set_ylim(bottom=0)
    return _dress(axes, "step", "share of the batch")


def plot_retrieval(query_labels: Any, retrieved_labels: Any, *, images: Any = None, axes: Any = None) -> Any:
    """Draw the nearest rows of each query, right and wrong ones.

    A line of the picture is a query, and the k columns beside it are what it retrieved, the nearest first. A frame is
    blue where the label is that of the query, and dashed and vermilion where it is another. It holds the image, or the
    label.

    Args:
      query_labels: `[Q]`.
      retrieved_labels: `[Q, k]`.
      images: pair of `[Q, H, W]` and `[Q, k, H, W]` or with a last axis of colors, the queries and the rows; or None.
      axes: matplotlib axes to draw on; None makes a figure.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the number of queries or of rows differs between labels and images.
      ImportError: if matplotlib is missing.

    Examples:
      >>> axes = plot_retrieval(jnp.array([3, 7]), jnp.array([[3, 3], [7, 1]]))
      >>> [text.get_text() for text in axes.get_legend().get_texts()]
      ['query', 'right: 3 of 4', 'wrong']
    """
    queries = _array("query_labels", query_labels, 1)
    found = _array("retrieved_labels", retrieved_labels, 2, len(queries), None)
    if images is not None:
        images = [np.asarray(part) for part in images]
        shapes = [part.shape[:axis] for axis, part in enumerate(images, 1)]
        if shapes != [queries.shape, found.shape]:
            raise ValueError(f"images have shapes {shapes} before height, wanted {[queries.shape, found.shape]}.")
    right = found == queries[:, None]
    axes = _axes(axes)
    patch = require("matplotlib.patches", "plot").Rectangle
    labels = np.concatenate([queries[:, None], found], 1)
    for (row, column), label in np.ndenumerate(labels):
        kind = 0 if column == 0 else 1 if right[row, column - 1] else 2
        axes.add_patch(patch((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, lw=2, **FRAMES[kind]))
        if images is None:
            axes.text(column, row, str(label), ha="center", va="center")
        else:
            image = images[0][row] if column == 0 else images[1][row, column - 1]
            axes.imshow(image, cmap="gray_r", extent=(column - 0.4, column + 0.4, row + 0.4, row - 0.4))
    axes.set(xlim=(-0.55, labels.shape[1] - 0.45), ylim=(len(labels) - 0.45, -0.55), aspect="equal")
    axes.set(yticks=[], xticks=range(labels.shape[1]), xticklabels=["query", *range(1, labels.shape[1])])
    axes.set(xlabel="rank of the retrieved row", ylabel="queries")
    kinds = ("query", f"right: {right.sum()} of {right.size}", "wrong")
    shown = [patch((0, 0), 1, 1, fill=False, lw=2, label=kind, **look) for kind, look in zip(kinds, FRAMES)]
    axes.legend(
        handles=shown[: 3 - bool(right.all())], frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3
    )
    return axes


def _array(name: str, value: Any, ndim: int, *shape: int | None) -> np.ndarray:
    """Return a NumPy array of so many axes, whose first lengths are `shape` where that is not None."""
    array = np.asarray(value)
    if array.ndim != ndim or any(want not in (None, got) for want, got in zip(shape, array.shape)):
        wanted = ", ".join(str(want) if want is not None else "any" for want in (*shape, *[None] * (ndim - len(shape))))
        raise ValueError(f"{name} has shape {array.shape}, wanted ({wanted}).")
    return array.astype(np.float32) if array.dtype.kind not in "iufbUO" else array


def _axes(axes: Any) -> Any:
    """Return the axes, or those of a new figure that pyplot does not know."""
    if axes is not None:
        return axes
    return require("matplotlib.figure", "plot").Figure(figsize=(5, 3.6), layout="constrained").add_subplot()


def _dress(axes: Any, xlabel: str, ylabel: str) -> Any:
    """Return the axes with titles, one legend above the drawing, and no box."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(handles), 4))
    return axes
