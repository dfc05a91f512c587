"""Shows evaluations as text, as a web page and as a table of a sweep."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignlab.evaluation.examples import Examples
from alignlab.inert import fenced, markdown, visible
from alignlab.integrity import read_record, write_text
from alignlab.reports.tables import table
from alignlab.spelling import counted
from alignlab.statistics.power import detectable, prompts_needed

if TYPE_CHECKING:
    from alignlab.evaluation.drift import Change
    from alignlab.judges.base import JudgingCost

SUMMARY = "summary.json"

NO_JUDGE = "no win-rate, because there is no judge (judge=<name> adds one)"
_KL = {
    "sequence_k1": "KL k1 (nats per answer)",
    "token_k3": "KL k3 by token (nats per answer)",
    "per_token": "KL (nats per token)",
    "forward_k1": "KL of the reference from the policy (nats per answer)",
    "forward_on_data": "decrease of the log-ratio on the data's answers (nats per answer)",
}
_ANSWERS = {"tokens": ".1f", "characters": ".0f", "ended": ".2f", "repetition": ".3f"}


def summary_text(summary: Mapping[str, Any]) -> str:
    """A summary (alignlab/evaluation/summary.py) as text: a few lines and two tables, with intervals."""
    if "answers" not in summary:
        return _graded(summary["pairs"]) if "pairs" in summary else _benchmarks(summary["benchmarks"])
    several = summary["prompts"] != 1 or summary.get("all_prompts", False)
    lines = [
        f"{counted(summary['rows'], 'answer')} to {counted(summary['prompts'], 'prompt')}; 95 % intervals "
        + (
            "over the answers, since these prompts are all that there are"
            if summary.get("all_prompts")
            else "over prompts"
        )
        + ("" if several else "; means have no interval, because one prompt gives none"),
        "",
    ]
    lines += [f"{text}: {estimate_text(summary['kl'][name])}" for name, text in _KL.items() if name in summary["kl"]]
    if not summary.get("has_reference", True):
        lines.append("no KL, because there is no reference (reference=<run or model> gives one)")
    elif not summary["kl"]:
        lines.append("no KL: the answers were not sampled at temperature 1")
    scores = [key for key in summary["answers"]["policy"] if key.startswith("score/")]
    rows = [
        [
            side,
            *(estimate_text(found[name], form) for name, form in _ANSWERS.items()),
            _number(found["distinct_2"], ".3f"),
            *(estimate_text(found[key]) if key in found else "" for key in scores),
        ]
        for side, found in summary["answers"].items()
    ]
    heads = ["answers of", "tokens", "characters", "ended", "repeated", "distinct pairs of words"]
    lines += ["", table([*heads, *(key.replace("score/", "score by ") for key in scores)], rows)]
    compared = [
        [baseline, judge, *win_rate_cells(found.get("win_rate")), estimate_text(found.get("score_difference"))]
        for baseline, judges in summary["compared"].items()
        for judge, found in judges.items()
    ]
    if compared:
        heads = ["against", "judge", "win-rate", "wins, ties, losses", "invalid, unjudged", "same in both orders"]
        lines += [
            "",
            table([*heads, "difference of scores"], compared),
            *_power(summary["compared"], summary["prompts"]),
        ]
    for judge, curve in summary["best_of_n"].items():
        lines += ["", f"best of n by {judge}: " + ", ".join(f"{n}: {estimate_text(e)}" for n, e in curve.items())]
    if "refusals" in summary:
        heads = ["refused by", "of safe prompts", "of unsafe prompts"]
        refused = summary["refusals"].items()
        rows = [
            [side, *(estimate_text(found[name]) for name in ("over_refusal", "refusal"))] for side, found in refused
        ]
        lines += [
            "",
            table(heads, rows),
            "refusals are found by phrases (89 % agreement with people)",
        ]
    if "pairs" in summary:
        lines += ["", _graded(summary["pairs"])]
    if summary.get("benchmarks"):
        lines += ["", _benchmarks(summary["benchmarks"])]
    return "\n".join([*lines, *(["\n" + health_line(summary["health"])] if "health" in summary else [])])


def _benchmarks(found: Mapping[str, Any]) -> str:
    """A table of benchmarks: the policy, its reference, and the difference of the two on the same items."""
    rows = []
    for benchmark, scores in found.items():
        for score, numbers in scores.items():
            cells = [estimate_text(numbers.get(side)) for side in ("policy", "reference", "difference")]
            rows.append([f"{benchmark}: {score}", *cells, str(numbers["policy"]["n"])])
    return table(["benchmark", "policy", "reference", "difference", "items"], rows)


def _graded(found: Mapping[str, Any]) -> str:
    return _reward_bench_2(found) if found.get("benchmark") else _pairs(found)


def _reward_bench_2(found: Mapping[str, Any]) -> str:
    """RewardBench 2's scores by subset, and what the score of Ties is made of."""

    def row(name: str, of: Mapping[str, Any]) -> list[str]:
        return [
            name or "(no subset)",
            str(of["rows"]),
            str(of["rate"]["n"]),
            estimate_text(of["rate"]),
            str(of["invalid"]),
        ]

    subsets = found["subsets"]
    counts = {name: sum(of[name] for of in subsets.values()) for name in ("rows", "invalid")}
    total = row("mean of the subsets", {"rate": found["rate"], **counts})
    text = table([found["benchmark"], "rows", "n", "score", "invalid"], [*(row(*s) for s in subsets.items()), total])
    for name, of in subsets.items():
        if of["parts"]:
            parts = ", ".join(f"{part} {_number(value)}" for part, value in of["parts"].items())
            text += f"\n{name}: {parts}"
            if math.isnan(of["rate"]["value"]):
                text += f"\n{name} has no score: it needs a number with both a ref and a tied row"
    if found["missing"]:
        text += f"\nnot the leaderboard's mean, because the file has no row of {', '.join(found['missing'])}"
    return text


