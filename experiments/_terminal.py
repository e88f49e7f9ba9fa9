"""What a terminal does to a run: characters that it cannot show, and Ctrl-C."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides


def print_all_characters() -> None:
    """Let `print` write ? for a character that the terminal's encoding lacks, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def end_on_ctrl_c(message: str) -> None:
    """Let Ctrl-C end the process at once from now on, with one line on stderr and exit code 130.

    Nothing is raised. An exception would meet compiled code and imports that it began, which turn it into another
    error, print it, forget it, or crash; and a compilation would first end. Use it where a kill does no harm.
    """
    if not _ends_it():
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    ending = threading.Lock()
    # The byte is written at once, whatever the main thread does. The handler has to wait for it, and is for the case
    # that an event loop of another library has taken the wakeup or that its pipe is closed.
    signal.signal(signal.SIGINT, lambda number, frame: _end(ending, message))
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_on_byte, args=(read, ending, message), daemon=True).start()


def until_ctrl_c(action: Callable[[], int], message: str) -> int:
    """The exit code of the action, or 130 after one line on stderr if KeyboardInterrupt ended it."""
    if not _ends_it():
        return action()
    pressed = []

    def press(number: int, frame: Any) -> None:
        if not pressed:  # once: what follows is cleaning up
            pressed.append(number)
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        return action()
    except BaseException as error:  # a compiled module that is being imported makes an ImportError of it
        if not isinstance(error, KeyboardInterrupt) and not (pressed and isinstance(error, Exception)):
            raise
        print(message, file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed:
            handler(*pressed[0])


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without waiting for anything that Ctrl-C could interrupt."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it, or the disk is full
        code = code or 1
    os._exit(code)


def _ends_it() -> bool:
    """Whether Ctrl-C is not ignored, as it is in the background of a shell."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _end_on_byte(read: int, ending: threading.Lock, message: str) -> None:
    while (byte := os.read(read, 1)) and byte[0] != signal.SIGINT:
        pass
    if byte:
        _end(ending, message)


def _end(ending: threading.Lock, message: str) -> None:
    """End the process, unless another thread is at it."""
    if not ending.acquire(blocking=False):
        return
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
    flushing.start()
    flushing.join(0.5)  # the main thread may be writing, and nobody reading
    before = f"{SHOW_CURSOR}\n" if sys.stdout.isatty() else ""
    os.write(2, f"{before}{message}\n".encode())
    os._exit(130)
