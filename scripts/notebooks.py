"""Makes notebooks of the pages of the course. See `make notebooks`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext
from nbformat import NotebookNode

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("course", "curso")

# Says that cells are Python, so that blocks of shell commands become cells that begin with %%sh.
_HEADER = """---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---

"""


def notebook(page: str) -> NotebookNode:
    """The notebook of a page: its text, its Python blocks, and its commands as shell cells.

    Links lead to docs/, which is expected beside the notebook's folder.
    """
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    linked = re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](../docs/\1)", text)
    return jupytext.reads(_HEADER + linked, fmt="md")


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        jupytext.write(notebook(page), folder / f"{page}.ipynb", fmt="ipynb")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
