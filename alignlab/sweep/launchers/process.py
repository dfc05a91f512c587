"""Sets up a launcher's worker process before it runs a task: libraries, output, plug-ins."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from alignlab.plugins import active, load


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


def packed(task: Any) -> bytes:
    """A task as bytes, with the names of the plug-ins whose classes it may have."""
    return pickle.dumps(([plugin.source for plugin in active() if plugin.typed], pickle.dumps(task)))


def unpacked(content: bytes) -> Any:
    """The task of `packed`, after its plug-ins, and those of installed packages, were loaded in this process."""
    plugins, task = pickle.loads(content)
    load(plugins)
    return pickle.loads(task)
