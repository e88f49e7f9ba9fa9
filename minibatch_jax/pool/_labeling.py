"""Label a pool in rounds: train, choose, ask; what was answered is on disk before the next question."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_count, check_integer, check_shape, check_transformation, check_whole
from minibatch_jax.pool._rounds import Job, State, kept_from_others, run
from minibatch_jax.pool._select import progress_bar
from minibatch_jax.selection.labeling import start_labeling, unlabeled_weights
from minibatch_jax.selection.stopping_rules import StoppingRule


class PoolLabels(NamedTuple):
    """Labels of a pool, after some rounds of active learning.

    Attributes:
      labels: `[N]` int32, class of each row; -1 for a row without a label.
      rounds: `[N]` int32, the round that labeled each row, 0 for those of the start; -1 for a row without a label.
      stopped: whether the stopping rule ended the rounds.
    """

    labels: np.ndarray
    rounds: np.ndarray
    stopped: bool


def label_in_rounds(
    fit: Callable[[np.ndarray, int], Mapping[str, Any]],
    strategy: optax.GradientTransformationExtraArgs,
    ask: Callable[[np.ndarray], Any],
    size: int,
    *,
    num_classes: int,
    num_rounds: int,
    num_first: int = 0,
    labels: np.ndarray | None = None,
    stop: StoppingRule | None = None,
    seed: int = 0,
    state_folder: str | Path | None = None,
    progress: bool = True,
) -> PoolLabels:
    """Label rows of a pool round by round: train a model, let a strategy choose rows, ask for their labels.

    This function runs on the host, in one process: do not call it inside `jit`. With a `state_folder`, questions and
    answers are saved as they come. If the process is killed, or a callback raises, the same call goes on where it was,
    with the same result: rows that were chosen are asked for again without a training, answers are not asked for
    again. A larger `num_rounds` continues a finished call, but not one that `stop` has ended. Of the strategy and the
    rule only the structure of their states is compared: another k or score counts from the next round on.

    Args:
      fit: `fit(labels, number)` trains on the rows whose label `[N]` is not negative, and returns the signals of the
        whole pool that the strategy reads, such as `{"logits": [N, C], "features": [N, D]}`. `number` is the round,
        1 at first. The same arguments should give the same signals; take keys from the round.
      strategy: transformation of weights `[N]`, with 0 for rows that have a label; what it keeps is asked for, such as
        `keep_uncertain(20, key)` or a chain of masks and a selection.
      ask: `ask(indices [k])` returns the labels `[k]`, integers in [0, num_classes). To pause, let it raise.
      size: N, the number of rows.
      num_classes: C, at least 2.
      num_rounds: how many rounds to make, each with a training.
      num_first: how many rows to draw at random and to ask for before the first round.
      labels: `[N]` int, those that are known; negative for a row without a label. By default none is known.
      stop: a rule that looks at the `logits` of all rows after each training, and ends the rounds.
      seed: of the first rows, at least 0.
      state_folder: folder to save the state in. If its newest round is damaged, the call goes on from the one before,
        with a `RuntimeWarning`. A lock keeps other jobs out, except on Windows and where there is no `flock`. None
        saves nothing.
      progress: whether to show a progress bar; needs `rich`.

    Returns:
      `PoolLabels(labels, rounds, stopped)`.

    Raises:
      TypeError: if labels are not integers, a count is not an int, the strategy is no transformation, or `fit` returns
        no dict.
      ValueError: if no row without a label is left, or none is kept by the strategy; if all labels are of one class;
        if `ask` returns another number of labels than was asked for, or one out of range; or if `state_folder` holds
        another call, or no round that is intact.
      RuntimeError: if another job uses `state_folder`, or several processes run.
      OSError: if `state_folder` cannot be written, as when the disk is full.
      ImportError: if `progress` without `rich`.

    Examples:
      >>> import numpy as np
      >>> from minibatch_jax.selection import keep_uncertain
      >>> x, truth = np.linspace(-1, 1, 9), np.arange(9) // 5
      >>> def fit(labels, number):  # a threshold halfway between the classes
      ...   threshold = (x[labels == 0].max() + x[labels == 1].min()) / 2
      ...   return {"logits": jnp.stack([threshold - x, x - threshold], axis=1)}
      >>> start = np.where(np.isin(np.arange(9), [0, 8]), truth, -1)
      >>> strategy = keep_uncertain(1, key=0)
      >>> options = {"labels": start, "num_classes": 2, "num_rounds": 3, "progress": False}
      >>> label_in_rounds(fit, strategy, lambda rows: truth[rows], 9, **options).rounds.tolist()
      [0, -1, -1, -1, 1, 3, 2, -1, 0]
    """
    loop = _checked(fit, strategy, ask, size, num_classes, num_rounds, num_first, labels, stop, seed)
    folder = None if state_folder is None else Path(state_folder)
    with kept_from_others(folder), progress_bar("label_in_rounds", progress) as show:
        return run(Job(loop.init, loop.step, loop.progress, loop.result), folder, loop.call(), show)


class _Loop(NamedTuple):
    """The arguments of a call. A step either chooses rows, which are then `pending`, or asks for those that are."""

    fit: Callable[[np.ndarray, int], Mapping[str, Any]]
    strategy: optax.GradientTransformationExtraArgs
    ask: Callable[[np.ndarray], Any]
    labels: np.ndarray
    num_classes: int
    num_rounds: int
    num_first: int
    stop: StoppingRule | None
    seed: int

    def init(self) -> State:
        start = start_labeling(jnp.asarray(self.labels))
        state = {"labels": np.asarray(start.labels), "rounds": np.asarray(start.rounds)}
        state |= {"round": np.array(-1 if self.num_first else 0), "stopped": np.array(False)}
        return state | {"pending": np.zeros(0, np.int64)} | _arrays("strategy", self._fresh()) | self._arrays_of_rule()

    def step(self, state: State) -> State:
        if len(state["pending"]):
            return self._answered(state)
        free = np.flatnonzero(state["labels"] < 0)
        number = int(state["round"]) + 1
        if not len(free):
            raise ValueError(
                f"labels has a class for all {len(state['labels'])} rows before round {number} of {self.num_rounds}, "
                "wanted at least one row without a label: let num_rounds be less."
            )
        if number == 0:
            first = np.random.default_rng(self.seed).choice(free, min(self.num_first, len(free)), replace=False)
            return state | {"pending": np.sort(first)}
        return self._chosen(state, number)

    def progress(self, state: State) -> float:
        done = int(state["round"]) + len(state["pending"][:1]) / 2
        return 1.0 if state["stopped"] else min(max(done / self.num_rounds, 0.0), 1.0)

    def result(self, state: State) -> PoolLabels:
        return PoolLabels(state["labels"], state["rounds"], bool(state["stopped"]))

    def call(self) -> dict[str, Any]:
        """What a saved state belongs to. The number of rounds may change."""
        given = hashlib.sha256(self.labels.astype(np.int64).tobytes()).hexdigest()
        call = {"size": len(self.labels), "num_classes": int(self.num_classes), "num_first": int(self.num_first)}
        call |= {"seed": int(self.seed), "digest of the labels": given}
        states = {"strategy": self._fresh(), "stopping rule": self._arrays_of_rule()}
        return call | {name: _kind_of_state(state) for name, state in states.items()}

    def _fresh(self) -> Any:
        return self.strategy.init(unlabeled_weights(start_labeling(jnp.asarray(self.labels))))

    def _arrays_of_rule(self) -> State:
        return {} if self.stop is None else _arrays("rule", self.stop.init(len(self.labels)))

    def _chosen(self, state: State, number: int) -> State:
        known = state["labels"][state["labels"] >= 0]
        if len(known) and np.all(known == known[0]):
            raise ValueError(
                f"labels has the class {known[0]} alone ({len(known)} rows) before round {number}, wanted two classes "
                "or more: let num_first be larger, or pass labels of several classes."
            )
        signals = self.fit(state["labels"].copy(), number)
        if not isinstance(signals, Mapping):
            raise TypeError(f"fit returned a {type(signals).__name__}, wanted a dict of signals.")
        if self.stop is not None:
            if "logits" not in signals:
                raise ValueError(f"fit returned the signals {sorted(signals)}, wanted logits among them, for stop.")
            before = _tree("rule", self.stop.init(len(state["labels"])), state)
            stopped, after = self.stop.update(before, signals["logits"])
            state = state | _arrays("rule", after) | {"stopped": np.array(bool(stopped))}
            if stopped:
                return state
        labeling = start_labeling(jnp.asarray(state["labels"]))
        weights, after = self.strategy.update(
            unlabeled_weights(labeling), _tree("strategy", self._fresh(), state), None, **signals
        )
        chosen = np.flatnonzero(np.asarray(weights))
        free = int(np.sum(state["labels"] < 0))
        if not len(chosen):
            raise ValueError(
                f"strategy kept none of the {free} rows without a label in round {number}, wanted at least one: "
                "are the signals finite?"
            )
        if np.any(state["labels"][chosen] >= 0):
            raise ValueError(f"strategy kept rows that have a label in round {number}, wanted their weight to stay 0.")
        return state | _arrays("strategy", after) | {"pending": chosen}

    def _answered(self, state: State) -> State:
        rows = state["pending"]
        answer = np.asarray(self.ask(rows.copy()))
        if answer.shape != rows.shape:
            raise ValueError(
                f"ask returned labels of shape {list(answer.shape)}, wanted {list(rows.shape)}, one for each row."
            )
        if not np.issubdtype(answer.dtype, np.integer):
            raise TypeError(f"ask returned labels of dtype {answer.dtype}, wanted integers.")
        wrong = np.flatnonzero((answer < 0) | (answer >= self.num_classes))
        if len(wrong):
            raise ValueError(
                f"ask returned the label {answer[wrong[0]]} for row {rows[wrong[0]]}, wanted one in [0, "
                f"{self.num_classes})."
            )
        number = int(state["round"]) + 1
        labels, rounds = state["labels"].copy(), state["rounds"].copy()
        labels[rows], rounds[rows] = answer, number
        return state | {
            "labels": labels,
            "rounds": rounds,
            "round": np.array(number),
            "pending": np.zeros(0, np.int64),
        }


def _checked(fit, strategy, ask, size, num_classes, num_rounds, num_first, given, stop, seed) -> _Loop:
    check_transformation(strategy)
    check_count("size", size)
    check_count("num_classes", num_classes)
    check_count("num_rounds", num_rounds)
    check_whole("num_first", num_first)
    check_whole("seed", seed)
    if num_classes < 2:
        raise ValueError("num_classes is 1, wanted at least 2.")
    if jax.process_count() > 1:
        raise RuntimeError(f"label_in_rounds runs in {jax.process_count()} processes, wanted one.")
    labels: Any = np.full(size, -1, np.int32) if given is None else given
    check_shape("labels", labels, (int(size),))
    check_integer("labels", labels)
    labels = np.asarray(labels)
    if np.any(labels >= num_classes):
        row = int(np.argmax(labels >= num_classes))
        raise ValueError(f"labels has the class {labels[row]} for row {row}, wanted classes in [0, {num_classes}).")
    return _Loop(fit, strategy, ask, labels, num_classes, num_rounds, num_first, stop, seed)


def _kind_of_state(state: Any) -> str:
    """What an error shows of a strategy or of a rule: only their states tell them apart."""
    arrays = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(state))
    return f"one with a state of {arrays}" if arrays else "none, or one without a state"


def _arrays(name: str, tree: Any) -> State:
    """The leaves of a state as arrays for a file; keys as their data."""
    return {f"{name}_{i}": np.asarray(_data(leaf)) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _tree(name: str, like: Any, state: State) -> Any:
    """A state of the structure, and with the kinds of keys, of another one."""
    leaves, structure = jax.tree.flatten(like)

    def restored(i, leaf):
        value = jnp.asarray(state[f"{name}_{i}"])
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else value

    return structure.unflatten([restored(i, leaf) for i, leaf in enumerate(leaves)])


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
