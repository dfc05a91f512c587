"""A worker process, which runs tasks: `python -m alignlab.sweep.launchers.worker <alive> <ended>`.

Standard input sends one task after another, each pickled with the file that its output goes to. After each task, the
worker writes a byte to the file descriptor `ended`. `alive` is the descriptor of a pipe that is never written to: it
closes when the process that sends tasks ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from alignlab.plugins import unpacked
from alignlab.progress import log_to_terminal
from alignlab.sweep.launchers.process import print_to


def main(alive: int, ended: int) -> int:
    """Run tasks until standard input ends. Returns the exit code: 0, or 130 after a signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    threading.Thread(target=_stop_when_alone, args=(alive,), daemon=True).start()
    try:
        import alignlab.training.fit  # noqa: F401 - takes seconds, in which the worker waits for its first task

        while True:
            try:
                content, output = pickle.load(sys.stdin.buffer)
            except EOFError:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `alive` closes too, while this process ends
                return 0
            print_to(output)
            log_to_terminal()
            task = unpacked(content)
            task()
            sys.stdout.flush()
            os.write(ended, b".")
    except KeyboardInterrupt:
        return 130


def _stop_when_alone(alive: int) -> None:
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
