"""Prints checked points and the audits of their rows for people. Colour is used in a terminal only."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from alignlab.inert import visible
from alignlab.reports.runs import console
from alignlab.spelling import counted

if TYPE_CHECKING:
    from alignlab.cli.check import CheckedPoint
    from alignlab.training.audit_rows import AuditedRows

_SPLITS = {"train": "training rows", "eval": "held-out rows"}
_STYLES = {"error": "bold red", "warning": "yellow", "unchecked": "cyan"}


def print_points(points: Sequence[CheckedPoint], starts: str = "") -> None:
    """Print each point: its runs, its length and the remarks of its objective. Then print each audit once.

    starts: what the launcher would start; empty if there is nothing to say.
    """
    out = console()
    audits: dict[str, AuditedRows] = {}
    unchecked = 0
    for point in points:
        _print(out, f"{point.plan.id}  {shlex.join(point.overrides)}", "bold")
        for step in point.plan.chain():
            role = "" if step is point.plan else "starts from "
            _print(out, f"    {role}{step.id}: {step.run.status() or 'not run yet'}")
        if point.found is not None:
            _print(out, f"    {', '.join(_length(point.found.facts))}")
            for remark in point.found.remarks:
                _print(out, f"    {remark}")
            _findings(out, point.found.errors, point.found.warnings)
        if point.rows is None:
            unchecked += 1
        else:
            audits[point.rows.key] = point.rows
    if unchecked:
        of_points = "" if len(points) == 1 else f" of {counted(unchecked, 'point')}"
        _print(out, f"the rows{of_points} are made when the run starts and are not checked")
    for key, rows in audits.items():
        whose = [str(i) for i, point in enumerate(points) if point.rows is not None and point.rows.key == key]
        title = "data" if len(audits) == 1 else f"data of point{'s' * (len(whose) > 1)} {', '.join(whose)}"
        _print(out, title, "bold")
        _audit(out, rows)
    if starts:
        _print(out, starts)


def _length(facts: Mapping[str, float | None]) -> Iterator[str]:
    """The length of a run and its loss at the start, in words."""
    updates = "updates" if facts["updates"] is None else counted(int(facts["updates"]), "update")
    yield f"{updates} of {facts['rows_per_update']:g} rows"
    if facts["epochs"] is not None:
        yield f"an epoch is {facts['updates_per_epoch']:.4g} updates"
        yield f"{facts['epochs']:.3g} epochs in all"
    if facts["tokens_per_update"] is not None:
        yield f"{facts['tokens_per_update']:,.0f} tokens an update"
    if facts["loss_at_start"] is not None:
        yield f"loss at the start {facts['loss_at_start']:.4f}"


def _audit(out: Console, rows: AuditedRows) -> None:
    for split, facts in rows.audit.facts.items():
        _print(out, f"    {_SPLITS[split]}: {', '.join(_split(facts))}")
        for line in _table(facts.get("tokens", {})):
            _print(out, f"        {line}", "dim")
    bias = rows.audit.facts.get("train", {}).get("length_bias")
    if bias and all(finding.name != "length_bias" for finding in rows.audit.warnings):
        longer, shorter = bias["chosen_longer"]["share"], bias["chosen_shorter"]["share"]
        text = f"chosen answers are longer in {longer:.1%} of pairs and shorter in {shorter:.1%}"
        _print(out, f"    {text} ({bias['mean_difference']:+.1f} tokens on average)")
    _findings(out, rows.audit.errors, rows.audit.warnings)
    for what in rows.audit.unchecked:
        _marked(out, "unchecked", what)
    for number, row in enumerate(rows.shown, 1):
        _row(out, number, row)


def _split(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['rows']:,}"
    if "prompts" in facts:
        # Prompts are counted in the texts. Some of their rows may be left out because of what was cut.
        cut = " before cutting" if any("after cutting" in reason for reason in facts["left_out"]) else ""
        yield f"{facts['prompts']:,} different prompt{'s' * (facts['prompts'] != 1)}{cut}"
    if labels := facts.get("labels"):
        yield f"{labels['desirable']:,} good and {labels['undesirable']:,} bad answers"


def _table(tokens: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table with the lengths of each part of the rows."""
    if not tokens or not tokens["parts"]:
        return
    yield f"{'tokens':<12}{'mean':>8}{'median':>8}{'95 %':>8}{'max':>8}{'cut':>8}"
    for name, part in tokens["parts"].items():
        cut = tokens["cut"][name]["count"]
        yield f"{name:<12}{part['mean']:>8.1f}{part['median']:>8.0f}{part['p95']:>8.0f}{part['max']:>8}{cut:>8}"


def _findings(out: Console, errors: Sequence[Any], warnings: Sequence[Any]) -> None:
    for kind, findings in (("error", errors), ("warning", warnings)):
        for finding in findings:
            _marked(out, kind, str(finding))


def _marked(out: Console, kind: str, text: str) -> None:
    first, *more = text.splitlines()
    out.print(Text(f"    {kind:<11}", style=_STYLES[kind]).append(first, style="default"), soft_wrap=True)
    for line in more:
        _print(out, f"    {'':<11}{line}")


def _row(out: Console, number: int, row: Any) -> None:
    """One row as tokens: the prompt dimmed, the supervised tokens of each answer separated by bars."""
    _print(out, f"    {row.place or f'row {number}'}", "bold")
    out.print(_tokens("prompt", row.prompt, "", "dim"), soft_wrap=True)
    for name, tokens in row.answers.items():
        out.print(_tokens(name, tokens, "|", ""), soft_wrap=True)


def _tokens(name: str, tokens: Sequence[Any], bar: str, style: str) -> Text:
    text = Text(f"        {name:<12}")
    for token in tokens:
        shown = visible(token.text).replace("\n", "⏎")
        text.append(bar).append(shown, style="bold magenta" if token.special else style)
    return text.append(bar)


def _print(out: Console, text: str, style: str = "") -> None:
    out.print(Text(visible(text), style=style), soft_wrap=True)
