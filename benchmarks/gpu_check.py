"""Checks a machine with a GPU in at most twelve minutes: `python -m benchmarks.gpu_check --json gpu.json`.

Each check is a process of its own with a time limit, so that one that hangs or runs out of memory ends alone. What
needs a package that is not installed is "not checked", and so is what does not fit into the time. `--rehearse` runs the
same checks on the CPU with tiny shapes: then the device is compared with itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    HELD_OUT,
    SHAPES,
    Measured,
    Setting,
    machine,
    machine_line,
    matrix_rate,
    measure,
    random_llama,
    save,
    say,
    scratch,
    table,
    write_setting,
)
from benchmarks.growth import number_tokenizer, random_rows
from benchmarks.preference_step import step_flops

# Seconds of all checks together, and the shortest time in which a check is begun.
BUDGET, LEAST = 720.0, 20.0

# Shape with which everything but the speed is checked, and the one that rehearses the speed.
SMALL: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
}  # fmt: skip

# Losses of the same updates, as shares: on two devices in float32, and in bfloat16 beside float32.
SAME_LOSS, BFLOAT16_LOSS = 1e-3, 0.02

# Number of different tokens in rows.
TOKENS = 500


@dataclass(frozen=True)
class Found:
    """The result of a check.

    good:    whether it is as it should be.
    text:    the result in words.
    numbers: everything that was measured.
    """

    good: bool
    text: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One check.

    needs: packages.
    limit: seconds after which it is stopped, in a budget of BUDGET; more or less in another budget.
    run:   (device: "gpu", or "cpu" to rehearse; folder for weights that several checks use) -> result.
    """

    needs: tuple[str, ...]
    limit: float
    run: Callable[[str, Path], Found]


def _setting(
    folder: Path, task: str, device: str, *, shape: dict[str, Any] = SMALL, dtype: str = "float32", peft: str = "none",
    batch_size: int = 4, steps: int = 3, prompt: int = 32, answer: int = 16,
) -> Setting:  # fmt: skip
    """Random weights and random rows as files. Labelled answers are made of pairs."""
    tokenizer = number_tokenizer(TOKENS)
    rows = random_rows(steps * batch_size + HELD_OUT, prompt, answer, TOKENS)
    if task in ("kto", "sft", "grpo", "ppo"):
        rows = [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0, "lengths": row["lengths"][:2]}
            for i, row in enumerate(rows)
        ]
    shape = {**shape, "max_position_embeddings": prompt + answer + 64}
    options = Namespace(dtype=dtype, peft=peft, micro_batch_size=batch_size, steps=steps, device=device)
    with torch.device(_place(device)):  # a CPU takes minutes for the weights of 7b
        model = random_llama(shape, tokenizer, dtype)
    made = write_setting(options, task, folder, model, tokenizer, rows, prompt + answer, batch_size)
    del model
    if device == "gpu":
        torch.cuda.empty_cache()  # the process that trains needs the memory
    return made


def _place(device: str) -> torch.device:
    return torch.device("cuda" if device == "gpu" else "cpu")


def _losses(setting: Setting, *side: str) -> list[float]:
    return measure(side[0] if side else "alignlab", setting).losses


def _furthest(one: list[float], other: list[float]) -> float:
    """Largest difference of two lists of losses, as a share."""
    return max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(one, other, strict=True))


def losses(device: str, shared: Path) -> Found:
    """Three updates of four objectives: losses on the device and on the CPU."""
    found = {}
    for task in ("sft", "dpo", "kto", "reward"):
        with scratch() as folder:
            setting = _setting(folder, task, device)
            found[task] = _furthest(_losses(setting), _losses(replace(setting, device="cpu")))
    worst = max(found.values())
    return Found(worst <= SAME_LOSS, f"losses differ from the CPU's by {worst:.2g} at most (a share)", found)


def bfloat16(device: str, shared: Path) -> Found:
    """Three updates of DPO and SFT with weights in bfloat16 and in float32."""
    found = {}
    for task in ("sft", "dpo"):
        with scratch() as folder:
            setting = _setting(folder, task, device)
            found[task] = _furthest(_losses(replace(setting, dtype="bfloat16")), _losses(setting))
    worst = max(found.values())
    return Found(worst <= BFLOAT16_LOSS, f"losses in bfloat16 differ by {worst:.2g} at most (a share)", found)


