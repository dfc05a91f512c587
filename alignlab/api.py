"""alignlab in Python: the same runs, checks and records as the command line. Use it as `import alignlab`.

    run = alignlab.train("experiment=lab_dpo", "objective.beta=0.3")
    run.summary["exact/kl"], run.metrics, run.policy()

    table = alignlab.run_sweep("experiment=lab_dpo", axes={"objective.beta": [0.1, 0.3], "seed": [1, 2, 3]})
    alignlab.plot.frontier(table.attrs["folder"])

Functions take the words of the command line. They raise the errors of alignlab/errors.py instead of exiting:
ConfigError lists everything that is wrong. They work in notebooks, and inside applications that use Hydra themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from alignlab.errors import ConfigError, Problem
from alignlab.progress import log_to_terminal
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Filter, runs_of, select
from alignlab.spelling import as_typed, quoted

if TYPE_CHECKING:
    import pandas as pd

_MANY = ("-m", "--multirun")
_KEPT_FLAGS = ("--config-dir", "-cd")
_NO_AXES = ("output_root", "sweep.question", "tracking")  # a comma in them separates no values (config/commas.py)
_AXES = 'axes={"objective.beta": [0.1, 0.3]}'
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _brief(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A ConfigError of the function has a traceback of a few lines, so that a notebook shows its message at once."""

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ConfigError as error:
            raise error.with_traceback(None) from None

    return called


