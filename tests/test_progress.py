"""Progress of long steps outside a terminal: lines with the time left."""

from __future__ import annotations

import io
import logging

import pytest

from alignlab import progress


def test_lines_with_the_time_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight items of 10 s each: a line after every second one, with the time left at the mean speed so far."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    caplog.set_level(logging.INFO)
    assert list(progress.bar_or_lines(True)(range(8), "sampling")) == list(range(8))
    assert [record.message for record in caplog.records] == [
        "sampling: 12 % done, about 2 min left",
        "sampling: 37 % done, about 67 s left",
        "sampling: 62 % done, about 36 s left",
        "sampling: 87 % done, about 11 s left",
    ]
    caplog.clear()
    assert list(progress.bar_or_lines(False)(range(8), "sampling")) == list(range(8))
    assert caplog.records == []


def test_a_bar_shows_the_text_of_others_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bar counts may have the name of a file, a judge or a run."""
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    assert list(progress.progress_bar(True)([1, 2], "a\x1b[31m\nb\u202e")) == [1, 2]
    assert "a\\x1b[31m b\\u202e" in shown.getvalue()
    assert "\x1b[31m" not in shown.getvalue()
