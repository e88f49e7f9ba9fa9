"""What a terminal does to a run: characters that it cannot show, and Ctrl-C."""

import _thread
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SECONDS_TO_END = 3.0
SHOW_CURSOR = "\x1b[?25h"


def print_all_characters() -> None:
    """Let `print` write ? for a character that the terminal's encoding lacks, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def until_ctrl_c(action: Callable[[], int], message: str) -> int:
    """The exit code of the action, or 130 after one line on stderr if Ctrl-C ended it, whatever error that became.

    If the action does not end within `SECONDS_TO_END`, because it is in compiled code or some library has caught the
    interrupt, the process ends there; what is on disk is whole at any time.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in the background of a shell
        return action()
    pressed = threading.Event()
    with _handled(pressed):
        try:
            with _ends_in_time(message):
                return action()
        except BaseException as error:  # a compiled module that is being imported makes an ImportError of it
            if not isinstance(error, KeyboardInterrupt) and not (pressed.is_set() and isinstance(error, Exception)):
                raise
            print(message, file=sys.stderr)
            return 130


def leave(code: int) -> NoReturn:
    """End the process with this exit code, and without what Ctrl-C could interrupt once more."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it, or the disk is full
        code = code or 1
    os._exit(code)


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


@contextlib.contextmanager
def _handled(pressed: threading.Event) -> Iterator[None]:
    """Raise KeyboardInterrupt once on Ctrl-C, again if nobody could catch it, and keep quiet about what follows."""

    def press(number: int, frame: Any) -> None:
        if not pressed.is_set():
            pressed.set()
            logging.disable()
            raise KeyboardInterrupt

    def printed(kind: type[BaseException], *error: Any) -> None:  # by compiled code that then raises another
        if not (pressed.is_set() and issubclass(kind, KeyboardInterrupt)):
            hooks[0](kind, *error)

    def unraisable(arguments: Any) -> None:  # in a destructor, or a callback of compiled code
        if pressed.is_set() and issubclass(arguments.exc_type, KeyboardInterrupt):
            pressed.clear()
            threading.Timer(0.01, _thread.interrupt_main).start()
        elif not pressed.is_set():
            hooks[1](arguments)

    def in_thread(arguments: Any) -> None:
        if not pressed.is_set():
            hooks[2](arguments)

    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    level = logging.root.manager.disable
    sys.excepthook, sys.unraisablehook, threading.excepthook = printed, unraisable, in_thread
    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        logging.disable(level)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _ends_in_time(message: str) -> Iterator[None]:
    """End the process some seconds after Ctrl-C unless the block ends before."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    ended = threading.Event()

    def watch() -> None:
        while number := os.read(read, 1):
            if number[0] == signal.SIGINT and not ended.wait(SECONDS_TO_END):
                cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
                os.write(2, f"{cursor}{message}\n".encode())
                os._exit(130)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # at once, whatever the main thread does
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        os.close(write)
        watcher.join()
        os.close(read)
