"""`alignlab plot`: draws a figure of a sweep for a paper, or writes its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError, ConfigError, DataError, OutputError, Problem
from alignlab.inert import visible
from alignlab.integrity import write_text
from alignlab.spelling import correct_spelling
from alignlab.targets import problems_of_target

KINDS = ("frontier", "curves", "strength", "forest", "gap", "table")
_ENDINGS = {"paper": (".pdf", ".svg"), "screen": (".png",)}
_WHERE = "this command; nothing was done"

_HELP = """usage: alignlab plot frontier <sweep>      reward against KL, with the exact frontier if there is one
       alignlab plot strength <sweep>      a metric against the strength (metric=<name>)
       alignlab plot curves <sweep>        a training curve (metric=<name>)
       alignlab plot forest <sweep>        win-rates with intervals
       alignlab plot gap <sweep>           where the gap to the exact frontier comes from (lab and bandits)
       alignlab plot table <sweep>         the table of settings: LaTeX (booktabs) and CSV

--style paper   PDF and SVG, one column wide (3.25 inches), fonts embedded (default)
--style screen  PNG, 7 inches wide
file:           to=<file.pdf, .svg, .png, .tex or .csv> (default: <sweep>/figures/<style>/)
folder:         output_root=<folder> (default: outputs)

You can name runs and conditions instead of a sweep, as for `alignlab report`."""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    args = list(argv)
    if not args or {"-h", "--help"} & set(args):
        print(_HELP)
        return 0 if args else 2
    try:
        for file in _draw(args):
            print(visible(f"written to {file}"))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        return 130
    return 0


def _draw(args: Sequence[str]) -> list[Path]:
    from alignlab.reports.chosen import chosen_runs

    parser = argparse.ArgumentParser("alignlab plot", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--style", default="paper")
    flags = parser.parse_intermixed_args(args)
    keys = ("output_root", "to", "metric")
    settings = {key: value for key, _, value in (word.partition("=") for word in flags.words) if key in keys}
    kind, *words = [word for word in flags.words if word.partition("=")[0] not in keys] or [""]
    to, metric = settings.get("to", ""), settings.get("metric", "")
    if problems := list(_problems(kind, flags.style, to, metric)):
        raise ConfigError(problems, where=_WHERE)
    found = chosen_runs(Path(settings.get("output_root") or "outputs"), words)
    folder = (found.folder or found.root / "reports" / found.name) / "figures" / flags.style
    endings = (".tex", ".csv") if kind == "table" else _ENDINGS[flags.style]
    files = [Path(to)] if to else [folder / f"{kind}{_name_of(metric)}{ending}" for ending in endings]
    try:
        return _write(kind, found, files, metric, flags.style)
    except OSError as error:
        raise OutputError(f"{files[0]} can't be written: {error}\n  type: to=<another file>") from error


def _write(kind: str, found: Any, files: list[Path], metric: str, style: str) -> list[Path]:
    if kind == "table":
        from alignlab.reports.latex import as_csv, latex, paper_tables

        tables = paper_tables(found)
        for file in files:
            write_text(file, latex(tables) if file.suffix == ".tex" else as_csv(tables))
        return files
    if kind == "gap":
        _measure_gaps(found)
    from alignlab.reports.figures import FIGURES, save

    draw: Any = FIGURES[kind]
    figure = draw(found, **({"metric": metric} if metric else {}), style=style)
    return [save(figure, file, style) for file in files]


def _measure_gaps(found: Any) -> None:
    """Measure the parts of the gaps that are not known yet. Raises DataError if no run has any."""
    from alignlab.pipeline.gap import write_gaps  # seconds to import

    runs = list(dict.fromkeys(point["run"] for point in found.done))
    reasons = write_gaps(found.root, runs)
    lines = [
        f"{of[0]}: {reason}" if len(of) == 1 else f"{len(of)} runs, such as {of[0]}: {reason}"
        for reason, of in reasons.items()
    ]
    if lines and sum(map(len, reasons.values())) == len(runs):
        raise DataError("\n  ".join(lines))
    for line in lines:
        print(visible(f"left out: {line}"), file=sys.stderr)


def _problems(kind: str, style: str, to: str, metric: str) -> list[Problem]:
    problems = []
    if kind not in KINDS:
        guess = correct_spelling(kind, KINDS)
        fix = f"alignlab plot {guess or 'frontier'} <sweep>"
        problems.append(Problem("figure", kind or None, f"must be one of {', '.join(KINDS)}", fix))
    if style not in _ENDINGS:
        problems.append(Problem("--style", style, f"must be one of {', '.join(_ENDINGS)}", "--style paper"))
    allowed = (".tex", ".csv") if kind == "table" else (".pdf", ".svg", ".png")
    if to and Path(to).suffix not in allowed:
        problems.append(Problem("to", to, f"must end with {', '.join(allowed)}", f"to={kind or 'figure'}{allowed[0]}"))
    if to:
        problems += problems_of_target("to", to)
    if metric and kind in ("frontier", "forest", "gap", "table"):
        problems.append(
            Problem("metric", metric, "works only with strength and curves", f"alignlab plot strength metric={metric}")
        )
    return problems


def _name_of(metric: str) -> str:
    return f"_{metric.replace('/', '_')}" if metric else ""
