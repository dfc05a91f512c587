"""Eight betas: one `alignlab train -m objective.beta=...` against TRL runs one after another.

`python -m benchmarks.sweep --data <folder of HH-RLHF>`. Same weights, rows and optimizer; TRL with its defaults, every
run in a process of its own, as its command line would. Wall time from end to end: imports, loading, reference passes.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
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


def timed(work: Callable[[], object]) -> float:
    """Wall time in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run(args: Namespace, setting: Setting) -> dict[str, Any]:
    """Seconds of alignlab's sweeps, and of each TRL run that was measured, by repeat."""
    axis = f"objective.beta={','.join(map(str, BETAS))}"
    sweeps: list[float] = []
    points: list[list[float]] = []
    for repeat in range(args.repeats):
        say(f"run {repeat + 1} of {args.repeats}, alignlab")
        sweeps.append(timed(lambda: in_process("alignlab-sweep", setting, axis)))
        points.append([])
        for beta in BETAS[: args.trl_points]:
            say(f"run {repeat + 1} of {args.repeats}, trl, beta {beta}")
            points[-1].append(timed(lambda beta=beta: measure("trl", replace(setting, beta=beta))))  # type: ignore[misc]
    return {
        "setting": asdict(setting),
        "options": {name: str(value) for name, value in vars(args).items()},
        "machine": machine(),
        "betas": BETAS,
        "alignlab": sweeps,
        "trl": points,
    }


def report(result: dict[str, Any]) -> str:
    """The result as Markdown; says where TRL's total is extrapolated."""
    betas, setting = result["betas"], result["setting"]
    ours = statistics.median(result["alignlab"])
    theirs = statistics.median(statistics.mean(points) * len(betas) for points in result["trl"])
    measured = len(result["trl"][0])
    how = "measured" if measured == len(betas) else f"extrapolated from {measured} of {len(betas)} runs"
    rows = [
        ["alignlab, one sweep", f"{ours:.1f}", "measured", "1.00"],
        ["TRL, run by run", f"{theirs:.1f}", how, f"{theirs / ours:.2f}"],
    ]
    return "\n".join(
        [
            table(["side", f"s for {len(betas)} betas", "total", "x alignlab"], rows),
            "",
            f"{setting['steps']} steps of {setting['batch_size']} pairs a beta, {setting['peft']}, {setting['dtype']}; "
            f"{len(result['alignlab'])} repeats; {machine_line(result['machine'])}",
        ]
    )


def main() -> None:
    """Run and print."""
    parser = options(__doc__, steps=100, repeats=1)
    model_and_data_options(parser)
    parser.add_argument(
        "--trl-points", type=int, default=len(BETAS), help="TRL runs to measure; the rest by their mean"
    )
    args = parser.parse_args()
    if not 1 <= args.trl_points <= len(BETAS):
        parser.error(f"--trl-points: 1 to {len(BETAS)}")
    with scratch() as folder:
        result = run(args, prepare(args, "dpo", Path(folder)))
    print(report(result))
    save(args.json, result)


if __name__ == "__main__":
    main()
