"""A copy of the records for TensorBoard: `records.jsonl` stays the source, and every start writes the copy anew."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.engine.reports import Record, folder_name
from minibatch_jax._extras import require


class TensorBoard:
    """Event files in a folder, one run of TensorBoard for each arm and seed, one series for each metric.

    Every record is on disk when `write` returns, so that Ctrl-C and a kill lose none. The time of a point is the
    seconds of its run. TensorBoard has whole steps only: where an x such as 0.05 is none, the points are numbered from
    0, and the series "x" says what each x was.

    Args:
      folder: is emptied first.

    Raises:
      ImportError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path):
        self._make_writer = require("tensorboard.summary", "tensorboard").Writer
        self._folder, self._run, self._writer = folder, None, None
        shutil.rmtree(folder, ignore_errors=True)

    def write(self, records: Iterable[Record]) -> None:
        """Add the points of these records; all of a run whose x are not whole must come at once."""
        runs: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            runs.setdefault((record["arm"], record["seed"]), []).append(record)
        for run, made in runs.items():
            writer, whole = self._writer_of(run), all(float(r["step"]).is_integer() for r in made)
            for number, record in enumerate(made):
                step, series = (record["step"], {}) if whole else (number, {"x": record["step"]})
                for name, value in {**series, **record["metrics"]}.items():
                    value = math.nan if value is None else value
                    writer.add_scalar(name, value, int(step), wall_time=record["seconds"])
            writer.flush()

    def rewrite(self, arm: str, seed: int, records: Iterable[Record]) -> None:
        """Replace all points of one run by those of these records."""
        self.close()
        shutil.rmtree(self._path(arm, seed), ignore_errors=True)
        self.write(records)

    def close(self) -> None:
        """Close the file that is open."""
        if self._writer is not None:
            self._writer.close()
        self._run = self._writer = None

    def _path(self, arm: str, seed: int) -> Path:
        return self._folder / folder_name(arm) / f"seed {seed}"

    def _writer_of(self, run: tuple[str, int]) -> Any:
        if self._writer is None or self._run != run:
            self.close()
            self._run, self._writer = run, self._make_writer(str(self._path(*run)))
        return self._writer
