"""Which transcripts of a teacher to distill from, without labels: nine filters on lines of handwritten digits.

Claim: a student that trains on the half of the transcripts that a label-free filter keeps makes fewer errors than one
  that trains on all of them or on a random half, and comes close to one whose half was chosen with the truth; the
  agreement with a second model is the best filter; likelihoods keep the loops of a teacher that repeats itself.
Data: lines of 4 to 8 digits of MNIST, all of a line turned by one angle of up to 45 degrees; which digit follows which
  is a language drawn by the seed, in which three digits usually come after each. The teacher is an MLP that has seen
  3000 upright digits, so its errors are those of a reader of another style; the proxy is a smaller one that has seen
  3000 others. On a fifth of the lines the teacher gets stuck and repeats two digits up to the twelfth, very sure: these
  errors are planted. The student, an MLP that reads digit by digit, trains on 2000 lines and is tested on 500 with
  their right digits. `python -m experiments.datasets fetch mnist`.
Command: `python -m experiments pseudo_label_filters`
Minutes: 1 on one CPU core
Expected: mean ± standard error over 5 seeds. All filters keep half of the lines. Errors are error rates: of the
  student on the test lines, and of the transcripts it trained on. Precision and recall are those of the dropped half,
  in finding transcripts with an error rate above 0.3; "loops" is the recall of the planted ones.

  | arm                            | student       | transcripts   | precision     | recall        | loops         |
  |--------------------------------|---------------|---------------|---------------|---------------|---------------|
  | all lines                      | 0.350 ± 0.006 | 0.603 ± 0.005 |               | 0.000 ± 0.000 | 0.000 ± 0.000 |
  | random                         | 0.355 ± 0.006 | 0.608 ± 0.006 | 0.581 ± 0.009 | 0.497 ± 0.003 | 0.503 ± 0.007 |
  | confidence                     | 0.355 ± 0.007 | 0.737 ± 0.007 | 0.687 ± 0.009 | 0.588 ± 0.001 | 0.025 ± 0.006 |
  | entropy                        | 0.354 ± 0.007 | 0.746 ± 0.007 | 0.690 ± 0.009 | 0.590 ± 0.002 | 0.006 ± 0.003 |
  | likelihood                     | 0.337 ± 0.005 | 0.471 ± 0.007 | 0.782 ± 0.006 | 0.669 ± 0.003 | 0.509 ± 0.011 |
  | proxy                          | 0.348 ± 0.005 | 0.253 ± 0.006 | 0.832 ± 0.009 | 0.712 ± 0.006 | 1.000 ± 0.000 |
  | embedding                      | 0.351 ± 0.008 | 0.359 ± 0.008 | 0.812 ± 0.007 | 0.695 ± 0.004 | 0.708 ± 0.008 |
  | rendered                       | 0.348 ± 0.006 | 0.219 ± 0.006 | 0.896 ± 0.004 | 0.767 ± 0.007 | 1.000 ± 0.000 |
  | few repetitions                | 0.353 ± 0.005 | 0.349 ± 0.008 | 0.670 ± 0.008 | 0.574 ± 0.005 | 1.000 ± 0.000 |
  | confidence and few repetitions | 0.348 ± 0.005 | 0.245 ± 0.006 | 0.851 ± 0.006 | 0.728 ± 0.006 | 1.000 ± 0.000 |
  | mean rank                      | 0.348 ± 0.005 | 0.235 ± 0.007 | 0.864 ± 0.006 | 0.740 ± 0.006 | 1.000 ± 0.000 |
  | truth                          | 0.334 ± 0.005 | 0.165 ± 0.005 | 1.000 ± 0.000 | 0.856 ± 0.010 | 1.000 ± 0.000 |

  "likelihood" is that of the transcript in the language, "embedding" compares the mean image of a line with the mean of
  the prototypes of its tokens, and "rendered" the images one by one: the place of re-synthesized speech.
  Reproduced: filters find the wrong transcripts, the proxy and the rendering best, and what these two keep has less
  than half of the errors. What the teacher is sure of keeps nearly every loop, which is worse than chance; together
  with the guard against repetitions it drops all of them.
  Not reproduced: a better student. Paired by seed, the proxy lowers its error by 0.002 ± 0.003 and the rendering by
  0.003 ± 0.001; even the truth lowers it by 0.017 ± 0.002 only. Loops hardly harm: without any, by the guard, the
  student is no better. What harms is how the teacher reads turned digits, and a filter that drops these errors drops
  turned lines, of which the student should learn (on one seed, half of those beyond 30 degrees that chance would keep).
  The likelihood in the language alone makes a better student, by 0.014 ± 0.002, though it keeps half of the loops and
  as few turned lines; we do not know why.
Verdict: partly: filters find wrong transcripts and loops as claimed, but only that by the language makes a better
  student, and even the truth gains little.
Tuning: Adam's rate {1e-3, 3e-3} for all arms with --validate and seed 100; 3e-3 was better for each. The largest angle
  was chosen from 45 and 60 there, so that half of the transcripts are usable; the share of loops was set once.
Reference: Waheed et al., uDistil-Whisper: label-free data filtering for knowledge distillation in low-data regimes,
  NAACL 2025 (arXiv 2407.01257).
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, init_mlp, minimize, mlp
from experiments.selection import _slanted_lines as slanted
from experiments.selection._slanted_lines import DIGITS, LIMIT, LONGEST, SIDE, Lines, Transcripts
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.metrics import error_rates
from minibatch_jax.selection import (
    combined_ranks,
    distinct_ngrams,
    embedding_agreements,
    mean_log_likelihoods,
    negative_entropies,
    proxy_agreements,
    token_confidences,
    top_fraction_mask,
)

ALL = "all lines"
BAD = 0.3
"""A transcript with a higher error rate is one that a filter should drop."""


NAMES = (
    ALL,
    *("random", "confidence", "entropy", "likelihood", "proxy", "embedding", "rendered", "few repetitions"),
    *("confidence and few repetitions", "mean rank", "truth"),
)
"""arms, in the order of the scores"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the lines they train on, and take as many steps on as many lines."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/pseudo_label_filters"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    lines: int = 2000
    test_lines: int = 500
    slant: float = 45.0
    """largest angle of a line, in degrees"""
    loops: float = 0.2
    """share of the lines on which the teacher gets stuck"""
    fraction: float = 0.5
    """of the lines that a filter keeps"""
    steps: int = 600
    batch_size: int = 32
    """lines of a step"""
    hidden: int = 64
    learning_rate: float = 3e-3
    validate: bool = False
    """test on digits left out of the training set: for tuning"""


