"""Measures parts of the device run, one after the other, in the process that holds the device.

`python -m experiments.speed._device_worker ROWS SMALL PART=SECONDS ...` appends a line of JSON to the file ROWS for the
machine, for each part that begins, and for each row of it as soon as it is measured.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.speed import _device_machine
from experiments.speed._device_parts import PARTS
from experiments.speed._device_rows import Row, measured

CPU_DEVICES = 4  # of a rehearsal


def rows_of(part: str, small: bool) -> Iterator[Row]:
    """The rows of a part; its module is imported only now, so that a failing import fails this part alone."""
    module, function = PARTS[part].function
    yield from getattr(importlib.import_module(f"{__package__}.{module}"), function)(small)


def main(file: Path, small: bool, parts: dict[str, float]) -> None:
    """Measure the parts for at most as many seconds each, to the end of the row that is then at work."""
    with file.open("a", encoding="utf-8") as lines:

        def write(line: dict[str, Any]) -> None:
            lines.write(json.dumps(line) + "\n")
            lines.flush()

        write({"machine": _device_machine.describe()})
        for part, seconds in parts.items():
            write({"begins": part, "at": time.time()})
            for row in measured(rows_of(part, small), seconds):
                write({"part": part, **row})
            write({"ends": part, "at": time.time()})


if __name__ == "__main__":
    given, rehearsal, *budgets = sys.argv[1:]
    if rehearsal == "small":
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    main(Path(given), rehearsal == "small", {name: float(s) for name, _, s in (b.rpartition("=") for b in budgets)})
