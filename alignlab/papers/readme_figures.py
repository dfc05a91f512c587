"""The figures of README.md: a paper's numbers beside ours, as files."""

from __future__ import annotations

from pathlib import Path

from alignlab.papers.figure import figures_of
from alignlab.papers.library import library
from alignlab.papers.record import row_of
from alignlab.reports.beside import beside
from alignlab.reports.figures import save

# (paper, name of the figure).
SHOWN = (("dpo_2023", "reward-kl"), ("gao_2022", "hump"), ("ipo_2023", "actions"), ("dubois_2024", "verbosity"))


def write_figures(records: Path, folder: Path) -> list[Path]:
    """Draw the figures from the records in a folder, as `<paper>_<figure>.svg`. Returns the files."""
    files = []
    for name, wanted in SHOWN:
        paper = library()[name]
        rows = {claim.name: row_of(records, paper, claim) for claim in paper.claims}
        drawings = (figure.draw(figure.points(name), rows) for figure in figures_of(name))
        drawing = next(drawing for drawing in drawings if drawing.name == wanted)
        files.append(save(beside(drawing), folder / f"{name}_{wanted}.svg", "screen"))
    return files