def attention(device: str, shared: Path) -> Found:
    """Log-probabilities of answers that share a prompt, beside plain rows, for each attention implementation."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from alignlab.data.layout import PLAIN
    from alignlab.models.layout_check import choose_layout
    from alignlab.models.reference import ScoringOptions, token_logps
    from alignlab.progress import silent

    place, draw = _place(device), torch.Generator().manual_seed(0)
    prompts = [torch.randint(1, 500, (24,), generator=draw).tolist() for _ in range(4)]
    answers = [(p, torch.randint(1, 500, (9,), generator=draw).tolist()) for p in prompts for _ in range(2)]
    found: dict[str, Any] = {}
    for name in ("eager", "sdpa", "flex_attention"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation=name).to(place).eval()
        layout = choose_layout(model, answers)
        scored = [
            torch.cat([torch.from_numpy(row) for row in token_logps(model, answers, how)])
            for how in (ScoringOptions(own, 8, 2048, place, silent) for own in (layout, PLAIN))
        ]
        found[name] = {"shared": layout.shared, "difference": float((scored[0] - scored[1]).abs().max())}
    good = found["sdpa"]["shared"] and all(one["difference"] < 1e-3 for one in found.values())
    text = ", ".join(
        f"{name}: {'shared prompts' if one['shared'] else 'plain rows'} (off by {one['difference']:.1g} nats)"
        for name, one in found.items()
    )
    return Found(good, text, found)


def adamw_8bit(device: str, shared: Path) -> Found:
    """DPO with 8-bit moments beside AdamW."""
    with scratch() as folder:
        setting = _setting(folder, "dpo", device)
        own, eight = _losses(setting), _losses(setting, "alignlab-8bit")
    far, numbers = _furthest(own, eight), {"adamw": own, "8bit": eight}
    return Found(far <= BFLOAT16_LOSS, f"losses differ from AdamW's by {far:.2g} at most", numbers)


def qlora(device: str, shared: Path) -> Found:
    """DPO with LoRA on 4-bit weights."""
    with scratch() as folder:
        found = _losses(_setting(folder, "dpo", device, peft="lora"), "alignlab-qlora")
    good = all(loss == loss and loss < 10 for loss in found)  # not NaN
    return Found(good, f"losses {', '.join(f'{loss:.4f}' for loss in found)}", {"losses": found})


def ppo(device: str, shared: Path) -> Found:
    """PPO with rollouts: two batches of 8 prompts x 4 answers of at most 48 tokens."""
    shape, dtype = (SMALL, "float32") if device == "cpu" else (SHAPES["135m"], "bfloat16")
    with scratch() as folder:
        setting = _setting(folder, "ppo", device, shape=shape, dtype=dtype, peft="lora", batch_size=8, steps=2)
        found = measure("alignlab-online", replace(setting, samples=4, new_tokens=48, learning_rate=1e-5))
    rate = 32 / found.seconds[-1]
    return Found(rate > 0, f"{rate:.3g} answers a second; {found.peak_gb:.2f} GB", asdict(found))


def vllm(device: str, shared: Path) -> Found:
    """The contract of engines, with vLLM."""
    from alignlab.contracts.base import promise
    from alignlab.contracts.engines import CONTRACTS
    from alignlab.rollout.engines.vllm import VLLM

    found = {promise(contract): list(contract(VLLM(cache_gb=0.1, eager=True))) for contract in CONTRACTS}
    broken = [text for texts in found.values() for text in texts]
    return Found(not broken, "; ".join(broken) or "log-probabilities agree after each update", found)


def _speed(side: str, name: str) -> Callable[[str, Path], Found]:
    """Time and memory of DPO with LoRA on weights of this size."""

    def run(device: str, shared: Path) -> Found:
        from transformers import AutoConfig

        setting = _of_size(name, device, shared)
        found = measure(side, setting)
        config = AutoConfig.from_pretrained(setting.model)
        flops = [step_flops(config, "dpo", 16, batch) for batch in setting.batches()]
        size = 512 if device == "cpu" else 4096
        return _told(found, flops, matrix_rate(size, size, size, dtype=setting.dtype, device=device))

    return run


def _of_size(name: str, device: str, shared: Path) -> Setting:
    """The setting with weights of this size, made once for all sides. On a CPU the shape is SMALL."""
    folder = shared / name
    file = folder / "setting.json"
    if file.exists():
        return Setting(**json.loads(file.read_text()))
    folder.mkdir()
    shape, dtype, prompt, answer = (
        (SHAPES[name], "bfloat16", 256, 128) if device == "gpu" else (SMALL, "float32", 32, 16)
    )
    made = _setting(
        folder,
        "dpo",
        device,
        shape=shape,
        dtype=dtype,
        peft="lora",
        batch_size=8,
        steps=4,
        prompt=prompt,
        answer=answer,
    )
    file.write_text(json.dumps(asdict(made)))
    return made


def _told(found: Measured, flops: list[float], limit: float) -> Found:
    """Medians over all steps but the first."""
    seconds = statistics.median(found.seconds[1:])
    rate = statistics.median(t / s for t, s in zip(found.tokens[1:], found.seconds[1:], strict=True))
    share = statistics.median(f / limit / s for f, s in zip(flops[1:], found.seconds[1:], strict=True))
    numbers = {**asdict(found), "tokens_per_second": rate, "share_of_limit": share, "matrix_rate": limit}
    text = f"{seconds:.3g} s a step, {rate:.3g} tokens a second, {share:.0%} of the limit, {found.peak_gb:.2f} GB"
    return Found(True, text, numbers)


CHECKS: dict[str, Check] = {
    "losses": Check((), 180, losses),
    "bfloat16": Check((), 90, bfloat16),
    "attention": Check((), 60, attention),
    "adamw_8bit": Check(("bitsandbytes",), 60, adamw_8bit),
    "qlora": Check(("bitsandbytes",), 60, qlora),
    "ppo": Check((), 90, ppo),
    "135m": Check((), 60, _speed("alignlab", "135m")),
    "135m, TRL": Check(("trl",), 90, _speed("trl-fast", "135m")),
    "1b": Check((), 90, _speed("alignlab", "1b")),
    "1b, TRL": Check(("trl",), 90, _speed("trl-fast", "1b")),
    "7b": Check((), 150, _speed("alignlab", "7b")),
    "7b, TRL": Check(("trl",), 150, _speed("trl-fast", "7b")),
    "vllm": Check(("vllm",), 120, vllm),
}


def in_process(name: str, device: str, seconds: float, shared: Path) -> dict[str, Any]:
    """The result of a check that runs in a process of its own: its status and what it found."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--one", name, "--device", device, "--shared", str(shared)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        said, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started, which would hold the GPU
        process.wait()
        return {"status": "not checked", "text": f"was not done within {seconds:.0f} s"}
    if process.returncode:
        last = (errors.strip().splitlines() or ["no output"])[-1]
        return {"status": "failed", "text": last, "output": errors[-4000:]}
    found = json.loads(said.splitlines()[-1])
    return {"status": "ok" if found["good"] else "failed", "text": found["text"], "numbers": found["numbers"]}


