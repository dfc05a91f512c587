"""One side of a benchmark in its own process: `python -m benchmarks.worker <side> <setting as JSON>`.

The last line that it prints is its measurements as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import ANSWERS, Measured, Setting, as_text

BEGAN = time.perf_counter()  # heavy imports come after this line, since they are part of a side's set-up

LORA: dict[str, Any] = {
    "task_type": "CAUSAL_LM",
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}

OBJECTIVES = {"reward": "reward_model"}  # other tasks are named like their objective


def overrides(setting: Setting) -> list[str]:
    """The command line of `alignlab train` for a setting, without the strength of the objective."""
    return [
        f"objective={OBJECTIVES.get(setting.task, setting.task)}",
        "model=hub",
        f"model.name={setting.model}",
        f"model.dtype={setting.dtype}",
        f"peft={setting.peft}",
        f"data={'unpaired' if ANSWERS[setting.task] == ('completion',) else 'pairs'}",
        f"data.path={setting.rows}",
        f"data.eval_path={setting.held_out}",
        f"data.max_length={setting.max_length}",
        f"data.max_prompt_length={setting.max_length - 1}",
        f"optim.lr={setting.learning_rate}",
        f"trainer.max_steps={setting.steps * setting.epochs}",
        f"trainer.batch_size={setting.batch_size}",
        f"trainer.micro_batch_size={setting.micro_batch_size}",
        "trainer.gradient_clip=0",
        f"trainer.accelerator={setting.device}",
        "trainer.progress=false",
        "tracking=none",
        f"seed={setting.seed}",
    ]


def beta(setting: Setting) -> list[str]:
    """Overrides for the strength of an offline objective, if it has one."""
    return [f"objective.beta={setting.beta}"] if setting.task in ("dpo", "kto") else []


def online(setting: Setting) -> list[str]:
    """Overrides for sampling and scoring answers."""
    return [
        f"objective.{'kl_coef' if setting.task == 'ppo' else 'beta'}={setting.beta}",
        f"objective.samples={setting.samples}",
        f"rollout.max_new_tokens={setting.new_tokens}",
        f"rollout.epochs={setting.epochs}",
        *(
            ["reward=reward_model", "reward.run=[]", f"reward.model={setting.reward}"]
            if setting.reward
            else ["reward=gold", "reward.function=benchmarks.rules:vowels"]
        ),
    ]


def train(*words: str) -> None:
    """Run `alignlab train`; end the process if it fails."""
    from alignlab.cli.main import main

    if code := main(["train", *words]):
        sys.exit(code)


def alignlab(setting: Setting, *extra: str) -> Measured:
    """Measure a run of alignlab, from its metrics.jsonl."""
    from alignlab.modules.base import AlignmentModule
    from alignlab.tracking.sinks.jsonl import read_rows

    started: list[float] = []
    AlignmentModule.on_train_epoch_start = lambda module: started.append(time.perf_counter())  # type: ignore[assignment, method-assign]
    train(*overrides(setting), *beta(setting), *extra)
    (file,) = Path("outputs/runs").glob("*/metrics.jsonl")
    steps = [row for row in read_rows(file) if "train/loss" in row]
    return Measured(
        [row["train/step_seconds"] for row in steps],
        [row["train/loss"] for row in steps],
        tokens(setting),
        peak_gb(setting),
        started[0] - BEGAN,
    )


def alignlab_online(setting: Setting, *extra: str) -> Measured:
    """Measure an online run of alignlab; seconds and losses are sums over all updates on a batch of answers."""
    from dataclasses import replace

    from alignlab.tracking.sinks.jsonl import read_rows

    measured = alignlab(setting, *online(setting), *extra)
    (file,) = Path("outputs/runs").glob("*/metrics.jsonl")
    steps = [row for row in read_rows(file) if "train/loss" in row]
    batches = [slice(start, start + setting.epochs) for start in range(0, len(steps), setting.epochs)]
    drawn = [
        {
            "reward": row["train/objective/scores"],
            "kl": row["train/objective/kl"] / (1 if setting.task == "ppo" else row["train/completions/mean_length"]),
            "length": row["train/completions/mean_length"],
        }
        for row in (steps[batch][0] for batch in batches)
    ]
    seconds, losses = ([sum(values[batch]) for batch in batches] for values in (measured.seconds, measured.losses))
    return replace(measured, seconds=seconds, losses=losses, drawn=drawn)


def _clock() -> Any:
    """A callback for TRL's trainers that keeps the logs and the time of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Reads the clock when the loss of a step is logged: by then the device has finished its forward."""

        started = last = 0.0

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.logs: list[dict[str, float]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.started = self.last = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if given["logs"].keys() & {"loss", "objective/scores"}:  # TRL's PPO logs no loss
                now = time.perf_counter()
                self.seconds.append(now - self.last)
                self.last = now
                self.logs.append(dict(given["logs"]))

    return Clock()


def trl_online(setting: Setting) -> Measured:
    """Measure an online run of TRL, with its defaults except where it must agree with alignlab."""
    import torch
    import trl as library
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from benchmarks.rules import vowels

    def score(prompts: list[str], completions: list[str], **more: Any) -> list[float]:
        return [vowels(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]

    make, config = {
        "rloo": (library.RLOOTrainer, library.RLOOConfig),
        "grpo": (library.GRPOTrainer, library.GRPOConfig),
    }[setting.task]
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    arguments = config(
        output_dir="trl", max_steps=setting.steps, per_device_train_batch_size=setting.batch_size * setting.samples,
        num_generations=setting.samples, max_completion_length=setting.new_tokens, beta=setting.beta,
        learning_rate=setting.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=setting.device == "cpu",
        bf16=setting.dtype == "bfloat16", seed=setting.seed, model_init_kwargs={"dtype": setting.dtype},
        **({"loss_type": "grpo"} if setting.task == "grpo" else {}),
    )  # fmt: skip
    clock = _clock()
    torch.manual_seed(setting.seed)
    trainer = make(
        model=setting.model,
        args=arguments,
        reward_funcs=score,
        train_dataset=Dataset.from_list(
            [{"prompt": as_text(tokenizer, row)["prompt"]} for row in setting.ordered_rows()]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA) if setting.peft == "lora" else None,
        callbacks=[clock],
    )
    trainer.train()
    return Measured(
        clock.seconds,
        [logs["loss"] for logs in clock.logs],
        tokens(setting),
        peak_gb(setting),
        clock.started - BEGAN,
        [
            {"reward": logs["reward"], "kl": logs.get("kl", 0.0), "length": logs["completions/mean_length"]}
            for logs in clock.logs
        ],
    )


def trl_ppo(setting: Setting) -> Measured:
    """Measure a run of TRL's PPO. Release 1.12 is the last one with PPO; other releases end the process with a message.

    Its value model starts as the reward model and is trained in full.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    try:
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    except ImportError:
        sys.exit(
            "this TRL has no PPO\n  type: pip install --no-deps --target <folder> trl==1.12\n"
            "        and put PYTHONPATH=<folder> before the command"
        )
    tokenizer = AutoTokenizer.from_pretrained(setting.model, padding_side="left")
    arguments = PPOConfig(
        output_dir="trl", total_episodes=setting.steps * setting.batch_size,
        per_device_train_batch_size=setting.batch_size, num_ppo_epochs=setting.epochs, num_mini_batches=1,
        response_length=setting.new_tokens, temperature=1.0, stop_token="eos", kl_coef=setting.beta,
        learning_rate=setting.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, num_sample_generations=0,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=setting.device == "cpu",
        bf16=setting.dtype == "bfloat16", seed=setting.seed,
    )  # fmt: skip
    clock = _clock()
    texts = [as_text(tokenizer, row)["prompt"] for row in setting.ordered_rows()]
    prompts = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in texts])
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(setting.reward, num_labels=1, dtype=setting.dtype)
        for _ in range(2)
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(setting.model, dtype=setting.dtype),
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=prompts,
        eval_dataset=prompts,
        peft_config=LoraConfig(**LORA) if setting.peft == "lora" else None,
        callbacks=[clock],
    )
    torch.manual_seed(setting.seed)
    trainer.train()
    return Measured(
        clock.seconds,
        [logs["loss/policy_avg"] for logs in clock.logs],
        tokens(setting),
        peak_gb(setting),
        clock.started - BEGAN,
        [{"reward": logs["objective/scores"], "kl": logs["objective/kl"]} for logs in clock.logs],
    )


def alignlab_sweep(setting: Setting, axis: str) -> list[dict[str, Any]]:
    """Measure a sweep of alignlab: value, step times (s), losses and whether it was compiled, for each point."""
    from alignlab.tracking.sinks.jsonl import read_rows

    train(*overrides(setting), "-m", axis)
    (file,) = Path("outputs/sweeps").glob("*/sweep.json")
    found = []
    for point in json.loads(file.read_text())["points"]:
        run = Path("outputs/runs") / point["run"]
        steps = [row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
        found.append(
            {
                "value": float(point[axis.partition("=")[0]]),
                "seconds": [row["train/step_seconds"] for row in steps],
                "losses": [row["train/loss"] for row in steps],
                "compiled": "layers are compiled" in (run / "train.log").read_text(),
            }
        )
    return found


def trl(setting: Setting, *, precomputed: bool = False, packed: bool = False, checkpointing: bool = True) -> Measured:
    """Measure a run of TRL with its defaults, except for rows, weights, optimizer and dtype, as in alignlab."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    make, config = _trainer(setting.task)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    special: dict[str, dict[str, Any]] = {
        "dpo": {"beta": setting.beta, "precompute_ref_log_probs": precomputed},
        "kto": {"beta": setting.beta},
        "sft": {"packing": packed},
        "reward": {},
    }
    own = special[setting.task]
    if setting.task != "reward":
        own["model_init_kwargs"] = {"dtype": setting.dtype}
    # Packed rows are filled up to the maximum length; a step has about the usual number of tokens, but other rows.
    filled = round(sum(tokens(setting)) / setting.steps / setting.max_length)
    size = max(1, filled) if packed else setting.batch_size
    arguments = config(
        output_dir="trl", max_steps=setting.steps, per_device_train_batch_size=size, max_length=setting.max_length,
        learning_rate=setting.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=0.0,
        train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=setting.device == "cpu", bf16=setting.dtype == "bfloat16", seed=setting.seed,
        gradient_checkpointing=checkpointing, **own,
    )  # fmt: skip
    clock = _clock()
    torch.manual_seed(setting.seed)  # as in alignlab: both get the same initial adapter
    trainer = make(
        model=_scorer(setting) if setting.task == "reward" else setting.model,
        args=arguments,
        train_dataset=Dataset.from_list([as_text(tokenizer, row) for row in setting.ordered_rows()]),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA) if setting.peft == "lora" and setting.task != "reward" else None,
        callbacks=[clock],
    )
    trainer.train()
    seen = [0, *(int(logs["num_tokens"]) for logs in clock.logs)] if packed else []
    return Measured(
        clock.seconds,
        [logs["loss"] for logs in clock.logs],
        [after - before for before, after in pairwise(seen)] if packed else tokens(setting),
        peak_gb(setting),
        clock.started - BEGAN,
    )


