"""What the terminal shows: messages of a line each, and bars, which a log file does not get."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def log_to_terminal() -> None:
    """One line per message on standard error; libraries speak only when something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("alignlab").setLevel(logging.INFO)


def bars_wanted(configured: bool) -> bool:
    """Bars are drawn where the config allows them and standard error is a terminal."""
    return configured and sys.stderr.isatty()


def progress_bar(enabled: bool) -> Any:
    """A function (iterable, what) -> iterable that shows how far it is."""

    def shown(items: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm(items, desc=what, disable=not enabled, leave=False)

    return shown


def quiet_libraries() -> None:
    """Libraries speak only of what is wrong: their notices and bars would bury the run's own lines."""
    from transformers.utils import logging as transformers_logging

    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
