"""Reads a sweep, or any runs, from their directories: points, records, frontiers, evaluations.

A directory that is half-written, damaged or from an older version is not an error: `Collected.notes` says what could
not be read. Imports no torch, so a notebook can use it:

    from alignlab.reports.collect import read_sweep
    from alignlab.reports.figures import frontier
    frontier(read_sweep("outputs/sweeps/dpo_beta-7c897c")).savefig("frontier.pdf")
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignlab.errors import AlignlabError, ConfigError, DamagedError, Problem
from alignlab.evaluation.by_prompt import OfRun, of_run
from alignlab.evaluation.examples import FILE, Examples
from alignlab.integrity import json_digest, read_record
from alignlab.reports.seeds_table import Settings, settings_of, split_axes
from alignlab.reports.tables import blocks_by_set, sweep_frame
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import flatten
from alignlab.runs.query import DAMAGED, Record, refuse_no_name
from alignlab.runs.record import is_name
from alignlab.spelling import counted
from alignlab.statistics.comparison import label
from alignlab.statistics.intervals import Array

_SUMMARY = "summary.json"

# Fields that set the strength of an objective. The first of them that an objective has is its `strength`.
_STRENGTHS = ("beta", "tau", "delta", "kl_coef", "odds_weight", "alpha")

# Parts of a config that do not affect the numbers of a run. They are not axes when runs outside a sweep are reported.
_COSMETIC = ("sweep.", "tracking.", "output_root", "rerun", "if_running", "trainer.progress", "trainer.accelerator")


@dataclass(frozen=True)
class Collected:
    """A sweep, or runs that are reported together.

    root:    the output folder.
    axes:    names of the axes; every point has a value of each, as text.
    zipped:  groups of axes whose values belong together.
    points:  `point`, `run` and the values of the axes.
    records: run -> its record, with its current status.
    folder:  the folder of the sweep; None for runs that are no sweep.
    notes:   what could not be read, in sentences.
    """

    name: str
    question: str
    root: Path
    axes: list[str]
    points: list[dict[str, Any]]
    records: dict[str, Record]
    zipped: list[list[str]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per point: its axes, run, status, and all metrics of its summary."""
        return sweep_frame(self.points, self.records)

    @cached_property
    def setting_axes(self) -> list[str]:
        """The axes without the seed and what is zipped with it."""
        return split_axes(self.axes, self.zipped)[0]

    @cached_property
    def seed_axes(self) -> list[str]:
        return split_axes(self.axes, self.zipped)[1]

    @cached_property
    def strength(self) -> str | None:
        """The x-axis of figures: the strength, or else a numeric field of the objective, or any numeric axis."""
        values = {axis: {point[axis] for point in self.points} for axis in self.setting_axes}
        several = [axis for axis, of in values.items() if len(of) > 1 and all(map(_is_finite, of))]
        by_field = [axis for axis in several if axis.startswith("objective.")]
        return "strength" if "strength" in several else next(iter(by_field or several), None)

    @cached_property
    def line_axes(self) -> list[str]:
        """The axes whose values choose the line and the colour of a setting: all but the strength."""
        return [axis for axis in self.setting_axes if axis != self.strength]

    def line(self, point: Mapping[str, Any]) -> str:
        """The name of the line that a point lies on."""
        values = [point[axis] for axis in self.line_axes]
        named = values[0] if self.line_axes == ["objective"] else label(self.line_axes, values)
        return named or str(point["run"]).rpartition("-")[0] or self.name

    @cached_property
    def done(self) -> list[dict[str, Any]]:
        """The points whose runs are done."""
        return [point for point in self.points if self.records[point["run"]].get("status") == "done"]

    def run(self, point: Mapping[str, Any]) -> RunDir:
        return RunDir.of(self.root, point["run"])

    def setting(self, point: Mapping[str, Any]) -> str:
        """The name of a point's setting."""
        return label(self.setting_axes, [point[axis] for axis in self.setting_axes]) or self.name

    def seed(self, point: Mapping[str, Any]) -> str:
        return ", ".join(point[axis] for axis in self.seed_axes)

    @cached_property
    def evaluated(self) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
        """Run -> folders of its evaluations with their summaries, oldest first, for finished runs."""
        return {point["run"]: _evaluations(self.run(point), self.notes) for point in self.done}

    @cached_property
    def by_prompt(self) -> dict[str, list[tuple[str, OfRun]]]:
        """Run -> (file of prompts, numbers by prompt) of its evaluations, newest first. No file: held-out prompts."""
        found: dict[str, list[tuple[str, OfRun]]] = {}
        for run, evaluations in self.evaluated.items():
            for folder, summary in reversed(evaluations):
                stored = summary.get("by_prompt")  # older summaries lack it
                if not stored and not (folder / FILE).is_file():
                    continue
                try:
                    numbers = OfRun.from_dict(stored) if stored else of_run(Examples.read(folder))
                except (AlignlabError, OSError, KeyError, TypeError, ValueError) as error:
                    self.notes.append(f"{run}: the answers of an evaluation are left out: {error}")
                    continue
                found.setdefault(run, []).append((asked_file(summary), numbers))
        return found

    @cached_property
    def settings(self) -> list[tuple[str, Settings]]:
        """(name of the data set, its settings with their comparison), for each data set that the points use."""
        if not self.points:
            return []
        return [
            (
                name,
                settings_of(
                    part, [a for a in own if a not in self.seed_axes], self.seed_axes, self.about,
                    self._same_prompts(part.loc[part["status"] == "done", "run"]),
                ),
            )
            for name, part, own in blocks_by_set(self.frame, self.axes)
        ]  # fmt: skip

    def _same_prompts(self, runs: Iterable[str]) -> dict[str, dict[str, Array]]:
        """Run -> metric of its record -> [P] values by prompt.

        Empty unless all runs answered the same held-out prompts, a sample of all prompts, with the same judges.
        Prompts without a valid verdict for every run are left out.
        """
        known, valid = self._valid_prompts(runs)
        return {
            run: {f"eval/{name}": values[valid] for name, values in one.values.items() if valid.any()}
            for run, one in known.items()
        }

    def prompts_left_out(self, settings: Settings) -> tuple[int, int]:
        """(prompts that comparisons leave out, all prompts) of settings that are compared prompt by prompt."""
        points = (point for points in settings.points.values() for point in points.values())
        _, valid = self._valid_prompts(point["run"] for point in points if point["status"] == "done")
        return int((~valid).sum()), len(valid)

    def _valid_prompts(self, runs: Iterable[str]) -> tuple[dict[str, OfRun], NDArray[np.bool_]]:
        """(run -> its numbers by held-out prompt, [P] whether all of them are valid).

        Empty unless all runs answered the same prompts, a sample of all prompts, with the same judges.
        """
        newest = {run: next((one for file, one in self.by_prompt.get(run, []) if not file), None) for run in runs}
        known = {run: one for run, one in newest.items() if one is not None}
        nothing: tuple[dict[str, OfRun], NDArray[np.bool_]] = {}, np.zeros(0, dtype=bool)
        if not known or len(known) < len(newest):
            return nothing
        first = next(iter(known.values()))
        if any(one.all_prompts or not one.same_prompts(first) or one.values.keys() != first.values.keys()
               for one in known.values()):  # fmt: skip
            return nothing
        return known, np.all([np.isfinite(of) for one in known.values() for of in one.values.values()], axis=0)