def _trainer(task: str) -> tuple[Any, Any]:
    import trl

    return {
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
    }[task]


def _scorer(setting: Setting) -> Any:
    """The model with alignlab's scalar head and adapter; TRL's own would have other initial weights."""
    from transformers import AutoModelForCausalLM

    from alignlab.models.adapters.lora import LoRA
    from alignlab.models.heads import with_scalar_head

    scorer = with_scalar_head(AutoModelForCausalLM.from_pretrained(setting.model, dtype=setting.dtype), setting.seed)
    return LoRA().wrap(scorer) if setting.peft == "lora" else scorer


def tokens(setting: Setting) -> list[int]:
    """Tokens of each step, without padding."""
    return [sum(sum(row["lengths"]) for row in batch) for batch in setting.batches()]


def peak_gb(setting: Setting) -> float:
    """Largest resident memory of this process, or largest allocated memory on its GPU, in 10^9 bytes.

    ru_maxrss is not used: on Linux a process inherits its value from the process that started it.
    """
    if setting.device == "gpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


SIDES: dict[str, Any] = {
    "alignlab": lambda setting: alignlab(setting, "trainer.compile=never"),
    "alignlab-compiled": lambda setting: alignlab(setting, "trainer.compile=always"),
    "alignlab-8bit": lambda setting: alignlab(setting, "optim=adamw_8bit", "trainer.compile=never"),
    "alignlab-qlora": lambda setting: alignlab(setting, "model.quantize=nf4", "trainer.compile=never"),
    "alignlab-online": lambda setting: alignlab_online(setting, "trainer.compile=never"),
    "alignlab-online-compiled": lambda setting: alignlab_online(setting, "trainer.compile=always"),
    "alignlab-online-network": lambda setting: alignlab_online(
        setting, "objective.critic=network", "trainer.compile=never"
    ),
    "trl-online": lambda setting: (trl_ppo if setting.task == "ppo" else trl_online)(setting),
    "trl": trl,
    "trl-precomputed": lambda setting: trl(setting, precomputed=True),
    "trl-fast": lambda setting: trl(setting, precomputed=True, checkpointing=False),
    "trl-packed": lambda setting: trl(setting, packed=True),
}


if __name__ == "__main__":
    side, text, *more = sys.argv[1:]
    given = Setting(**json.loads(text))
    print(json.dumps(alignlab_sweep(given, *more) if side == "alignlab-sweep" else asdict(SIDES[side](given))))
