"""Terminal output: one-line log messages, and progress bars if standard error is a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from alignlab.inert import MOST_OF_OUTPUT, one_line, visible

log = logging.getLogger(__name__)

# Seconds between two lines about the progress of a long step.
_LINE_EVERY = 20.0

# Called with an iterable and a description of its items. Yields the same items, and may show a progress bar.
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def silent(items: Iterable[Any], what: str) -> Iterable[Any]:
    """A Progress that shows nothing."""
    return items


def log_to_terminal() -> None:
    """Log to standard error, one line per message. Other libraries log only warnings and errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("alignlab").setLevel(logging.INFO)


class _Visible(logging.Formatter):
    """Messages may quote rows of data or answers of models, which must not control the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), MOST_OF_OUTPUT)


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
    """Whether to show progress bars: the config allows them and standard error is a terminal."""
    return configured and sys.stderr.isatty()


def bar_or_lines(configured: bool) -> Progress:
    """A Progress for lists: a bar in a terminal, else log lines with the time left; nothing if not `configured`."""
    return progress_bar(True) if bars_wanted(configured) else _log_lines if configured else silent


def _log_lines(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Yield the items of a list. Log the share that is done and the time left every `_LINE_EVERY` seconds or later."""
    listed = list(items)
    start = last = time.monotonic()
    for done, item in enumerate(listed):
        now = time.monotonic()
        if done and now - last >= _LINE_EVERY:
            last, left = now, (now - start) / done * (len(listed) - done)
            log.info("%s: %d %% done, about %s left", what, 100 * done / len(listed), _duration(left))
        yield item


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def progress_bar(enabled: bool) -> Progress:
    """A Progress that shows a bar if `enabled`."""

    def shown(items: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm(items, desc=one_line(what), disable=not enabled, leave=False)

    return shown
