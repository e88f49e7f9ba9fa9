"""Sub-batches of image-text pairs chosen jointly, one by one, or at random, at equal compute, from half-wrong pairs.

Claim: a contrastive learner that trains on the sub-batch with the highest joint learnability (JEST), by a reference
  trained on curated pairs, needs 10 times less compute than on uniform batches; joint choice beats independent choice;
  and scoring at a lower resolution (Flexi-JEST) saves more.
Data: 1551 emoji in 16x16 pixels with the words of their keywords (`python -m experiments.datasets fetch emoji
  emoji_twitter emoji_apple emoji_facebook emoji_keywords`), 1242 of them to train on as three vendors draw them. A
  quarter of these is curated; of the other pairs half have the text of another emoji, so that 0.38 of all are wrong.
  Tests: `new_emoji`, 309 others in four drawings each; `new_vendor`, the drawings of a fourth vendor, with right texts.
Model: a `PatchMixer` and the mean of word vectors, sigmoid loss. In numbers of forward and backward passes (an update
  of 64 pairs costs 3 x 64 forward passes, scoring 64 per 64 candidates) an update costs as much as 1 uniform update,
  1.67 where half of the candidates are kept, 2.67 for a fifth, 0.68 at two resolutions, 0.91 for Flexi-JEST. All arms
  get the compute of 900 uniform updates, from which the reference's pass over the data is taken, but not its training,
  which costs 270 more.
Command: `python -m experiments jest_race`
Minutes: 5 on one busy CPU core
Expected: mean ± standard error over 3 seeds, the share of images whose text is among the five nearest, at the end

  | arm                      | new emoji     | new vendor    | wrong pairs   | updates |
  |--------------------------|---------------|---------------|---------------|---------|
  | uniform                  | 0.179 ± 0.007 | 0.147 ± 0.005 | 0.378 ± 0.004 | 900     |
  | independent, top 1/2     | 0.190 ± 0.004 | 0.150 ± 0.001 | 0.203 ± 0.003 | 528     |
  | independent, 1/2         | 0.191 ± 0.008 | 0.155 ± 0.008 | 0.212 ± 0.003 | 528     |
  | independent, 1/5         | 0.177 ± 0.005 | 0.133 ± 0.002 | 0.163 ± 0.005 | 330     |
  | joint, 1/2               | 0.200 ± 0.012 | 0.159 ± 0.008 | 0.207 ± 0.002 | 528     |
  | joint, 1/5               | 0.176 ± 0.005 | 0.127 ± 0.006 | 0.143 ± 0.004 | 330     |
  | uniform, two resolutions | 0.189 ± 0.006 | 0.162 ± 0.004 | 0.380 ± 0.005 | 1332    |
  | Flexi-JEST, 1/2          | 0.192 ± 0.009 | 0.174 ± 0.001 | 0.212 ± 0.003 | 981     |
  | the reference itself     | 0.120 ± 0.009 | 0.072 ± 0.001 |               |         |

  Gains over uniform, paired: joint, 1/2, 2.0 points on new emoji (four standard errors) and 1.3 on a new vendor (one);
  Flexi-JEST 1.3 and 2.7 (eight and six). Its gain over uniform batches of two resolutions is 0.3 and 1.3 points at the
  end, and 2.8 and 3.1 after a third of the compute, where it is already above what uniform reaches at the end on new
  emoji (0.193 of 0.179), and not yet on a new vendor (0.128 of 0.147).
  No gain: keeping a fifth, which leaves fewest wrong pairs, costs so many updates that nothing is won. Joint choice
  differs from independent choice by 0.9 and 0.4 points at 1/2 and by -0.2 and -0.6 at 1/5, all within their errors.
  Share of a step that scoring takes, in CPU time: 0.40 where half is kept, 0.67 where a fifth is (2.9, 4.9 and 8.8 ms
  an update), so 1/5 costs 3.0 uniform updates instead of 2.67 by the count. Flexi-JEST was counted, not timed.
Verdict: partly: choosing half beats uniform batches at equal compute, most with two resolutions, which reach uniform's
  last result on new emoji in a third of the compute, not a tenth; joint choice is no better than independent choice.
Tuning: learning rate {1e-3, 3e-3, 1e-2} with --validate and seed 10 for uniform and for joint, 1/2, each best at 1e-2,
  the edge of the grid; all others have the same rate.
Reference: Evans et al., Data curation via joint example selection further accelerates multimodal learning, NeurIPS 2024
  (arXiv 2406.17711).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend
from experiments.selection._emoji_pairs import VENDORS, draw, emoji_pairs
from experiments.selection._emoji_towers import Towers, new_pair_recalls, pair_losses, towers
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import embed_at_two_resolutions, keep_by_jest, keep_topk

REFERENCE = "the reference itself"
THIRDS = 3
"""of the compute, with an evaluation after each"""


class Method(NamedTuple):
    """How an arm chooses its rows: of how many times as many, by what rule, and at which resolutions."""

    pool: int = 1
    rule: str = ""
    flexible: bool = False


METHODS = {
    "uniform": Method(),
    "independent, top 1/2": Method(2, "top"),
    "independent, 1/2": Method(2, "one chunk"),
    "independent, 1/5": Method(5, "one chunk"),
    "joint, 1/2": Method(2, "chunks"),
    "joint, 1/5": Method(5, "chunks"),
    "uniform, two resolutions": Method(flexible=True),
    "Flexi-JEST, 1/2": Method(2, "chunks", flexible=True),
}
UNINFORMED = {name: "uniform" for name in METHODS if name != "uniform"}
RATES = dict.fromkeys(METHODS, 1e-2)


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the rows they train on, their resolution and the number of updates."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/jest_race"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    updates: int = 900
    """of uniform batches; the other arms make as many as cost the same"""
    keep: int = 64
    """pairs to train on in an update"""
    chunks: int = 16
    """of joint draws"""
    curated: float = 0.25
    """fraction of the emoji whose pairs are all right, and which train the reference"""
    wrong: float = 0.5
    """fraction of the other pairs whose texts are shuffled"""
    reference_updates: int = 400
    width: int = 32
    depth: int = 2
    dimensions: int = 64
    learning_rate: float | None = None
    """None: as tuned for each arm"""
    validate: bool = False
    """test on a fifth of the training emoji, left out there: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    splits = emoji_pairs(config.validate)
    model = towers(splits["train"]["words"].shape[1], config.width, config.depth, config.dimensions)
    data = functools.cache(functools.partial(noisy_pool, config, model, splits))
    arms: dict[str, Any] = {name: functools.partial(race, config, model, name, data) for name in METHODS}
    arms[REFERENCE] = lambda seed: {config.updates: evaluate(model, data(seed)["reference"], data(seed))}
    better = {f"{test}_recall_at_5": "higher" for test in ("new_emoji", "new_vendor")}
    return compare(config, arms, xlabel="cost in updates of uniform batches", baseline=UNINFORMED, better=better)


