"""Timing for the speed cases: medians of warm calls, in this process or in a fresh one, and a table of ratios."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def milliseconds(call: Callable[[], Any], repeats: int, warmup: int = 1) -> list[float]:
    """Wall-clock time of each call after the warm-up; the call must wait for its result."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def in_fresh_process(module: str, *arguments: Any, python: str = sys.executable) -> Any:
    """Run `python -m module arguments`, which prints JSON on its last line, away from XLA's thread pool."""
    command = [python, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_ratios(title: str, times: Mapping[str, list[float]], ours: str) -> None:
    """Print median, range and count of each, and the time of `ours` as a share of it."""
    print(f"\n{title} (load average {os.getloadavg()[0]:.1f})")
    print(f"  {'':<44} {'median ms':>10} {'range':>18} {'n':>3} {'ours / this':>12}")
    base = statistics.median(times[ours])
    for name, values in times.items():
        middle = statistics.median(values)
        spread = f"{min(values):.4g}-{max(values):.4g}"
        print(f"  {name:<44} {middle:>10.4g} {spread:>18} {len(values):>3} {base / middle:>12.3f}")
