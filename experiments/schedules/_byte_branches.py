"""Runs of a byte transformer on the text domains, mixed evenly, that share their stable part and branch off it."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.shared import byte_runs
from experiments.shared.text_domains import DOMAINS, by_domain, text_domains

K = len(DOMAINS)
WINDOWS = 8000
"""of each domain to train on"""


class Branches:
    """Training by learning-rate schedules, in chunks of steps so that one compiled program trains all of them.

    Args:
      stable: `stable(setting)` gives the schedule of the run that others branch off, for anything with a hash.
      starts: steps of its checkpoints, increasing.
      chunk: steps of a chunk; divides all lengths.
      validate: hold out a part of the training documents.
      size: of the model.
    """

    def __init__(
        self,
        stable: Callable[[Any], optax.Schedule],
        starts: Sequence[int],
        *,
        chunk: int,
        validate: bool,
        size: byte_runs.Size = byte_runs.SMALL,
    ):
        splits = text_domains(byte_runs.LENGTH, validate=validate, per_domain=WINDOWS)
        self._tokens, self._domain = (jnp.asarray(splits["train"][column]) for column in ("tokens", "domain"))
        self._held_out = jnp.asarray(by_domain(splits["validation"]))
        self._stable, self._starts, self._chunk, self._size = stable, sorted(starts), chunk, size
        self._checkpoint = functools.cache(self._new_checkpoint)

    def losses(self, seed: int, setting: Hashable, schedule: optax.Schedule, start: int, steps: int) -> float:
        """Mean held-out loss after `steps` of the schedule, whose steps before `start` are those of the stable run."""
        run = self._checkpoint(seed, setting, start)
        run = self._advance(run, byte_runs.values(schedule, steps)[start:])
        return float(jnp.mean(byte_runs.held_out_losses(run.params, self._held_out, self._size)))

    def _new_checkpoint(self, seed: int, setting: Hashable, step: int) -> byte_runs.Run:
        if step == 0:
            return byte_runs.start_run(seed, self._domain, K, self._size)
        before = max((s for s in self._starts if s < step), default=0)
        rates = byte_runs.values(self._stable(setting), step)[before:]
        return self._advance(self._checkpoint(seed, setting, before), rates)

    def _advance(self, run: byte_runs.Run, rates: jax.Array) -> byte_runs.Run:
        if len(rates) % self._chunk:
            raise ValueError(f"a part of a run has {len(rates)} steps, wanted a multiple of {self._chunk}.")
        mixtures = jnp.full((self._chunk, K), 1 / K)
        for part in np.asarray(rates).reshape(-1, self._chunk):
            run = byte_runs.train(run, self._tokens, mixtures, jnp.asarray(part), self._size)
        return run
