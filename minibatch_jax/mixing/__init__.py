"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""
