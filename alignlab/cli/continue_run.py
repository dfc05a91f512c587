"""`alignlab train run=<id> trainer.max_steps=...`: goes on with a finished run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from alignlab.cli.finish import finish
from alignlab.cli.refusal import print_error
from alignlab.cli.words import load_named_plugins, split_words, typed_value
from alignlab.errors import AlignlabError, ConfigError, Problem
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import flatten
from alignlab.runs.query import find, refuse_no_name, runs_of
from alignlab.spelling import as_typed, correct_spelling

if TYPE_CHECKING:
    from alignlab.config.plan import Plan

_OWN = ("run", "output_root", "plugins", "trust_remote_code", "reward.function")
_EVALUATION = {"off": False, "default": True}
# Groups of `alignlab evaluate`, which a run can be given when it is done.
_EVALUATED_LATER = ("evaluation", "judge", "benchmark")


def asks_to_continue(argv: Sequence[str]) -> bool:
    """Whether a command line of `train` names a run."""
    return any(word.startswith("run=") for word in argv)


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    try:
        continue_run(argv)
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def continue_run(argv: Sequence[str]) -> RunDir:
    """Train the longer run, or find it if it is finished, and return it. Raises ConfigError with all problems."""
    from alignlab.pipeline.continued import continued_plan, hand_over, settings_of_trainer
    from alignlab.pipeline.named_policy import run_named
    from alignlab.pipeline.run import run_plan

    names, given = split_words(argv)
    load_named_plugins(given)
    kinds, problems, settings = settings_of_trainer(), [], {}
    root, allowed = given.get("output_root", "outputs"), given.get("trust_remote_code", "") == "true"
    recorded = _recorded(given["run"], root)
    for word in names:
        problems.append(Problem(word, None, "can't be combined with run=...; a run that goes on is one run"))
    for key, text in given.items():
        field = key.removeprefix("trainer.")
        if key in _OWN or (key == "evaluation" and text in _EVALUATION):
            continue
        if key.partition(".")[0] in _EVALUATED_LATER:
            told = "can't be set when a run goes on; evaluate the longer run when it is done"
            typed = "" if key == "evaluation" else f" {key}={text}"
            off = "evaluation=off   or   " if key == "evaluation" else ""
            problems.append(Problem(key, text, told, f"{off}alignlab evaluate run=<the longer run>{typed}"))
            continue
        if not key.startswith("trainer.") or field not in kinds:
            guess = correct_spelling(key, [f"trainer.{name}" for name in kinds])
            told = "can't change when a run goes on; it may set trainer.max_steps and other fields of trainer"
            if key in recorded:
                told = f"was {recorded[key]} in {given['run']}, and {told}"
            other = f"model.parent={given['run']}  (a new run from its policy)"
            problems.append(Problem(key, text, told, f"{guess}={text}" if guess else other))
            continue
        try:
            settings[field] = typed_value(text, kinds[field])
        except ValueError as error:
            problems.append(Problem(key, text, f"must be {error}", f"{key}=..."))
    before = None
    try:
        before = run_named(given["run"], root, trust_remote_code=allowed, with_policy=False)
        if before is None:
            refuse_no_name(given["run"])
            problems.append(Problem("run", given["run"], "there is no such run: see `alignlab runs`"))
    except ConfigError as error:
        problems += error.problems
    if before is not None:
        problems += _untyped_function(before, given.get("reward.function"))
    if problems or before is None:
        raise ConfigError(problems)
    longer = continued_plan(before, settings, evaluated=_EVALUATION.get(given.get("evaluation", "")))
    hand_over(before, longer)
    record = run_plan(longer, overrides=[word for word in argv if not word.startswith("plugins=")])
    finish(longer, record)
    return longer.run


def _untyped_function(before: Plan, typed: str | None) -> Iterator[Problem]:
    """The problem of a record whose rewards come from a function that the command line does not name."""
    function = getattr(before.train.reward, "function", None)
    if function is not None and function != typed:
        text = (
            "a record runs no code; it says that the rewards come from this function, so look at it before you name it"
        )
        yield Problem("reward.function", function, text, f"reward.function={function}")


def _recorded(name: str, root: str) -> dict[str, str]:
    """Key -> value, and group -> option, of the run that a name means; empty if it means none or several."""
    try:
        record = find(runs_of(root), name)
    except ConfigError:
        return {}
    values = flatten(record.get("config") or {})
    return {**{key: as_typed(value) for key, value in values.items()}, **(record.get("kinds") or {})}