def main(config: Config):
    """Train the students of all arms and report."""
    students = functools.lru_cache(maxsize=1)(functools.partial(outcomes, config))  # one seed after another
    arms = {name: functools.partial(lambda name, seed: students(seed)[name], name) for name in NAMES}
    better = {"student_error": "lower", "precision": "higher"}
    return compare(config, arms, baseline=ALL, better=better)


def outcomes(config: Config, seed: int) -> dict[str, dict[str, float]]:
    """Name of an arm -> what its filter found, and the error of its student."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    parts = slanted.upright(config.validate)
    grammar = slanted.language(rng)
    teacher, proxy = (
        slanted.reader(jax.random.fold_in(key, number), slanted.halved(parts[name][0]), parts[name][1], hidden, steps)
        for number, (name, hidden, steps) in enumerate((("teacher", 64, 600), ("proxy", 32, 300)))
    )
    lines = slanted.write_lines(rng, config.lines, grammar, *parts["lines"], config.slant)
    test = slanted.write_lines(rng, config.test_lines, grammar, *parts["test"], config.slant)
    given = slanted.transcribe(teacher, lines, rng, config.loops)
    others = slanted.transcribe(proxy, lines, rng, 0.0)
    prototypes = jnp.stack(
        [slanted.halved(parts["teacher"][0])[parts["teacher"][1] == digit].mean(axis=0) for digit in range(DIGITS)]
    )
    errors = error_rates(given.tokens, given.lengths, lines.digits, lines.lengths)
    scores = all_scores(lines, given, others, grammar, prototypes) | {"truth": -errors}
    kept = {name: np.asarray(top_fraction_mask(x, config.fraction, key).mask) for name, x in scores.items()}
    kept = {name: kept.get(name, np.ones(config.lines, bool)) for name in NAMES}
    students = train_all(config, key, lines, given, jnp.asarray(np.stack(list(kept.values()))))
    student_errors = np.asarray(jax.vmap(lambda params: reading_error(params, test))(students))
    error, bad, made = np.asarray(errors), np.asarray(errors) > BAD, {}
    for (name, mask), student_error in zip(kept.items(), student_errors, strict=True):
        made[name] = {
            "student_error": student_error,
            "error_of_kept": error[mask].mean(),
            "precision": bad[~mask].mean() if np.any(~mask) else np.nan,
            "recall": (bad & ~mask).sum() / bad.sum(),
            "recall_of_loops": (given.loops & ~mask).sum() / given.loops.sum(),
        }
    return made


def all_scores(
    lines: Lines, given: Transcripts, others: Transcripts, grammar: np.ndarray, prototypes: jax.Array
) -> dict[str, jax.Array]:
    """Scores of all lines `[N]`, larger for those to keep; they see no true digit."""
    tokens, lengths = given.tokens, given.lengths
    before = jnp.log(jnp.asarray(grammar, jnp.float32))[tokens[:, :-1], tokens[:, 1:]]
    before = jnp.concatenate([jnp.full((len(tokens), 1), -np.log(DIGITS), jnp.float32), before], axis=1)
    written = jnp.arange(LONGEST)[None] < lines.lengths[:, None]
    spoken = jnp.arange(LIMIT)[None] < lengths[:, None]
    images = jnp.where(written[..., None], lines.images, 0)
    rendered = jnp.where(spoken[..., None], prototypes[tokens], 0)
    padded = jnp.pad(images, ((0, 0), (0, LIMIT - LONGEST), (0, 0)))
    flat = len(tokens), LIMIT * SIDE * SIDE
    scores = {
        "random": jnp.zeros(len(tokens)),
        "confidence": token_confidences(given.log_probabilities, lengths),
        "entropy": negative_entropies(given.entropies, lengths, DIGITS),
        "likelihood": mean_log_likelihoods(before, lengths),
        "proxy": proxy_agreements(tokens, lengths, others.tokens, others.lengths),
        "embedding": embedding_agreements(images.sum(axis=1), rendered.sum(axis=1)),
        "rendered": embedding_agreements(padded.reshape(flat), rendered.reshape(flat)),
        "few repetitions": distinct_ngrams(tokens, lengths),
    }
    some = [scores[name] for name in ("confidence", "few repetitions", "proxy")]
    scores["confidence and few repetitions"] = combined_ranks(jnp.stack(some[:2]), "all")
    scores["mean rank"] = combined_ranks(jnp.stack(some), "mean")
    return scores


@functools.partial(jax.jit, static_argnums=0)
def train_all(config: Config, key: jax.Array, lines: Lines, given: Transcripts, masks: jax.Array) -> Any:
    """Students `[A, ...]`, one for each mask `[A, N]`: all of one start, each on batches of its own lines."""
    init_key, key = jax.random.split(key)
    start = init_mlp(init_key, (SIDE * SIDE, config.hidden, DIGITS))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    usable = jnp.arange(LONGEST)[None] < jnp.minimum(lines.lengths, given.lengths)[:, None]
    selection = normalize()
    weighted = value_and_grad(losses, selection)

    def one(mask):
        chances = mask / jnp.sum(mask, dtype=jnp.float32)
        rows = jax.random.choice(key, len(chances), (config.steps, config.batch_size), p=chances)

        def gradient(params, rows):
            batch = lines.images[rows], given.tokens[rows, :LONGEST], usable[rows]
            return weighted(params, batch, selection.init(jnp.zeros(config.batch_size)))[1]

        return minimize(optimizer, gradient, start, rows)

    return jax.lax.map(one, masks)


def losses(params: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    """Mean cross-entropy of the tokens of each line `[B]`."""
    images, tokens, usable = batch
    each = slanted.digit_losses(params, images.reshape(-1, SIDE * SIDE), tokens.reshape(-1)).reshape(tokens.shape)
    return jnp.sum(jnp.where(usable, each, 0), axis=1) / jnp.sum(usable, axis=1)


@jax.jit
def reading_error(params: Any, test: Lines) -> jax.Array:
    """Share of the digits of the test lines that a student reads wrongly: its error rate, as it skips and adds none."""
    read = jnp.argmax(mlp(params, test.images.reshape(-1, SIDE * SIDE)), axis=1).reshape(test.digits.shape)
    written = jnp.arange(LONGEST)[None] < test.lengths[:, None]
    return jnp.sum((read != test.digits) & written) / jnp.sum(written)
