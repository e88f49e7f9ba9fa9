"""Rows of the highest scores of a pool of logits, in one pass over the file."""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.pool._rounds import Job, State, gather
from minibatch_jax.pool._rows import Rows
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.selection.uncertainty import SCORES


def uncertain_job(rows: Rows, k: int, score: str, chosen: np.ndarray, seed: int) -> Job:
    """Make the job. Its state: the scores of own rows, NaN for those that cannot be chosen."""
    return Job(
        init=lambda: {"scores": np.zeros(0, np.float32), "done": np.array(0)},
        step=lambda state: _score(rows, score, chosen),
        progress=lambda state: int(state["done"]),
        result=lambda state: _best(rows, k, seed, state),
    )


def _score(rows: Rows, score: str, chosen: np.ndarray) -> State:
    function = jax.jit(lambda logits: SCORES[score](logits.astype(jnp.float32)))
    scores = np.empty(rows.own_rows, np.float32)
    for number in rows.own:
        scores[rows.places(number)] = np.asarray(function(rows.chunk(number)))
    rows.report()
    scores[rows.are_among(chosen)] = np.nan
    return {"scores": scores, "done": np.array(1)}


def _best(rows: Rows, k: int, seed: int, state: State) -> tuple:
    """Return the rows in falling order of scores; which of several equal ones are chosen is drawn."""
    scores = np.concatenate([part["scores"] for part in gather({"scores": state["scores"]})])[: rows.size]
    kept = np.flatnonzero(np.asarray(topk_mask(jnp.asarray(scores), k, key=seed)))
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    missing = k - len(kept)
    values = np.append(scores[kept], np.zeros(missing, np.float32)).astype(np.float32)
    weights = np.append(np.ones(len(kept)), np.zeros(missing)).astype(np.float32)
    lowest = float(values[len(kept) - 1]) if len(kept) else 0.0
    return np.append(kept, np.full(missing, rows.size)), weights, values, lowest
