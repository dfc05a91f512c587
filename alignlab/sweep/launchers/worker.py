"""Tasks in a process of their own: `python -m alignlab.sweep.launchers.worker <alive> <ended>`.

Standard input brings them in turn, each pickled with the file that takes what is printed meanwhile. A byte goes to the
descriptor `ended` after each. `alive` is a pipe that is never written to: it closes with whoever sends tasks.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from alignlab.progress import log_to_terminal
from alignlab.sweep.launchers.process import print_to


def main(alive: int, ended: int) -> int:
    """Run what comes, until no more does; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_stop_when_alone, args=(alive,), daemon=True).start()
    try:
        import alignlab.training.fit  # noqa: F401 - seconds, which pass while the first task is still to come

        while True:
            try:
                task, output = pickle.load(sys.stdin.buffer)
            except EOFError:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the other pipe closes too, while this process ends
                return 0
            print_to(output)
            log_to_terminal()
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
