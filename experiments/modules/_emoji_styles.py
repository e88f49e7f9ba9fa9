"""Emoji in four styles, of which three are trained on and one is left for the test."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.datasets import arrays, check_fetched
from experiments.shared.backbones import PatchMixer

STYLES = ("emoji", "emoji_twitter", "emoji_apple", "emoji_facebook")
"""Google's drawings, and those of three others; a row is the same emoji in all"""
CATEGORIES = 9
SIDE = 32


@functools.cache
def drawings(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 4, 32, 32, 3]`, means of four pixels in [0, 1], and the category `[N]` of each emoji."""
    check_fetched(*STYLES)
    sets = [arrays(name, split) for name in STYLES]
    images = [s["image"].reshape(-1, SIDE, 2, SIDE, 2, 3).mean((2, 4), dtype=np.float32) / 255 for s in sets]
    return np.stack(images, axis=1), sets[0]["label"].astype(np.int32)


def held_out_style(seed: int) -> int:
    """The style that a seed leaves for the test: each in turn."""
    return seed % len(STYLES)


def leave_one_style_out(seed: int, validate: bool) -> dict[str, Any]:
    """Drawings of known emoji in three styles to train on, and three ways to be new: the style, the emoji, or both.

    Each split has `image` `[N, styles, 32, 32, 3]`, standardized by the training split, and `label` `[N]`. To validate,
    a fifth of the training emoji are the new ones, and the first of the three styles is the new one.
    """
    (known, known_label), (new, new_label) = drawings("train"), drawings("test")
    if validate:
        is_new = np.arange(len(known)) % 5 == 4
        (known, known_label), (new, new_label) = (
            (known[~is_new], known_label[~is_new]),
            (known[is_new], known_label[is_new]),
        )
    other = held_out_style(seed)
    seen = [style for style in range(len(STYLES)) if style != other]
    if validate:
        other, *seen = seen
    mean, deviation = known[:, seen].mean(), known[:, seen].std()

    def part(images, label, styles):
        return {"image": (images[:, styles] - mean) / deviation, "label": label}

    return {
        "train": part(known, known_label, seen),
        "new_style": part(known, known_label, [other]),
        "new_emoji": part(new, new_label, seen),
        "new_style_and_emoji": part(new, new_label, [other]),
    }


def network(patch: int, width: int, key: jax.Array) -> PatchMixer:
    """A network of drawings with new parameters; its own classifier is not used."""
    return PatchMixer(1, side=SIDE, channels=3, patch=patch, width=width, rngs=nnx.Rngs(key))
