"""Texts of random words, as bytes, and copies of them with typos."""

import numpy as np

COUNT, LENGTH = 60, 48


def with_copies(typos: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 60 texts `[120, 48]` and then 60 copies with some letters replaced, and which text each is a copy of."""
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(500)]
    lines = [" ".join(rng.choice(words, 30)).encode()[:LENGTH] for _ in range(COUNT)]
    originals = np.stack([np.frombuffer(line, np.uint8) for line in lines]).astype(np.int32)
    copied = rng.permutation(COUNT)
    copies = originals[copied]
    places = rng.integers(0, LENGTH, (COUNT, typos))
    copies[np.arange(COUNT)[:, None], places] = ord("#")
    return np.concatenate([originals, copies]), copied
