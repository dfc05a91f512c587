"""Answers of the settings side by side, for the page: some prompts, shortened texts, and numbers to sort by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.errors import AlignlabError
from alignlab.evaluation.examples import Examples
from alignlab.inert import visible
from alignlab.redaction import redacted
from alignlab.reports.collect import Collected
from alignlab.reports.series import settings_points
from alignlab.tracking.sinks.jsonl import read_rows

MOST_SETTINGS, MOST_PROMPTS = 24, 64
_LONGEST = 1500  # characters of one text
_BUDGET = 2_500_000  # characters of all texts
_ONLINE = "completions.jsonl"

Key = tuple[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer to one prompt. score: that of the first judge. won: judge -> 1 won, 1/2 tied, 0 lost."""

    text: str
    tokens: int | None = None
    ended: bool | None = None
    score: float | None = None
    won: Mapping[str, float] = field(default_factory=dict)
    change: float | None = None


def completions(found: Collected) -> dict[str, Any]:
    """The answers of one run of each setting to the same prompts.

    `columns` has the settings, `prompts` the prompts with their answers and numbers to sort by, `baseline` the name of
    the side in `prompts[...]["before"]`, `judge` the name of the judge of the scores, `meaning` a sentence on the
    numbers, and `left_out` sentences on what is not shown. `change` is the mean distance between the scores of policy
    and baseline, or, without a judge, the mean absolute log-ratio of an answer (nats). `disagreement` is the mean over
    settings of the largest difference between two judges' verdicts, or, with one judge, the standard deviation of the
    score over settings.
    """
    columns: list[dict[str, str]] = []
    answers: list[dict[Key, Answer]] = []
    prompts: dict[Key, str] = {}
    before: dict[Key, Answer] = {}
    names: dict[str, str] = {}
    left_out: list[str] = []
    sources = _sources(found, left_out)
    for setting, run, place in sources[:MOST_SETTINGS]:
        try:
            read = _evaluated(place, prompts, before, names) if place.is_dir() else _sampled(place, prompts)
        except (AlignlabError, OSError, KeyError, TypeError, ValueError) as error:
            left_out.append(f"{run}: its answers can't be read ({error})")
            continue
        if read:
            columns.append({"setting": setting, "run": run})
            answers.append(read)
    if len(sources) > MOST_SETTINGS:
        left_out.append(f"{len(sources) - MOST_SETTINGS} of {len(sources)} settings with answers are not shown.")
    rows = [_row(key, text, before.get(key), [read.get(key) for read in answers]) for key, text in prompts.items()]
    rows.sort(key=lambda row: -(row["change"] or 0.0))
    kept = _within_budget(rows)
    if len(kept) < len(rows):
        left_out.append(
            f"{len(rows) - len(kept)} of {len(rows)} prompts are not shown: the ones whose answers changed least."
        )
    several = any(len(a.won) > 1 for read in answers for a in read.values())
    return {
        "columns": columns, "prompts": kept, "meaning": _meaning(names, several), "several_judges": several,
        "baseline": names.get("baseline", ""), "judge": names.get("judge", ""), "left_out": left_out,
    }  # fmt: skip


def _meaning(names: Mapping[str, str], several_judges: bool) -> str:
    """What the numbers below a prompt mean."""
    start, judge = names.get("baseline") or "start", names.get("judge", "")
    change = "the mean absolute log-ratio of an answer (nats)"
    if judge:
        change = f"the mean distance between the scores of a setting's answer and of the {start}'s, by {judge}"
    if several_judges:
        return f"Change is {change}. Disagreement is the mean over settings of the largest difference between verdicts."
    spread = " Disagreement is the standard deviation of the score over settings." if judge else ""
    return f"Change is {change}.{spread}"


def _sources(found: Collected, left_out: list[str]) -> list[tuple[str, str, Path]]:
    """(setting, run, folder of an evaluation or file of rollouts) of the first run of each setting that has one."""
    sources = []
    for setting, points in settings_points(found).items():
        for point in points:
            folders = [folder for folder, _ in found.evaluated[point["run"]] if (folder / "rows.parquet").is_file()]
            online = found.run(point).path / _ONLINE
            if folders or online.is_file():
                sources.append((setting, point["run"], folders[-1] if folders else online))
                break
    if sources and any(len(points) > 1 for points in settings_points(found).values()):
        left_out.append("The answers of one run of each setting are shown.")
    return sources


