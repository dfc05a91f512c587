"""What the terminal shows: messages of a line each, and bars, which a log file does not get."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

# Called with an iterable and a word for what it goes through; gives the same items, perhaps with a bar.
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def silent(items: Iterable[Any], what: str) -> Iterable[Any]:
    """A Progress that shows nothing."""
    return items


def log_to_terminal() -> None:
    """One line per message on standard error; libraries speak only when something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("alignlab").setLevel(logging.INFO)


@contextmanager
def terminal_shows_sweep_only() -> Iterator[None]:
    """While points of a sweep run, the terminal shows messages about the sweep and warnings.

    All messages of a run are in its `train.log`.
    """

    def shown(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.startswith("alignlab.sweep")

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(shown)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shown)


def bars_wanted(configured: bool) -> bool:
    """Bars are drawn where the config allows them and standard error is a terminal."""
    return configured and sys.stderr.isatty()


def progress_bar(enabled: bool) -> Progress:
    """A function (iterable, what) -> iterable that shows how far it is."""

    def shown(items: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm(items, desc=what, disable=not enabled, leave=False)

    return shown
