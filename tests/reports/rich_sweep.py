"""Sweeps with everything that a page can show, written as files. Nothing is trained.

Three objectives, two strengths and three seeds. One run diverged, one failed, and one was never begun, so one setting
has two seeds and one has a single seed. `kind` says what the runs have:

    lab:  exact KL and reward, frontiers, parts of the gap, and three samples of each of all prompts, judged by gold;
    text: held-out pairs, and one sample of each of some prompts, scored and compared by `rule` and compared by `pick`,
          with verdicts that are not valid, and answers to a file of questions;
    bare: the same without judges.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.evaluation.examples import Examples
from alignlab.evaluation.summary import flat, summarise
from alignlab.integrity import write_sealed
from alignlab.runs.directory import RunDir

OBJECTIVES, STRENGTHS, SEEDS = ("dpo", "ipo", "kto"), ("0.1", "1.0"), ("1", "2", "3")
PAIRS = 40
_STRENGTH_OF = {"dpo": "beta", "ipo": "tau", "kto": "beta"}
_ENDS = {("kto", "1.0", "3"): "diverged", ("kto", "0.1", "2"): "failed", ("kto", "0.1", "3"): "not run"}

Point = Mapping[str, str]


def run_id(point: Point) -> str:
    return f"{point['objective']}-{point['strength'].replace('.', '')}{point['seed']}"


def write(
    root: Path,
    kind: str,
    *,
    name: str = "rich",
    shift: float = 0.0,
    version: str = "2.13",
    farther: Mapping[str, float] | None = None,
    **about: Any,
) -> Path:
    """Write a sweep below an output folder. Returns its folder.

    shift:   is added to rewards and accuracies.
    version: of torch, in the records.
    farther: objective -> factor of the exact KLs of its runs, whose code has another revision.
    about:   further keys of sweep.json.
    """
    points = []
    for objective in OBJECTIVES:
        for strength in STRENGTHS:
            for seed in SEEDS:
                axes = {"objective": objective, "strength": strength, "seed": seed}
                points.append({"point": len(points), "run": run_id(axes), **axes})
                if _ENDS.get((objective, strength, seed)) != "not run":
                    _run(root, axes, kind, shift, version, (farther or {}).get(objective, 1.0))
    folder = root / "sweeps" / name
    sweep = {"name": name, "question": "Which is best?", "axes": ["objective", "strength", "seed"], "zip": []}
    write_sealed(folder / "sweep.json", {**sweep, "points": points, **about})
    return folder


def _run(root: Path, point: Point, kind: str, shift: float, version: str, farther: float) -> None:
    run = RunDir.of(root, run_id(point))
    random = np.random.default_rng([*map(ord, run.id), len(kind)])
    status = _ENDS.get((point["objective"], point["strength"], point["seed"]), "done")
    strength, place = float(point["strength"]), OBJECTIVES.index(point["objective"])
    run.path.mkdir(parents=True)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in _metrics(random, place)))
    run.log.write_text(f"a log of {run.id}\nits last line\n")
    summary: dict[str, float] = {}
    if status == "done":
        summary = _summary(random, strength, place, kind, shift, farther)
        if kind == "lab":
            ends = [0.0, 0.5, 1.0, 4.0 + 0.1 * place + 0.01 * int(point["seed"])]
            write_sealed(run.frontier, {"kl": ends, "reward": [1.6 * kl**0.5 for kl in ends]})
            parts = {"population optimum": 0.1 + 0.01 * random.standard_normal(), "finite data": 0.02 * strength}
            write_sealed(run.gap, {"parts": parts, "unbounded": point["seed"] == "1"})
        summary |= _evaluate(run, random, kind, place, strength, shift)
    warning = {"name": "short", "text": f"{3 + place} of 120 training rows are short", "cure": "data.drop=[short]"}
    facts = {split: {"rows": rows, "left_out": {"empty": 2}} for split, rows in (("train", 120), ("eval", PAIRS))}
    config = {"objective": {_STRENGTH_OF[point["objective"]]: strength}, "seed": int(point["seed"])}
    config |= {"trainer": {"max_steps": 70, "batch_size": 8, "log_every": 1}, "optim": {"lr": 0.001}}
    unit = "mean_completion_tokens" if point["objective"] == "kto" else "mean_chosen_tokens"
    revision = "abc" if farther == 1.0 else "def"
    named = {"name": point["objective"], _STRENGTH_OF[point["objective"]]: strength}
    write_sealed(
        run.record_file,
        {
            "id": run.id, "status": status, "summary": summary, "config": config, "objective": named,
            "reason": {"diverged": "the loss is not finite at update 12", "failed": "no space left"}.get(status),
            "overrides": ["experiment=lab_dpo", *(f"{key}={value}" for key, value in point.items())],
            "model": {"reference_weights": "f00d"}, "versions": {"torch": version}, "git": revision,
            "data": {
                "fingerprint": "f", "train": {"rows": 240 if place == 2 else 120, unit: 5.5},
                "audit": {"errors": [], "warnings": [warning], "unchecked": [], "facts": facts},
            },
            "started": f"2026-01-0{point['seed']}T00:00:00+00:00", "ended": f"2026-01-0{point['seed']}T00:00:02+00:00",
        },
    )  # fmt: skip


def _metrics(random: np.random.Generator, place: int) -> list[dict[str, float]]:
    """70 updates, so that curves are averaged in bins. Before the first update policy and reference are the same."""
    rows: list[dict[str, float]] = []
    for step in range(1, 71):
        margin = 0.0 if step == 1 else 0.1 * step + 0.02 * random.standard_normal()
        loss = 0.7 - 0.001 * step + place + 0.01 * random.standard_normal()
        row = {"train/global_step": float(step), "train/loss": loss, "train/logratios/margins": margin}
        rows.append({**row, "train/rewards/accuracies": 0.3 if step == 1 else round(random.uniform(0.5, 1), 2)})
    rows.append({"train/global_step": 70.0, "eval/loss": 0.65 + 0.01 * random.standard_normal()})
    return rows


def _summary(
    random: np.random.Generator, strength: float, place: int, kind: str, shift: float, farther: float
) -> dict[str, float]:
    kl = farther * (0.7 if strength == 1.0 else 2.4) * (1 + 0.04 * random.standard_normal() + 0.1 * place)
    summary = {
        "start/loss": 0.7, "eval/loss": 0.6 + place + 0.01 * random.standard_normal(),
        "eval/rewards/margins": 0.2 + 0.05 * random.standard_normal(), "eval/rewards/accuracies": 0.7,
        "eval/logratios/chosen": -kl + 0.1 * random.standard_normal(),
        "eval/logratios/rejected": -2 * kl + 0.1 * random.standard_normal(),
        "tail/rewards/margins": 0.5 + 0.05 * random.standard_normal(),
        "time/train_seconds": 20.0 + random.standard_normal(),
    }  # fmt: skip
    if kind == "lab":
        reward = 1.2 * math.sqrt(kl) - 0.3 * place + 0.04 * random.standard_normal() + shift
        summary |= {
            "exact/kl": kl, "exact/reward": reward, "exact/reward_reference": 0.05, "exact/winrate": 0.6 + 0.02 * place,
            "exact/frontier_reward": 1.6 * math.sqrt(kl), "exact/frontier_gap": 1.6 * math.sqrt(kl) - reward,
        }  # fmt: skip
        return summary
    agree = place == 2 and strength == 1.0
    right = 30 if agree else round(PAIRS * (0.75 - 0.05 * place + shift)) + int(random.integers(-3, 4))
    margin = kl / 2 + 0.1 * random.standard_normal()
    pairs = {"accuracy": right / PAIRS, "margin": margin, "distance": 1.1 * margin, "n": float(PAIRS)}
    return summary | {f"eval/pairs/{key}": value for key, value in pairs.items()}


def _evaluate(
    run: RunDir, random: np.random.Generator, kind: str, place: int, strength: float, shift: float
) -> dict[str, float]:
    """Write the evaluations of a run. Returns the metrics of its record. The newest one has held-out prompts."""
    found: dict[str, float] = {}
    for age, questions in enumerate(("", "hard") if kind == "text" else ("",)):
        folder = run.path / "evaluation" / f"{age}a1b2c3d"
        examples = _examples(random, kind, place, strength, shift, questions)
        summary = {"run": run.id, **summarise(examples), **({"questions": questions} if questions else {})}
        examples.write(folder)
        write_sealed(folder / "summary.json", {**summary, "health": {"verdict": "healthy"}})
        os.utime(folder / "summary.json", (1.7e9 - age, 1.7e9 - age))
        prefix = f"questions/{questions}" if questions else "eval"
        found |= {f"{prefix}/{key}": value for key, value in flat(summary, "reference")}
    return found


def _examples(
    random: np.random.Generator, kind: str, place: int, strength: float, shift: float, questions: str
) -> Examples:
    lab = kind == "lab"
    samples, prompts = (3, 4) if lab else (1, 12)
    rows = [(prompt, sample) for prompt in range(prompts) for sample in range(samples)]
    easy = np.random.default_rng(len(questions)).normal(0, 0.4, prompts)  # the same prompts are easy for every run
    kl = (0.7 if strength == 1.0 else 2.4) * (1 + 0.1 * place)
    ratios = [random.normal(kl, 0.5, 1 + r % 3) / (1 + r % 3) for r in range(len(rows))]
    own = [random.normal(-3, 0.5, len(ratio)) for ratio in ratios]
    name = f"{questions}p"
    columns: dict[str, list[Any]] = {
        "prompt_id": [f"{name}{p}" for p, _ in rows], "prompt": [f"Question {name} {p}?" for p, _ in rows],
        "sample": [s for _, s in rows],
        "policy/answer": [f"answer {r} of {place}" for r in range(len(rows))],
        "policy/tokens": random.integers(3, 30, len(rows)).tolist(),
        "policy/ended": [r % 4 > 0 for r in range(len(rows))],
        "reference/answer": [f"before {r}" for r in range(len(rows))], "reference/tokens": [5] * len(rows),
        "reference/ended": [True] * len(rows),
        "policy/policy_logps": [list(map(float, o)) for o in own],
        "policy/reference_logps": [list(map(float, o - r)) for o, r in zip(own, ratios, strict=True)],
    }  # fmt: skip
    if kind == "bare":
        return Examples(columns)
    judge = "gold" if lab else "rule"
    ours = [0.9 * kl**0.5 - 0.2 * place + shift + easy[p] + 0.6 * random.standard_normal() for p, _ in rows]
    theirs = [easy[p] + 0.1 * np.random.default_rng([p, s]).standard_normal() for p, s in rows]
    columns |= {f"policy/score/{judge}": ours, f"reference/score/{judge}": theirs}
    columns[f"reference/first/{judge}"] = [float(a > b) for a, b in zip(ours, theirs, strict=True)]
    if lab:
        return Examples(columns, {"prompts": "all"})
    columns["reference/second/rule"] = [float(a > b + 0.3) for a, b in zip(ours, theirs, strict=True)]
    picked = [float(w) for w in random.choice([0.0, 0.5, 1.0], len(rows), p=[0.3, 0.1, 0.6])]
    columns["reference/first/pick"] = [math.nan if r == place else won for r, won in enumerate(picked)]
    return Examples(columns)
