"""Which items of two batches are paired, and how much each pair counts: weights `[B0, B1]`."""
