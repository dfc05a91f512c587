"""The standard streams of a command: open, able to write every character, and checked when the command ends."""

from __future__ import annotations

import io
import os
import sys

_STREAMS = (("stdin", "r", "replace"), ("stdout", "w", "backslashreplace"), ("stderr", "w", "backslashreplace"))


def prepare_streams() -> None:
    """Open the null device for a stream that the command was started without, and let characters not stop it.

    Otherwise the next file that is opened takes the number of a closed stream, and what libraries print goes into it.
    A character that a terminal can't show becomes an escape such as `\\u03b2`.
    """
    for name, mode, errors in _STREAMS:
        stream = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is that of the stream
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", errors=errors))  # noqa: SIM115 - open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def output_is_lost() -> bool:
    """Whether standard output can't be written, for instance because its disk is full or its reader has closed it."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def drop_output() -> None:
    """Send what is left of standard output to the null device. Otherwise Python fails when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