def _pairs(found: Mapping[str, Any]) -> str:
    """Accuracy on pairs, by subset and section if there are any."""

    def row(name: str, accuracy: Mapping[str, Any]) -> list[str]:
        rate = accuracy["rate"]
        counts = [str(accuracy["pairs"]), str(rate["n"])]
        return [name, *counts, estimate_text(rate), _number(accuracy["strict"]), str(accuracy["ties"])]

    heads = ["pairs", "n", "prompts", "accuracy (ties half)", "strict accuracy", "ties"]
    text = table(heads, [row("all", found), *(row(name, accuracy) for name, accuracy in found["subsets"].items())])
    sections = "".join(f"\n{name}: {_number(value)}" for name, value in found["sections"].items())
    return text + sections + ("" if math.isnan(found["score"]) else f"\nscore: {_number(found['score'])}")


def stored_text(folder: Path) -> str:
    """The text of a stored summary, and the name of its folder."""
    return f"{summary_text(read_record(folder / SUMMARY))}\n{folder}"


def end_line(folder: Path, record: Mapping[str, Any]) -> str:
    """A line about the default evaluation at the end of a run: KL, and win-rate or held-out accuracy."""
    summary = read_record(folder / SUMMARY)
    parts = [f"evaluated on {counted(summary['prompts'], 'held-out prompt')}"]
    if kl := summary["kl"].get("sequence_k1"):
        parts.append(f"KL to the reference {estimate_text(kl)} nats per answer")
    found = [
        f"win-rate against {baseline} by {judge} {win_rate_cells(numbers['win_rate'])[0]}"
        for baseline, judges in summary["compared"].items()
        for judge, numbers in judges.items()
        if "win_rate" in numbers
    ]
    if not found:
        accuracy = record.get("summary", {}).get("eval/pairs/accuracy")
        known = "" if accuracy is None else f"accuracy on held-out pairs {accuracy:.3f}, "
        found = [f"{known}{NO_JUDGE}"]
    return "; ".join([*parts, *found]) + f"\n{folder}"


def health_line(health: Mapping[str, Any]) -> str:
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
    return f"no verdict: {why}" if unknown and not hits else f"verdict: {health['verdict']} ({why})"


