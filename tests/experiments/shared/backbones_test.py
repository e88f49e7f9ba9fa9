import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.shared.backbones import ByteTransformer, PatchMixer, functional, overlapping_patches


def test_patches_are_the_windows_of_the_padded_image():
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    patches = np.asarray(overlapping_patches(jnp.asarray(images), 4))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for place in range(9):
        i, j = 4 * (place // 3), 4 * (place % 3)
        window = padded[:, i : i + 8, j : j + 8]
        np.testing.assert_array_equal(np.sort(patches[place], axis=-1), np.sort(window.reshape(2, -1), axis=-1))


def test_images_do_not_see_each_other():
    apply, params = functional(PatchMixer(3, side=8, width=8, rngs=nnx.Rngs(0)))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    alone = jnp.concatenate([apply(params, image[None]) for image in images])
    np.testing.assert_allclose(apply(params, images), alone, atol=1e-5)


def test_a_byte_sees_the_earlier_ones_alone():
    apply, params = functional(ByteTransformer(length=6, width=8, heads=2, rngs=nnx.Rngs(0)))
    tokens = jnp.arange(6)[None]
    changed = apply(params, tokens.at[0, 3].set(200)) - apply(params, tokens)
    seen = np.abs(np.asarray(changed[0])).max(axis=-1) > 1e-6
    np.testing.assert_array_equal(seen, [False, False, False, False, True, True])


def test_training_in_a_scan_equals_training_in_a_loop():
    apply, params = functional(PatchMixer(2, side=8, width=8, depth=1, rngs=nnx.Rngs(1)))
    images = jax.random.normal(jax.random.key(1), (3, 4, 8, 8, 1))
    optimizer = optax.sgd(0.1)

    def step(carry, batch):
        params, state = carry
        losses, grads = jax.value_and_grad(lambda p: jnp.mean(apply(p, batch)[:, 0] ** 2))(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), losses

    scanned, losses = jax.lax.scan(step, (params, optimizer.init(params)), images)
    carry = (params, optimizer.init(params))
    for batch in images:
        carry, _ = jax.jit(step)(carry, batch)
    assert losses[0] > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), scanned[0], carry[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchMixer(10, side=30, rngs=nnx.Rngs(0)), "side is 30, wanted a multiple of the patch of 4."),
        (lambda: ByteTransformer(width=30, rngs=nnx.Rngs(0)), "heads is 4, wanted a divisor of the width of 30."),
    ],
)
def test_sizes_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
