"""`alignlab evaluate`: samples answers of finished runs, estimates their KL, and has judges compare them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict

from alignlab.cli.hydra_app import run_app
from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError, ConfigError
from alignlab.evaluation.examples import FILE, Examples
from alignlab.inert import MOST_OF_OUTPUT, visible

if TYPE_CHECKING:
    from alignlab.pipeline.evaluate import Evaluated


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    if argv and argv[0] == "--drift":
        return _drift(argv[1:])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_app("evaluate", _task, with_named_model(argv))


def _task(config: DictConfig) -> None:
    """Evaluate. Raises AlignlabError if a judge could not be asked about any answer of a run."""
    from alignlab.evaluation.summary import unjudged_by

    found = [(result.run, judges) for result in evaluate_composed(config) if (judges := unjudged_by(result.summary))]
    if found:
        lines = "".join(f"\n  {run}: no win-rate by {', '.join(judges)}" for run, judges in found)
        raise AlignlabError(f"judges could not be asked about any answer; the same command asks again{lines}")


def with_named_model(argv: Sequence[str]) -> list[str]:
    """The command line with `model=<folder or hub name>` as the words that Hydra knows."""
    from alignlab.config.named_model import words_for

    return [word for arg in argv for word in (words_for(arg[6:]) if arg.startswith("model=") and arg[6:] else [arg])]


def evaluate_composed(config: DictConfig) -> list[Evaluated]:
    """Evaluate the run, or the finished runs of the sweep, that a config names. Prints and returns the results."""
    from alignlab.config.plan import judge_plans
    from alignlab.config.preflight import PreflightCache, to_evaluate
    from alignlab.config.remote_code import keys_of_command_line, problems_of_config
    from alignlab.config.sent_keys import problems_of_sent_keys
    from alignlab.pipeline.evaluate import evaluate
    from alignlab.pipeline.evaluate_model import evaluate_model
    from alignlab.pipeline.requested_runs import finished_plan, peft_of, sweep_of
    from alignlab.pipeline.tracked_sweep import track_sweep
    from alignlab.reports.evaluated_sweep import write_sweep
    from alignlab.reports.evaluation import bill_line, summary_text
    from alignlab.reports.sweep import write_report
    from alignlab.training.attempt import quiet_libraries

    quiet_libraries()
    typed = keys_of_command_line()
    if untyped := [*problems_of_config(config, typed), *problems_of_sent_keys(config, typed)]:
        raise ConfigError(untyped)
    wanted = to_evaluate(config)
    if wanted.trust_remote_code:
        wanted = replace(wanted, judge={name: judge.with_remote_code() for name, judge in wanted.judge.items()})
    peft = peft_of(wanted) if wanted.run and any(judge.required_run() for judge in wanted.judge.values()) else None
    if peft is not None:  # runs that train judges inherit it, as in `alignlab train`
        with open_dict(config):
            config.peft = OmegaConf.structured(peft)
    plans = judge_plans(config, wanted.judge, PreflightCache(), typed)
    found = evaluate(wanted, plans) if wanted.model is None else [evaluate_model(wanted, plans)]
    for result in found:
        print(visible(f"{result.run}  {result.folder}\n{summary_text(result.summary)}", MOST_OF_OUTPUT))
        if line := bill_line(result.cost):
            print(visible(line))
    written = all((result.folder / FILE).is_file() for result in found)  # reward models write no answers
    if wanted.run and written and (sweep := sweep_of(wanted)):
        text = write_sweep(sweep, {result.run: result.folder for result in found})
        if not wanted.evaluation.questions:
            write_report(sweep)  # adds the numbers of the evaluation to the table of the sweep
            track_sweep(sweep, finished_plan(wanted.output_root, found[0].run, wanted).train.tracking)
        print(visible(f"\n{text}\n{sweep / 'evaluation.md'}", MOST_OF_OUTPUT))
    return found


def _drift(argv: Sequence[str]) -> int:
    from alignlab.evaluation.drift import drift
    from alignlab.reports.evaluation import drift_text

    if len(argv) != 2:
        print("usage: alignlab evaluate --drift <earlier evaluation> <later evaluation>", file=sys.stderr)
        return 2
    try:
        changes = drift(*(Examples.read(Path(place)) for place in argv))
    except AlignlabError as error:
        return print_error(error, argv)
    print(drift_text(changes))
    return 3 if any(change.drifted for change in changes) else 0