def asked_file(summary: Mapping[str, Any]) -> str:
    """The name of the file whose prompts an evaluation asked; empty for the run's own held-out prompts."""
    return str(summary.get("questions") or ("xstest" if "refusals" in summary else ""))


def read_sweep(folder: str | Path) -> Collected:
    """A sweep from its folder, `<output_root>/sweeps/<name>`.

    Raises ConfigError if there is no such sweep, and DamagedError if its record can't be read.
    """
    folder = Path(folder)
    file = folder / "sweep.json"
    try:
        sweep = read_record(file)
        listed, axes = sweep["points"], [str(axis) for axis in sweep["axes"]]
        named = [point for point in listed if isinstance(point, dict) and is_name(point.get("run"))]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError([Problem("sweep", folder, f"is not the folder of a sweep: there is no {file}")]) from error
    except (KeyError, TypeError) as error:
        raise DamagedError(file, f"is not the record of a sweep ({type(error).__name__}: {error})") from error
    points = [
        {"point": point.get("point", number), "run": point["run"], **{a: str(point.get(a, "")) for a in axes}}
        for number, point in enumerate(named)
    ]
    root = folder.absolute().parents[1]
    records, notes = _records(root, [point["run"] for point in points])
    if lost := len(listed) - len(points):
        notes.append(f"{file}: {counted(lost, 'point')} without a run {'is' if lost == 1 else 'are'} left out")
    return Collected(
        name=str(sweep.get("name") or folder.name),
        question=str(sweep.get("question") or ""),
        root=root,
        axes=axes,
        points=points,
        records=records,
        zipped=[group for group in sweep.get("zip") or [] if isinstance(group, list)],
        about={key: value for key, value in sweep.items() if key != "points"},
        folder=folder.absolute(),
        notes=notes,
    )


