"""alignlab and TRL per optimizer step: `python -m benchmarks.preference_step --data <folder of HH-RLHF>`.

Both sides train the same weights on the same rows in the same order with the same optimizer. Each run has its own
process, and the sides take turns. Their losses are compared step by step: if they differ, the times mean nothing. The
first step of a run is a warm-up and is not counted in the times.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Measured,
    Setting,
    machine,
    machine_line,
    matrix_rate,
    measure,
    model_and_data_options,
    options,
    prepare,
    quartiles,
    save,
    say,
    scratch,
    table,
)

SIDES = {
    "dpo": ("alignlab", "alignlab-compiled", "trl", "trl-precomputed"),
    "sft": ("alignlab", "alignlab-compiled", "trl", "trl-packed"),
    "kto": ("alignlab", "alignlab-compiled", "trl"),
    "reward": ("alignlab", "alignlab-compiled", "trl"),
}


def step_flops(config: Any, task: str, rank: int, batch: list[dict[str, Any]]) -> float:
    """Floating-point operations of an update on a batch. A multiply-add counts as two. About 2 % are avoidable.

    config: a Llama-like transformers config.
    rank:   rank of LoRA on all linear layers; 0 for full fine-tuning.
    batch:  rows with `lengths` in tokens: the prompt's, then each answer's.

    Every prompt and every answer goes through the model once. These operations count:

    - matrices of the body: 2 x parameters x tokens forward, as much for the gradient of their inputs, and as much again
      for the gradient of trained weights (with LoRA only A and B);
    - the projection to the vocabulary, on answer tokens only, in the same way (none for a reward model);
    - causal attention, two products forward and four backward: a prompt token sees the prompt before it, an answer
      token sees the prompt and the answer before it;
    - KTO: the forward of each prompt's mismatched answer.

    These do not count: element-wise operations, the optimizer, the reference (one pass before training), the scalar
    head of a reward model.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    body = layers * sum(a * b for a, b in shapes)
    adapter = layers * sum(rank * (a + b) for a, b in shapes)
    vocabulary = 0 if task == "reward" else hidden * config.vocab_size

    answers = sum(sum(row["lengths"][1:]) for row in batch)
    tokens = answers + sum(row["lengths"][0] for row in batch)
    seen = sum(_seen(0, row["lengths"][0]) + _answers_seen(row["lengths"]) for row in batch)
    trained = 2.0 if rank else 3.0  # forward and gradient of inputs, and of weights
    total = 2.0 * body * tokens * trained + 2.0 * adapter * tokens * 3.0 + 2.0 * vocabulary * answers * trained
    total += 3.0 * 2.0 * 2.0 * layers * queries * seen
    if task == "kto":
        others = [[row["lengths"][0], batch[i - 1]["lengths"][1]] for i, row in enumerate(batch)]
        total += 2.0 * (body + adapter + vocabulary) * answers
        total += 2.0 * 2.0 * layers * queries * sum(_answers_seen(lengths) for lengths in others)
    return total


def _answers_seen(lengths: list[int]) -> int:
    return sum(_seen(lengths[0], answer) for answer in lengths[1:])


def _seen(before: int, new: int) -> int:
    """Number of tokens that `new` tokens attend to, summed: the `before` others, new ones before each, and itself."""
    return new * before + new * (new + 1) // 2


