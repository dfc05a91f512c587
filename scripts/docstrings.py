"""Docstrings as Markdown, for the page of the Python API: names of arguments become lists (`mkdocs.yml`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

# `beta: ...` or `chosen, rejected: ...` at the start of a line.
_NAMES = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*):\s+(?=\S)")
# First words of a sentence that is a paragraph of its own.
_PARAGRAPHS = ("Returns ", "Yields ", "Raises ")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of all objects that a page shows."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with its arguments as a list, and with what it returns and raises as paragraphs.

    Indented examples and lists stay as they are.
    """
    return "\n\n".join(part for block in docstring.strip().split("\n\n") for part in _parts(block))


def _parts(block: str) -> Iterator[str]:
    """Yield the lists and paragraphs of a block of lines without an empty line."""
    lines = block.splitlines()
    if lines[0].startswith(("    ", "- ")):
        yield block
        return
    items: list[str] = []
    text: list[str] = []
    for line in lines:
        if not text and (names := _NAMES.match(line)):
            items.append(f"- {_as_code(names[1])}: {line[names.end() :]}")
        elif items and line.startswith(" "):
            items[-1] += f" {line.strip()}"
        else:
            if items:
                yield "\n".join(items)
                items = []
            if line.startswith(_PARAGRAPHS):
                yield from _joined(text)
                text = []
            text.append(line)
    yield from ["\n".join(items)] if items else _joined(text)


def _as_code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _joined(lines: list[str]) -> Iterator[str]:
    if lines:
        yield "\n".join(lines)