def _evaluated(
    folder: Path, prompts: dict[Key, str], before: dict[Key, Answer], names: dict[str, str]
) -> dict[Key, Answer]:
    """The first sample to each prompt of an evaluation. Adds prompts, answers of the baseline, and names."""
    examples = Examples.read(folder)
    baseline = next(iter(examples.baselines), "")
    judge = next(iter(examples.scored_by), "")
    names.setdefault("baseline", baseline)
    names.setdefault("judge", judge)
    if names["judge"] != judge:  # scores of two judges are not compared
        judge = ""
    found: dict[Key, Answer] = {}
    for row in range(len(examples)):
        if examples["sample"][row] != 0:
            continue
        key = (str(examples["prompt_id"][row]), examples["turn"][row] if "turn" in examples else 1)
        prompts.setdefault(key, str(examples["prompt"][row]))
        theirs = _answer(examples, baseline, judge, row) if baseline else None
        ours = _answer(examples, "policy", judge, row)
        if theirs is not None and baseline == names["baseline"]:
            before.setdefault(key, theirs)
        change = None
        if theirs is not None and ours.score is not None and theirs.score is not None:
            change = abs(ours.score - theirs.score)
        elif not judge and "policy/policy_logps" in examples and "policy/reference_logps" in examples:
            change = abs(sum(examples["policy/policy_logps"][row]) - sum(examples["policy/reference_logps"][row]))
        won = {
            name: w
            for name in examples.compared_by(baseline)
            if (w := _verdict(examples, baseline, name, row)) is not None
        }
        found[key] = Answer(ours.text, ours.tokens, ours.ended, ours.score, won, change)
    return found


def _answer(examples: Examples, side: str, judge: str, row: int) -> Answer:
    score = _finite(examples[f"{side}/score/{judge}"][row]) if judge and f"{side}/score/{judge}" in examples else None
    tokens = examples[f"{side}/tokens"][row] if f"{side}/tokens" in examples else None
    ended = examples[f"{side}/ended"][row] if f"{side}/ended" in examples else None
    return Answer(str(examples[f"{side}/answer"][row]), tokens, ended, score)


def _verdict(examples: Examples, baseline: str, judge: str, row: int) -> float | None:
    """1 if the policy's answer won, 0 if it lost, between them if the two orders disagree; None without a verdict."""
    columns = [f"{baseline}/{order}/{judge}" for order in ("first", "second")]
    values = [_finite(examples[column][row]) for column in columns if column in examples]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sampled(file: Path, prompts: dict[Key, str]) -> dict[Key, Answer]:
    """The rollouts of the last step that an online run wrote: the first answer to each prompt."""
    rows = [
        row for row in read_rows(file) if isinstance(row.get("step"), int) and "prompt" in row and "completion" in row
    ]
    last = max((row["step"] for row in rows), default=0)
    found: dict[Key, Answer] = {}
    for row in (row for row in rows if row["step"] == last):
        key = (str(row["prompt"]), 1)
        prompts.setdefault(key, str(row["prompt"]))
        change = _finite(row.get("kl"))
        answer = Answer(str(row["completion"]), None, row.get("ended"), _finite(row.get("score")), {}, change)
        found.setdefault(key, answer)
    return found


def _row(key: Key, prompt: str, before: Answer | None, answers: Sequence[Answer | None]) -> dict[str, Any]:
    given = [answer for answer in answers if answer is not None]
    changes = [answer.change for answer in given if answer.change is not None]
    spreads = [max(a.won.values()) - min(a.won.values()) for a in given if len(a.won) > 1]
    scores = [answer.score for answer in given if answer.score is not None]
    disagreement = float(np.mean(spreads)) if spreads else float(np.std(scores)) if len(scores) > 1 else None
    return {
        "prompt": _shown(prompt), "before": _plain(before), "answers": [_plain(answer) for answer in answers],
        "change": float(np.mean(changes)) if changes else None, "disagreement": disagreement,
    }  # fmt: skip


def _plain(answer: Answer | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    return {"text": _shown(answer.text), "tokens": answer.tokens, "ended": answer.ended, "score": answer.score}


def _shown(text: str) -> str:
    return redacted(visible(text, _LONGEST))


def _within_budget(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows: as many as the page has room for, but at least one."""
    kept: list[dict[str, Any]] = []
    size = 0
    for row in rows[:MOST_PROMPTS]:
        answers = [answer for answer in [row["before"], *row["answers"]] if answer]
        size += len(row["prompt"]) + sum(len(answer["text"]) for answer in answers)
        if kept and size > _BUDGET:
            break
        kept.append(row)
    return kept


def _finite(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    return number if math.isfinite(number) else None
