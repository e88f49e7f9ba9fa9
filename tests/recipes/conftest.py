"""What holds for every recipe: the promotion of dtypes and ranks is JAX's default, as it is for users."""

import jax
import pytest


@pytest.fixture(autouse=True)
def default_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
