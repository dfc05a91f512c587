"""Writes the content of a report as Markdown: the same sentences and tables, without figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignlab.inert import fenced, markdown
from alignlab.reports.page.content import Cell, Content, Table
from alignlab.reports.page.words import WORDS
from alignlab.reports.tables import table

_MOST_ANSWERS = 10  # prompts


def markdown_page(page: Content) -> str:
    """The report as Markdown. Texts of models and data are escaped, or in blocks of code."""
    return "\n\n".join(_parts(page)) + "\n"


def _parts(page: Content) -> Iterator[str]:
    yield f"# {markdown(page.question or page.name)}"
    for name, sentences in page.answers:
        if name:
            yield f"**{markdown(name)}**"
        yield "\n".join(markdown(text, 2000) for text in sentences)
    yield f"{markdown(page.name)} · {markdown(page.counts)} · {markdown(page.made)}"
    if page.notes:
        yield "## Notes"
        yield markdown_list(page.notes)
    yield "## Settings"
    for name, settings, budgets, lines in page.settings:
        if name:
            yield f"### {markdown(name)}"
        yield markdown_table(settings)
        if budgets:
            yield "Methods at the KLs that all of them reached:"
            yield markdown_table(budgets)
        yield markdown_list(lines)
        if settings.meanings:
            yield "What the columns mean:"
            yield markdown_list([f"{name}: {meaning}" for name, meaning in settings.meanings])
    if page.against:
        yield "## Against the older sweep"
        yield markdown_list(page.against_notes)
        yield markdown_table(page.against)
    for key, title in _FIGURES.items():
        if key == "gap" and key not in page.figure_tables:
            continue
        yield f"## {title}"
        yield markdown_table(page.figure_tables[key]) if key in page.figure_tables else "Nothing was measured."
    yield "## Answers side by side"
    yield from _answers(page.completions)
    yield "## What differs between the runs"
    yield markdown_table(page.differences) if page.differences.rows else "No key of the config differs."
    yield "## Runs that are not done"
    yield markdown_table(page.failed) if page.failed.rows else "All runs are done."
    for run, text in page.logs:
        yield f"End of the log of {markdown(run)}:"
        yield fenced(text)
    yield "## Data"
    yield from _audits(page)
    yield "## Provenance"
    if page.commands:
        yield "To make the runs again:"
        yield fenced("\n".join(page.commands), 200_000)
    yield markdown_table(page.facts)
    yield "## All runs"
    yield markdown_table(page.runs)
    yield "## What the words mean"
    yield markdown_list([f"{word}: {meaning}" for word, meaning in WORDS])


_FIGURES = {
    "frontier": "Reward and KL",
    "gap": "Where the gap to the frontier comes from",
    "strength": "Metric by strength",
    "forest": "Win-rates",
    "displacement": "Displacement and length",
}


def _answers(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["prompts"]:
        yield "No sampled answers."
    for row in found["prompts"][:_MOST_ANSWERS]:
        yield f"Prompt:\n\n{fenced(row['prompt'])}"
        if row["before"]:
            yield f"{markdown(found['baseline'])}:\n\n{fenced(row['before']['text'])}"
        for column, answer in zip(found["columns"], row["answers"], strict=True):
            if answer:
                yield f"{markdown(column['setting'])}:\n\n{fenced(answer['text'])}"
    if (rest := len(found["prompts"]) - _MOST_ANSWERS) > 0:
        yield f"{rest} more prompts are on the HTML page."
    if found["left_out"]:
        yield markdown_list(found["left_out"])


def _audits(page: Content) -> Iterator[str]:
    if not page.audits:
        yield "No run has recorded an audit of its rows."
    for audit in page.audits:
        yield f"Rows of {audit['runs']}:"
        findings = [f"{kind}: {text}" for kind, text in audit["findings"]] or ["no errors and no warnings"]
        yield markdown_list([*(f"{name}: {text}" for name, text in audit["numbers"]), *findings], 1000)


def markdown_list(lines: list[str], most: int = 600) -> str:
    return "\n".join(f"- {markdown(line, most)}" for line in lines)


def markdown_table(found: Table) -> str:
    """A table as Markdown, with the links of its cells."""
    return table([markdown(name) for name in found.header], [[_cell(cell) for cell in row] for row in found.rows])


def _cell(cell: Cell) -> str:
    text = markdown(cell.text, 600)
    return f"[{text}]({cell.link})" if cell.link else text