def win_rate_cells(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return [""] * 4
    rate = {"value": found["value"], "low": found["ci_low"], "high": found["ci_high"]}
    agreed = _number(found["order_consistency"], ".2f") if "order_consistency" in found else ""
    return [
        estimate_text(rate),
        f"{found['wins']:.0f}, {found['ties']:.0f}, {found['losses']:.0f}",
        f"{found['invalid']:.0f}, {found['unjudged']:.0f}",
        agreed,
    ]


def _power(compared: Mapping[str, Mapping[str, Any]], prompts: int) -> list[str]:
    """Lines with the smallest difference that the answers can show, one for each size and tie rate.

    prompts: number of prompts. If each has several answers, they count as the number of independent answers that would
             give the same standard error. It is at least one for each prompt, and at most all answers.
    """
    rates = [found["win_rate"] for judges in compared.values() for found in judges.values() if found.get("win_rate")]
    sizes = {(_size(rate, prompts), round(rate["tie_rate"], 2)) for rate in rates if rate["n"] >= 1}
    lines = []
    for (answers, per_prompt, size), ties in sorted(sizes):
        if ties == 1:
            continue
        seen = detectable(size, tie_rate=ties)
        among = f", {ties:.0%} ties" if ties else ""
        shown = (
            "no difference of a win-rate from 0.5 can be detected"
            if math.isnan(seen)
            else f"a win-rate that differs from 0.5 by {seen:.2f} can be detected"
        )
        possible = (1 - ties) / 2 > 0.05  # with more ties no win-rate differs by 0.05
        more = math.ceil(prompts_needed(0.05, tie_rate=ties) * answers / per_prompt / size) if possible else 0
        needed = f"; a difference of 0.05 needs {more:,}" if possible else ""
        several = f" of {per_prompt:.3g} answers each, worth {size:,} independent answers" if per_prompt > 1 else ""
        among_prompts = counted(round(answers / per_prompt), "prompt")
        lines.append(f"with {among_prompts}{several}, {shown} (power 80 %{among}){needed}")
    return lines


def _size(rate: Mapping[str, float], prompts: int) -> tuple[int, float, int]:
    """(judged answers, answers per prompt, independent answers that would give the same standard error)."""
    answers = int(rate.get("wins", 0) + rate.get("ties", 0) + rate.get("losses", 0)) or int(rate["n"])
    judged = min(answers, prompts)
    alone = rate.get("value", 0.5) * (1 - rate.get("value", 0.5)) - rate["tie_rate"] / 4
    error = rate.get("standard_error", 0.0)
    size = alone / error**2 if error > 0 and alone > 0 else float(judged)
    return answers, answers / judged, round(min(answers, max(judged, size)))


def bill_line(bill: JudgingCost) -> str:
    """A line with the calls and cost of judging; empty if no endpoint was used and nothing failed."""
    if not (bill.calls or bill.cached or bill.failures):
        return ""
    cost = f", cost {bill.cost:.4g}" if bill.cost else ""
    failed = "".join(f"\n  {number} unjudged: {reason}" for reason, number in bill.failures.items())
    return f"judging: {counted(bill.calls, 'call')}, {counted(bill.cached, 'verdict')} stored before{cost}{failed}"


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
    parts = [f"# {markdown(run)}\n"]
    for number, row in enumerate(rows, 1):
        parts.append(f"## {number}\n\n{_fenced(examples['prompt'][row])}\n")
        parts += [
            f"**{markdown(_headed(examples, side, row))}**\n\n{_fenced(examples[f'{side}/answer'][row])}\n"
            for side in sides
        ]
    return "\n".join(parts)


def _fenced(text: str) -> str:
    return fenced(text) if text else "(nothing)"


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
            f'<div class="{"best" if side == best else ""}"><h3>{_as_html(_headed(examples, side, row))}</h3>'
            f'<div class="answer">{_as_html(examples[f"{side}/answer"][row])}</div></div>'
            for side in sides
        )
        prompt = _as_html(examples["prompt"][row])
        sections.append(
            f'<section><h2>{number}</h2><div class="prompt">{prompt}</div><div class="sides">{cells}</div></section>'
        )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_as_html(run)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{_as_html(run)}</h1>{''.join(sections)}</body></html>\n"
    )


def _as_html(text: str) -> str:
    """The text with visible escapes in place of unsafe characters, and without markup."""
    return html.escape(visible(text))


def _first(examples: Examples, sides: Sequence[str], row: int) -> str:
    """The one side with the highest score by the first judge that scores; empty if there is none."""
    for judge in examples.scored_by[:1]:
        scores = {side: examples[f"{side}/score/{judge}"][row] for side in sides}
        best = max(scores.values(), key=lambda value: -math.inf if value is None or math.isnan(value) else value)
        first = [side for side, score in scores.items() if score == best]
        return first[0] if len(first) == 1 else ""
    return ""


def estimate_text(estimate: Mapping[str, float] | None, form: str = ".3f") -> str:
    """`0.621 [0.580, 0.660]`: the value and its interval. Without an interval, the value alone."""
    if estimate is None:
        return ""
    if all(estimate[end] is None or math.isnan(estimate[end]) for end in ("low", "high")):
        return _number(estimate["value"], form)
    return f"{_number(estimate['value'], form)} [{_number(estimate['low'], form)}, {_number(estimate['high'], form)}]"


def _number(value: float | None, form: str = ".3f") -> str:
    return "none" if value is None or math.isnan(value) else format(value, form)
