"""A search over intervals and choices. Optuna suggests trials, which are points of a sweep and run with any launcher.

The result of a trial is in the record of its run. The study (an SQLite file beside the sweep's table) holds what the
next suggestions depend on. The same command continues a search and never repeats a finished run.
"""

from __future__ import annotations

import ast
import json
import logging
import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from alignlab.checks import at_least, one_of
from alignlab.config.axes import values_of
from alignlab.config.composer import Composer
from alignlab.config.plan import Plan
from alignlab.config.points import plan_points
from alignlab.data.fingerprint import digest
from alignlab.errors import AlignlabError, ConfigError, DamagedError, OutputError, Problem, SweepFailedError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.integrity import set_aside, write_sealed
from alignlab.pipeline.tracked_sweep import track_sweep
from alignlab.reports.page.write import write_sweep_page
from alignlab.reports.sweep import write_report
from alignlab.runs.directory import FINISHED
from alignlab.spelling import counted
from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.sweep import Sweep, why_unfinished
from alignlab.sweep.tasks import RunTask, lacks_evaluation
from alignlab.tracking.metrics import BETTER, definitions
from alignlab.tracking.sinks.jsonl import STEP, read_rows
from alignlab.training.pruning import PRUNED, PruningThresholds

log = logging.getLogger(__name__)

# Least number of done trials for the importance of axes, which compares the best tenth of the trials with the rest.
_ENOUGH = 20

_DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"lower": "minimize", "higher": "maximize"}

_DIGITS = 6  # suggested numbers are rounded to so many digits for training; the study holds them in full


