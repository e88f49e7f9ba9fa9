"""One run on a GPU or TPU, in at most nine minutes: correctness, cases A to L beside peers, time and memory by size.

On a machine with a CUDA GPU, from a checkout (on a TPU machine with `tpu` in place of `gpu`):

    pip install -e '.[gpu,modules,pool]' orbax-checkpoint scipy POT ott-jax
    python -m experiments speed device --out FOLDER

It needs JAX for the device, optax, flax, orbax-checkpoint, rich and scipy. POT, OTT-JAX, lapjv, torch and
pytorch-metric-learning are peers: one that is not installed is named in its rows. Where these packages are installed,
and on a machine without a network they have to be, the second line in the folder of the checkout is enough. If some are
missing there, fetch their wheels elsewhere with `pip download --no-deps -d wheels NAME ...`, and install them with `pip
install --no-index --no-deps wheels/*`. Leave JAX_PLATFORMS unset: results are compared with those of the CPU.

FOLDER gets `device.json`, `device.md`, the rows as they came (`rows.jsonl`) and what was printed (`worker.log`); it is
runs/speed by default. `--seconds S` is how long the run may take, `--parts A B` are the parts to run, and `--small`
rehearses everything with tiny sizes on a CPU, as four devices, in less than a minute.

A process of its own holds the device and does the parts one after the other. A part begins no row after its time is up.
If one hangs or its process dies, this is recorded, and a new process goes on with the next part. JSON and table are
written after each part, so that a kill loses nothing. Rows that fail, rows that were not run, and missing peers are in
both. The exit code is 1 if a row of correctness failed or was cut short.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.speed import _device_report as report
from experiments.speed._device_parts import PARTS

WORKER = "experiments.speed._device_worker"
START = 90.0  # seconds that a process may take until its first part begins
GRACE = 20.0  # seconds that the last row of a part may take beyond the time of the part
ENVIRONMENT = {
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # compiling is measured
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the peers need memory, too
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
SMALL = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def parse(flags: Sequence[str]) -> argparse.Namespace:
    """The flags of the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments speed device")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=440.0, help="how long the run may take, 440 by default")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--small", action="store_true", help="rehearse with tiny sizes on a CPU")
    return parser.parse_args(flags)


def main(flags: Sequence[str] = ()) -> int:
    """Run the parts and write the report; returns the exit code."""
    chosen = parse(flags)
    chosen.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "experiments", "speed", "device", *flags])
    run = Run(chosen.out, chosen.small, chosen.seconds, command)
    left = list(dict.fromkeys(chosen.parts))
    while left:
        left = run.work(left)
    found = run.write()
    print((chosen.out / "device.md").read_text(encoding="utf-8"))
    print(f"{chosen.out}: device.json and device.md after {found['seconds']:.0f} s")
    return 1 if found["failed checks"] else 0


class Run:
    """The files of a run, and the processes that fill them."""

    def __init__(self, out: Path, small: bool, seconds: float, command: str):
        self.out, self.small, self.begin, self.end = out, small, time.time(), time.time() + seconds
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.about = {"date": date, "command": command}
        self.rows, self.log = out / "rows.jsonl", out / "worker.log"
        for file in (self.rows, self.log):
            file.write_text("", encoding="utf-8")

    def write(self) -> dict[str, Any]:
        """Write JSON and table of the rows so far, and return what the JSON holds."""
        found = report.gather(report.read(self.rows), self.about | {"seconds": round(time.time() - self.begin, 1)})
        for name, text in {"device.json": json.dumps(found, indent=1), "device.md": report.markdown(found)}.items():
            (self.out / "new").write_text(text, encoding="utf-8")
            (self.out / "new").replace(self.out / name)
        return found

    def work(self, left: list[str]) -> list[str]:
        """Let one process do the parts that are left; returns those that it has neither done nor begun."""
        said, begun, done = "the time of the run was up", None, []
        if time.time() < self.end:
            said, begun, done = self._watch(left)
        left = [part for part in left if part not in (*done, begun)]
        if begun is not None:
            self._record(begun, "the rest of this part", "failed", said)
            return left
        for part in left:
            self._record(part, "this part", "not run", said)
        return []

    def _watch(self, left: list[str]) -> tuple[str, str | None, list[str]]:
        """Run a process until it ends or has to be ended: why, the part that it was at, and the parts it has done."""
        budgets = [f"{part}={PARTS[part].seconds}" for part in left]
        command = [sys.executable, "-m", WORKER, str(self.rows), "small" if self.small else "full", *budgets]
        environment = os.environ | ENVIRONMENT | (SMALL if self.small else {})
        seen, since, begun, done = len(report.read(self.rows)), time.time(), None, []
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while True:
                code = process.poll()  # before the lines are read: none comes after
                for line in report.read(self.rows)[seen:]:
                    seen += 1
                    if "begins" in line:
                        begun, since = line["begins"], line["at"]
                    elif "ends" in line:
                        begun, since = None, line["at"]
                        done.append(line["ends"])
                        self.write()
                if code is not None:
                    return f"the process ended with code {code}: {self._last_words()}", begun, done
                limit = START if begun is None else PARTS[begun].seconds + GRACE
                if time.time() > min(since + limit, self.end):
                    lasted = time.time() - since
                    whose = "the run" if time.time() > self.end else "the part"
                    return f"ended after {lasted:.0f} s: the time of {whose} was up", begun, done
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        said = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(said) if line.strip()), "it printed nothing")[:300]

    def _record(self, part: str, name: str, result: str, message: str) -> None:
        row = {"part": part, "name": name, "unit": "", "result": result, "values": {}, "message": message}
        with self.rows.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        self.write()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
