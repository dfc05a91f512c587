"""Online updates of alignlab and TRL: `python -m benchmarks.online_step --data <folder of HH-RLHF>`.

Both sides train the same weights on the same prompts with the same reward, optimizer and lengths. Each run has its own
process, and the sides take turns. The sampled answers differ, because the random numbers differ; rewards, KL and
lengths are compared as means with their standard errors over steps. The first step of a run is a warm-up and is not
counted in the times.

PPO needs TRL 1.12, the last release with PPO: `pip install --no-deps --target <folder> trl==1.12`, then
`PYTHONPATH=<folder> python -m benchmarks.online_step --task ppo ...`. A new reward model scores the answers of both
sides. TRL's critic is a network of its own. alignlab's critic is a layer on the policy (its default) or, as another
side, a network of its own. Another side compiles the model's layers, as long runs do by default
(trainer.compile=auto); compiling happens in its first step.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Measured,
    Setting,
    machine,
    machine_line,
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

SIDES = ("alignlab-online", "alignlab-online-compiled", "trl-online")
PPO_SIDES = ("alignlab-online", "alignlab-online-compiled", "alignlab-online-network", "trl-online")


def run(args: Namespace, setting: Setting) -> dict[str, Any]:
    """Run all sides and return their measurements."""
    runs: dict[str, list[Measured]] = {side: [] for side in (PPO_SIDES if setting.task == "ppo" else SIDES)}
    for repeat in range(args.repeats):
        for side in runs:
            say(f"{setting.task}: run {repeat + 1} of {args.repeats}, {side}")
            runs[side].append(measure(side, setting))
    return {
        "setting": asdict(setting),
        "options": {name: str(value) for name, value in vars(args).items()},
        "machine": machine(),
        "runs": {side: [asdict(one) for one in found] for side, found in runs.items()},
    }


def reward_model(setting: Setting, folder: Path) -> str:
    """Write the setting's model with a new scalar head; return the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignlab.models.heads import with_scalar_head

    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=setting.dtype)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    model.config.pad_token_id = tokenizer.pad_token_id
    with_scalar_head(model, setting.seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    setting, runs = result["setting"], result["runs"]
    answers = setting["batch_size"] * setting["samples"]
    medians = {side: quartiles([s for one in found for s in one["seconds"][1:]]) for side, found in runs.items()}
    peaks = {side: max(one["peak_gb"] for one in found) for side, found in runs.items()}
    base = SIDES[0]
    head = ["side", "s/update (quartiles)", "answers/s", f"x {base}", "peak GB", f"share of {SIDES[-1]}'s", "set-up s"]
    head += ["reward", f"KL per {'answer' if setting['task'] == 'ppo' else 'token'}", "tokens per answer"]
    rows = []
    for side, found in runs.items():
        low, middle, high = medians[side]
        drawn = [step for one in found for step in one["drawn"]]
        rows.append(
            [
                side,
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
                f"{answers / middle:.2f}",
                f"{middle / medians[base][1]:.2f}",
                f"{peaks[side]:.2f}",
                f"{peaks[side] / peaks[SIDES[-1]]:.0%}",
                f"{statistics.median(one['setup'] for one in found):.1f}",
                *(_spread([step[name] for step in drawn if name in step]) for name in ("reward", "kl", "length")),
            ]
        )
    return "\n".join(
        [
            table(head, rows),
            "",
            f"{setting['task']}, {setting['peft']}, {setting['dtype']}, {setting['batch_size']} prompts x "
            f"{setting['samples']} answers x {setting['new_tokens']} tokens at most, {setting['steps']} updates; means "
            f"and standard errors over all updates; {machine_line(result['machine'])}",
        ]
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not logged"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4g} ± {error:.2g}"


def main() -> None:
    """Measure and print the table."""
    parser = options(__doc__, steps=4, repeats=2)
    parser.set_defaults(batch_size=8, micro_batch_size=2)
    model_and_data_options(parser)
    parser.add_argument("--task", default="rloo", choices=("rloo", "grpo", "ppo"))
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt; PPO always uses 1")
    parser.add_argument("--epochs", type=int, default=4, help="number of updates in which PPO learns from an answer")
    parser.add_argument("--new-tokens", type=int, default=48, help="longest answer")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps: at least 2, because the first is not counted")
    with scratch() as folder:
        setting = prepare(args, args.task, Path(folder))
        setting = replace(setting, beta=0.05, learning_rate=1e-5, samples=args.samples, new_tokens=args.new_tokens)
        if args.task == "ppo":
            reward = reward_model(setting, Path(folder) / "reward")
            setting = replace(setting, samples=1, epochs=args.epochs, reward=reward)
        result = run(args, setting)
    print(report(result))
    save(args.json, result)


if __name__ == "__main__":
    main()
