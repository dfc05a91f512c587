"""Writes the scoreboard into docs/papers.md, from records that are kept beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from alignlab.papers.library import library
from alignlab.papers.record import row_of
from alignlab.papers.scoreboard import markdown

BEGIN, END = "<!-- scoreboard: written by `make papers` -->", "<!-- end of the scoreboard -->"


def text_of(folder: Path) -> str:
    """The scoreboard of the records in a folder, as Markdown."""
    papers = library()
    return markdown([row_of(folder, paper, claim) for paper in papers.values() for claim in paper.claims], papers)


def update(file: Path) -> None:
    """Replace the text between BEGIN and END of a page by the scoreboard of the records in its folder `papers`."""
    text = file.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n{text_of(file.parent / 'papers')}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    update(Path(sys.argv[1]))
