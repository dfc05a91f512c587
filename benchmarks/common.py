"""Shared by the benchmarks: models and rows (made once), workers (run one at a time), facts of the machine, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Sizes of Llama-like models with random weights: the time of a step does not depend on the values of weights.
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip

# task -> columns of the answers in a row; a row is a pair or a labelled answer
ANSWERS = {
    "dpo": ("chosen", "rejected"),
    "reward": ("chosen", "rejected"),
    "sft": ("completion",),
    "kto": ("completion",),
    "rloo": ("completion",),
    "grpo": ("completion",),
    "ppo": ("completion",),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training, described for all sides. Model and rows are files, so that no side prepares for another.

    rows, held_out: JSONL; a row has its `lengths` in tokens, first the prompt's, then each answer's.
    batch_size:     rows per update.
    samples:        online tasks: answers to each prompt, of at most `new_tokens` tokens.
    epochs:         online tasks: number of updates that learn from each answer.
    reward:         online tasks: folder of the reward model; empty uses a function.
    """

    task: str
    model: str
    rows: str
    held_out: str
    peft: str
    dtype: str
    batch_size: int
    micro_batch_size: int
    max_length: int
    steps: int
    device: str
    beta: float = 0.1
    learning_rate: float = 1e-4
    seed: int = 1
    samples: int = 4
    new_tokens: int = 48
    epochs: int = 1
    reward: str = ""

    def ordered_rows(self) -> list[dict[str, Any]]:
        """All rows in the order in which alignlab trains on them."""
        from alignlab.data.order import batch_indices

        rows = read_rows(Path(self.rows))
        return [
            rows[i]
            for step in range(self.steps)
            for i in batch_indices(len(rows), self.batch_size, self.seed, step).tolist()
        ]

    def batches(self) -> list[list[dict[str, Any]]]:
        """The rows of each step."""
        rows = self.ordered_rows()
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]


@dataclass(frozen=True)
class Measured:
    """Measurements of a worker.

    seconds: wall time of each step (s), from the end of the step before, so batch preparation is included.
    losses:  losses that the side logs, before the update of the step.
    tokens:  prompt and answer tokens of each step: every prompt once, every answer once, without padding.
    peak_gb: largest resident memory of the process, or largest allocated memory on a GPU (10^9 bytes).
    setup:   seconds from the start of the process to the start of training: imports, loading, tokens, reference pass.
    drawn:   online tasks: mean reward, KL per token (nats; PPO: per answer) and tokens per answer of each step.
    """

    seconds: list[float]
    losses: list[float]
    tokens: list[int]
    peak_gb: float
    setup: float
    drawn: list[dict[str, float]] = field(default_factory=list)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write a JSONL file; returns its name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def measure(side: str, setting: Setting) -> Measured:
    """Run one side in its own process and an empty folder."""
    return Measured(**json.loads(in_process(side, setting).splitlines()[-1]))


def in_process(side: str, setting: Setting, *extra: str) -> str:
    """The output of a worker. Raises RuntimeError with the end of its standard error if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "HF_DATASETS_CACHE": f"{folder}/cache",  # the next side finds nothing that this one prepared
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "benchmarks.worker", side, json.dumps(asdict(setting)), *extra]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-4000:]}")
    return done.stdout


# Models and rows.


def options(description: str | None, *, steps: int, repeats: int) -> ArgumentParser:
    """Options that all benchmarks have."""
    parser = ArgumentParser(description=description, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where both sides train")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs per update; twice as many labelled answers")
    parser.add_argument("--micro-batch-size", type=int, default=1, help="rows per forward of alignlab")
    parser.add_argument("--peft", default="lora", choices=("lora", "none"), help="none trains all weights")
    parser.add_argument("--steps", type=int, default=steps, help="updates of a run")
    parser.add_argument("--repeats", type=int, default=repeats, help="runs of each side; the sides take turns")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    return parser


def model_and_data_options(parser: ArgumentParser) -> None:
    """Options of the benchmarks that train on real text."""
    parser.add_argument("--model", default="smollm2_135m", help="option of the group model, whose tokenizer is used")
    parser.add_argument("--shapes", choices=tuple(SHAPES), help="random weights of this size instead of the model's")
    parser.add_argument("--data", default="Anthropic/hh-rlhf", help="folder or hub name of HH-RLHF (harmless-base)")
    parser.add_argument("--max-length", type=int, default=512, help="longest prompt + answer of a row, in tokens")


def prepare(args: Namespace, task: str, folder: Path) -> Setting:
    """Write model and rows into the folder."""
    model, tokenizer = load_model(args.model)
    if args.shapes:
        model = random_llama(SHAPES[args.shapes], tokenizer, args.dtype)
    batch_size = args.batch_size * (2 if task == "kto" else 1)
    rows = hh_rows(args.data, task, tokenizer, args.max_length, args.steps * batch_size + HELD_OUT)
    return write_setting(args, task, folder, model, tokenizer, rows, args.max_length, batch_size)


HELD_OUT = 2  # rows for the evaluation at the end of a run of alignlab, which is not measured


def write_setting(
    args: Namespace,
    task: str,
    folder: Path,
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    max_length: int,
    batch_size: int,
) -> Setting:
    """Write model, tokenizer and rows into files. The last HELD_OUT rows are for the evaluation."""
    tokenizer.pad_token = unused_token(tokenizer, rows)
    model.to(dtype_of(args.dtype)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return Setting(
        task=task,
        model=str(folder / "model"),
        rows=write_rows(folder / "rows.jsonl", rows[:-HELD_OUT]),
        held_out=write_rows(folder / "held_out.jsonl", rows[-HELD_OUT:]),
        peft=args.peft,
        dtype=args.dtype,
        batch_size=batch_size,
        micro_batch_size=args.micro_batch_size,
        max_length=max_length,
        steps=args.steps,
        device=args.device,
    )


def load_model(option: str) -> tuple[Any, Any]:
    """(model, tokenizer) of an option of alignlab's group `model`, in float32."""
    import hydra

    from alignlab.config.paths import conf_dir
    from alignlab.config.plan import plan

    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("train", [f"model={option}", "data=hh_rlhf"])
        return plan(config).train.model.load()


