"""Eight betas: one `alignlab train -m objective.beta=...` against TRL runs one after another.

`python -m benchmarks.sweep --data <folder of HH-RLHF>`. Weights, rows and optimizer are the same. TRL uses its
defaults, with one process per run, as on its command line. Wall times include imports, loading and reference passes.
The losses of both sides are compared step by step. Parts of TRL that are not measured are extrapolated and labelled:
missing steps of a run by its median step, runs of other betas by the mean of the measured runs.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Setting,
    in_process,
    machine,
    machine_line,
    measure,
    model_and_data_options,
    options,
    prepare,
    save,
    say,
    scratch,
    table,
)

BETAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def run(args: Namespace, setting: Setting) -> dict[str, Any]:
    """For each repeat: wall times (s) and steps of alignlab's sweep and of the TRL runs."""
    axis = f"objective.beta={','.join(map(str, BETAS))}"
    sweeps: list[dict[str, Any]] = []
    runs: list[list[dict[str, Any]]] = []
    for repeat in range(args.repeats):
        say(f"run {repeat + 1} of {args.repeats}, alignlab")
        began = time.perf_counter()
        printed = in_process("alignlab-sweep", setting, axis).splitlines()
        sweeps.append({"wall": time.perf_counter() - began, "points": json.loads(printed[-1])})
        runs.append([])
        for beta in BETAS[: args.trl_points]:
            say(f"run {repeat + 1} of {args.repeats}, trl, beta {beta}")
            began = time.perf_counter()
            found = measure("trl", replace(setting, beta=beta, steps=args.trl_steps or setting.steps))
            runs[-1].append({"wall": time.perf_counter() - began, **asdict(found)})
    return {
        "setting": asdict(setting),
        "options": {name: str(value) for name, value in vars(args).items()},
        "machine": machine(),
        "betas": BETAS,
        "alignlab": sweeps,
        "trl": runs,
    }


def whole(one: dict[str, Any], steps: int) -> float:
    """Seconds of a run with this number of steps: the measured time, plus the median step for each missing step."""
    return float(one["wall"] + (steps - len(one["seconds"])) * statistics.median(one["seconds"][1:]))


def largest_difference(result: dict[str, Any]) -> float:
    """Largest relative difference between the losses of both sides, over all steps and betas that both have."""
    return max(
        abs(mine - theirs) / abs(theirs)
        for sweep, runs in zip(result["alignlab"], result["trl"], strict=True)
        for point, one in zip(sweep["points"], runs, strict=False)
        for mine, theirs in zip(point["losses"], one["losses"], strict=False)
    )


def report(result: dict[str, Any]) -> str:
    """The result as Markdown. It says if TRL's total is extrapolated."""
    betas, setting = result["betas"], result["setting"]
    steps = setting["steps"]
    ours = statistics.median(sweep["wall"] for sweep in result["alignlab"])
    theirs = statistics.median(
        statistics.mean(whole(one, steps) for one in runs) * len(betas) for runs in result["trl"]
    )
    made, updates = len(result["trl"][0]), len(result["trl"][0][0]["seconds"])
    complete = made == len(betas) and updates == steps
    how = "measured" if complete else f"extrapolated from {made} of {len(betas)} runs, {updates} of {steps} steps"
    rows = [
        ["alignlab, one sweep", f"{ours:.1f}", "measured", "1.00"],
        ["TRL, run by run", f"{theirs:.1f}", how, f"{theirs / ours:.2f}"],
    ]
    points = [point for sweep in result["alignlab"] for point in sweep["points"]]
    compiled = sum(point["compiled"] for point in points)
    step = statistics.median(second for point in points for second in point["seconds"][1:])
    their_step = statistics.median(second for runs in result["trl"] for one in runs for second in one["seconds"][1:])
    return "\n".join(
        [
            table(["side", f"s for {len(betas)} betas", "total", "x alignlab"], rows),
            "",
            f"{steps} steps of {setting['batch_size']} pairs per beta, {setting['peft']}, {setting['dtype']}; "
            f"{len(result['alignlab'])} repeats; {compiled} of {len(points)} points of alignlab compiled; median step "
            f"{step:.3g} s and {their_step:.3g} s; largest relative difference of losses "
            f"{largest_difference(result):.1e}; {machine_line(result['machine'])}",
        ]
    )


def main() -> None:
    """Measure and print the table."""
    parser = options(__doc__, steps=100, repeats=1)
    model_and_data_options(parser)
    parser.add_argument(
        "--trl-points", type=int, default=len(BETAS), help="TRL runs to measure; the others get their mean"
    )
    parser.add_argument(
        "--trl-steps", type=int, default=0, help="steps of a TRL run to measure; the others get their median; 0: all"
    )
    args = parser.parse_args()
    if not 1 <= args.trl_points <= len(BETAS):
        parser.error(f"--trl-points: 1 to {len(BETAS)}")
    if args.steps < 2:
        parser.error("--steps: at least 2, because the first is not counted in medians")
    if args.trl_steps and not 2 <= args.trl_steps <= args.steps:
        parser.error(f"--trl-steps: 2 to {args.steps}, or 0")
    with scratch() as folder:
        result = run(args, prepare(args, "dpo", Path(folder)))
    print(report(result))
    save(args.json, result)


if __name__ == "__main__":
    main()
