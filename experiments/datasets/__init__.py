"""Real data sets: builders, readers and a `fetch` command (needs the `experiments` extra)."""

from experiments.datasets._source import arrays, batches, check_fetched, source

__all__ = ["arrays", "batches", "check_fetched", "source"]
