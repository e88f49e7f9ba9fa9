"""Which rows of a pool did not count, and why: counted on the first pass over the rows."""

from typing import Any, NamedTuple

import numpy as np

EXAMPLES = 3  # rows of each cause that are named
CAUSES = ("not finite", "too large for float32", "damaged", "of logits without a softmax")


class PoolReport(NamedTuple):
    """How many rows of a pool neither counted nor could be chosen, by shard and cause; `print` shows it as text.

    Attributes:
      shards: names of the shards, S of them: paths, or what else the pool was made of.
      sizes: `[S]` int64, rows of each shard.
      not_finite: `[S]` int64, rows with an entry that is NaN or infinite where the pool holds it.
      overflow: `[S]` int64, rows that are finite there, but not in float32, or whose squared length overflows there.
      damaged: `[S]` int64, records that could not be read or made into a row.
      no_softmax: `[S]` int64, rows that count but for their logits, of which the softmax is NaN.
      examples: the first rows of each cause by their numbers, damaged records first, with what was said of these.
    """

    shards: tuple[str, ...]
    sizes: np.ndarray
    not_finite: np.ndarray
    overflow: np.ndarray
    damaged: np.ndarray
    no_softmax: np.ndarray
    examples: tuple[str, ...]

    @property
    def dropped(self) -> int:
        """Number of rows that did not count."""
        return int(self._counts().sum())

    def __str__(self) -> str:
        counts = self._counts()
        lines = [f"{self.dropped} of {int(self.sizes.sum())} rows dropped{_causes(counts.sum(0))}"]
        for name, size, lost in zip(self.shards, self.sizes, counts) if len(self.shards) > 1 else ():
            lines += [f"  {name}: {lost.sum()} of {size}{_causes(lost)}"] if lost.sum() else []
        return "\n".join([*lines, *(f"  {example}" for example in self.examples)])

    def _counts(self) -> np.ndarray:
        return np.stack([self.not_finite, self.overflow, self.damaged, self.no_softmax], axis=1)


def _causes(counts: Any) -> str:
    told = ", ".join(f"{count} {name}" for count, name in zip(counts, CAUSES) if count)
    return f": {told}" if told else ""
