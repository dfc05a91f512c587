"""One task in a process of its own: `python -m alignlab.training.worker`, the task pickled on standard input."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading


def main() -> int:
    """Run the task; returns the exit code. The input stays open as long as whoever sent the task lives."""
    from alignlab.training.progress import log_to_terminal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to_terminal()
    try:
        task = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_stop_when_alone, daemon=True).start()
        task()
    except KeyboardInterrupt:
        return 130
    return 0


def _stop_when_alone() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever sent: this ends when the other end of the pipe is gone
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