@dataclass(frozen=True)
class Run:
    """A run and its directory. Properties read the directory each time, so they show the present state."""

    directory: RunDir

    @property
    def id(self) -> str:
        return self.directory.id

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.directory.path

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json: config, versions, fingerprints, data audit, summary."""
        return dict(self.directory.state())

    @property
    def status(self) -> str:
        """queued, running, done, failed, diverged or interrupted; empty if there is no record."""
        return str(self.record.get("status", ""))

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.record.get("config", {}))

    @property
    def summary(self) -> dict[str, float]:
        """Metric -> its last value."""
        return dict(self.record.get("summary", {}))

    @property
    def metrics(self) -> pd.DataFrame:
        """One row for each logged step, one column for each metric."""
        from alignlab.reports.frames import metrics_frame

        return metrics_frame(self.directory)

    def policy(self, *, trust_remote_code: bool = False, plugins: Sequence[str] = ()) -> tuple[Any, Any]:
        """The trained model and its tokenizer, from transformers.

        trust_remote_code: run the Python code that comes with the model's folder.
        plugins: those that the run was trained with, as in `plugins=...`. A record loads no code by itself.
        Raises ConfigError if the run has no record, and ParentError if it has no policy.
        """
        from alignlab.config.from_record import recorded_plan
        from alignlab.config.own_plugins import plugins_for
        from alignlab.pipeline.policies import finished_policy

        root = str(self.path.absolute().parents[1])
        words = [plugins] if isinstance(plugins, str) else plugins
        _check_words(words)
        with plugins_for(words):
            side = finished_policy(recorded_plan(root, self.id, trust_remote_code=trust_remote_code)).load()
        return side.model, side.tokenizer

    def __repr__(self) -> str:
        return f"Run({self.id}, {self.status or 'no record'}, {self.path})"


@_brief
def train(*overrides: str) -> Run:
    """Train one run, or find it if it is finished: `alignlab train <overrides>`.

    With `run=<id>` and `trainer.max_steps=<more>` it goes on with a finished run.
    Raises ConfigError with all problems before anything starts, and DivergedError if training diverged.
    """
    _check_words(overrides, flags=_MANY)
    if wrong := [word for word in overrides if word in _MANY or _chooses_preset(word)]:
        raise ConfigError([Problem(wrong[0], None, "asks for a sweep", "alignlab.run_sweep(...)")])
    from alignlab.cli.continue_run import asks_to_continue, continue_run
    from alignlab.cli.train import train_composed

    if asks_to_continue(overrides):
        return Run(continue_run(overrides))
    finished: list[RunDir] = []

    def task(config: Any) -> Any:
        record = train_composed(config)
        finished.append(RunDir.of(Path(config.output_root).absolute(), record["id"]))
        return record

    _run("train", task, overrides)
    return Run(finished[0])


@_brief
def run_sweep(*overrides: str, axes: Mapping[str, Iterable[object]] | None = None) -> pd.DataFrame:
    """Run a sweep and return its settings, one a row: `alignlab train <overrides> -m <axes>`.

    overrides: words of the command line; `sweep=<preset>` brings axes of its own.
    axes:      key -> list of values. Axes of repetition (`seed`) are averaged over.
    Returns the table that `alignlab.reports.frames.settings_frame` describes.
    Raises ConfigError with all problems of all points before anything starts, and SweepFailedError if points failed.
    The other points are done then; `alignlab.read_sweep` returns their table.
    """
    from alignlab.cli.train import train_composed
    from alignlab.sweep.sweep import ended

    _check_words(overrides, flags=_MANY)
    typed = [f"{key}={','.join(map(_as_choice, values))}" for key, values in _listed(axes).items()]
    _check_words(typed)
    folders: list[Path] = []
    token = ended.set(folders)
    try:
        words = [word for word in overrides if word not in _MANY]
        _run("train", train_composed, ["-m", *words, *typed])
    finally:
        ended.reset(token)
    return read_sweep(folders[-1])


@_brief
def read_sweep(sweep: str | Path, output_root: str | Path = "outputs") -> pd.DataFrame:
    """The settings of a sweep, finished or not, one a row (`alignlab.reports.frames.settings_frame`).

    sweep: its folder, its name or the beginning of its name.
    Raises ConfigError if there is none.
    """
    from alignlab.reports.chosen import chosen_runs
    from alignlab.reports.frames import settings_frame

    return settings_frame(chosen_runs(Path(output_root), [str(sweep)]))


@_brief
def find_runs(*conditions: str, output_root: str | Path = "outputs") -> list[Run]:
    """Runs that fulfil all conditions, oldest first: `alignlab runs <conditions>`.

    conditions: `status=done`, `objective=dpo,ipo`, `objective.beta<=0.3`, `sweep=dpo_*`; none: all runs.
    Raises ConfigError for a condition that can't be read, or whose key no run has.
    """
    _check_words(conditions)
    if roots := [text for text in conditions if text.startswith("output_root=")]:
        raise ConfigError(
            [Problem(text, None, "is no condition; type find_runs(..., output_root=...)") for text in roots]
        )
    found = select(runs_of(output_root, listed=True), [Filter.parse(text) for text in conditions], output_root)
    return [Run(RunDir.of(Path(output_root).absolute(), record["id"])) for record in found]


@_brief
def evaluate(run: Run | str, *overrides: str) -> pd.DataFrame:
    """Sample answers of a run, or of all finished runs of a sweep: `alignlab evaluate run=<run> <overrides>`.

    run: a run, its id, or a sweep; or a model that was not trained here, as `model=<folder or hub name>`.
    Returns one row for each run, with the metrics that its record now has too (KL in nats, lengths, win-rates against
    the reference), and the folder of its answers. A reward model has no such metrics.
    Raises ConfigError with all problems before anything starts.
    """
    from alignlab.cli.evaluate import evaluate_composed, with_named_model
    from alignlab.reports.frames import evaluations_frame

    _check_words(overrides)
    found: list[Any] = []
    is_model = isinstance(run, str) and run.startswith("model=")
    where = (
        with_named_model([str(run)]) if is_model else [f"run={quoted(str(run.path if isinstance(run, Run) else run))}"]
    )
    _run("evaluate", lambda config: found.extend(evaluate_composed(config)), [*where, *overrides])
    return evaluations_frame({one.run: (one.folder, one.summary) for one in found})


def _run(config_name: str, task: Callable[[Any], Any], overrides: Sequence[str]) -> None:
    """Run a task as the command line does, and leave this process as it was."""
    from alignlab.cli.hydra_app import hydra_of_the_caller_kept, run_composed

    if not logging.getLogger().handlers:  # a notebook: the messages of the run are its progress
        log_to_terminal()
    with hydra_of_the_caller_kept():
        run_composed(config_name, task, overrides)


def _check_words(overrides: Sequence[object], *, flags: Sequence[str] = ()) -> None:
    """Raise ConfigError with all words that are no texts, or that only a command line can have.

    flags: those that are allowed beside --config-dir.
    """
    if wrong := [word for word in overrides if not isinstance(word, str)]:
        raise ConfigError([Problem(repr(word), None, 'is no text such as "objective.beta=0.3"') for word in wrong])
    words = [str(word) for word in overrides]
    own = [word for word in words if word.startswith("-") and word.partition("=")[0] not in (*_KEPT_FLAGS, *flags)]
    own += [word for word in words if word.lstrip("+").startswith("hydra.mode=")]
    if own:
        text = "is for the command line only; train runs one run, and run_sweep runs a sweep"
        raise ConfigError([Problem(word, None, text) for word in own])


def _listed(axes: Mapping[str, Iterable[object]] | None) -> dict[str, list[object]]:
    """Key -> its values. Raises ConfigError with all axes that are no list of values, or an empty one."""
    if not isinstance(axes or {}, Mapping):
        raise ConfigError([Problem("axes", repr(axes), "must map keys to lists of values", _AXES)])
    given = {key: list(values) if _is_list(values) else [] for key, values in (axes or {}).items()}
    if empty := [key for key, values in given.items() if not values]:
        text = "must be a list of at least one value"
        raise ConfigError([Problem(f"axes[{key!r}]", repr((axes or {})[key]), text, _AXES) for key in empty])
    if whole := [key for key, values in given.items() if key in _NO_AXES and len(values) > 1]:
        raise ConfigError([Problem(f"axes[{key!r}]", None, "is the same for all runs of a sweep") for key in whole])
    return given


def _is_list(values: object) -> bool:
    """Whether an axis has several values. A text is one value, not a list of its letters."""
    return isinstance(values, Iterable) and not isinstance(values, str | bytes)


def _chooses_preset(word: str) -> bool:
    return word.startswith("sweep=") and word not in ("sweep=", "sweep=null")


def _as_choice(value: object) -> str:
    """A value of an axis as Hydra reads it in a list of choices."""
    return quoted(value) if isinstance(value, str) else as_typed(value)