@dataclass(frozen=True)
class Options:
    """The settings of a search: `hydra.sweeper` in the config (see OptunaSweeperConf)."""

    metric: str
    direction: Literal["", "minimize", "maximize"]
    n_trials: int
    at_once: int
    startup: int
    seed: int
    prune: bool
    prune_after: int
    storage: str

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of the settings."""
        if self.metric not in definitions():
            known = ", ".join(name for name in definitions() if name.startswith(("eval/", "exact/")))
            yield Problem("sweeper.metric", self.metric, f"is not a metric; some metrics are: {known}")
        elif not self.direction and self.metric not in BETTER:
            text = f"must be minimize or maximize: {self.metric} does not have a better direction of its own"
            yield Problem("sweeper.direction", self.direction, text, "sweeper.direction=maximize")
        if self.direction:
            yield from one_of("sweeper.direction", self.direction, tuple(_DIRECTIONS.values()))
        yield from at_least("sweeper.n_trials", self.n_trials, 1, example=20)
        yield from at_least("sweeper.at_once", self.at_once, 0, example=4)
        yield from at_least("sweeper.startup", self.startup, 1, example=10)
        yield from at_least("sweeper.seed", self.seed, 0, example=1)
        yield from at_least("sweeper.prune_after", self.prune_after, 1, example=5)
        if self.prune and not self.metric.startswith("eval/"):
            text = "is known at the end of a run only, but pruning compares runs at their evaluations"
            yield Problem("sweeper.metric", self.metric, text, "sweeper.metric=eval/loss, or sweeper.prune=false")


@dataclass(frozen=True)
class Axis:
    """One dimension of the space: a key of the config and its possible values."""

    key: str
    values: BaseDistribution

    @classmethod
    def of(cls, override: Override) -> Axis:
        """An axis in Hydra's syntax: a list, choice(), range(), interval(), tag(log, ...), int(...).

        Raises ConfigError if the values can't be searched over.
        """
        key, sweep = str(override.get_key_element()), override.value()
        try:
            return cls(key, _distribution(override, sweep))
        except ValueError as error:
            typed = str(override.input_line).split("=", 1)[1]
            raise ConfigError([Problem(key, typed, f"can't be searched over: {error}")]) from error

    def setting(self, value: Any) -> str:
        """`key=value` for a suggested value."""
        return f"{self.key}={value:.{_DIGITS}g}" if isinstance(value, float) else f"{self.key}={value}"

    def ends(self) -> list[Any]:
        """Values that are checked before the search starts: both ends of a range, or every choice."""
        if isinstance(self.values, CategoricalDistribution):
            return list(self.values.choices)
        assert isinstance(self.values, FloatDistribution | IntDistribution)
        return [self.values.low, self.values.high]

    def __str__(self) -> str:
        if isinstance(self.values, CategoricalDistribution):
            return f"{self.key}: one of {', '.join(map(str, self.values.choices))}"
        low, high = self.ends()
        assert isinstance(self.values, FloatDistribution | IntDistribution)
        step = f" in steps of {self.values.step:g}" if self.values.step else ""
        return f"{self.key}: {low:g} to {high:g}{', logarithmic' if self.values.log else step}"


def _distribution(override: Override, sweep: Any) -> BaseDistribution:
    unknown = set(sweep.tags) - {"log"} if hasattr(sweep, "tags") else set()
    if unknown:
        raise ValueError(f"there is no tag {', '.join(unknown)}; there is: log")
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        log_scale = "log" in sweep.tags
        if isinstance(sweep.start, int):
            return IntDistribution(sweep.start, int(sweep.end), log=log_scale)
        return FloatDistribution(sweep.start, sweep.end, log=log_scale)
    if isinstance(sweep, RangeSweep):
        inside = sorted(map(ast.literal_eval, values_of(override)))
        if all(isinstance(value, int) for value in inside):
            return IntDistribution(inside[0], inside[-1], step=abs(int(sweep.step)))
        return FloatDistribution(inside[0], inside[-1], step=abs(sweep.step))
    return CategoricalDistribution(values_of(override))


def sampler(options: Options, number: int) -> optuna.samplers.BaseSampler:
    """The sampler (TPE) of one trial. Its seed depends on the trial's number.

    So a search that was interrupted makes the same suggestions as an uninterrupted one.
    """
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=options.startup, multivariate=True, constant_liar=True
        )


def _verify_database(file: Path) -> None:
    """Raise DamagedError if an SQLite database exists and is damaged."""
    if file.is_dir():
        raise DamagedError(file, "is a folder")
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.OperationalError:  # for instance because another command uses it
        return
    except sqlite3.DatabaseError as error:
        raise DamagedError(file, f"is damaged ({error})") from error
    if found != "ok":
        raise DamagedError(file, f"is damaged ({found})")


class Search:
    """A study, and the sweep whose points are the study's trials."""

    def __init__(
        self,
        config: DictConfig,
        composer: Composer,
        fixed: Sequence[str],
        axes: Sequence[Axis],
        options: Options,
    ) -> None:
        """Check the options and the ends of the space. Writes nothing.

        fixed: overrides of all points.
        Raises ConfigError with all problems.
        """
        self._config = config
        self._composer = composer
        self._fixed = list(fixed)
        self.axes = list(axes)
        self.options = options
        self._failed: set[int] = set()  # trials of this command that have no result
        first = self._check()
        self._evaluates = first.is_evaluated_at_end
        self._tracking = first.train.tracking
        better = _DIRECTIONS.get(BETTER.get(options.metric, ""))
        direction = options.direction or better
        assert direction, "the check requires one"
        self.direction = direction
        if better not in (None, direction):
            log.warning(
                "sweeper.direction=%s, but for %s the other direction is better", self.direction, options.metric
            )
        self._about = {
            "space": [*map(str, self.axes)],
            "metric": options.metric,
            "direction": self.direction,
            "first corner": first.id,  # represents all settings that the trials have in common
        }
        identity = digest([json.dumps([self._about, options.seed]).encode()])
        self.name = first.train.sweep.name or f"search-{identity[:6]}"
        self.directory = Path(first.train.output_root) / "sweeps" / self.name

    def _check(self) -> Plan:
        """Compose and check the ends of the space. Returns the plan of its first corner. Raises ConfigError."""
        problems = list(self.options.problems())
        corners = [[axis.setting(axis.ends()[0]) for axis in self.axes]]
        for i, axis in enumerate(self.axes):
            corners += [[*corners[0][:i], axis.setting(end), *corners[0][i + 1 :]] for end in axis.ends()[1:]]
        corners.append([axis.setting(axis.ends()[-1]) for axis in self.axes])
        plans = plan_points(self._composer, [[*self._fixed, *corner] for corner in corners], problems)
        thresholds = PruningThresholds(self.options.metric, True, {}) if self.options.prune else None
        self.corners = [
            RunTask(p, p.train.sweep.name, thresholds=thresholds) for p in {p.id: p for p in plans}.values()
        ]
        if self.options.prune and not plans[0].train.trainer.eval_every:
            text = "must be greater than 0: pruning compares runs at their evaluations"
            raise ConfigError([Problem("trainer.eval_every", 0, text, "trainer.eval_every=50")])
        return plans[0]

    def run(self, launcher: PointLauncher) -> None:
        """Run trials until there are `n_trials`. Writes the table and the results, also after an error.

        Raises SweepFailedError if trials have no result.
        """
        study = self._open()
        at_once = self.options.at_once or launcher.width()
        log.info("search %s: %s", self.name, "; ".join(map(str, self.axes)))
        try:
            if again := list(self._unevaluated(study).values()):
                self._launch(self._sweep(self._latest(study)), launcher, again)
            while batch := self._next(study, at_once):
                self._run(study, batch, launcher)
        finally:
            if trials := self._latest(study):
                sweep = self._sweep(trials)
                sweep.write()
                text = write_report(self.directory)
                page = write_sweep_page(self.directory)
                track_sweep(self.directory, self._tracking)
                print(f"\n{visible(text, MOST_OF_OUTPUT)}\n\n{self._found(study)}\n{sweep.hint()}")
                print(f"written to {self.directory}; open {page.name} in a browser")
        reasons = {n: study.trials[n].user_attrs.get("reason", "no result") for n in self._failed}
        reasons |= {n: why_unfinished(p.run.state(), p.plan) for n, p in self._unevaluated(study).items()}
        if reasons:
            lines = [f"  trial {n}: {why}" for n, why in sorted(reasons.items())]
            raise SweepFailedError(
                f"{len(lines)} of {counted(len(study.trials), 'trial')} failed; the same command tries them again\n"
                + "\n".join(lines)
            )

    def _open(self) -> optuna.Study:
        """The study, created or loaded. Raises ConfigError if the stored study is one of another search."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.directory.mkdir(parents=True, exist_ok=True)
        storage = self.options.storage or f"sqlite:///{(self.directory / 'study.db').absolute()}"
        study = self._verified(storage)
        before = study.user_attrs.get("about")
        if before not in (None, self._about):
            changed = ", ".join(key for key in self._about if before[key] != self._about[key])
            text = f"is the name of another search, which differs in {changed}"
            raise ConfigError([Problem("sweep.name", self.name, text, "sweep.name=<another>")])
        study.set_user_attr("about", self._about)
        known = {repr(trial.params) for trial in study.trials if trial.state != TrialState.FAIL}
        for trial in study.trials:
            if trial.state == TrialState.FAIL and repr(trial.params) not in known:
                known.add(repr(trial.params))
                study.enqueue_trial(trial.params)  # trials that failed before are tried again first
        return study

    def _verified(self, storage: str) -> optuna.Study:
        """The study in a storage, created or loaded.

        A damaged study is renamed and begun anew. The new one suggests the same trials, and reuses runs that are done.
        Raises OutputError if the damaged study is in a storage of the user's, which is left as it is.
        """
        file = self.directory / "study.db"
        study_of = partial(
            optuna.create_study, study_name=self.name, direction=self.direction, load_if_exists=True, storage=storage
        )
        try:
            if not self.options.storage:
                _verify_database(file)
            try:
                study = study_of()
                wrong = self._disagrees(study)
            except Exception as error:  # SQLAlchemy and optuna raise many types of errors for damaged rows
                causes = (type(cause).__name__ for cause in (error, error.__cause__, error.__context__))
                if "OperationalError" in causes:  # in use by another command, or not accessible: may be temporary
                    raise
                raise DamagedError(file, f"is damaged ({type(error).__name__}: {error})") from error
            if wrong:
                raise DamagedError(file, f"does not agree with the records of its runs ({wrong})")
        except DamagedError as error:
            if self.options.storage:
                raise OutputError(f"the study {self.name} in {storage} can't be used: it {error.why}") from error
            log.warning("%s", set_aside(error, "the search starts anew and reuses finished runs"))
            study = study_of()
        return study

    def _disagrees(self, study: optuna.Study) -> str:
        """How a study and the records of its runs disagree, in words; empty if they agree."""
        if study.user_attrs.get("about") != self._about:
            return ""
        trials = [trial for trial in self._latest(study) if "run" in trial.user_attrs]
        points = self._sweep(trials).points if trials else []
        for trial, point in zip(trials, points, strict=True):
            if trial.user_attrs["run"] != point.name:
                return f"the settings of trial {trial.number} are those of {point.name}, not {trial.user_attrs['run']}"
            found = point.run.record().get("summary", {}).get(self.options.metric)
            if trial.state == TrialState.COMPLETE and found is not None and found != trial.value:
                return f"trial {trial.number} has {trial.value}, and {point.name} has {found}"
        return ""

    def _next(self, study: optuna.Study, at_once: int) -> list[int]:
        """Numbers of the next trials. Trials that an earlier, interrupted command began come first."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        batch = [t.number for t in begun if t.number not in self._failed and self._is_suggested(t)][:at_once]
        left = self.options.n_trials - len(ended) - len(self._failed)
        while len(batch) < min(at_once, left):
            study.sampler = sampler(self.options, len(study.trials))
            batch.append(study.ask({axis.key: axis.values for axis in self.axes}).number)
        return batch[: max(0, left)]

    def _run(self, study: optuna.Study, batch: Sequence[int], launcher: PointLauncher) -> None:
        latest = self._latest(study)
        sweep = self._sweep(latest)
        points = {tuple(self._settings(trial)): point for trial, point in zip(latest, sweep.points, strict=True)}
        chosen = {number: points[tuple(self._settings(study.trials[number]))] for number in batch}  # some may be equal
        thresholds = self._thresholds(study) if self.options.prune else None
        sweep.queue(list(chosen.values()))
        self._launch(sweep, launcher, [replace(point, thresholds=thresholds) for point in chosen.values()])
        for number, point in chosen.items():
            self._store_result(study, number, point)

    def _launch(self, sweep: Sweep, launcher: PointLauncher, points: Sequence[RunTask]) -> None:
        launcher.check(points)
        sweep.write()
        sweep.run(launcher, points)

    def _unevaluated(self, study: optuna.Study) -> dict[int, RunTask]:
        """Trials that are done but lack the evaluation at their end."""
        trials = self._latest(study) if self._evaluates else []
        points = self._sweep(trials).points if trials else []
        return {
            trial.number: point
            for trial, point in zip(trials, points, strict=True)
            if lacks_evaluation(point.run.state(), point.plan)
        }

    def _latest(self, study: optuna.Study) -> list[FrozenTrial]:
        """Trials in their order. Of trials with equal settings only the last one is kept."""
        trials = [
            t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING and self._is_suggested(t)
        ]
        return sorted({tuple(self._settings(t)): t for t in trials}.values(), key=lambda trial: trial.number)

    def _is_suggested(self, trial: FrozenTrial) -> bool:
        """Whether a trial has all of its settings. The study stores a trial first and its settings one by one.

        If a command is interrupted between these steps, the trial never gets all of them.
        """
        return all(axis.key in trial.params for axis in self.axes)

    def _settings(self, trial: FrozenTrial) -> list[str]:
        return [axis.setting(trial.params[axis.key]) for axis in self.axes]

    def _sweep(self, trials: Sequence[FrozenTrial]) -> Sweep:
        jobs = [[*self._fixed, *self._settings(trial)] for trial in trials]
        plans = plan_points(self._composer, [[*job, f"++sweep.name={self.name}"] for job in jobs])
        return Sweep(self._config, plans, jobs, [axis.key for axis in self.axes])

    def _thresholds(self, study: optuna.Study) -> PruningThresholds:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return PruningThresholds.of(
            self.options.metric,
            minimize=self.direction == "minimize",
            earlier=[trial.intermediate_values for trial in done],
            least=self.options.prune_after,
        )

    def _store_result(self, study: optuna.Study, number: int, point: RunTask) -> None:
        """Store the result of a run in the study. A run that diverged or was pruned has a result: it is a bad one."""
        if study.trials[number].state.is_finished():  # another command of the same search has stored it
            return
        run, record = point.run, point.state()
        status, reason = record.get("status"), str(record.get("reason") or "")
        trial = Trial(study, study.trials[number]._trial_id)
        for key, value in (("run", run.id), ("status", status), ("reason", reason)):
            trial.set_user_attr(key, value)
        for row in read_rows(run.metrics):
            if self.options.metric in row and math.isfinite(row[self.options.metric]):
                trial.report(row[self.options.metric], int(row[STEP]))
        if status == "done":
            value = self._value(record)
            if math.isfinite(value):
                study.tell(number, value, skip_if_finished=True)
            else:
                trial.set_user_attr("reason", f"{self.options.metric} is {value}")
                study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        elif status in FINISHED or reason.startswith(PRUNED):
            study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._failed.add(number)
            if status == "failed":
                study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _value(self, record: Mapping[str, Any]) -> float:
        summary = record["summary"]
        if self.options.metric not in summary:
            known = ", ".join(name for name in summary if name.startswith(("eval/", "exact/")))
            text = f"{record['id']} has no metric {self.options.metric}; it has: {known}"
            raise AlignlabError(f"{text}\n  type: sweeper.metric=<one of these>")
        return float(summary[self.options.metric])

    def _found(self, study: optuna.Study) -> str:
        """The best trial and the importance of the axes, in words. Writes both, and all trials, to `search.json`."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return "no trial has a value yet"
        best, moved = study.best_trial, _importance(study)
        write_sealed(
            self.directory / "search.json",
            {
                **self._about,
                "best": best.number,
                "importance": moved,
                "trials": [
                    {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.user_attrs, **t.params}
                    for t in study.get_trials(deepcopy=False)
                ],
            },
        )
        lines = [
            f"best of {counted(len(done), 'done trial')}: {' '.join(self._settings(best))} ({best.user_attrs['run']}), "
            f"{self.options.metric} {best.value:.4g}"
        ]
        if moved:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in moved.items())
            lines.append(f"importance of the axes in {counted(len(done), 'done trial')}: {shares}")
        return "\n".join(lines)


def _importance(study: optuna.Study) -> dict[str, float]:
    """Axis -> its share in what makes trials good (PED-ANOVA), in [0, 1]. Empty for too few done trials."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _ENOUGH:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is experimental, and it warns of few trials
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            return optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # for instance because all values are equal
            return {}
