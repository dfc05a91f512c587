"""Pages of papers: what each claims, what was measured here, and the verdict, as HTML and Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignlab.inert import one_line
from alignlab.integrity import write_text
from alignlab.papers.claim import Commands, Paper
from alignlab.papers.compute import cost_line, full_scale_of
from alignlab.papers.figure import PaperFigure, Rows, figures_of
from alignlab.papers.printed import Point
from alignlab.papers.record import Row, row_of
from alignlab.papers.scoreboard import outcome, tally, tally_of_paper
from alignlab.papers.verdict import BandResult
from alignlab.reports.drawing import Drawing
from alignlab.reports.page.content import Cell, Table
from alignlab.reports.page.paper import (
    ClaimSection,
    FigureSection,
    IndexPage,
    PaperPage,
    index_html,
    index_markdown,
    paper_html,
    paper_markdown,
)
from alignlab.runs.directory import now


def write_report(papers: Sequence[Paper], chosen: Sequence[Paper], records: Path, runs: Path, folder: Path) -> Path:
    """Write a page for each chosen paper, and the index of all papers. Returns the file of the index.

    records: folder of the records. runs: `<output_root>/runs`, which runs are linked to. folder: where pages go.
    Raises OSError if a file can't be written.
    """
    made = f"alignlab {version('alignlab')}, {now()}"
    rows = {paper.name: {claim.name: row_of(records, paper, claim) for claim in paper.claims} for paper in papers}
    for paper in chosen:
        page = paper_page(paper, rows[paper.name], made, runs, folder)
        write_text(folder / f"{paper.name}.html", paper_html(page))
        write_text(folder / f"{paper.name}.md", paper_markdown(page))
    pages = {paper.name for paper in papers if (folder / f"{paper.name}.html").is_file()}
    write_text(folder / "index.html", index_html(index_page(papers, rows, made, pages, "html")))
    write_text(folder / "index.md", index_markdown(index_page(papers, rows, made, pages, "md")))
    return folder / "index.html"


def paper_page(paper: Paper, rows: Rows, made: str, runs: Path, folder: Path) -> PaperPage:
    """The content of a paper's page."""
    figures: dict[str, list[FigureSection]] = {}
    for figure in figures_of(paper.name):
        place = next(claim for claim in figure.claims if claim in rows)
        figures.setdefault(place, []).append(_figure(paper, figure, rows))
    return PaperPage(
        name=paper.name,
        title=paper.title,
        authors=paper.authors,
        url=paper.url,
        tally=tally_of_paper(list(rows.values())),
        made=made,
        claims=[_claim(rows[claim.name], paper, figures.get(claim.name, []), runs, folder) for claim in paper.claims],
        remarks=list(paper.remarks),
    )


def index_page(papers: Sequence[Paper], rows: Mapping[str, Rows], made: str, pages: set[str], ending: str) -> IndexPage:
    """The scoreboard. pages: names of the papers that have a page, which are linked to; ending: of its file."""

    def link(paper: Paper, claim: str = "") -> str:
        return f"{paper.name}.{ending}{f'#{claim}' if claim else ''}" if paper.name in pages else ""

    overview = [
        [
            Cell(paper.authors, link=link(paper)),
            Cell(paper.title),
            Cell(tally_of_paper(list(rows[paper.name].values()))),
        ]
        for paper in papers
    ]
    claims = [
        [Cell(paper.authors), Cell(claim.name, link=link(paper, claim.name)), Cell(claim.words), Cell(claim.source),
         Cell(claim.kind), Cell(rows[paper.name][claim.name].decision.verdict)]
        for paper in papers
        for claim in paper.claims
    ]  # fmt: skip
    every = [row for own in rows.values() for row in own.values()]
    return IndexPage(
        tally(every),
        made,
        Table("papers", ["paper", "title", "verdicts"], overview),
        Table("claims", ["paper", "claim", "what the paper says", "source", "measured by", "verdict"], claims),
    )


def sentence(row: Row) -> str:
    """Why the verdict on a claim is what it is."""
    decision, expected = row.decision, len(row.claim.expected)
    if decision.verdict == "reproduced":
        numbers = "The measured number is" if expected == 1 else f"All {expected} measured numbers are"
        return f"{numbers} as the claim says."
    if decision.verdict == "needs-scale" and row.claim.scale == "middle":
        return f"The claim is about the paper's own models and data. It {decision.why}."
    if decision.verdict == "needs-scale":
        return "The claim is about the paper's own models and data, so it is not measured here."
    return decision.why[:1].upper() + decision.why[1:].rstrip(".") + "."