def race(config: Config, model: Towers, name: str, data: Callable[[int], Any], seed: int) -> dict[int, Any]:
    """The scores of one arm after each third of the compute."""
    method, train = METHODS[name], data(seed)["train"]
    updates = updates_of(config, method, model.flops, train["wrong"].size)
    start, fit = program(config, model, method, config.learning_rate or RATES[name], updates)
    init_key, *keys = jax.random.split(jax.random.key(seed), 1 + THIRDS)
    carry, scores = start(init_key), {}
    for third, key in enumerate(keys, 1):
        carry, wrong = fit(carry, jax.random.split(key, updates // THIRDS), train)
        scores[config.updates * third // THIRDS] = evaluate(model, carry[0], data(seed)) | {
            "wrong_pairs": float(wrong),
            "updates": updates * third // THIRDS,
        }
    return scores


def updates_of(config: Config, method: Method, flops: tuple[int, int], pairs: int) -> int:
    """How many updates an arm makes for the compute of `config.updates` uniform ones, a multiple of the thirds.

    A forward pass of a pair costs `flops`, fine or coarse, and with its gradient three times as much. Half of the rows
    of an arm of two resolutions are coarse. What chooses rows pays for a forward pass of all candidates in each update,
    and once for one of the reference over all pairs.
    """
    fine, coarse = flops
    row = (fine + coarse) / 2 if method.flexible else fine
    scored = 0 if method.pool == 1 else coarse if method.flexible else fine
    budget = 3 * config.keep * fine * config.updates - pairs * scored
    return int(budget / (config.keep * (3 * row + method.pool * scored))) // THIRDS * THIRDS


@functools.cache
def program(config: Config, model: Towers, method: Method, rate: float, updates: int):
    """`start(key)` gives parameters with the optimizer's state, and `fit(start, keys, train)` makes an update a key.

    `fit` returns the same, and the fraction of wrong pairs among those trained on.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, updates))

    def start(key):
        params = model.init(key)
        return params, optimizer.init(params)

    def update(train, carry, key):
        params, opt_state = carry
        draw_key, choice_key = jax.random.split(key)
        rows, vendors = draw(draw_key, len(train["wrong"]), config.keep * method.pool)
        grads, chosen = gradient(config, model, method, params, train, rows, vendors, choice_key)
        return descend(optimizer, grads, params, opt_state), jnp.mean(train["wrong"][rows, vendors][chosen])

    @jax.jit
    def fit(carry, keys, train):
        carry, wrong = jax.lax.scan(functools.partial(update, train), carry, keys)
        return carry, jnp.mean(wrong)

    return start, fit


def gradient(config: Config, model: Towers, method: Method, params: Any, train: Any, rows, vendors, key):
    """The gradient of the pairs that the method chooses of those drawn, and which they are."""
    half_key, choice_key = jax.random.split(key)
    batch = {"image": train["image"][rows, vendors], "words": train["words"][train["text"][rows, vendors]]}

    def embed(params, batch):
        if not method.flexible:
            return model.fine(params, batch)
        passes = functools.partial(model.coarse, params), functools.partial(model.fine, params)
        return embed_at_two_resolutions(half_key, batch, *passes, num_cheap=config.keep // 2)

    def losses(params, batch):
        return jnp.sum(pair_losses(params, embed(params, batch)), axis=1)

    if method.pool == 1:
        selection = normalize()
        _, grads, _ = value_and_grad(losses, selection)(params, batch, selection.init(jnp.zeros(config.keep)))
        return grads, jnp.arange(config.keep)
    seen = train["reference"]["coarse" if method.flexible else "fine"]
    expected = pair_losses(train["reference"], jax.tree.map(lambda x: x[rows, vendors], seen))

    def score(params, batch):
        pairs = pair_losses(params, (model.coarse if method.flexible else model.fine)(params, batch))
        return jnp.diagonal(pairs - expected), {"pair_losses": pairs}

    chunks = config.chunks if method.rule == "chunks" else 1
    rule = keep_topk(config.keep) if method.rule == "top" else keep_by_jest(config.keep, chunks, choice_key)
    selection = optax.chain(rule, normalize())
    fn = value_and_grad(losses, selection, gather=config.keep, score_fn=score)
    start = selection.init(jnp.zeros(config.keep * method.pool))
    (_, aux), grads, _ = fn(params, batch, start, reference_pair_losses=expected)
    return grads, aux.indices


def noisy_pool(config: Config, model: Towers, splits: dict[str, Any], seed: int) -> dict[str, Any]:
    """The pool with its wrong texts and the vectors of the reference, the reference, and the two tests."""
    rng = np.random.default_rng(seed)
    images, words = splits["train"]["image"], splits["train"]["words"]
    curated = rng.permutation(len(words))[: int(config.curated * len(words))]
    text, wrong = shuffled_texts(rng, len(words), curated, config.wrong)
    train = {"image": images, "text": text, "wrong": wrong, "words": words}
    clean = {name: jnp.asarray(train[name][curated]) for name in ("image", "text", "wrong")} | {"words": words}
    reference = train_reference(config, model, clean, seed)

    def vectors(embed):
        batch = {"image": jnp.asarray(train["image"].reshape(-1, *images.shape[2:])), "words": words[text.reshape(-1)]}
        return tuple(x.reshape(*text.shape, -1) for x in jax.jit(embed)(reference, batch))

    both = {"fine": vectors(model.fine), "coarse": vectors(model.coarse)}
    train["reference"] = both | {name: reference[name] for name in ("log_scale", "bias")}
    tests = {name: splits[name] for name in ("new_emoji", "new_vendor")}
    return jax.tree.map(jnp.asarray, {"train": train, "reference": reference, "tests": tests})


def shuffled_texts(rng: np.random.Generator, emoji: int, curated: np.ndarray, wrong: float):
    """The emoji whose text each drawing has, `[emoji, vendors]`, and whether that is wrong, never for the curated."""
    text = np.tile(np.arange(emoji, dtype=np.int32)[:, None], (1, VENDORS))
    moved = rng.random(text.shape) < wrong
    moved[curated] = False
    text[moved] = rng.permutation(text[moved])
    return text, (text != np.arange(emoji)[:, None]).astype(np.float32)


def train_reference(config: Config, model: Towers, clean: Any, seed: int) -> Any:
    """Towers trained on the curated pairs alone, at both resolutions."""
    name, updates = "uniform, two resolutions", config.reference_updates
    start, fit = program(config, model, METHODS[name], RATES[name], updates)
    init_key, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    return fit(start(init_key), jax.random.split(key, updates), clean)[0][0]


def evaluate(model: Towers, params: Any, data: dict[str, Any]) -> dict[str, float]:
    """How often the right text is the nearest or among the five nearest, of images of new emoji and a new vendor."""
    return {
        f"{name}_recall_at_{k}": float(value)
        for name, test in data["tests"].items()
        for k, value in zip((1, 5), _recalls(model, params, test))
    }


_recalls = jax.jit(new_pair_recalls, static_argnums=0)
