"""Two real processes select, couple, mine, draw and train as one does."""

import socket
import subprocess
import sys

import pytest

FAST = ["keep_topk", "keep_by_jest", "couple_assignment", "couple_sinkhorn", "mine_semihard"]


def run_two_processes(names):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.distributed_worker", port]
    workers = [
        subprocess.Popen([*command, str(i), *names], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)


def test_two_processes_agree_with_one():
    run_two_processes(FAST)


@pytest.mark.slow
def test_two_processes_agree_with_one_for_every_factory():
    run_two_processes([])
