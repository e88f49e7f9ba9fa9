"""What is printed must not end a run."""

import io
import sys


def print_all_characters() -> None:
    """Let `print` write ? for a character that the terminal's encoding lacks, where it would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
