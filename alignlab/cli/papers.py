"""`alignlab papers`: claims of papers, measured here, with their verdicts."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError, ConfigError, OutputError, Problem
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.papers.library import chosen, library
from alignlab.spelling import counted

_HELP = """usage: alignlab papers [paper [claim] ...]           list the claims with their verdicts
       alignlab papers show <paper> [claim ...]     show claims in full: expectation, measurement, deviations
       alignlab papers run all|<paper> [claim ...]  measure what has no record yet (--again: all; --offline: see run)
       alignlab papers run <paper> <claim> data=<file, folder or hub name>   the same with data in another place
       alignlab papers report [paper ...]           write a page for each paper, and the scoreboard
       alignlab papers figures <folder>             draw the figures of README.md, as SVG
       alignlab papers compare <folder> <folder>    show where two folders of records differ
       alignlab papers export <folder>              copy the records to a folder

verdict: reproduced       every measured number agrees with the claim
         contradicted     the claim rules out a measured number
         underdetermined  the measurement can't decide the claim
         needs-scale      the claim needs the paper's models and data
         not-run          there is no record, or the expectation has changed since
run:     launcher=<name> and launcher.<option>=<value> decide where trained claims run (default: vectorized, or auto
         if a claim needs it); --offline leaves out claims that train online, which takes minutes. Claims that are
         measured with a small language model take up to hours and run only if they are named
folder:  output_root=<folder> (default: outputs); records=<folder> (default: papers in output_root);
         to=<folder> of the pages (default: reports/papers in output_root)"""

_WHERE = "this command; nothing was done"


@dataclass(frozen=True)
class Arguments:
    """The words of a command, its folders, and which claims are measured.

    again:   finished claims are measured again.
    offline: claims that train online are left out.
    """

    words: list[str]
    output_root: Path
    records: Path
    to: Path
    typed: tuple[str, ...]
    again: bool
    offline: bool = False
    data: str = ""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code: 3 if a claim could not be measured, or if two folders differ."""
    args = list(argv)
    if {"-h", "--help"} & set(args):
        print(_HELP)
        return 0
    try:
        verb = args.pop(0) if args and args[0] in _VERBS else "list"
        return _VERBS[verb](_parsed(args, verb))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130


