import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def as_users_run_it():
    """Experiments run with the dtype promotion of JAX's default, which optax's Adam needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield
