"""Shows evaluations as text, as a web page and as a table of a sweep."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignlab.errors import DataError
from alignlab.evaluation.equal_kl import kl_of, score_at_kl
from alignlab.evaluation.examples import Examples, same_prompts, unscored
from alignlab.integrity import read_record, write_text
from alignlab.reports.tables import label, table
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.statistics.power import detectable, prompts_needed
from alignlab.statistics.significance import compare_with

if TYPE_CHECKING:
    from alignlab.evaluation.drift import Change
    from alignlab.judges.base import JudgingCost

SUMMARY = "summary.json"
_KL = {
    "sequence_k1": "KL k1 (nats per answer)",
    "token_k3": "KL k3 by token (nats per answer)",
    "per_token": "KL (nats per token)",
    "forward_k1": "KL of the reference from the policy (nats per answer)",
    "forward_on_data": "loss of log-ratio on the data's answers (nats per answer)",
}
_ANSWERS = {"tokens": ".1f", "characters": ".0f", "ended": ".2f", "repetition": ".3f"}


def summary_text(summary: Mapping[str, Any]) -> str:
    """A summary (alignlab/evaluation/summary.py) as text: a few lines and two tables, with intervals."""
    if "answers" not in summary:
        return _pairs(summary["pairs"])
    lines = [
        f"{counted(summary['rows'], 'answer')} to {counted(summary['prompts'], 'prompt')}; 95 % intervals over prompts",
        "",
    ]
    lines += [f"{text}: {_shown(summary['kl'][name])}" for name, text in _KL.items() if name in summary["kl"]]
    if not summary["kl"]:
        lines.append("no KL: the answers were not sampled at temperature 1")
    scores = [key for key in summary["answers"]["policy"] if key.startswith("score/")]
    rows = [
        [
            side,
            *(_shown(found[name], form) for name, form in _ANSWERS.items()),
            _number(found["distinct_2"], ".3f"),
            *(_shown(found[key]) if key in found else "" for key in scores),
        ]
        for side, found in summary["answers"].items()
    ]
    heads = ["answers of", "tokens", "characters", "ended", "repeated", "distinct pairs of words"]
    lines += ["", table([*heads, *(key.replace("score/", "score by ") for key in scores)], rows)]
    compared = [
        [baseline, judge, *_win_rate(found.get("win_rate")), _shown(found.get("score_difference"))]
        for baseline, judges in summary["compared"].items()
        for judge, found in judges.items()
    ]
    if compared:
        heads = ["against", "judge", "win-rate", "wins, ties, losses", "invalid, unjudged", "same in both orders"]
        lines += ["", table([*heads, "difference of scores"], compared), *_power(summary["compared"])]
    for judge, curve in summary["best_of_n"].items():
        lines += ["", f"best of n by {judge}: " + ", ".join(f"{n}: {_shown(e)}" for n, e in curve.items())]
    if "refusals" in summary:
        heads = ["refused by", "of safe prompts", "of unsafe prompts"]
        refused = summary["refusals"].items()
        rows = [[side, *(_shown(found[name]) for name in ("over_refusal", "refusal"))] for side, found in refused]
        lines += [
            "",
            table(heads, rows),
            "refusals are found by phrases (89 % agreement with people)",
        ]
    if "pairs" in summary:
        lines += ["", _pairs(summary["pairs"])]
    return "\n".join([*lines, *([_health(summary["health"])] if "health" in summary else [])])


def _pairs(found: Mapping[str, Any]) -> str:
    """Accuracy on pairs, by subset and section if there are any."""

    def row(name: str, accuracy: Mapping[str, Any]) -> list[str]:
        rate = accuracy["rate"]
        counts = [str(accuracy["pairs"]), str(rate["n"])]
        return [name, *counts, _shown(rate), _number(accuracy["strict"]), str(accuracy["ties"])]

    heads = ["pairs", "n", "prompts", "accuracy (ties half)", "strict accuracy", "ties"]
    text = table(heads, [row("all", found), *(row(name, accuracy) for name, accuracy in found["subsets"].items())])
    sections = "".join(f"\n{name}: {_number(value)}" for name, value in found["sections"].items())
    return text + sections + ("" if math.isnan(found["score"]) else f"\nscore: {_number(found['score'])}")


def stored_text(folder: Path) -> str:
    """The text of a stored summary, and the name of its folder."""
    return f"{summary_text(read_record(folder / SUMMARY))}\n{folder}"


def end_line(folder: Path, record: Mapping[str, Any]) -> str:
    """A line about the evaluation that a run has without being asked: KL, and win-rate or held-out accuracy."""
    summary = read_record(folder / SUMMARY)
    parts = [f"evaluated on {counted(summary['prompts'], 'held-out prompt')}"]
    if kl := summary["kl"].get("sequence_k1"):
        parts.append(f"KL to the reference {_shown(kl)} nats per answer")
    found = [
        f"win-rate against {baseline} by {judge} {_win_rate(numbers['win_rate'])[0]}"
        for baseline, judges in summary["compared"].items()
        for judge, numbers in judges.items()
        if "win_rate" in numbers
    ]
    if not found:
        accuracy = record.get("summary", {}).get("eval/pairs/accuracy")
        known = "" if accuracy is None else f"accuracy on held-out pairs {accuracy:.3f}, "
        found = [f"{known}no win-rate: judge=<a judge> gives one"]
    return "; ".join([*parts, *found]) + f"\n{folder}"


def _health(health: Mapping[str, Any]) -> str:
    """A line with the verdict and its reasons, or with the reasons why there is no verdict."""
    hits = [c for c in health["checks"] if c["hit"]]
    unknown = health.get("unknown", [])  # older summaries lack it
    if hits:
        why = "; ".join(f"{c['name']} {_number(c['value'])}, limit {_number(c['limit'])}" for c in hits)
    elif unknown:
        why = "; ".join(unknown)
    else:
        unseen = "".join(f"; not seen: {what}" for what in health.get("unseen", []))
        why = f"{counted(len(health['checks']), 'check')} passed{unseen}"
    return f"\nno verdict: {why}" if unknown and not hits else f"\nverdict: {health['verdict']} ({why})"


def _win_rate(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return [""] * 4
    rate = {"value": found["value"], "low": found["ci_low"], "high": found["ci_high"]}
    agreed = _number(found["order_consistency"], ".2f") if "order_consistency" in found else ""
    return [
        _shown(rate),
        f"{found['wins']:.0f}, {found['ties']:.0f}, {found['losses']:.0f}",
        f"{found['invalid']:.0f}, {found['unjudged']:.0f}",
        agreed,
    ]


def _power(compared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines with the smallest difference that this number of prompts can show, one for each number and tie rate."""
    rates = [found["win_rate"] for judges in compared.values() for found in judges.values() if found.get("win_rate")]
    sizes = {(int(rate["n"]), round(rate["tie_rate"], 2)) for rate in rates if rate["n"] >= 1}
    lines = []
    for prompts, ties in sorted((prompts, ties) for prompts, ties in sizes if ties < 1):
        seen = detectable(prompts, tie_rate=ties)
        among = f", {ties:.0%} ties" if ties else ""
        shown = (
            "no difference of a win-rate from 0.5 can be detected"
            if math.isnan(seen)
            else f"a win-rate that differs from 0.5 by {seen:.2f} can be detected"
        )
        possible = (1 - ties) / 2 > 0.05  # with more ties no win-rate differs by 0.05
        needed = f"; a difference of 0.05 needs {prompts_needed(0.05, tie_rate=ties):,}" if possible else ""
        lines.append(f"with {counted(prompts, 'prompt')}, {shown} (power 80 %{among}){needed}")
    return lines


def bill_line(bill: JudgingCost) -> str:
    """A line with the calls and cost of judging; empty if no endpoint was used and nothing failed."""
    if not (bill.calls or bill.cached or bill.failures):
        return ""
    cost = f", cost {bill.cost:.4g}" if bill.cost else ""
    failed = "".join(f"\n  {number} unjudged: {reason}" for reason, number in bill.failures.items())
    return f"judging: {counted(bill.calls, 'call')}, {counted(bill.cached, 'verdict')} stored before{cost}{failed}"


def write_sweep(directory: Path, folders: Mapping[str, Path]) -> str:
    """Write `evaluation.md` of a sweep and return its text.

    It has a table of all runs with KL, scores and win-rates, comparisons with the best run, and methods at equal KL.

    folders: run -> folder of its evaluation; all evaluations have the same settings.
    """
    sweep = read_record(directory / "sweep.json")
    names = {p["run"]: label(sweep["axes"], [p[axis] for axis in sweep["axes"]]) for p in sweep["points"]}
    examples = {run: Examples.read(folder) for run, folder in folders.items()}
    summaries = {run: read_record(folder / SUMMARY) for run, folder in folders.items()}
    methods: dict[str, list[Examples]] = {}
    for run in examples:
        record = RunDir.of(directory.parents[1], run).record()
        methods.setdefault(record.get("objective", {}).get("name", "?"), []).append(examples[run])
    text = _runs(summaries, names)
    for judge in next(iter(examples.values())).scored_by:
        text += f"\n\n{_best(examples, names, judge)}{_at_equal_kl(methods, judge)}"
    write_text(directory / "evaluation.md", f"# {sweep['name']}\n\n{text}\n")
    return text


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
                _shown(summary["kl"].get("sequence_k1")),
                *(_shown(summary["answers"]["policy"].get(f"score/{judge}")) for judge in judges),
                *(_win_rate(found.get(judge, {}).get("win_rate"))[0] for judge in judges),
                summary["health"]["verdict"],
            ]
        )
    return f"win-rates against {against or 'nothing'}; 95 % intervals over prompts\n\n{table(heads, rows)}"


def _best(examples: Mapping[str, Examples], names: Mapping[str, str], judge: str) -> str:
    """A table that compares every run with the one with the highest mean score, prompt by prompt.

    The best run was chosen by the same scores, so p-values are corrected for all pairs (Bonferroni).
    """
    scores = {run: unscored(rows[f"policy/score/{judge}"]) for run, rows in examples.items()}
    means = {run: np.nanmean(values) if not np.all(np.isnan(values)) else -np.inf for run, values in scores.items()}
    best = max(means, key=lambda run: float(means[run]))
    prompts = examples[best]["prompt_id"]
    if len(scores) == 1 or not all(same_prompts(examples[best], rows) for rows in examples.values()):
        return ""
    pairs = len(scores) * (len(scores) - 1) // 2
    rows = []
    for found in compare_with(best, scores, prompts):
        p = min(1.0, found.test.p_value * pairs)
        worse = p < 0.05 and found.difference.high < 0
        rows.append([names[found.run], f"{found.difference:.3f}", f"{p:.2g}", "" if worse else "yes"])
    heads = ["", f"score by {judge}, minus that of {names[best]}", "p (sign test, all pairs)", "tied with the best"]
    return table(heads, rows)


def _at_equal_kl(methods: Mapping[str, Sequence[Examples]], judge: str) -> str:
    """A table of scores at KLs that all methods reach; empty for one method, and without KL or reference."""
    needed = ("policy/reference_logps", f"reference/score/{judge}")
    if len(methods) < 2 or any(column not in rows for runs in methods.values() for rows in runs for column in needed):
        return ""
    reach = min(max(kl_of(rows) for rows in runs) for runs in methods.values())
    at = (
        [reach / 4, reach / 2, 3 * reach / 4] if reach > 0 else []
    )  # at its end a confidence band would lack half of its bootstrap samples
    try:
        found = {method: score_at_kl(runs, judge, at) for method, runs in methods.items()} if at else {}
    except DataError as error:
        return f"\n\nno comparison at equal KL: {error}"
    rows = [[method, *(format(e, ".3f") for e in estimates)] for method, estimates in found.items()]
    heads = ["method", *(f"at {kl:.2f} nats" for kl in at)]
    return f"\n\nscore by {judge} at equal KL, linear between runs:\n\n{table(heads, rows)}" if rows else ""


def drift_text(changes: Sequence[Change]) -> str:
    """A table of changes between two sets of samples, and whether each is more than chance."""
    rows = [
        [
            c.measure,
            _number(c.then),
            _number(c.now),
            format(c.difference, ".3f"),
            f"{c.p:.2g}",
            "yes" if c.drifted else "",
        ]
        for c in changes
    ]
    heads = ["measure", "then", "now", "difference", "p (Holm)", "drifted"]
    return f"{table(heads, rows)}\n\n{sum(c.drifted for c in changes)} of {counted(len(changes), 'measure')} drifted"


def write_answers(folder: Path, run: str, examples: Examples, shown: int) -> None:
    """Write `answers.md` and `answers.html`: the first `shown` prompts, with the answers of all sides side by side."""
    prompts = set(list(dict.fromkeys(examples["prompt_id"]))[:shown])
    asked = zip(examples["prompt_id"], examples["sample"], strict=True)
    rows = [row for row, (prompt, sample) in enumerate(asked) if prompt in prompts and sample == 0]
    sides = [*examples.baselines, "policy"]  # before, after
    write_text(folder / "answers.md", _markdown(run, examples, rows, sides))
    write_text(folder / "answers.html", _page(run, examples, rows, sides))


def _markdown(run: str, examples: Examples, rows: Iterable[int], sides: Sequence[str]) -> str:
    parts = [f"# {run}\n"]
    for number, row in enumerate(rows, 1):
        parts.append(f"## {number}\n\n{_quoted(examples['prompt'][row])}\n")
        parts += [
            f"**{_headed(examples, side, row)}**\n\n{_quoted(examples[f'{side}/answer'][row])}\n" for side in sides
        ]
    return "\n".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines()) or "> (nothing)"


def _headed(examples: Examples, side: str, row: int) -> str:
    """The name of a side, with length and scores of its answer."""
    scores = [
        f"{judge} {_number(examples[name][row])}"
        for judge in examples.scored_by
        if (name := f"{side}/score/{judge}") in examples
    ]
    cut = [] if examples[f"{side}/ended"][row] else ["cut off"]
    return ", ".join([side, f"{examples[f'{side}/tokens'][row]} tokens", *cut, *scores])


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1b1b1b; }
section { border-top: 1px solid #ccc; padding: 1rem 0; }
.prompt { background: #f3f3f0; padding: .6rem .8rem; white-space: pre-wrap; }
.sides { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 1rem; }
h3 { font-size: .85rem; font-weight: 600; margin: .8rem 0 .3rem; color: #555; }
.answer { white-space: pre-wrap; overflow-wrap: anywhere; }
.best { border-left: 3px solid #2a7; padding-left: .6rem; }
@media (max-width: 50rem) { .sides { grid-auto-flow: row; } }
"""


def _page(run: str, examples: Examples, rows: Iterable[int], sides: Sequence[str]) -> str:
    sections = []
    for number, row in enumerate(rows, 1):
        best = _first(examples, sides, row)
        cells = "".join(
            f'<div class="{"best" if side == best else ""}"><h3>{html.escape(_headed(examples, side, row))}</h3>'
            f'<div class="answer">{html.escape(examples[f"{side}/answer"][row])}</div></div>'
            for side in sides
        )
        prompt = html.escape(examples["prompt"][row])
        sections.append(
            f'<section><h2>{number}</h2><div class="prompt">{prompt}</div><div class="sides">{cells}</div></section>'
        )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(run)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(run)}</h1>{''.join(sections)}</body></html>\n"
    )


def _first(examples: Examples, sides: Sequence[str], row: int) -> str:
    """The one side with the highest score by the first judge that scores; empty if there is none."""
    for judge in examples.scored_by[:1]:
        scores = {side: examples[f"{side}/score/{judge}"][row] for side in sides}
        best = max(scores.values(), key=lambda value: -math.inf if value is None or math.isnan(value) else value)
        first = [side for side, score in scores.items() if score == best]
        return first[0] if len(first) == 1 else ""
    return ""


def _shown(estimate: Mapping[str, float] | None, form: str = ".3f") -> str:
    if estimate is None:
        return ""
    return f"{_number(estimate['value'], form)} [{_number(estimate['low'], form)}, {_number(estimate['high'], form)}]"


def _number(value: float | None, form: str = ".3f") -> str:
    return "none" if value is None or math.isnan(value) else format(value, form)
