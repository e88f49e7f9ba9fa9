"""Real data sets: builders, readers and a `fetch` command (needs the `experiments` extra)."""
