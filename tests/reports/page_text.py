"""Reads the page of a sweep and its Markdown twin: tables, texts, and the numbers of figures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_BLOCKS = (
    "p",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "dt",
    "dd",
    "td",
    "th",
    "pre",
    "summary",
    "caption",
    "title",
    "label",
    "a",
)


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class Table:
    name: str = ""
    header: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)

    def records(self) -> list[dict[str, Cell]]:
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


class Page(HTMLParser):
    """The parts of a page.

    tables:  in order.
    texts:   (section, text) of everything else that is shown.
    answer:  those of the texts that answer the question of the sweep.
    figures: the data of the figures.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.texts: list[tuple[str, str]] = []
        self.answer: list[str] = []
        self.figures: dict[str, Any] = {}
        self._section = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("meta", "br", "input", "link"):
            return
        if tag in _BLOCKS and not self._inside("td", "th", "caption"):
            self._flush()
        if tag == "section":
            self._section = given.get("id") or ""
        if tag == "table":
            self.tables.append(Table())
        if tag == "tr" and self._inside("tbody"):
            self.tables[-1].rows.append([])
        self._open.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split()) if tag != "pre" else self._text.strip()
        if tag == "caption":
            self.tables[-1].name, self._text = text, ""
        elif tag == "th" and self._inside("thead"):
            self.tables[-1].header.append(text)
            self._text = ""
        elif tag == "td":
            attrs = self._open[-1][1]
            ends = [None if (v := attrs.get(f"data-{end}")) is None else float(v) for end in ("value", "low", "high")]
            self.tables[-1].rows[-1].append(Cell(text, *ends))
            self._text = ""
        elif tag in _BLOCKS:
            self._flush()
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside("style") or (self._inside("script") and self._open[-1][1].get("id") != "figures"):
            return
        if self._inside("script"):
            self.figures = json.loads(data)
            return
        self._text += data

    def _inside(self, *tags: str) -> bool:
        return any(tag in tags for tag, _ in self._open)

    def _flush(self) -> None:
        text = self._text.strip() if self._open and self._open[-1][0] == "pre" else " ".join(self._text.split())
        if text:
            self.texts.append((self._section, text))
            if any(given.get("class") == "answer" for _, given in self._open):
                self.answer.append(text)
        self._text = ""

    def table(self, name: str) -> Table:
        (found,) = (table for table in self.tables if table.name == name)
        return found


def markdown_parts(text: str) -> tuple[list[list[list[str]]], list[str]]:
    """(tables as rows of cells, all other lines but blocks of code)."""
    tables: list[list[list[str]]] = []
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        if fence or line.startswith("```"):
            mark = re.match("`*", line)
            fence = "" if fence and line == fence else fence or (mark[0] if mark else "")
        elif line.startswith("|"):
            if not lines or lines[-1] != "|":
                tables.append([])
                lines.append("|")
            if not line.startswith("|---"):
                cells = re.split(r"(?<!\\)\|", line)[1:-1]
                tables[-1].append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
        else:
            lines.append(re.sub(r"\\(.)", r"\1", line.strip().removeprefix("- ")))
    return tables, [line for line in lines if line and line != "|"]
