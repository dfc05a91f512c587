"""The evaluation of a sweep: settings with intervals over seeds and prompts, conclusions, and a table of all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.evaluation.by_prompt import KL, by_prompt
from alignlab.evaluation.examples import Examples
from alignlab.integrity import read_record, write_text
from alignlab.reports.evaluation import SUMMARY, estimate_text, win_rate_cells
from alignlab.reports.means import mean_text
from alignlab.reports.seeds_table import Settings, conclusions, settings_markdown, split_axes
from alignlab.reports.series import form
from alignlab.reports.tables import SETS, table
from alignlab.spelling import counted
from alignlab.statistics.comparison import ComparedSettings, Run, compare_settings, label
from alignlab.statistics.intervals import Array, Estimate, score_interval
from alignlab.statistics.seeds_and_prompts import Crossed, pooled_rate


def write_sweep(directory: Path, folders: Mapping[str, Path]) -> str:
    """Write `evaluation.md` of a sweep and return its text.

    For each judge it has a table of settings, with intervals over seeds and prompts together, and conclusions at equal
    KL. A table of all runs follows.

    folders: run -> folder of its evaluation; all evaluations have the same settings.
    """
    sweep = read_record(directory / "sweep.json")
    names = {p["run"]: label(sweep["axes"], [p[axis] for axis in sweep["axes"]]) for p in sweep["points"]}
    examples = {run: Examples.read(folder) for run, folder in folders.items()}
    summaries = {run: read_record(folder / SUMMARY) for run, folder in folders.items()}
    parts = []
    for name, axes, points in _sets(sweep):
        done = {p["run"]: examples[p["run"]] for p in points if p["run"] in examples}
        judges = list(dict.fromkeys(judge for rows in done.values() for judge in _judges(rows)))
        parts += [_settings(name, judge, axes, sweep, points, done, summaries) for judge in (judges or [""]) if done]
    text = "\n\n".join([*parts, f"## Runs\n\n{_runs(summaries, names)}"])
    write_text(directory / "evaluation.md", f"# {sweep['name']}\n\n{text}\n")
    return text


def _sets(sweep: Mapping[str, Any]) -> list[tuple[str, list[str], list[Mapping[str, Any]]]]:
    """(data set, axes, points) for each set of a sweep. Runs on different sets are not compared."""
    points, axes = sweep["points"], sweep["axes"]
    sets = [axis for axis in axes if axis in SETS]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault(label(sets, [point[axis] for axis in sets]), []).append(point)
    return [(name, [axis for axis in axes if axis not in sets], of) for name, of in found.items()]


def _judges(examples: Examples) -> list[str]:
    """All judges of a run, in the order of their columns."""
    return list(dict.fromkeys([*examples.scored_by, *(j for b in examples.baselines for j in examples.compared_by(b))]))


def _settings(
    name: str,
    judge: str,
    axes: Sequence[str],
    sweep: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    done: Mapping[str, Examples],
    summaries: Mapping[str, Mapping[str, Any]],
) -> str:
    """A section on one judge: a table with one row for each setting, and conclusions."""
    title = ", ".join(part for part in (name, f"judged by {judge}" if judge else "no judge") if part)
    found = by_prompt(done, judge)
    if found is None:
        return f"## {title}\n\nThe runs have different prompts, so they are not compared."
    own, repeated = split_axes(axes, sweep.get("zip", []))
    everything = all(rows.all_prompts for rows in done.values())
    runs: list[Run] = []
    by_seed: dict[str, dict[str, Any]] = {}
    own_summaries: dict[str, Mapping[str, Any]] = {}
    for point in points:
        setting, seed = tuple(str(point[a]) for a in own), ", ".join(str(point[a]) for a in repeated)
        runs.append(Run(setting, seed, found.metrics.get(point["run"], {})))
        status = "done" if point["run"] in done else "not evaluated"
        by_seed.setdefault(label(own, setting), {})[seed] = {"status": status}
        if point["run"] in summaries:
            own_summaries[label(own, setting)] = summaries[point["run"]]
    rewards = [m for m in (f"eval/score/{judge}/mean", f"eval/winrate/{judge}") if any(m in r.metrics for r in runs)]
    no_kl = not all(KL in run.metrics for run in runs if run.metrics)
    compared = compare_settings(
        runs, own, metric=rewards[0] if no_kl and rewards else "", better="higher" if no_kl and rewards else "",
        interval_of=Crossed(everything),
    )  # fmt: skip
    seeds = max(len(of) for of in by_seed.values())
    settings = Settings(compared, by_seed, _over(seeds, everything), prompts_count=True)
    left_out = f" {counted(found.left_out, 'prompt')} left out, because not every run has a valid verdict there."
    lines = [f"{counted(found.prompts, 'prompt')} answered.{left_out if found.left_out else ''}"]
    if no_kl and rewards:
        lines.append("The KL is not known, so this does not say which setting is best at equal KL.")
    lines += conclusions(settings, "") if judge else []
    text = settings_markdown(settings, _win_rates(compared, own_summaries, everything))
    return "\n".join([f"## {title}", "", text, "", *(f"- {line}" for line in lines)])


def _win_rates(
    compared: ComparedSettings, own: Mapping[str, Mapping[str, Any]], everything: bool
) -> dict[str, dict[str, str]]:
    """Metric -> setting -> win-rate with its interval in words, the same as on the page of the sweep.

    own: setting -> summary of the evaluation of one of its runs.
    """
    found: dict[str, dict[str, str]] = {}
    for name, values in compared.values.items():
        for metric in [m for m, rates in values.items() if m.startswith("eval/winrate/") and rates]:
            rates = list(values[metric].values())
            several = len(rates) > 1
            mean = pooled_rate(rates, all_prompts=everything) if several else _over_prompts(rates[0], own[name], metric)
            text = mean_text(mean.value, mean.low, mean.high, form(metric), "seeds" if several else "prompts")
            found.setdefault(metric, {})[name] = text
    return found


def _over_prompts(values: Array, summary: Mapping[str, Any], metric: str) -> Estimate:
    """A win-rate of one run with the interval of its evaluation. If prompts are left out, it is that of the others.

    values: [P] win-rate by prompt.
    """
    judges: Mapping[str, Any] = next(iter(summary["compared"].values()), {})
    stored = judges.get(metric.removeprefix("eval/winrate/"), {}).get("win_rate")
    if stored and math.isclose(stored["value"], float(np.mean(values)), abs_tol=1e-9):
        return Estimate(stored["value"], math.nan, stored["ci_low"], stored["ci_high"], len(values))
    return score_interval(values)


def _over(seeds: int, everything: bool) -> str:
    """What the intervals are over, in words."""
    if seeds == 1:
        return "over prompts. With one seed, nothing is known about other seeds"
    return "over seeds. The prompts are all that there are" if everything else "over seeds and prompts together"


def _runs(summaries: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """A table with one row per run; win-rates are against the first baseline."""
    compared = next(iter(summaries.values()))["compared"]
    against = next(iter(compared), "")
    judges = list(compared.get(against, {}))
    heads = ["", "run", "KL k1", *(f"score by {j}" for j in judges), *(f"win-rate by {j}" for j in judges), "verdict"]
    rows = []
    for run, summary in summaries.items():
        found = summary["compared"].get(against, {})
        rows.append(
            [
                names[run],
                run,
                estimate_text(summary["kl"].get("sequence_k1")),
                *(estimate_text(summary["answers"]["policy"].get(f"score/{judge}")) for judge in judges),
                *(win_rate_cells(found.get(judge, {}).get("win_rate"))[0] for judge in judges),
                summary["health"]["verdict"],
            ]
        )
    return f"Win-rates are against {against or 'nothing'}. The 95 % intervals are over prompts.\n\n{table(heads, rows)}"
