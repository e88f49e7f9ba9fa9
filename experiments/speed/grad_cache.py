"""Case N: contrastive steps with the memory of a block of the encoder (`encode`, `block_size`), 1,024 to 32,768 pairs.

Two towers over 16 patches a row, CLIP's loss in both directions with a learned scale, blocks of 512 rows. Targets:
beside embeddings and their gradients, XLA reserves at most 1.1 x the temporaries of a plain step on 512 rows, whatever
the batch, if the loss forms no array of all pairs (`blockwise_losses`); and a step takes at most 1.5 x a plain one
where both fit: a third more operations, those of one more forward pass. With the usual loss of all pairs the matrix of
pairs is what the memory grows with. `among_rows(keep_by_jest(...))` and `gather` differentiate a quarter of the rows.

Measured, by the compiler for a CPU: a plain step on 512 rows reserves 113.5 MB. In blocks, beside embeddings and their
gradients (1.0, 4.2 and 33.6 MB), 1,024 pairs take 1.022 of that, 4,096 take 1.008 and 32,768 take 0.949 (141 MB in all,
where the plain step takes 28.0 GB). With the loss of all pairs blocks take 117 MB, 406 MB and 25.8 GB. Times on one
core of a loaded machine, 4 calls in turns, 1,024 pairs in blocks of 256: 0.76 of the plain step by the medians and 0.94
by the shortest calls (1.09 and 0.79 for 512 pairs in blocks of 128), because blocks fit into caches; with JEST and
`gather` 0.43 and 0.42.
"""

import functools
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.shared.mlp import init_mlp, mlp
from experiments.speed._timing import milliseconds, print_ratios
from minibatch_jax import among_rows, mining, value_and_grad
from minibatch_jax.selection import keep_by_jest
from minibatch_jax.selection.jest_embeddings import PairEmbeddings, sigmoid_pair_losses

PATCHES, PIXELS, WIDTH, LAYERS, SIZE, ANCHORS = 16, 48, 128, 6, 64, 32
SIZES = (1024, 4096, 32_768)
TOWERS = ("image", "text")
NOTHING = optax.with_extra_args_support(optax.identity())
Arrays = dict[str, Any]
ItemsFn = Callable[[Any, Arrays, Any], Any]


def init() -> Arrays:
    """Parameters of both towers, and the logarithm of the scale."""
    sizes = (PIXELS, *[WIDTH] * LAYERS, SIZE)
    towers = {n: init_mlp(k, sizes) for n, k in zip(TOWERS, jax.random.split(jax.random.key(0)))}
    return {**towers, "scale": jnp.float32(2.0)}


def rows_of(batch: int) -> Arrays:
    """Rows of both towers."""
    return {n: jax.random.normal(jax.random.key(i), (batch, PATCHES, PIXELS)) for i, n in enumerate(TOWERS)}


def encode(params: Arrays, block: Arrays) -> Arrays:
    """Embeddings of both towers, the means over patches."""
    return {n: mining.normalize_embeddings(jnp.mean(mlp(params[n], block[n]), axis=1)) for n in TOWERS}


def all_pairs(params: Arrays, z: Arrays, batch: Any) -> Arrays:
    """CLIP's losses from the matrix of all pairs."""
    del batch
    logits = jnp.exp(params["scale"]) * z["image"] @ z["text"].T
    return {n: -jnp.diagonal(jax.nn.log_softmax(logits, axis=i)) for i, n in enumerate(reversed(TOWERS))}


def in_blocks(params: Arrays, z: Arrays, batch: Any) -> Arrays:
    """The same losses, from a few anchors and all others at a time."""
    del batch
    pairs = jnp.arange(z["image"].shape[0])
    loss = functools.partial(mining.supcon_loss, temperature=1.0, reduction="anchors")
    image = jnp.exp(params["scale"]) * z["image"]
    return {
        name: mining.blockwise_losses(
            loss, x, pairs, y, pairs, compare=mining.dot_product_similarity, block_size=min(ANCHORS, len(pairs))
        )
        for name, x, y in (("image", image, z["text"]), ("text", z["text"], image))
    }