def _parsed(args: Sequence[str], verb: str) -> Arguments:
    parser = argparse.ArgumentParser("alignlab papers", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--offline", action="store_true")
    flags = parser.parse_intermixed_args(args)
    values = {key: value for key, sign, value in (w.partition("=") for w in flags.words) if sign}
    typed = tuple(w for w in flags.words if re.match(r"(hydra[./])?launcher[=.]", w)) if verb == "run" else ()
    known = {
        "output_root",
        "records",
        *(["to"] if verb == "report" else ["data"] if verb == "run" else []),
        *(word.partition("=")[0] for word in typed),
    }
    if unknown := [key for key in values if key not in known]:
        text = (
            "a claim fixes its own settings; here you can set output_root, records, for `run` the launcher and data, "
            "and for `report` to"
        )
        raise ConfigError([Problem(key, values[key], text) for key in unknown], where=_WHERE)
    root = Path(values.get("output_root", "outputs"))
    words = [word for word in flags.words if "=" not in word]
    records, to = Path(values.get("records", root / "papers")), Path(values.get("to", root / "reports" / "papers"))
    return Arguments(words, root, records, to, typed, flags.again, flags.offline, values.get("data", ""))


def _list(args: Arguments) -> int:
    from alignlab.papers.record import row_of
    from alignlab.papers.scoreboard import scoreboard

    print(
        visible(scoreboard([row_of(args.records, paper, claim) for paper, claim in chosen(args.words)]), MOST_OF_OUTPUT)
    )
    return 0


def _show(args: Arguments) -> int:
    from alignlab.papers.record import row_of
    from alignlab.papers.scoreboard import in_full

    if not args.words:
        return _usage("which paper? alignlab papers show <paper> [claim ...]")
    rows = [row_of(args.records, paper, claim) for paper, claim in chosen(args.words)]
    print(visible("\n\n".join(map(in_full, rows)), MOST_OF_OUTPUT))
    return 0


def _run(args: Arguments) -> int:
    from alignlab.cli import evaluate, synthesize, train
    from alignlab.papers.measuring import Bench
    from alignlab.papers.scoreboard import tally

    if not args.words:
        return _usage("which paper? alignlab papers run all, or alignlab papers run <paper> [claim ...]")
    verbs = {"train": train.main, "synthesize": synthesize.main, "evaluate": evaluate.main}
    bench = Bench(args.records, args.output_root, train.main, args.typed, verbs, args.data, at_once=0)
    rows = []
    for paper, claim in chosen(args.words):
        if args.offline and claim.online:
            continue
        if claim.scale == "middle" and claim.name not in args.words:
            print(f"{paper.name} {claim.name}: left out, because it takes long; it runs if you type its name")
            continue
        try:
            row = bench.measure(paper, claim, again=args.again)
        except OSError as error:
            raise OutputError(f"{args.records} can't be written: {error}\n  type: records=<another folder>") from error
        why = f"\n    {row.decision.why}" if row.decision.why and row.decision.verdict != "needs-scale" else ""
        print(visible(f"{paper.name} {claim.name}: {row.decision.verdict}{why}"), flush=True)
        rows.append(row)
    print(f"\n{tally(rows)}")
    return 3 if any(row.decision.verdict == "not-run" for row in rows) else 0


def _report(args: Arguments) -> int:
    from alignlab.papers.report import write_report

    every = library()
    papers = [every[name] for name in dict.fromkeys(paper.name for paper, _ in chosen(args.words))]
    try:
        index = write_report(list(every.values()), papers, args.records, args.output_root / "runs", args.to)
    except OSError as error:
        raise OutputError(f"{args.to} can't be written: {error}\n  type: to=<another folder>") from error
    for paper in papers if len(papers) < len(every) else ():
        print(f"written to {args.to / f'{paper.name}.html'} and {paper.name}.md")
    print(f"written to {index} and {index.with_suffix('.md').name}: {counted(len(papers), 'page')} and the scoreboard")
    return 0


def _figures(args: Arguments) -> int:
    from alignlab.papers.readme_figures import write_figures

    if len(args.words) != 1:
        return _usage("figures needs a folder: alignlab papers figures <folder>")
    folder = Path(args.words[0])
    try:
        files = write_figures(args.records, folder)
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error}") from error
    for file in files:
        print(f"written to {file}")
    return 0


def _compare(args: Arguments) -> int:
    from alignlab.papers.record import records_below
    from alignlab.papers.scoreboard import differences

    if len(args.words) != 2:
        return _usage("compare needs two folders of records: alignlab papers compare <folder> <folder>")
    sides = []
    for word in args.words:
        sides.append(records_below(Path(word)))
        if not sides[-1]:
            raise ConfigError([Problem("folder", word, "holds no records of claims")], where=_WHERE)
    found = list(differences(*sides))
    for line, _ in found:
        print(visible(line))
    changed = sum(differs for _, differs in found)
    print(f"{counted(len({*sides[0], *sides[1]}), 'claim')}, {counted(changed, 'verdict')} different")
    return 3 if changed else 0


def _export(args: Arguments) -> int:
    from alignlab.papers.record import records_below

    if len(args.words) != 1:
        return _usage("export needs a folder: alignlab papers export <folder>")
    target = Path(args.words[0])
    records = records_below(args.records)
    if not records:
        text = "holds no records of claims; `alignlab papers run` makes them"
        raise ConfigError([Problem("records", args.records, text)], where=_WHERE)
    found = [name for name, record in records.items() if record.get("status") != "running"]
    if left := len(records) - len(found):
        print(f"left out: {counted(left, 'claim')} whose measurement has not ended")
    try:
        for paper, claim in found:
            (target / paper).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(args.records / paper / f"{claim}.json", target / paper / f"{claim}.json")
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error}") from error
    print(f"{counted(len(found), 'record')} written to {target}")
    return 0


def _usage(text: str) -> int:
    print(f"alignlab: {text}", file=sys.stderr)
    return 2


_VERBS: dict[str, Callable[[Arguments], int]] = {
    "list": _list, "show": _show, "run": _run, "report": _report, "figures": _figures, "compare": _compare,
    "export": _export,
}  # fmt: skip
