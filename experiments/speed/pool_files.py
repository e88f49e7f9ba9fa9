"""A million rows of 128 numbers in each kind of file: minutes and peak memory of a selection that makes some passes.

The rows are the same float32 (488 MiB): one `.npy` file, ten of them, parquet with a column of lists in one row group
of all rows, array_record with groups of 1024 records, and a data source that gives rows of the `.npy` file one by one.
Each runs in a process of its own, which chooses 20 rows by k-center in some passes. All must choose the same.

Measured once on one core of a busy machine, so that only the seconds of the core count. 175 MiB are there before the
call, which takes at most 1 GiB beyond a file that the caller has mapped:

    npy              3.3 s   378 MiB
    ten npy          3.9 s   385 MiB
    parquet          9.9 s   509 MiB
    array_record    11.9 s   489 MiB
    source          13.7 s   875 MiB, of which up to 488 are pages of the file that the source itself maps
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from experiments.speed._pool_run import peak_mib
from experiments.speed._timing import in_fresh_process
from minibatch_jax._extras import require
from minibatch_jax.pool import open_pool, select_from_pool

KINDS = ("npy", "ten npy", "parquet", "array_record", "source")
BLOCK = 50_000


class Source:
    """Rows one by one, as a data source gives them."""

    def __init__(self, path: Path):
        self._rows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"embedding": np.array(self._rows[i])}


def write(folder: Path, rows: int, width: int) -> None:
    """Write the rows as files of each kind."""
    (folder / "ten").mkdir(parents=True, exist_ok=True)
    pool = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows, width))
    rng = np.random.default_rng(0)
    for start in range(0, rows, BLOCK):
        pool[start : start + BLOCK] = rng.normal(size=(len(pool[start : start + BLOCK]), width))
    for shard, part in enumerate(np.array_split(pool, 10)):
        np.save(folder / "ten" / f"rows{shard}.npy", part)
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(np.asarray(pool).reshape(-1)), width)
    parquet.write_table(arrow.table({"embedding": lists}), folder / "rows.parquet", row_group_size=rows)
    module = require("array_record.python.array_record_module", "array_record")
    writer = module.ArrayRecordWriter(str(folder / "rows.array_record"), "group_size:1024")
    for row in pool:
        writer.write(row.tobytes())
    writer.close()


def choose(kind: str, folder: Path, k: int) -> None:
    """Choose rows from one kind of file and print time, memory and choice as JSON."""
    paths = {"npy": "rows.npy", "ten npy": "ten", "parquet": "rows.parquet", "array_record": "rows.array_record"}
    before = peak_mib()
    pool = open_pool(Source(folder / "rows.npy"), row="embedding") if kind == "source" else folder / paths[kind]
    start, cpu = time.perf_counter(), time.process_time()
    chosen = select_from_pool(pool, k, method="k_center", progress=False)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = {"seconds": seconds, "cpu": cpu, "peak": peak_mib(), "start": before, "rows": chosen.indices.tolist()}
    print(json.dumps(found))


def main(rows: int = 1_000_000, width: int = 128, k: int = 20, folder: str = "/tmp/minibatch_jax_pool_files") -> None:
    """Write the files, choose from each, print what it took. The files stay in the folder."""
    place, expected = Path(folder), None
    if not (place / "rows.array_record").exists():
        write(place, rows, width)
    for kind in KINDS:
        found = in_fresh_process("experiments.speed.pool_files", kind, place, k)
        expected = expected or found["rows"]
        print(
            f"{kind:<14} {found['seconds']:6.1f} s ({found['cpu']:6.1f} of all cores), peak {found['peak']:5.0f} MiB, "
            f"{found['start']:.0f} before the call{'' if found['rows'] == expected else ', ANOTHER CHOICE'} "
            f"(load average {os.getloadavg()[0]:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    choose(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 1 else main()
