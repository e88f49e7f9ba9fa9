"""Depth: how many operations a TPU does one after another, in every solver, greedy selection, sampler and miner.

On a GPU or TPU a loop costs its steps, not its arithmetic: an operation on a small array takes microseconds whatever
its size. Depth is the number of loop steps times the operations of one step, plus the operations outside of loops. The
steps are counted by running each function on this machine, the operations in the program that the real TPU compiler
makes for a described v5e. No TPU is needed, but libtpu is (`pip install libtpu`), and a jax below 0.12, whose loops it
can read. Prints the sections of docs/depth.md. Each case has a process of its own for at most two minutes, because the
compiler does not end on every program. About twenty minutes.
"""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from experiments.speed._depth_cases import KINDS

SIZES = (256, 512, 1024)
SECONDS = 120
MARK = "≈"
TOO_NEW = (0, 12)


def run(name: str, sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Return what a process found out about a case in its time, one entry for each size."""
    command = [sys.executable, "-m", "experiments.speed._depth_worker", name, *map(str, sizes)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}  # it forgets names
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
        output, failed = done.stdout, done.returncode and done.stderr.splitlines()[-1:]
    except subprocess.TimeoutExpired as error:
        output, failed = (error.stdout or b"").decode(), [f"more than {seconds} s"]
    if failed:
        print(f"{name}: {failed[0]}", file=sys.stderr)
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def number(value: float) -> str:
    """Return a whole number with commas."""
    return f"{round(value):,}"


def rows(name: str, found: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    """Return the table rows of a case: with its kernels, and without them if it has any."""
    title, _, rest = name.partition(", ")
    lines = []
    for kernels in (True, False):
        best = {entry["size"]: entry for entry in found if entry["kernels"] == kernels}
        if not best and not kernels:
            continue
        notes = [rest] * bool(rest) + ["without its kernel"] * (not kernels)
        lines.append(f"| {', '.join([f'`{title}`', *notes])} | {' | '.join(cells(best, sizes))} |")
    return lines


def cells(best: dict[int, dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    """Return steps of each size, operations of a step at the largest one, and the depth of each size."""

    def mark(size):
        return MARK if best[size]["compiled"] != size else ""

    steps = [number(best[size]["steps"]) if size in best else "?" for size in sizes]
    last = best[max(best)] if best else None
    step = "?" if last is None else f"{last['in_steps'] / last['steps']:.1f}" if last["steps"] else "0"
    depths = []
    for size in sizes:
        more = "> " if size in best and best[size]["unknown"] else ""
        total = best[size]["in_steps"] + best[size]["once"] if size in best else 0
        depths.append(f"{more}{mark(size)}{number(total)}" if size in best else "?")
    return [*steps, step, *depths]


def main(sizes: Sequence[int] = SIZES, seconds: float = SECONDS, kinds: Sequence[str] = tuple(KINDS)) -> None:
    """Print a table for each of the kinds."""
    if importlib.util.find_spec("libtpu") is None:
        print("depth: left out, because libtpu is not installed (pip install libtpu)")
        return
    if jax.__version_info__ >= TOO_NEW:
        print(f"depth: left out, because it reads the loops of a jax below {'.'.join(map(str, TOO_NEW))}")
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    print(f"Counted on {datetime.date.today()} with {versions}, for one core of a TPU v5e.")
    heads = [f"steps, B = {size}" for size in sizes] + ["operations of a step"] + [f"depth, {size}" for size in sizes]
    for kind in kinds:
        print(f"\n## {kind}\n\n| function | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}", flush=True)
        for name in KINDS[kind]:
            print("\n".join(rows(name, run(name, sizes, seconds), sizes)), flush=True)


if __name__ == "__main__":
    main()
