"""How to cut a batch: the largest micro-batch that fits on a device, and the layout over many of them.

`largest_micro_batch` asks the compiler how much memory a step needs. `plan` goes through the layouts of a model over
many devices, with numbers of bytes that the caller has measured or computed.

References:
  Hagemann et al., Efficient parallelization layouts for large-scale distributed training, 2023 (arXiv 2311.05610).

Method: micro-batch planner
Paper: 2311.05610
Experiment: speed planner
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minibatch_jax._checks import check_count, check_number


class MicroBatch(NamedTuple):
    """What `largest_micro_batch` found.

    Attributes:
      size: examples of a micro-batch.
      accumulation_steps: micro-batches of a batch, for `value_and_grad(micro_batches=...)`.
      memory_bytes: what a step on it needs.
    """

    size: int
    accumulation_steps: int
    memory_bytes: int


class Layout(NamedTuple):
    """One way to spread a batch and a model over devices.

    Attributes:
      tensor_parallel: devices that share each layer.
      pipeline_parallel: stages of layers.
      data_parallel: copies of the model.
      micro_batch: examples of a copy at a time.
      accumulation_steps: micro-batches of a copy in a step.
      recompute: whether activations are computed again for the backward pass.
      bubble: fraction of the time in which a stage of the pipeline waits.
      memory_bytes: of a device, as the caller's function says.
    """

    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    micro_batch: int
    accumulation_steps: int
    recompute: bool
    bubble: float
    memory_bytes: float


def largest_micro_batch(compile_step: Callable[[int], Any], batch_size: int, memory_bytes: float) -> MicroBatch:
    """Return the largest divisor of the batch whose compiled step fits into memory, without running anything.

    The memory of a step is what XLA's analysis says: arguments, results that replace no argument, and temporaries. It
    is taken to grow with the micro-batch, so that a binary search over the divisors finds the largest, with one
    compilation for each that it looks at.

    Args:
      compile_step: `compile_step(micro_batch)` returns the compiled step, such as
        `jax.jit(step).lower(params, jax.ShapeDtypeStruct((micro_batch, 64), jnp.float32)).compile()`.
      batch_size: examples of a batch on one device, >= 1.
      memory_bytes: memory of the device for this step, > 0.

    Returns:
      Size, number of accumulation steps, bytes.

    Raises:
      TypeError: if the batch size is no int, the memory no number, or what is compiled has no `memory_analysis`.
      ValueError: if a number is out of range, or a micro-batch of one example does not fit.

    Examples:
      >>> step = jax.jit(lambda x: jnp.sort(x @ x.T))
      >>> compile_step = lambda size: step.lower(jax.ShapeDtypeStruct((size, 8), jnp.float32)).compile()
      >>> largest_micro_batch(compile_step, 96, memory_bytes=20_000).size
      48
    """
    check_count("batch_size", batch_size)
    check_number("memory_bytes", memory_bytes, 0, open_low=True)
    sizes = _divisors(batch_size)
    found = MicroBatch(1, batch_size, _bytes_of(compile_step(1)))
    if found.memory_bytes > memory_bytes:
        raise ValueError(
            f"memory_bytes is {memory_bytes}, wanted at least {found.memory_bytes} for a micro-batch of 1 example."
        )
    fits, too_large = 0, len(sizes)
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        needed = _bytes_of(compile_step(sizes[middle]))
        if needed > memory_bytes:
            too_large = middle
        else:
            fits, found = middle, MicroBatch(sizes[middle], batch_size // sizes[middle], needed)
    return found


def pipeline_bubble(stages: int, micro_batches: int, chunks: int = 1) -> float:
    """Return the fraction of a step in which a stage of a pipeline waits: (p - 1) / (v m + p - 1).

    This is of the schedule "one forward, one backward", with stages and micro-batches of equal time.

    Args:
      stages: p, >= 1.
      micro_batches: m of a step, >= 1.
      chunks: v parts of the model on each device, interleaved, >= 1.

    Returns:
      A number in [0, 1).

    Raises:
      TypeError: if a number is no int.
      ValueError: if one is below 1.

    Examples:
      >>> pipeline_bubble(4, 12)
      0.2
    """
    check_count("stages", stages)
    check_count("micro_batches", micro_batches)
    check_count("chunks", chunks)
    return (stages - 1) / (chunks * micro_batches + stages - 1)


def plan(
    batch_size: int,
    devices: int,
    memory_fn: Callable[[Layout], float],
    memory_bytes: float,
    *,
    tensor_parallel: Sequence[int] = (1, 2, 4, 8),
    pipeline_parallel: Sequence[int] = (1, 2, 4, 8),
    recompute: Sequence[bool] = (False, True),
    key: Callable[[Layout], Any] | None = None,
) -> list[Layout]:
    """Return all layouts that fit, the best first.

    Without a `key` the order is that of the paper's advice: no recomputation, then the smallest bubble, then the fewest
    devices for each layer, then the largest micro-batch. It knows nothing of the speed of the links between devices;
    `key=lambda layout: measured_seconds(layout)` does.

    Args:
      batch_size: examples of a step, on all devices together.
      devices: number of devices.
      memory_fn: `memory_fn(layout)` returns the bytes that a device needs, from `state_bytes` and `activation_bytes` or
        measured; the layout's own `memory_bytes` is 0 there.
      memory_bytes: memory of a device, > 0.
      tensor_parallel: numbers of devices to try for each layer.
      pipeline_parallel: numbers of stages to try.
      recompute: whether to try without and with recomputation.
      key: what to sort by, smallest first.

    Returns:
      Layouts whose parts divide the devices and the batch without rest; empty if none fits.

    Raises:
      TypeError: if a size is no int or the memory no number.
      ValueError: if one is out of range.

    References:
      Hagemann et al., 2023 (arXiv 2311.05610).

    Examples:
      >>> need = lambda layout: (60 + 10 * layout.micro_batch) / (layout.tensor_parallel * layout.pipeline_parallel)
      >>> best = plan(16, 4, need, memory_bytes=40)[0]
      >>> best.tensor_parallel, best.pipeline_parallel, best.data_parallel, best.micro_batch, best.accumulation_steps
      (2, 1, 2, 2, 4)
    """
    check_count("batch_size", batch_size)
    check_count("devices", devices)
    check_number("memory_bytes", memory_bytes, 0, open_low=True)
    for name, values in (("tensor_parallel", tensor_parallel), ("pipeline_parallel", pipeline_parallel)):
        for value in values:
            check_count(name, value)
    found = []
    for tensor, stages, again in itertools.product(tensor_parallel, pipeline_parallel, recompute):
        copies, left = divmod(devices, tensor * stages)
        if left or batch_size % copies:
            continue
        for size in _divisors(batch_size // copies):
            steps = batch_size // copies // size
            layout = Layout(tensor, stages, copies, size, steps, again, pipeline_bubble(stages, steps), 0.0)
            layout = layout._replace(memory_bytes=memory_fn(layout))
            if layout.memory_bytes <= memory_bytes:
                found.append(layout)
    return sorted(found, key=_advice if key is None else key)


def _advice(layout: Layout) -> tuple[Any, ...]:
    return layout.recompute, layout.bubble, layout.tensor_parallel, -layout.micro_batch


def _divisors(number: int) -> list[int]:
    small = [i for i in range(1, int(number**0.5) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def _bytes_of(compiled: Any) -> int:
    analysis = getattr(compiled, "memory_analysis", lambda: None)()
    if analysis is None:
        raise TypeError(
            f"compile_step returned {type(compiled).__name__}, wanted a compiled step with memory_analysis."
        )
    kept = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(kept + analysis.temp_size_in_bytes)
