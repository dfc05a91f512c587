"""The page of a paper's claims and the index of all papers, as HTML and as Markdown.

Texts are visible (`alignlab.inert`), but not escaped: the template and the Markdown writer do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from alignlab.inert import fenced, markdown
from alignlab.reports.drawing import Drawing
from alignlab.reports.page.content import Table
from alignlab.reports.page.html import COMMON, PLOTLY, rendered
from alignlab.reports.page.markdown import markdown_list, markdown_table


@dataclass(frozen=True)
class FigureSection:
    """A figure with its numbers.

    theirs:  the paper's numbers, each with its provenance; None if there are none.
    ours:    our numbers; None if nothing was measured.
    remarks: sources that contradict each other.
    """

    drawing: Drawing
    theirs: Table | None
    ours: Table | None
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ClaimSection:
    """One claim.

    reason:  why the verdict is what it is, as a sentence.
    facts:   (name, text): source, kind of measurement, version, when and by which code.
    numbers: expectations and measurements.
    others:  quantities that were measured without an expectation; None if there are none.
    runs:    trained runs with links to their directories; None if there are none.
    """

    name: str
    words: str
    verdict: str
    reason: str
    facts: list[tuple[str, str]]
    numbers: Table
    command: str
    others: Table | None = None
    runs: Table | None = None
    figures: list[FigureSection] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class PaperPage:
    """All that the page of a paper shows. tally: how many claims have which verdict."""

    name: str
    title: str
    authors: str
    url: str
    tally: str
    made: str
    claims: list[ClaimSection]
    remarks: list[str]


@dataclass(frozen=True)
class IndexPage:
    """The scoreboard: one row for each claim, with a link to its place in the page of its paper."""

    tally: str
    made: str
    papers: Table
    claims: Table


def paper_html(page: PaperPage) -> str:
    """The page as HTML that needs nothing else."""
    figures = [figure.drawing.plain() for claim in page.claims for figure in claim.figures]
    sections = [(f"#{claim.name}", claim.name) for claim in page.claims]
    sections = [("index.html", "All papers"), *sections, *([("#remarks", "Remarks")] if page.remarks else [])]
    scripts = (PLOTLY, COMMON, "paper.js") if figures else (COMMON,)
    return rendered("paper.html", scripts, {"figures": figures}, kind="papers", page=page, sections=sections)


def index_html(page: IndexPage) -> str:
    """The index as HTML that needs nothing but the pages that it links to."""
    sections = [("#papers", "Papers"), ("#claims", "Claims")]
    return rendered("index.html", (COMMON,), {}, kind="papers", page=page, sections=sections)


def paper_markdown(page: PaperPage) -> str:
    """The page as Markdown: the same sentences and tables. Figures are given by their numbers."""
    return "\n\n".join(_parts(page)) + "\n"


def index_markdown(page: IndexPage) -> str:
    """The index as Markdown."""
    parts = ["# Claims of papers", f"{page.tally}. {markdown(page.made)}", "## Papers", markdown_table(page.papers)]
    return "\n\n".join([*parts, "## Claims", markdown_table(page.claims)]) + "\n"


def _parts(page: PaperPage) -> Iterator[str]:
    yield f"# {markdown(page.title)}"
    yield f"[{markdown(page.authors)}]({page.url})\n{page.tally}."
    yield f"{page.name} · {markdown(page.made)} · [all papers](index.md)"
    for claim in page.claims:
        yield from _claim(claim)
    if page.remarks:
        yield "## Remarks on the sources"
        yield markdown_list(page.remarks, 2000)


def _claim(claim: ClaimSection) -> Iterator[str]:
    yield f"## {claim.name}"
    yield markdown(claim.words, 2000)
    yield f"**{claim.verdict}**: {markdown(claim.reason, 4000)}"
    yield markdown_list([f"{name}: {text}" for name, text in claim.facts], 2000)
    yield markdown_table(claim.numbers)
    if claim.note:
        yield markdown(claim.note, 4000)
    for figure in claim.figures:
        yield f"### {markdown(figure.drawing.title)}"
        if figure.drawing.caption:
            yield markdown(figure.drawing.caption, 2000)
        yield from _numbers("The paper's numbers:", figure.theirs)
        yield from _numbers("Measured here:", figure.ours)
        if figure.remarks:
            yield markdown_list(figure.remarks, 2000)
    yield from _listed("Deviations from the paper:", claim.deviations)
    if claim.others:
        yield "Also measured:"
        yield markdown_table(claim.others)
    yield "To measure it again:"
    yield fenced(claim.command)
    if claim.runs:
        yield "Runs:"
        yield markdown_table(claim.runs)


def _numbers(title: str, found: Table | None) -> Iterator[str]:
    if found:
        yield title
        yield markdown_table(found)


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield title
        yield markdown_list(list(lines), 2000)
