"""Verdicts as text: the scoreboard, one claim in full, and the differences between two sets of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from alignlab.papers.claim import Claim, Paper
from alignlab.papers.compute import cost_line, full_scale_of
from alignlab.papers.record import Row, decision_of
from alignlab.papers.verdict import BandResult, Verdict
from alignlab.spelling import counted

Records = Mapping[tuple[str, str], Mapping[str, Any]]


def tally(rows: Sequence[Row]) -> str:
    """How many claims have each verdict, as a sentence."""
    counts = Counter(row.decision.verdict for row in rows)
    parts = [f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict]]
    papers = counted(len({row.paper for row in rows}), "paper")
    return f"{counted(len(rows), 'claim')} of {papers}{': ' * bool(parts)}{', '.join(parts)}"


def tally_of_paper(rows: Sequence[Row]) -> str:
    """The same for the claims of one paper."""
    return tally(rows).replace(" of 1 paper", "")


def scoreboard(rows: Sequence[Row]) -> str:
    """One line for each claim: verdict, name, how it is measured, and its place in the paper."""
    cells = [(row.decision.verdict, f"{row.paper} {row.claim.name}", row.claim.kind, row.claim.source) for row in rows]
    widths = [max(len(cell[i]) for cell in cells) for i in range(3)]
    lines = ["  ".join([*map(str.ljust, cell[:3], widths), cell[3]]) for cell in cells]
    return "\n".join([*lines, "", tally(rows)])


def in_full(row: Row) -> str:
    """A claim with everything that its verdict follows from."""
    claim, record = row.claim, row.record
    parts = [
        f"{row.paper} {claim.name}: {row.decision.verdict}",
        f"  {claim.words}",
        f"  source: {claim.source}",
        f"  measured by: {claim.kind}, version {claim.version}",
    ]
    parts += [f"  deviation: {text}" for text in claim.deviations]
    if full := full_scale_of(row.paper, claim.name):
        parts.append(f"  at the paper's size: {cost_line(full)}")
    if row.decision.results:
        parts += [f"  {outcome(result, claim)}: {result}" for result in row.decision.results]
    else:
        parts += [f"  expected: {band.quantity} {band} ({band.provenance})" for band in claim.expected]
    expected = {band.quantity for band in (*claim.expected, *claim.premises)}
    parts += [
        f"  also measured: {name}: {_mean(v):.6g}" for name, v in _measured(record).items() if name not in expected
    ]
    if row.decision.why:
        parts.append(f"  why: {row.decision.why}")
    if claim.note:
        parts.append(f"  note: {claim.note}")
    if record:
        parts.append(f"  record: {record['ended']}, code {str(record['git'])[:12]}, expectation {record['digest']}")
    parts += [f"  $ {line}" for line in record.get("commands") or ()]
    if (runs := record.get("runs")) and record["command"]:
        parts.append(f"  {counted(len(runs), 'run')}: alignlab train {' '.join(map(_shortened, record['command']))}")
    return "\n".join(parts)


def _shortened(word: str) -> str:
    return word if len(word) <= 100 else f"{word[:97]}..."


def outcome(result: BandResult, claim: Claim) -> str:
    """What a result says: whether a premise holds, or whether an expectation is met."""
    if result.band in claim.premises:
        return "premise holds" if result.verdict == "reproduced" else "premise fails"
    return {"reproduced": "as expected", "contradicted": "not as expected"}.get(result.verdict, "undecided")


def _measured(record: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
    return record.get("measured", {})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def differences(one: Records, other: Records) -> Iterator[tuple[str, bool]]:
    """(line, whether the verdict differs) for each claim on which two sets of records differ.

    Each verdict follows from its record alone, by the expectation that the record holds.
    """
    for paper, claim in sorted({*one, *other}):
        records = [side.get((paper, claim), {}) for side in (one, other)]
        verdicts = [decision_of(record).verdict for record in records]
        reasons = []
        if all(records):
            first, second = records
            if first["digest"] != second["digest"]:
                reasons.append("the expectation changed")
            if moved := _moved(_measured(first), _measured(second)):
                reasons.append(f"measured values differ: {', '.join(moved)}")
        else:
            reasons.append(f"only in the {'first' if records[0] else 'second'} folder")
        changed = verdicts[0] != verdicts[1]
        if changed or reasons:
            arrow = f"{verdicts[0]} -> {verdicts[1]}" if changed else verdicts[0]
            yield f"{paper} {claim}: {arrow}{' (' + '; '.join(reasons) + ')' if reasons else ''}", changed


def _moved(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> list[str]:
    """Quantities whose values differ by more than rounding."""
    return [name for name in dict.fromkeys((*one, *other)) if not _alike(one.get(name, []), other.get(name, []))]


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    def same(a: float, b: float) -> bool:
        return abs(a - b) <= 1e-6 * max(1.0, abs(a), abs(b)) or (a != a and b != b)

    return len(one) == len(other) and all(map(same, one, other))


def markdown(rows: Sequence[Row], papers: Mapping[str, Paper]) -> str:
    """The scoreboard for a page: a table, then every claim that was not reproduced, with the reason."""
    lines = [f"{tally(rows)}.", "", "| paper | claim | what the paper says | source | measured by | verdict |"]
    lines.append("|" + "---|" * 6)
    for row in rows:
        paper = papers[row.paper]
        cells = (
            f"[{paper.authors}]({paper.url})",
            f"`{row.paper} {row.claim.name}`",
            row.claim.words,
            row.claim.source,
        )
        lines.append(f"| {' | '.join(map(_cell, cells))} | {row.claim.kind} | {row.decision.verdict} |")
    open_rows = [row for row in rows if row.decision.verdict in ("contradicted", "underdetermined")]
    lines += ["", "### Not reproduced"] if open_rows else []
    for row in open_rows:
        text = f"**`{row.paper} {row.claim.name}`**: {row.decision.verdict}. {row.claim.words}"
        notes = [f"Measured: {row.decision.why}.", row.claim.note, *row.claim.deviations]
        lines += ["", text, "", *(f"- {note}" for note in notes if note)]
    remarks = [(paper, remark) for paper in papers.values() for remark in paper.remarks]
    lines += ["", "### Remarks on the sources", ""] if remarks else []
    lines += [f"- {paper.authors}: {remark}" for paper, remark in remarks]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
