"""Sets up a launcher's worker process before it runs a task: libraries and output."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def library_settings(threads: int) -> dict[str, str]:
    """Environment variables that libraries read when they are imported: threads, and no progress bars in log files."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }


def print_to(file: Path) -> None:
    """Append everything that this process prints from now on to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(opened.fileno(), stream.fileno())
