"""Two real processes choose what one does, also if only one had saved its last round, and tell if they disagree."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.pool.open_test import write_lists
from tests.pool.worker import calls, select

CLUSTERED = ("centers", "distances", "mean_distances", "closest")


@pytest.mark.parametrize("rounds", [0, 3])
def test_two_processes_agree_with_one(rounds, tmp_path):
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(20, 6))[rng.integers(20, size=300)] + rng.normal(size=(300, 6))).astype(np.float16)
    x[7] = np.nan
    np.save(tmp_path / "pool.npy", x)
    np.save(tmp_path / "first.npy", x[:110])
    np.save(tmp_path / "logits.npy", 2 * rng.normal(size=(300, 3)).astype(np.float32))
    write_lists(tmp_path / "second.parquet", x[110:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.pool.worker", port]
    workers = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path), str(rounds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for i in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    for call in calls(rounds):
        expected = select(tmp_path, call)._asdict()
        for process in range(2):
            found = dict(np.load(tmp_path / f"{call}-{process}.npz"))
            assert str(found.pop("report")) == str(expected["report"])
            for name, value in found.items():  # exact but for the compiler flags of the suite
                rtol = 1e-5 if name in ("cost", "values", *CLUSTERED) else 0
                np.testing.assert_allclose(value, expected[name], rtol=rtol, err_msg=f"{call}, {name}")