def random_llama(shape: dict[str, Any], tokenizer: Any, dtype: str) -> Any:
    """A Llama of these sizes with random weights of that dtype. Its vocabulary has at least the tokenizer's tokens."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    words = {"vocab_size": max(shape["vocab_size"], len(tokenizer))}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**shape, **words}, **ends), dtype=dtype_of(dtype))


def dtype_of(name: str) -> Any:
    """The torch dtype of a name."""
    import torch

    return getattr(torch, name)


def hh_rows(data: str, task: str, tokenizer: Any, max_length: int, count: int) -> list[dict[str, Any]]:
    """The first rows of HH-RLHF that fit into `max_length` tokens and that both sides tokenize equally.

    Raises SystemExit if there are fewer than `count`.
    """
    from alignlab.data.sources.hh_rlhf import HHRLHF
    from alignlab.data.template import Template

    template = Template(tokenizer)
    pairs = HHRLHF(path=data, subsets=["harmless-base"]).pairs("train", None).rows
    found: list[dict[str, Any]] = []
    for pair in pairs:
        if len(found) == count:
            break
        row: dict[str, Any] = {"prompt": pair.prompt}
        if task in ("dpo", "reward"):
            row |= {"chosen": pair.chosen, "rejected": pair.rejected}
        else:  # one answer of a pair, so that no prompt is repeated; KTO gets good and bad answers in turn
            good = task == "sft" or len(found) % 2 == 0
            row |= {"completion": pair.chosen if good else pair.rejected, "label": good}
        encoded = template.encode(row["prompt"], [(row[name], True) for name in ANSWERS[task]])
        prompt, answers = encoded.prompt, encoded.answers
        text = as_text(tokenizer, row)
        joined = [tokenizer(text["prompt"] + text[name] + tokenizer.eos_token)["input_ids"] for name in ANSWERS[task]]
        fits = len(prompt) + max(map(len, answers)) <= max_length
        if fits and tokenizer(text["prompt"])["input_ids"] == prompt and joined == [prompt + a for a in answers]:
            found.append({**row, "lengths": [len(prompt), *map(len, answers)]})
    if len(found) < count:
        raise SystemExit(f"{data}: {count} rows are needed, but only {len(found)} fit; use fewer --steps")
    return found


def as_text(tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    """A row for TRL: text, rendered as by alignlab's template.

    If it got messages, TRL would also train on text that the chat template adds after the end of an answer (a newline).
    """
    from alignlab.data.template import plain_transcript

    prompt, space = row["prompt"], ""
    if not isinstance(prompt, str) and tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    elif not isinstance(prompt, str):
        prompt, space = plain_transcript(prompt), " "
    answers = {name: space + text for name, text in row.items() if name in ("chosen", "rejected", "completion")}
    label = {"label": row["label"]} if "label" in row else {}
    return {"prompt": prompt, **answers, **label}


def unused_token(tokenizer: Any, rows: Sequence[dict[str, Any]]) -> str:
    """A token for padding that no row contains.

    TRL's reward trainer scores the last token of a row that is not padding. If the end token is also the padding token,
    as in many tokenizers, TRL scores the token before the end, and alignlab the end.
    """
    texts = [as_text(tokenizer, row) for row in rows]
    used = {
        token
        for text in texts
        for part in text.values()
        if isinstance(part, str)
        for token in tokenizer(part)["input_ids"]
    }
    used.add(tokenizer.eos_token_id)
    known = tokenizer.get_vocab()
    return next(token for token in (*tokenizer.all_special_tokens, *sorted(known)) if known[token] not in used)


# The machine.


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def matrix_rate(m: int, k: int, n: int, *, dtype: str, device: str, seconds: float = 0.5) -> float:
    """Measured floating-point operations per second of an (m x k) x (k x n) product; a multiply-add counts as two."""
    import torch

    place = "cuda" if device == "gpu" else "cpu"
    left, right = (torch.randn(size, dtype=dtype_of(dtype), device=place) for size in ((m, k), (k, n)))
    wait = torch.cuda.synchronize if device == "gpu" else lambda: None
    left @ right  # the first product also starts threads and libraries
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        left @ right
        wait()
        count += 1
    return 2.0 * m * k * n * count / (time.perf_counter() - began)


# Results.


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine_line(found: dict[str, Any]) -> str:
    """The machine in one line."""
    gpu = f"{found['gpu']}; " if found["gpu"] else ""
    return f"{gpu}{found['cpu']}, {found['cores']} cores, {found['threads']} threads; torch {found['torch']}"


def save(file: Path | None, content: dict[str, Any]) -> None:
    """Write all measurements as JSON, if a file is given."""
    if file is not None:
        file.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def say(text: str) -> None:
    """Print progress on standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)
