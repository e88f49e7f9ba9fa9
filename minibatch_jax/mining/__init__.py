"""Which pairs and triplets of a batch count: masks and weights on distances `[A, M]`."""