def _claim(row: Row, paper: Paper, figures: list[FigureSection], runs: Path, folder: Path) -> ClaimSection:
    claim, record = row.claim, row.record
    facts = [("source", claim.source), ("measured by", f"{claim.kind}, version {claim.version}")]
    if full := full_scale_of(paper.name, claim.name):
        facts.append(("at the paper's size", cost_line(full)))
    if record:
        facts.append(("record", f"{record['ended']}, code {str(record['git'])[:12]}, expectation {record['digest']}"))
    return ClaimSection(
        name=claim.name,
        words=claim.words,
        verdict=row.decision.verdict,
        reason=one_line(sentence(row), 4000),
        facts=facts,
        numbers=_numbers(row),
        command=_command(row, paper),
        others=_others(row),
        runs=_runs(record, runs, folder),
        figures=figures,
        deviations=list(claim.deviations),
        note=claim.note,
    )


def _numbers(row: Row) -> Table:
    header = ["quantity", "expected", "from", "measured", "seeds", "result"]
    results = row.decision.results
    rows = (
        [_result(result, row) for result in results]
        if results
        else [
            [Cell(band.quantity), Cell(str(band)), Cell(band.provenance), Cell(""), Cell(""), Cell("not measured")]
            for band in row.claim.expected
        ]
    )
    return Table(f"{row.claim.name}: numbers", header, rows, frozenset({"measured", "seeds"}))


def _result(result: BandResult, row: Row) -> list[Cell]:
    seeds = len(row.record.get("measured", {}).get(result.band.quantity, ()))
    interval = f" [{result.low:.6g}, {result.high:.6g}]" if result.high > result.low else ""
    ends = (result.low, result.high) if interval else (None, None)
    measured = Cell(f"{result.value:.6g}{interval}", result.value, *ends) if result.value == result.value else Cell("")
    count = Cell("" if row.claim.kind == "closed form" else str(seeds), float(seeds))
    return [
        Cell(result.band.quantity), Cell(str(result.band)), Cell(result.band.provenance), measured, count,
        Cell(outcome(result, row.claim)),
    ]  # fmt: skip


def _others(row: Row) -> Table | None:
    expected = {band.quantity for band in (*row.claim.expected, *row.claim.premises)}
    found = {name: values for name, values in row.record.get("measured", {}).items() if name not in expected and values}
    rows = [[Cell(one_line(name)), Cell(f"{(mean := sum(v) / len(v)):.6g}", mean)] for name, v in found.items()]
    return Table(f"{row.claim.name}: also measured", ["quantity", "mean"], rows, frozenset({"mean"})) if rows else None


def _command(row: Row, paper: Paper) -> str:
    if isinstance(row.claim.measured_by, Commands):
        return f"alignlab papers run {paper.name} {row.claim.name} data=<{row.claim.measured_by.data}>"
    if row.claim.measured_by is None:
        return f"alignlab papers show {paper.name} {row.claim.name}"
    return f"alignlab papers run {paper.name} {row.claim.name} --again"


def _runs(record: Mapping[str, Any], runs: Path, folder: Path) -> Table | None:
    """The trained runs. A run whose directory exists has a link to it."""
    found = record.get("runs", [])
    if not found:
        return None
    more = [key for key in found[0] if key != "id"]
    rows = [
        [
            Cell(one_line(run["id"]), link=_link(runs / run["id"], folder)),
            *(Cell(one_line(run.get(key, ""))) for key in more),
        ]
        for run in found
    ]
    return Table(f"{record['claim']}: runs", ["run", *more], rows)


def _link(run: Path, folder: Path) -> str:
    return f"{Path(os.path.relpath(run, folder)).as_posix()}/" if run.is_dir() else ""


def _figure(paper: Paper, figure: PaperFigure, rows: Rows) -> FigureSection:
    drawing = figure.draw(figure.points(paper.name), rows)
    theirs = figure.points(paper.name, also=True)
    return FigureSection(
        drawing,
        _points_table(drawing, theirs) if theirs else None,
        _drawn_table(drawing),
        figure.remarks(paper.name),
    )


def _points_table(drawing: Drawing, points: Sequence[Point]) -> Table:
    rows = [
        [Cell(p.figure), Cell(p.quantity), Cell(p.series), _cell(p.x), Cell(f"{p.y:g}", p.y), Cell(p.provenance)]
        for p in points
    ]
    header = ["source", "quantity", "series", "at", "value", "provenance"]
    return Table(f"{drawing.name}: the paper's numbers", header, rows, frozenset({"value"}))


def _drawn_table(drawing: Drawing) -> Table | None:
    """All points of the right side."""
    rows = []
    for panel in (right for _, right in drawing.rows if right):
        for series in panel.series:
            for k, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
                ends = (series.low[k], series.high[k]) if series.low else (None, None)
                interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if series.low else ""
                rows.append([Cell(panel.title), Cell(series.name), _cell(x), Cell(f"{y:.4g}{interval}", y, *ends)])
    name = f"{drawing.name}: our numbers"
    return (
        Table(name, ["panel", "series", drawing.x or "at", drawing.y], rows, frozenset({drawing.y})) if rows else None
    )


def _cell(x: float | str) -> Cell:
    return Cell(x) if isinstance(x, str) else Cell(f"{x:.4g}", x)