def run(args: Namespace, setting: Setting, sides: list[str]) -> dict[str, Any]:
    """Run all sides and return their measurements, with rates of matrix products between the runs (FLOP/s)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(setting.model)
    batches = setting.batches()
    row_tokens = round(statistics.mean(sum(row["lengths"]) for batch in batches for row in batch))
    products = [(1024, 1024, 1024), (row_tokens, config.hidden_size, config.intermediate_size)]
    rates: dict[str, list[float]] = {" x ".join(map(str, product)): [] for product in products}
    runs: dict[str, list[Measured]] = {side: [] for side in sides}
    for repeat in range(args.repeats):
        for side in sides:
            for product in products:
                rate = matrix_rate(*product, dtype=args.dtype, device=args.device)
                rates[" x ".join(map(str, product))].append(rate)
            say(f"{setting.task}: run {repeat + 1} of {args.repeats}, {side}")
            runs[side].append(measure(side, setting))
    rank = 16 if args.peft == "lora" else 0
    rate = max(statistics.median(found) for found in rates.values())
    return {
        "setting": asdict(setting),
        "options": {name: str(value) for name, value in vars(args).items()},
        "machine": machine(),
        "matrix_rates": rates,
        "matrix_rate": rate,
        "flops": [step_flops(config, setting.task, rank, batch) for batch in batches],
        "runs": {side: [asdict(one) for one in found] for side, found in runs.items()},
    }


def summary(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each side's medians over repeats and steps (without the first), and its loss differences to the first side."""
    runs = result["runs"]
    limit = [flops / result["matrix_rate"] for flops in result["flops"]]
    base = next(iter(runs))
    found: dict[str, dict[str, Any]] = {}
    for side, repeats in runs.items():
        same_rows = repeats[0]["tokens"] == runs[base][0]["tokens"]
        speeds = [t / s for one in repeats for t, s in _warm(zip(one["tokens"], one["seconds"], strict=True))]
        shares = [a / s for one in repeats for a, s in _warm(zip(limit, one["seconds"], strict=True))]
        found[side] = {
            "seconds": quartiles([s for one in repeats for s in _warm(one["seconds"])]),
            "tokens_per_second": statistics.median(speeds),
            "peak_gb": max(one["peak_gb"] for one in repeats),
            "setup": statistics.median(one["setup"] for one in repeats),
            "share_of_limit": statistics.median(shares) if same_rows else None,
            "loss_difference": max(
                abs(mine - theirs) / max(abs(theirs), 1e-12)
                for one in repeats
                for mine, theirs in zip(one["losses"], runs[base][0]["losses"], strict=True)
            )
            if same_rows
            else None,
        }
    for side in found.values():
        side["times_slower"] = found[base]["tokens_per_second"] / side["tokens_per_second"]
    return found


def _warm(steps: Any) -> list[Any]:
    return list(steps)[1:]


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    base, *_ = result["runs"]
    head = ["side", "s/step (quartiles)", "tokens/s", f"x {base}", "share of the limit", "peak GB", "set-up s"]
    head += [f"largest loss difference to {base}"]
    rows = []
    for side, found in result["summary"].items():
        low, middle, high = found["seconds"]
        share, difference = found["share_of_limit"], found["loss_difference"]
        rows.append(
            [
                side,
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
                f"{found['tokens_per_second']:.0f}",
                f"{found['times_slower']:.2f}",
                "other rows" if share is None else f"{share:.0%}",
                f"{found['peak_gb']:.2f}",
                f"{found['setup']:.1f}",
                "other rows" if difference is None else f"{difference:.1e}",
            ]
        )
    limit = statistics.median(result["flops"][1:]) / result["matrix_rate"]
    setting, rates = result["setting"], result["matrix_rates"]
    first = [one["losses"][0] for one in result["runs"][base]]
    lines = [
        table(head, rows),
        "",
        f"x {base}: time per token against {base}'s. Arithmetic limit: {statistics.median(result['flops'][1:]):.3g} "
        f"FLOP per step, {limit:.3g} s at {result['matrix_rate'] / 1e9:.1f} GFLOP/s. First loss: {first[0]:.6g}.",
        f"{setting['task']}, {setting['peft']}, {setting['dtype']}, {setting['batch_size']} rows per step, "
        f"of which alignlab takes {setting['micro_batch_size']} per forward and TRL all, "
        f"{statistics.median(result['runs'][base][0]['tokens']):.0f} tokens per step; "
        f"{machine_line(result['machine'])}; "
        + ", ".join(f"{name}: {statistics.median(found) / 1e9:.1f} GFLOP/s" for name, found in rates.items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = options(__doc__, steps=6, repeats=3)
    model_and_data_options(parser)
    parser.add_argument("--task", default="dpo", choices=tuple(SIDES))
    parser.add_argument("--sides", nargs="+", help="sides to run; default: all sides of the task")
    args = parser.parse_args()
    sides = args.sides or list(SIDES[args.task])
    if wrong := [side for side in sides if side not in SIDES[args.task]]:
        parser.error(f"--sides: {args.task} has {', '.join(SIDES[args.task])}, not {', '.join(wrong)}")
    if args.steps < 2:
        parser.error("--steps: at least 2, the first is left out")
    with scratch() as folder:
        result = run(args, prepare(args, args.task, Path(folder)), sides)
    result["summary"] = summary(result)
    print(report(result))
    save(args.json, result)


if __name__ == "__main__":
    main()
