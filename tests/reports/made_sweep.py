"""A sweep of two objectives, two strengths and three seeds, written as files, with evaluations. Nothing is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from alignlab.evaluation.examples import Examples
from alignlab.evaluation.summary import summarise
from alignlab.integrity import write_sealed
from alignlab.runs.directory import RunDir

NAME = "made"
OBJECTIVES, STRENGTHS, SEEDS = ("dpo", "ipo"), ("0.1", "1.0"), ("1", "2", "3")
PROMPTS = ("What is a cat?", "Name a colour.", "Say nothing.", "Count to three.")


def run_id(objective: str, strength: str, seed: str) -> str:
    return f"{objective}-{strength}{seed}"


def write(root: Path, *, text: str = "answer", judged: bool = True, steps: int = 6, **about: Any) -> Path:
    """Write the sweep below an output folder. Returns its folder.

    text:   is part of each prompt and answer, of the question and of the path of the data.
    judged: whether the runs have evaluations.
    about:  further keys of sweep.json.
    """
    points = []
    for objective in OBJECTIVES:
        for strength in STRENGTHS:
            for seed in SEEDS:
                point = {"objective": objective, "strength": strength, "seed": seed}
                points.append({"point": len(points), "run": run_id(**point), **point})
                _run(RunDir.of(root, run_id(**point)), point, text, judged, steps)
    folder = root / "sweeps" / NAME
    sweep = {"name": NAME, "question": f"Which is best? {text}", "axes": ["objective", "strength", "seed"], "zip": []}
    write_sealed(folder / "sweep.json", {**sweep, "points": points, **about})
    return folder


def write_accuracies(root: Path, accuracies: Mapping[str, Sequence[float]]) -> Path:
    """Write a sweep of objectives with accuracies by seed, which are compared by them. Returns its folder."""
    points = []
    for objective, values in accuracies.items():
        for seed, value in enumerate(values, 1):
            run = RunDir.of(root, f"{objective}-{seed}")
            points.append({"point": len(points), "run": run.id, "objective": objective, "seed": str(seed)})
            summary = {"eval/pairs/accuracy": value}
            write_sealed(run.record_file, {"id": run.id, "status": "done", "summary": summary})
            run.metrics.write_text(json.dumps({"train/global_step": 1, **summary}) + "\n")
    sweep = {"name": "rates", "question": "", "axes": ["objective", "seed"], "metric": "eval/pairs/accuracy"}
    write_sealed(root / "sweeps/rates/sweep.json", {**sweep, "better": "higher", "zip": [], "points": points})
    return root / "sweeps/rates"


def _run(run: RunDir, point: dict[str, str], text: str, judged: bool, steps: int) -> None:
    random = np.random.default_rng(sum(map(ord, run.id)))
    beta, kind = float(point["strength"]), OBJECTIVES.index(point["objective"])
    kl = (0.6 if beta == 1.0 else 2.0) * (1 + 0.02 * random.standard_normal())
    reward = 1.2 * math.sqrt(kl) - 0.4 * kind + 0.05 * random.standard_normal()
    summary = {
        "start/loss": 0.7, "eval/loss": 0.6 + kind * 5 + 0.01 * random.standard_normal(),
        "eval/logratios/chosen": -kl + 0.1 * random.standard_normal(),
        "eval/logratios/rejected": -2 * kl + 0.1 * random.standard_normal(),
        "exact/kl": kl, "exact/reward": reward, "exact/reward_reference": 0.0,
        "exact/frontier_reward": 1.6 * math.sqrt(kl), "exact/frontier_gap": 1.6 * math.sqrt(kl) - reward,
        "time/train_seconds": 2.0,
    }  # fmt: skip
    rows = []
    for step in range(1, steps + 1):
        margin = 0.0 if step == 1 else step * 0.1 + 0.02 * random.standard_normal()
        row = {"train/global_step": step, "train/loss": 0.7 - 0.01 * step + kind, "train/logratios/margins": margin}
        rows.append({**row, "train/rewards/accuracies": 0.31 if step == 1 else 0.5 + 0.01 * step})
    run.path.mkdir(parents=True)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.log.write_text(f"a log\n{text}\n")
    write_sealed(run.frontier, {"kl": [0.0, 1.0, 2.0, 4.0], "reward": [0.0, 1.6, 2.26, 3.2]})
    if judged:
        examples = _examples(random, text)
        folder = run.path / "evaluation" / "0a1b2c3d"
        examples.write(folder)
        write_sealed(folder / "summary.json", {"run": run.id, **summarise(examples)})
    overrides = [f"data.path={text}", "judge.llm.api_key=supersecret", *(f"{key}={v}" for key, v in point.items())]
    audit = {"errors": [], "warnings": [{"name": "x", "text": f"3 rows {text}", "cure": "data.drop=[x]"}], "facts": {}}
    config = {"objective": {"beta": beta}, "seed": int(point["seed"]), "data": {"path": text}}
    write_sealed(
        run.record_file,
        {
            "id": run.id, "status": "done", "summary": summary, "overrides": [*overrides, "++sweep.name=made"],
            "config": {**config, "judge": {"llm": {"api_key": "supersecret"}}},
            "objective": {"name": point["objective"], "beta": beta, "dialect": "paper", "spoken": "paper"},
            "data": {"fingerprint": "f", "audit": audit}, "versions": {"torch": "2.13"}, "git": "abc",
            "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:02+00:00",
        },
    )  # fmt: skip


def _examples(random: np.random.Generator, text: str) -> Examples:
    n = len(PROMPTS)
    ours, theirs = random.standard_normal(n), random.standard_normal(n)
    return Examples(
        {
            "prompt_id": [f"p{i}" for i in range(n)], "prompt": [f"{p} {text}" for p in PROMPTS], "sample": [0] * n,
            "policy/answer": [f"{text} {i}" for i in range(n)], "policy/tokens": [3 + i for i in range(n)],
            "policy/ended": [True] * n, "reference/answer": [f"before {i}" for i in range(n)],
            "reference/tokens": [2] * n, "reference/ended": [True] * n,
            "policy/policy_logps": [[-1.0, -0.5]] * n, "policy/reference_logps": [[-1.2, -0.9]] * n,
            "policy/score/gold": ours.tolist(), "reference/score/gold": theirs.tolist(),
            "reference/first/gold": [1.0 if a > b else 0.0 for a, b in zip(ours, theirs, strict=True)],
        }
    )  # fmt: skip


def crossed(table: Any) -> tuple[float, float]:
    """The interval of [seeds][prompts] values from the mean squares of statsmodels' two-way analysis of variance."""
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    values = np.asarray(table, dtype=float)
    seeds, prompts = values.shape
    rows = pandas.DataFrame([{"s": s, "p": p, "y": values[s, p]} for s in range(seeds) for p in range(prompts)])
    squares = anova_lm(ols("y ~ C(s) + C(p)", rows).fit())["mean_sq"] / values.size
    over_seeds = stats.t.ppf(0.975, seeds - 1) ** 2 * squares["C(s)"]
    over_prompts = stats.t.ppf(0.975, prompts - 1) ** 2 * max(0.0, squares["C(p)"] - squares["Residual"])
    half = math.sqrt(over_seeds + over_prompts)
    return values.mean() - half, values.mean() + half


def forget_prompts(root: Path) -> None:
    """Remove what summaries say about each prompt, as in those of older versions."""
    for file in root.glob("runs/*/evaluation/*/summary.json"):
        summary = json.loads(file.read_text())
        write_sealed(file, {key: value for key, value in summary.items() if key not in ("by_prompt", "sha256")})