def run(device: str, names: list[str], budget: float, shared: Path) -> dict[str, dict[str, Any]]:
    """Run the checks one after the other. Every one has a status: ok, failed or not checked.

    shared: folder for weights that several checks use.
    """
    end, results = time.monotonic() + budget, dict[str, dict[str, Any]]()
    for name in names:
        check, began = CHECKS[name], time.monotonic()
        lacking = [package for package in check.needs if importlib.util.find_spec(package) is None]
        if lacking:
            results[name] = {"status": "not checked", "text": f"needs {', '.join(lacking)}: pip install {lacking[0]}"}
        elif end - began < LEAST:
            results[name] = {"status": "not checked", "text": "no time was left"}
        else:
            results[name] = in_process(name, device, min(check.limit * budget / BUDGET, end - began), shared)
        results[name]["seconds"] = round(time.monotonic() - began, 1)
        say(f"{name}: {results[name]['status']}: {results[name]['text']} ({results[name]['seconds']} s)")
    return results


def main() -> int:
    """Run all checks, print a table, write JSON. Returns 1 if a check failed."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU with tiny shapes")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=list(CHECKS), help="these checks only")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of all checks; their limits follow it")
    parser.add_argument("--one", choices=tuple(CHECKS), help="run this check here and print it as JSON")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu", help="of --one")
    parser.add_argument("--shared", type=Path, help="of --one: folder for weights that several checks use")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(CHECKS[args.one].run(args.device, args.shared))))
        return 0
    about = machine()
    if about["gpu"] is None and not args.rehearse:
        print("this machine has no GPU that PyTorch can use\n  type: --rehearse to run the checks on the CPU")
        return 2
    with scratch() as shared:
        results = run("cpu" if args.rehearse else "gpu", args.only, args.budget, shared)
    save(args.json, {"machine": about, "rehearsed": args.rehearse, "checks": results})
    print(table(["check", "status", "result"], [[n, one["status"], one["text"]] for n, one in results.items()]))
    print(machine_line(about))
    return int(any(one["status"] == "failed" for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
