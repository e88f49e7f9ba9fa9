"""Against a simulated pipeline, brute force over all sizes and layouts, and published arithmetic."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from minibatch_jax.schedules import (
    activation_bytes,
    flops_per_token,
    largest_micro_batch,
    model_flops_utilization,
    pipeline_bubble,
    plan,
    state_bytes,
)


def simulated_bubble(stages, micro_batches):
    """Ticks of the schedule "one forward, one backward": each stage has its order, and waits for its neighbours."""
    orders = []
    for stage in range(stages):
        warmup = min(stages - stage, micro_batches)
        order = [("f", i) for i in range(warmup)]
        for i in range(micro_batches):
            order += [("b", i)] + ([("f", warmup + i)] if warmup + i < micro_batches else [])
        orders.append(order)
    done, ticks, busy = {}, 0, 0
    while len(done) < 2 * stages * micro_batches:
        started = []
        for stage, order in enumerate(orders):
            todo = next(((kind, i) for kind, i in order if (stage, kind, i) not in done), None)
            if todo is None:
                continue
            kind, i = todo
            if kind == "f":
                needs = [] if stage == 0 else [(stage - 1, "f", i)]
            else:
                needs = [(stage, "f", i)] if stage == stages - 1 else [(stage + 1, "b", i)]
            if all(need in done for need in needs):
                started.append((stage, *todo))
        done.update(dict.fromkeys(started))
        busy += len(started)
        ticks += 1
    return 1 - busy / (stages * ticks)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 2), (3, 7), (4, 12), (4, 2)])
def test_the_bubble_is_that_of_a_simulated_pipeline(stages, micro_batches):
    assert pipeline_bubble(stages, micro_batches) == pytest.approx(simulated_bubble(stages, micro_batches))
    assert pipeline_bubble(stages, micro_batches, chunks=2) == pipeline_bubble(stages, 2 * micro_batches)


def compiled(needed, tried=None):
    def compile_step(size):
        if tried is not None:
            tried.append(size)
        sizes = {"argument_size_in_bytes": 100, "output_size_in_bytes": 40, "alias_size_in_bytes": 40}
        return SimpleNamespace(memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=needed(size), **sizes))

    return compile_step


@pytest.mark.parametrize("batch_size", [1, 7, 36, 60, 64])
def test_the_largest_micro_batch_is_that_of_all_divisors(batch_size):
    for limit in (101, 110, 140, 163.5, 164, 10**6):
        expected = max(b for b in range(1, batch_size + 1) if batch_size % b == 0 and 100 + b <= limit)
        tried = []
        found = largest_micro_batch(compiled(lambda b: b, tried), batch_size, limit)
        assert found == (expected, batch_size // expected, 100 + expected)
        assert len(tried) == len(set(tried)) <= 5


def test_the_compiler_says_how_much_memory_a_step_needs():
    step = jax.jit(lambda w, x: w - jnp.sum(jnp.sort(x, axis=0)), donate_argnums=0)

    def compile_step(size):
        shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((size, 1024), jnp.float32)
        return step.lower(*shapes).compile()

    found = largest_micro_batch(compile_step, 8, 3 * 4 * 4096)
    assert found.size == 4 and 2 * 4 * 4096 <= found.memory_bytes <= 3 * 4 * 4096
    with pytest.raises(ValueError, match="memory_bytes is 4096, wanted at least .* for a micro-batch of 1 example"):
        largest_micro_batch(compile_step, 8, 4096)


def test_a_plan_is_all_layouts_that_fit():
    def need(layout):
        copies = layout.tensor_parallel * layout.pipeline_parallel
        return 100 / copies + layout.micro_batch * (1 if layout.recompute else 10) / layout.tensor_parallel

    found = plan(24, 12, need, 60, tensor_parallel=(1, 2, 3), pipeline_parallel=(1, 2, 5))
    wanted = set()
    for tensor, stages, again in itertools.product((1, 2, 3), (1, 2), (False, True)):
        for copies, size, steps in itertools.product(range(1, 13), range(1, 25), range(1, 25)):
            fits = 100 / tensor / stages + size * (1 if again else 10) / tensor <= 60
            if tensor * stages * copies == 12 and copies * size * steps == 24 and fits:
                wanted.add((tensor, stages, copies, size, steps, again))
    assert {layout[:6] for layout in found} == wanted and len(found) == len(wanted) > 10
    keys = [(x.recompute, x.bubble, x.tensor_parallel, -x.micro_batch) for x in found]
    assert keys == sorted(keys)
    assert all(x.memory_bytes == need(x) and x.bubble == pipeline_bubble(x[1], x[4]) for x in found)
    assert plan(24, 12, need, 1) == []
    by_memory = plan(24, 12, need, 60, key=lambda layout: layout.memory_bytes)
    assert [x.memory_bytes for x in by_memory] == sorted(x.memory_bytes for x in by_memory)


def test_published_arithmetic():
    assert flops_per_token(13e9, 40, 5120, 2048) == pytest.approx(8.303e10, rel=1e-4)
    assert flops_per_token(13e9, 40, 5120, 2048, causal=True) == pytest.approx(7.8e10 + 6 * 40 * 5120 * 2048)
    assert model_flops_utilization(1000, 8.303e10, 2, 8.303e13) == pytest.approx(0.5)
    s, b, h, a, t = 2048, 4, 12288, 96, 8
    block = {"micro_batch": b, "sequence_length": s, "hidden": h, "heads": a}
    assert activation_bytes(**block) == pytest.approx(s * b * h * (34 + 5 * a * s / h))
    in_parallel = activation_bytes(**block, tensor_parallel=t)
    assert in_parallel == pytest.approx(s * b * h * (10 + 24 / t + 5 * a * s / (h * t)))
    cut = activation_bytes(**block, tensor_parallel=t, sequence_parallel=True)
    assert cut == pytest.approx(s * b * h / t * (34 + 5 * a * s / h))
    selective = activation_bytes(**block, tensor_parallel=t, sequence_parallel=True, recompute="selective")
    assert selective == pytest.approx(34 * s * b * h / t)
    assert activation_bytes(**block, recompute="full") == pytest.approx(2 * s * b * h)
    assert state_bytes(1e9) == 16e9 and state_bytes(1e9, model_parallel=2, data_parallel=3) == 4e9


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: largest_micro_batch(compiled(lambda b: b), 0, 1), ValueError, "batch_size is 0, wanted at least 1"),
        (lambda: largest_micro_batch(lambda b: None, 1, 1), TypeError, "compile_step returned NoneType, wanted a comp"),
        (lambda: pipeline_bubble(0, 1), ValueError, "stages is 0"),
        (lambda: plan(8, 4, lambda layout: 1, 1, tensor_parallel=(0,)), ValueError, "tensor_parallel is 0"),
        (lambda: activation_bytes(1, 1, 1, 1, recompute="all"), ValueError, "recompute is 'all', wanted one of 'none'"),
        (lambda: state_bytes(-1), ValueError, r"parameters is -1, wanted a number in \(0, inf\)"),
        (lambda: flops_per_token(1e9, 0, 1, 1), ValueError, "layers is 0"),
        (lambda: model_flops_utilization(1.0, 0.0, 1, 1.0), ValueError, "token_flops is 0.0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