def read_runs(root: str | Path, names: Iterable[str]) -> Collected:
    """Any runs, of one sweep or not. Their axes are the objective and the keys of the config that differ.

    The strengths of several objectives are one axis, `strength`. Other fields of an objective are axes if runs of the
    same objective differ in them.
    """
    ids = list(dict.fromkeys(names))
    records, notes = _records(Path(root).absolute(), ids)
    flats = _with_one_strength({run: _settings_of(record) for run, record in records.items()})
    keys = dict.fromkeys(key for flat in flats.values() for key in flat)
    axes = [key for key in keys if _differs(key, list(flats.values()))]
    points = [
        {"point": number, "run": run, **{axis: _shown(flats[run].get(axis)) for axis in axes}}
        for number, run in enumerate(ids)
    ]
    name = ids[0] if len(ids) == 1 else f"runs-{json_digest(sorted(ids), 6)}"
    return Collected(name, "", Path(root).absolute(), axes, points, records, notes=notes)


def find_sweep(root: str | Path, wanted: str) -> Path | None:
    """The folder of a sweep, given as a folder, a name or the beginning of a name. None if there is no such sweep.

    Raises ConfigError if several names begin with it.
    """
    try:
        if wanted.strip() and (Path(wanted) / "sweep.json").is_file():
            return Path(wanted)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    refuse_no_name(wanted)
    names = [file.parent.name for file in sorted((Path(root) / "sweeps").glob("*/sweep.json"))]
    found = [name for name in names if name == wanted] or [name for name in names if name.startswith(wanted)]
    if len(found) > 1:
        several = f"is the beginning of several sweeps: {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"
        raise ConfigError([Problem("sweep", wanted, several)], where="this command; nothing was done")
    return Path(root) / "sweeps" / found[0] if found else None


def _evaluations(run: RunDir, notes: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The evaluations of a run, except those made during its training (`step-*`). Adds unreadable ones to the notes."""
    found = []
    for file in (run.path / "evaluation").glob(f"*/{_SUMMARY}"):
        if file.parent.name.startswith("step-"):
            continue
        try:
            found.append((file.stat().st_mtime, file.parent, read_record(file)))
        except (OSError, DamagedError) as error:
            notes.append(f"{run.id}: an evaluation is left out: {error}")
    return [(folder, summary) for _, folder, summary in sorted(found, key=lambda one: one[:2])]


def _records(root: Path, runs: Sequence[str]) -> tuple[dict[str, Record], list[str]]:
    """(run -> its record with numbers only in the summary, notes on what could not be read)."""
    records: dict[str, Record] = {}
    notes: list[str] = []
    for name in runs:
        run = RunDir.of(root, name)
        if damage := run.damage():
            records[name] = {"id": name, "status": DAMAGED, "reason": damage}
            notes.append(f"{name}: {damage}")
            continue
        record, wrong = run.state(), run.wrong_fields()
        if not record and run.path.exists():
            what = "its folder has no run.json" if run.path.is_dir() else "a file stands in place of its folder"
            records[name] = {"id": name, "status": DAMAGED, "reason": what}
            notes.append(f"{name}: {what}")
            continue
        if wrong:
            notes.append(f"{name}: fields of its record have a wrong type and are left out: {', '.join(wrong)}")
        summary = {key: float(value) for key, value in record.get("summary", {}).items() if _is_number(value)}
        if dropped := len(record.get("summary", {})) - len(summary):
            notes.append(f"{name}: {counted(dropped, 'metric')} of its summary can't be read as a number")
        unknown = {} if record.get("status") else {"status": DAMAGED, "reason": "its record has no status"}
        records[name] = {**record, "summary": summary, **unknown} if record else {}
    return records, notes


def _settings_of(record: Record) -> dict[str, Any]:
    """The objective and the config of a run with dotted keys, without keys that change no number."""
    flat = flatten(record.get("config", {}))
    kept = {key: value for key, value in flat.items() if not key.startswith(_COSMETIC)}
    return {"objective": str(record.get("id", "")).rpartition("-")[0], **kept}


def _with_one_strength(flats: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of runs, with `strength` in place of the strength of each objective if there are several."""
    if len({flat["objective"] for flat in flats.values()}) < 2:
        return dict(flats)
    found = {}
    for run, flat in flats.items():
        own = next((key for name in _STRENGTHS if (key := f"objective.{name}") in flat), "")
        rest = {key: value for key, value in flat.items() if key not in ("objective", own)}
        found[run] = {"objective": flat["objective"], **({"strength": flat[own]} if own else {}), **rest}
    return found


def _differs(key: str, flats: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a setting differs between runs; a field of the objective must differ between runs of one objective."""
    values = {(flat["objective"] if key.startswith("objective.") else "", _shown(flat.get(key))) for flat in flats}
    return len(values) > len({objective for objective, _ in values})


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