def plain(params: Arrays, batch: Arrays) -> Any:
    """The usual step: all activations and all pairs."""
    return jax.value_and_grad(lambda p: sum(map(jnp.mean, all_pairs(p, encode(p, batch), batch).values())))(params)


def cached(items_fn: ItemsFn, block: int) -> Callable[[Arrays, Arrays], Any]:
    """The step that encodes blocks twice."""
    fn = value_and_grad(items_fn, NOTHING, encode=encode, block_size=block)

    def step(params, batch):
        (value, _), grads, _ = fn(params, batch, optax.EmptyState())
        return value, grads

    return step


def jest(block: int, batch: int, kept: int, gather: int | None) -> Callable[[Arrays, Arrays], Any]:
    """The step on the pairs of a sub-batch, against a reference that knows nothing."""
    select = among_rows(keep_by_jest(kept, 4, 0))

    def pair_losses(params, z, batch):
        del batch
        return sigmoid_pair_losses(PairEmbeddings(z["image"], z["text"], jnp.exp(params["scale"]), jnp.float32(-10.0)))

    fn = value_and_grad(pair_losses, select, items="pair_losses", encode=encode, block_size=block, gather=gather)
    zeros = jnp.zeros((batch, batch))
    return lambda p, b: fn(p, b, select.init(zeros), reference_pair_losses=zeros)[:2]


def compiled(step: Callable[[Arrays, Arrays], Any], batch: int) -> Any:
    """Compile for a batch of so many pairs."""
    shapes = jax.eval_shape(init), jax.eval_shape(lambda: rows_of(batch))
    return jax.jit(step).lower(*shapes).compile()


def reserved(step: Callable[[Arrays, Arrays], Any], batch: int) -> float:
    """MB of temporaries."""
    memory = compiled(step, batch).memory_analysis()
    assert memory is not None, "this backend reports no memory"
    return memory.temp_size_in_bytes / 1e6


def print_memory(block: int, sizes: tuple[int, ...]) -> None:
    """Print what XLA reserves."""
    of_block = reserved(plain, block)
    print(f"\nN. MB of temporaries; a plain step on {block} rows {of_block:.1f}")
    heads = ("embeddings and gradients", "in blocks", "beside, x plain block", "all pairs", "plain step on all")
    print(f"  {'pairs':>7}" + "".join(f"{head:>26}" for head in heads))
    for size in sizes:
        kept = 2 * len(TOWERS) * size * SIZE * 4 / 1e6
        blocks, pairs, whole = reserved(cached(in_blocks, block), size), reserved(cached(all_pairs, block), size), 0.0
        whole = reserved(plain, size)
        cells = (f"{kept:.1f}", f"{blocks:.1f}", f"{(blocks - kept) / of_block:.3f}", f"{pairs:.1f}", f"{whole:.1f}")
        print(f"  {size:>7}" + "".join(f"{cell:>26}" for cell in cells))


def print_times(block: int, size: int, rounds: int, repeats: int) -> None:
    """Print times and operations where all fit."""
    steps = {
        "encode in blocks, all pairs": cached(all_pairs, block),
        "encode in blocks, loss in blocks": cached(in_blocks, block),
        "plain step": plain,
        "JEST keeps a quarter": jest(block, size, size // 4, None),
        "JEST keeps a quarter, gather": jest(block, size, size // 4, size // 4),
    }
    programs = {name: compiled(step, size) for name, step in steps.items()}
    params, batch, times = init(), rows_of(size), defaultdict(list)
    for _ in range(rounds):
        for name, program in programs.items():
            times[name] += milliseconds(lambda run=program: jax.block_until_ready(run(params, batch)), repeats)
    ours = "encode in blocks, all pairs"
    print_ratios(f"N. {size} pairs in blocks of {block}", times, ours)
    for title, of in (("median", median), ("shortest", min)):
        print(f"  {title}: {of(times[ours]) / of(times['plain step']):.3f} of the plain step (target 1.5)")


def main(block: int = 512, size: int = 2048, rounds: int = 4, repeats: int = 1) -> None:
    """Print memory and times."""
    print_memory(block, SIZES)
    print_times(block // 2, size // 2, rounds, repeats)


if __name__ == "__main__":
    main()
