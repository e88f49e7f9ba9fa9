"""What a terminal does to a run: characters that it cannot show, and Ctrl-C."""

import io
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


def print_all_characters() -> None:
    """Let `print` write ? for a character that the terminal's encoding lacks, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def until_ctrl_c(action: Callable[[], int], message: str) -> int:
    """The exit code of the action, or 130 after one line on stderr if Ctrl-C ended it, whatever error that became."""
    pressed = threading.Event()

    def press(number: int, frame: Any) -> None:
        pressed.set()
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not if the signal is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, press)
    try:
        return action()
    except BaseException as error:  # a compiled module that is being imported makes an ImportError of it
        if not isinstance(error, KeyboardInterrupt) and not (pressed.is_set() and isinstance(error, Exception)):
            raise
        print(message, file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, handler)
