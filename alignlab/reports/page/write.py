"""Writes the report of a sweep or of runs: `report.html` and `report.md`."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from alignlab.integrity import refuse_device, write_text
from alignlab.reports.against import against
from alignlab.reports.collect import Collected, read_sweep
from alignlab.reports.page.content import content
from alignlab.reports.page.html import html_page
from alignlab.reports.page.markdown import markdown_page
from alignlab.runs.directory import now

_MADE = re.compile(rb"made by alignlab \S+ at \S+ \S+ UTC")


def write_page(found: Collected, file: Path, older: Collected | None = None) -> Path:
    """Write the page to `file`, and its Markdown twin beside it with the ending `.md`. Returns the page's path.

    older: an older sweep that the settings are compared with.
    Raises OSError if a file can't be written.
    """
    made = f"made by alignlab {version('alignlab')} at {now()[:16].replace('T', ' ')} UTC"
    page = content(found, made, against(found, older) if older else None)
    write_text(file, html_page(page))
    write_text(file.with_suffix(".md"), markdown_page(page))
    return file


def write_sweep_page(folder: Path) -> Path:
    """Write `report.html` and `report.md` into the folder of a sweep. Returns the page's path."""
    return write_page(read_sweep(folder), folder / "report.html")


def is_page(file: Path) -> bool:
    """Whether a file is a page that `write_page` wrote, or its Markdown twin. False if it can't be read."""
    try:
        refuse_device(file)
        return _MADE.search(file.read_bytes()) is not None
    except OSError:
        return False
