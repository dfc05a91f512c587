"""`alignlab report`: writes one page about a sweep, or about runs."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError, ConfigError, OutputError, Problem
from alignlab.inert import visible
from alignlab.targets import problems_of_target

_WHERE = "this command; nothing was done"

_HELP = """usage: alignlab report <sweep>                      write report.html and report.md beside its table
       alignlab report <sweep> --against <sweep>    also compare its settings with those of an older sweep
       alignlab report <sweep> --wandb              also publish a W&B report, or update the one published before
       alignlab report <run or condition ...>       the same page for any runs, in <output_root>/reports/<name>/;
                                                    --wandb also publishes a W&B report about them

sweep:     its name, the beginning of its name, or its folder
run:       the id of a run, or the beginning of its id
condition: status=done  objective=dpo,ipo  'objective.beta<=0.3'  (as for `alignlab runs`)
file:      to=<file.html> writes the page, and its Markdown twin, to another place
folder:    output_root=<folder> (default: outputs)

The page needs no network and no other file. A sweep writes it when it ends. A W&B report needs the extra `reports` and
a login; without a login its spec is written to wandb_report.json in the folder of the sweep, or in
<output_root>/reports/<name>."""


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    args = list(argv)
    if {"-h", "--help"} & set(args):
        print(_HELP)
        return 0
    try:
        return _write(args)
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        return 130


def _write(args: Sequence[str]) -> int:
    from alignlab.reports.answer import answers_of
    from alignlab.reports.chosen import chosen_runs
    from alignlab.reports.page.write import write_page

    parser = argparse.ArgumentParser("alignlab report", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--against", default="")
    parser.add_argument("--wandb", action="store_true")
    flags = parser.parse_intermixed_args(args)
    settings = {key: value for key, _, value in (w.partition("=") for w in flags.words) if key in ("output_root", "to")}
    words = [word for word in flags.words if word.partition("=")[0] not in settings]
    root, to = Path(settings.get("output_root") or "outputs"), settings.get("to", "")
    if to and not to.endswith(".html"):
        problem = Problem("to", to, "must be the name of an HTML file", "to=report.html")
        raise ConfigError([problem], where=_WHERE)
    if to and (problems := _problems_of_page(Path(to))):
        raise ConfigError(problems, where=_WHERE)
    found = chosen_runs(root, words)
    older = chosen_runs(root, [flags.against]) if flags.against else None
    file = Path(to) if to else (found.folder or root / "reports" / found.name) / "report.html"
    try:
        write_page(found, file, older)
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error}\n  type: to=<another file.html>") from error
    for name, sentences in answers_of(found):
        for text in sentences:
            print(visible(f"{name}: {text}" if name else text))
    print(visible(f"written to {file} and {file.with_suffix('.md').name}"))
    if flags.wandb:
        from alignlab.reports.wandb_report import write_report, write_report_of_runs

        print(write_report(found.folder) if found.folder else write_report_of_runs(found, shlex.join(words)))
    return 0


def _problems_of_page(page: Path) -> list[Problem]:
    """The problem of a page, or of its Markdown twin, that would replace a file that is no page of alignlab's."""
    from alignlab.reports.page.write import is_page

    for file in (page, page.with_suffix(".md")):
        if problems := list(problems_of_target("to", file)):
            return problems
        if os.path.lexists(file) and not is_page(file):
            text = f"would replace {file}, which is no report of alignlab's"
            return [Problem("to", str(page), text, "to=<another file.html>")]
    return []
