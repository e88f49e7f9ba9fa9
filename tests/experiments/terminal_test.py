"""Ctrl-C at any moment says one line and exits 130: in imports, compiled code, destructors, threads, a real run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import _terminal

ROOT = Path(__file__).parents[2]
MESSAGE = "Interrupted. The same command goes on from what it has saved.\n"
RUN = """
import atexit, concurrent.futures, hashlib, logging, os, sys, threading, time
from experiments._terminal import end_on_ctrl_c, leave

def begin():
    os.write(1, b"begun")

def action():
    {}

atexit.register(time.sleep, 60)
end_on_ctrl_c({!r})
leave(action())
"""
MOMENTS = {
    "python": "begin(); time.sleep(60)",
    "compiled code": "begin(); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    "an interrupt that a library catches": """
    begin()
    while True:
        try:
            time.sleep(60)
        except:
            pass""",
    "an import that compiled code began": """
    begin()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        raise ImportError("no such module")""",
    "a library that took the wakeup": """
    import signal
    signal.set_wakeup_fd(-1)
    begin(); time.sleep(60)""",
    "a destructor": """
    class Thing:
        def __del__(self):
            begin(); time.sleep(60)
    Thing()
    time.sleep(60)""",
    "a thread that is waited for": """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(time.sleep, 60)
        begin(); time.sleep(60)""",
    "a thread that fails then": """
    stop = threading.Event()
    def fail():
        stop.wait(); raise OSError("closed")
    thread = threading.Thread(target=fail)
    thread.start()
    try:
        begin(); time.sleep(60)
    finally:
        stop.set(); thread.join(); logging.error("a task was destroyed")""",
}
REAL = """
import sys
from experiments import __main__ as dispatcher

def run_experiment(name, flags):
    print("begun", flush=True)
    from tests.experiments import tiny
    tiny.main(tiny.Config(sys.argv[1], steps=1_200_000))

dispatcher.run_experiment = run_experiment
dispatcher.end_on_ctrl_c("Interrupted. The same command goes on from what it has saved.")
dispatcher.leave(dispatcher.main(["quickstart"]))
"""


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert os.read(process.stdout.fileno(), 5) == b"begun"
    return process


def assert_one_line(process, moment):
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode()) == (130, MESSAGE), moment


@pytest.mark.parametrize("presses", [1, 3])
def test_one_line_at_every_kind_of_moment(presses):
    started = {moment: start(RUN.format(action, MESSAGE.strip())) for moment, action in MOMENTS.items()}
    for number in range(presses):
        time.sleep(0.05 * number)
        for process in started.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
    for moment, process in started.items():
        assert_one_line(process, moment)


def check_real_runs(tmp_path, delays):
    started = [(delay, start(REAL, tmp_path / str(delay))) for delay in delays]
    begun = time.monotonic()
    for delay, process in started:
        time.sleep(max(begun + delay - time.monotonic(), 0))
        process.send_signal(signal.SIGINT)
    for delay, process in started:
        assert_one_line(process, f"after {delay:.3f} s")


def test_one_line_in_a_real_run(tmp_path):
    check_real_runs(tmp_path, [random.uniform(0, 1), random.uniform(1, 3)])


@pytest.mark.slow
def test_one_line_at_many_moments_of_a_real_run(tmp_path):
    for _ in range(10):
        check_real_runs(tmp_path, sorted(random.uniform(0, 9) for _ in range(3)))


@pytest.mark.parametrize("arguments", [["quickstart"], ["quickstart", "--seeds", "1"], ["speed", "jest"]])
def test_one_line_by_the_command_itself(arguments):
    """At random moments: the first that can be is when Python has begun to run the module."""
    code = "import runpy, sys; print('begun', end='', flush=True); runpy.run_module('experiments', run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert os.read(process.stdout.fileno(), 5) == b"begun"
        while not is_handled(process.pid):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.7))
        process.send_signal(signal.SIGINT)
        assert_one_line(process, arguments)


def is_handled(pid):
    """Whether the process waits for bytes of its handler: it has a second thread."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


@pytest.mark.parametrize("comes_out_as", [KeyboardInterrupt, ImportError])
def test_an_action_is_cleaned_up_and_says_one_line(capsys, comes_out_as):
    def action():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            raise comes_out_as from None
        return 0

    handler = signal.getsignal(signal.SIGINT)
    assert _terminal.until_ctrl_c(action, "Interrupted.") == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    assert signal.getsignal(signal.SIGINT) == handler


def test_other_errors_and_exit_codes_pass():
    def broken():
        raise ImportError("no such module")

    with pytest.raises(ImportError, match="no such module"):
        _terminal.until_ctrl_c(broken, "")
    with pytest.raises(SystemExit):
        _terminal.until_ctrl_c(lambda: sys.exit(2), "")
    assert _terminal.until_ctrl_c(lambda: 3, "") == 3


def test_ctrl_c_is_put_off_until_the_end_of_a_block():
    done = []

    def action():
        with _terminal.ctrl_c_later():
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        done.append("never")

    assert _terminal.until_ctrl_c(action, "") == 130 and done == ["block"]


def test_an_output_that_nobody_reads_is_an_exit_code():
    code = "from experiments._terminal import leave; print('x' * 100); leave(0)"
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=buffered, **pipes) as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (1, b"")
