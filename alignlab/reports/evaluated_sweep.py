"""The evaluation of a sweep: settings with intervals over seeds and prompts, conclusions, and a table of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.evaluation.by_prompt import KL, by_prompt, of_run
from alignlab.evaluation.examples import Examples
from alignlab.inert import markdown
from alignlab.integrity import read_record, write_text
from alignlab.reports.evaluation import SUMMARY, estimate_text, win_rate_cells
from alignlab.reports.means import mean_text
from alignlab.reports.seeds_table import Settings, conclusions, prompts_left_out, settings_markdown, split_axes
from alignlab.reports.series import form, pooled
from alignlab.reports.tables import SETS, table
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted
from alignlab.statistics.comparison import Run, compare_settings, label
from alignlab.statistics.intervals import Array, mean_interval, score_interval
from alignlab.statistics.seeds_and_prompts import Crossed, over_seeds_and_prompts
from alignlab.tracking.metrics import is_rate


def write_sweep(directory: Path, folders: Mapping[str, Path]) -> str:
    """Write `evaluation.md` of a sweep and return its text.

    For each judge it has a table of settings, with intervals over seeds and prompts together, and conclusions at equal
    KL. A table of all runs follows.

    folders: run -> folder of its evaluation; all evaluations have the same settings.
    """
    sweep = read_sweep_record(directory)
    names = {p["run"]: label(sweep["axes"], [p[axis] for axis in sweep["axes"]]) for p in sweep["points"]}
    examples = {run: Examples.read(folder) for run, folder in folders.items()}
    summaries = {run: read_record(folder / SUMMARY) for run, folder in folders.items()}
    parts = []
    for name, axes, points in _sets(sweep):
        done = {p["run"]: examples[p["run"]] for p in points if p["run"] in examples}
        judges = list(dict.fromkeys(judge for rows in done.values() for judge in _judges(rows)))
        parts += [_settings(name, judge, axes, sweep, points, done, summaries) for judge in (judges or [""]) if done]
    text = "\n\n".join([*parts, f"## Runs\n\n{_runs(summaries, names)}"])
    write_text(directory / "evaluation.md", f"# {markdown(sweep['name'])}\n\n{text}\n")
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
    evaluated: dict[str, list[str]] = {}
    for point in points:
        setting, seed = tuple(str(point[a]) for a in own), ", ".join(str(point[a]) for a in repeated)
        runs.append(Run(setting, seed, found.metrics.get(point["run"], {})))
        status = "done" if point["run"] in done else "not evaluated"
        by_seed.setdefault(label(own, setting), {})[seed] = {"status": status}
        if point["run"] in done:
            evaluated.setdefault(label(own, setting), []).append(point["run"])
    seeds = max(map(len, evaluated.values()))
    rewards = [m for m in (f"eval/score/{judge}/mean", f"eval/winrate/{judge}") if any(m in r.metrics for r in runs)]
    no_kl = not all(KL in run.metrics for run in runs if run.metrics)
    compared = compare_settings(
        runs, own, metric=rewards[0] if no_kl and rewards else "", better="higher" if no_kl and rewards else "",
        interval_of=Crossed(everything) if seeds == 1 else partial(over_seeds_and_prompts, all_prompts=everything),
    )  # fmt: skip
    settings = Settings(compared, by_seed, _over(seeds, everything), prompts_count=True)
    prompts = found.prompts + found.left_out
    lines = [f"{counted(prompts, 'prompt')} answered."]
    if found.left_out:
        lines.append(prompts_left_out(found.left_out, prompts))
    if no_kl and rewards:
        lines.append("The KL is not known, so this does not say which setting is best at equal KL.")
    lines += conclusions(settings, "") if judge else []
    text = settings_markdown(settings, _means(evaluated, done, judge, summaries, seeds == 1))
    return "\n".join([f"## {title}", "", text, "", *(f"- {line}" for line in lines)])


def _means(
    runs: Mapping[str, Sequence[str]],
    done: Mapping[str, Examples],
    judge: str,
    summaries: Mapping[str, Mapping[str, Any]],
    one_seed: bool,
) -> dict[str, dict[str, str]]:
    """Metric -> setting -> its mean with the interval in words, the same as on the page of the sweep.

    A prompt is left out if a run of the setting has no valid verdict there.

    runs:     setting -> its evaluated runs.
    one_seed: no setting has more than one evaluated run.
    """
    own = {run: of_run(rows) for run, rows in done.items()}
    found: dict[str, dict[str, str]] = {}
    for setting, names in runs.items():
        for name in _metrics(judge):
            values = [(own[run], own[run].values[name]) for run in names if name in own[run].values]
            if not values or len(values) < len(names):
                continue
            metric = f"eval/{name}"
            numbers = pooled(values, name) if len(names) > 1 else _of_one_run(summaries[names[0]], name, values[0][1])
            if numbers is None:
                continue
            over = "seeds" if one_seed and not is_rate(metric) else numbers["over"]  # the text says what ± is over
            shown = (numbers["value"], numbers["low"], numbers["high"])
            found.setdefault(metric, {})[setting] = mean_text(*shown, form(metric), over)
    return found


def _metrics(judge: str) -> list[str]:
    """The metrics of a table, as in `OfRun`."""
    return [KL.removeprefix("eval/"), *([f"score/{judge}/mean", f"winrate/{judge}"] if judge else [])]


def _of_one_run(summary: Mapping[str, Any], name: str, values: Array) -> dict[str, Any] | None:
    """A metric of one run with the interval of its evaluation; None without a valid verdict.

    values: [P] the metric by prompt, for evaluations that did not store the interval; NaN without a valid verdict.
    """
    stored = _stored(summary, name)
    low, high = ("ci_low", "ci_high") if "ci_low" in stored else ("low", "high")
    if stored.get("value") is not None:
        return {"value": stored["value"], "low": stored[low], "high": stored[high], "over": "prompts"}
    valid = values[np.isfinite(values)]
    if not valid.size:
        return None
    mean = score_interval(valid) if name.startswith("winrate/") else mean_interval(valid)
    return {"value": mean.value, "low": mean.low, "high": mean.high, "over": "prompts"}


def _stored(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The numbers of a metric in the summary of an evaluation; empty if it has none."""
    kind, _, rest = name.partition("/")
    if kind == "winrate":
        rates = [judges[rest].get("win_rate") for judges in summary["compared"].values() if rest in judges]
        return next(iter(rates), None) or {}
    if kind == "kl_ref":
        return summary["kl"].get(rest) or {}
    return summary["answers"]["policy"].get(name.removesuffix("/mean")) or {}


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
