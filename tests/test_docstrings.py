"""Docstrings become Markdown for the page of the Python API."""

from __future__ import annotations

import pytest

pytest.importorskip("griffe", reason='pip install "alignlab[docs]"')

from scripts.docstrings import as_markdown

DOCSTRING = """Run a sweep: `alignlab train -m`.

It is one
sentence: of two lines.

overrides: words of the command line, of which
           there may be many.
low, high: [B] bounds.
Returns the table,
with a row for each setting.
Raises ConfigError, and DataError.

    run: an example

- one
- two"""

MARKDOWN = """Run a sweep: `alignlab train -m`.

It is one
sentence: of two lines.

- `overrides`: words of the command line, of which there may be many.
- `low`, `high`: [B] bounds.

Returns the table,
with a row for each setting.

Raises ConfigError, and DataError.

    run: an example

- one
- two"""


def test_arguments_become_a_list() -> None:
    assert as_markdown(DOCSTRING) == MARKDOWN
    assert as_markdown("One sentence. Raises nothing.") == "One sentence. Raises nothing."


def test_the_page_of_the_api_uses_it() -> None:
    """The docstring of a function of the page, as griffe loads it with the extension that `mkdocs.yml` names."""
    from pathlib import Path

    import griffe

    root = Path(__file__).parents[1]
    assert "extensions: [scripts/docstrings.py]" in (root / "mkdocs.yml").read_text()
    extensions = griffe.load_extensions(str(root / "scripts/docstrings.py"))
    module = griffe.visit(
        "ipo",
        root / "alignlab/objectives/ipo.py",
        (root / "alignlab/objectives/ipo.py").read_text(),
        extensions=extensions,
    )
    loss = module["ipo_loss"].docstring.value.splitlines()
    assert loss[2:5] == [
        "- `chosen`, `rejected`: [B] log-ratios (or f-divergence scores of them), summed or per token, nats.",
        "",
        "Returns [B], nats squared. Raises ValueError if shapes differ.",
    ]
