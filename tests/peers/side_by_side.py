"""Compares TRL's trainers with alignlab's modules on one tiny Llama and one set of rows: loss and gradients.

Each side gets its own copy of the same float64 weights and the same text, and makes tokens and batches in its own way.
TRL computes log-probabilities in float32 even so. The reference is another set of weights.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.data.collate import collate_completions, collate_labelled, collate_pairs, collate_rankings
from alignlab.data.datamodule import MicroBatches
from alignlab.data.rows import Labelled, Pair
from alignlab.data.template import Template
from alignlab.data.tokenize import (
    Cutter,
    mismatched,
    tokenize_completions,
    tokenize_labelled,
    tokenize_pairs,
    tokenize_rankings,
)
from alignlab.models.heads import with_scalar_head
from alignlab.models.reference import frozen_copy
from alignlab.models.sources.tiny import Tiny
from alignlab.modules.base import AlignmentModule
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.reward import RewardModule
from alignlab.modules.sft import SFTModule
from alignlab.modules.unpaired import UnpairedModule
from alignlab.objectives.base import Objective
from alignlab.optim.adamw import AdamW

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # CPO and ORPO are imported from there on purpose

import datasets
import trl
from transformers import TrainerCallback
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

LETTERS, PADDING = "abcdef", "_"

# Log-probabilities and their sums are float32: a few units in the last of seven digits.
TOLERANCE = 1e-6


def words(shortest: int, longest: int, source: random.Random) -> str:
    """A random text of letters."""
    return "".join(source.choices(LETTERS, k=source.randint(shortest, longest)))


def preferences(count: int, seed: int, *, prompt: int = 5) -> list[Pair]:
    """Pairs whose prompts (up to `prompt` letters) and answers differ in length, each with a margin."""
    source = random.Random(seed)
    made = []
    while len(made) < count:
        chosen, rejected = words(1, 8, source), words(1, 8, source)
        if len(chosen) != len(rejected):
            made.append(
                Pair(words(min(1, prompt), prompt, source), chosen, rejected, margin=round(source.uniform(0, 2), 2))
            )
    return made


def verdicts(count: int, seed: int) -> list[Labelled]:
    """Single answers, more good ones than bad ones."""
    source = random.Random(seed)
    return [Labelled(words(1, 5, source), words(1, 8, source), i % 3 != 1) for i in range(count)]


PAIRS = preferences(6, seed=1)
LABELLED = verdicts(8, seed=2)


@dataclass
class Models:
    """A policy, the reference it is compared with, and their tokenizer."""

    policy: Any
    reference: Any
    tokenizer: Any


def models(*, noise: float = 0.12, seed: int = 0, pad: str | None = PADDING) -> Models:
    """A float64 Llama far from uniform, and a reference `noise` away from it in every weight."""
    policy, tokenizer = Tiny(name="tiny", alphabet=LETTERS + PADDING, hidden_size=16, intermediate_size=32).load()
    policy = moved(policy.double(), 0.3, seed=7)
    if pad:
        tokenizer.pad_token = pad
    return Models(policy, moved(policy, noise, seed), tokenizer)


def moved(model: Any, noise: float, seed: int) -> Any:
    """A copy with Gaussian noise on every weight."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return other


@dataclass
class ModelSide:
    """The loss, gradients and metrics that one side computes on a batch."""

    loss: float
    gradients: dict[str, Tensor]
    metrics: dict[str, float]


def take(model: Any, loss: Tensor, metrics: dict[str, Any]) -> ModelSide:
    """The loss, with the gradients of the model's parameters from its backward pass."""
    model.zero_grad()
    loss.backward()
    return ModelSide(loss.item(), gradients(model), {name: torch.as_tensor(x).item() for name, x in metrics.items()})


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients by parameter, zero where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in model.named_parameters()
    }


def combined(parts: Sequence[tuple[float, ModelSide]]) -> ModelSide:
    """The weighted sums of losses and of gradients."""
    names = parts[0][1].gradients
    total = {name: sum((weight * side.gradients[name] for weight, side in parts), torch.zeros(())) for name in names}
    return ModelSide(sum(weight * side.loss for weight, side in parts), total, {})


def deviation(ours: ModelSide, theirs: ModelSide, factor: float = 1.0) -> tuple[float, float]:
    """(relative difference of the losses, largest difference of the gradients relative to the largest gradient entry).

    factor: our loss and gradients are multiplied by it before they are compared.
    """
    assert ours.gradients.keys() == theirs.gradients.keys()
    scale = max(float(g.abs().max()) for g in theirs.gradients.values())
    assert scale > 1e-3, "a gradient of zero compares nothing"
    worst = max(float((factor * ours.gradients[n] - g).abs().max()) for n, g in theirs.gradients.items())
    return abs(factor * ours.loss - theirs.loss) / max(1.0, abs(theirs.loss)), worst / scale


def assert_same(ours: ModelSide, theirs: ModelSide, factor: float = 1.0, tolerance: float = TOLERANCE) -> None:
    """Loss and the gradient of every parameter agree."""
    loss, gradient = deviation(ours, theirs, factor)
    assert loss < tolerance, f"loss: {factor} * {ours.loss} and {theirs.loss}"
    assert gradient < tolerance, f"gradients: {gradient:.1e} of the largest entry"


def assert_different(ours: ModelSide, theirs: ModelSide, factor: float = 1.0) -> None:
    """Loss and gradients differ by far more than rounding."""
    loss, gradient = deviation(ours, theirs, factor)
    assert loss > 100 * TOLERANCE
    assert gradient > 100 * TOLERANCE


# TRL's side.

_TRAINERS: dict[str, tuple[Any, Any]] = {
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
}


def trainer(kind: str, folder: Path, on: Models, rows: Sequence[Any], *, batch: int = 0, **options: Any) -> Any:
    """A TRL trainer on the CPU with micro-batches of `batch` rows (all of them unless given), in the rows' order."""
    make, config = _TRAINERS[kind]
    arguments = config(
        output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=batch or len(rows), train_sampling_strategy="sequential", max_steps=1,
        max_grad_norm=0.0, logging_strategy="no", save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
        remove_unused_columns=kind not in ("cpo", "orpo"), **options,
    )  # fmt: skip
    models = {"model": copy.deepcopy(on.policy)}
    if kind in ("dpo", "kto"):
        models["ref_model"] = copy.deepcopy(on.reference)
    columns = {"kto": ("prompt", "completion", "label"), "reward": ("prompt", "chosen", "rejected", "margin")}
    wanted = columns.get(kind, ("prompt", "chosen", "rejected"))
    table = [{c: getattr(row, "desirable" if c == "label" else c) for c in wanted} for row in rows]
    if kind == "reward" and table[0]["margin"] is None:
        table = [{c: value for c, value in row.items() if c != "margin"} for row in table]
    data = datasets.Dataset.from_list(table)
    return make(args=arguments, train_dataset=data, processing_class=on.tokenizer, **models)


def theirs(made: Any, micro: int = 0) -> ModelSide:
    """TRL's loss, gradients and logged metrics on its micro-batch number `micro`, through its own loader."""
    batch = list(made.get_train_dataloader())[micro]
    made.model.train()
    loss = made.compute_loss(made.model, batch)
    logged = made._stored_metrics["train"] if hasattr(made, "_stored_metrics") else made._metrics["train"]
    return take(made.model, loss, {name: values[-1] for name, values in logged.items()})


class _Keep(TrainerCallback):
    """Keeps the gradients that an optimizer step is made from."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.gradients = gradients(given["model"])


def accumulated(made: Any) -> ModelSide:
    """TRL's loss and gradients of one optimizer step in its own training loop, micro-batches accumulated."""
    keep = _Keep()
    made.add_callback(keep)
    result = made.train()
    return ModelSide(result.training_loss, keep.gradients, {})


# alignlab's side.


def module(objective: Objective, on: Models) -> AlignmentModule:
    """The module that trains such an objective."""
    needs = objective.requires
    makers = {
        "pairs": PreferenceModule,
        "labelled": UnpairedModule,
        "completions": SFTModule,
        "rankings": RewardModule,
    }
    return makers[needs.data](
        copy.deepcopy(on.policy),
        objective,
        AdamW(lr=1e-3),
        MicroBatches(_COLLATE[needs.data], 16, 10_000),
        max_steps=1,
        clip=0.0,
        seed=0,
        reference=frozen_copy(on.reference) if needs.reference else None,
    )


def tokens(objective: Objective, rows: Sequence[Any], tokenizer: Any) -> list[Any]:
    """Rows as the objective needs them. From pairs, it may need the preferred answers or both halves."""
    template, cut = Template(tokenizer), Cutter(max_length=512, max_prompt_length=384)
    needs, pairs = objective.requires, isinstance(rows[0], Pair)
    if needs.data == "pairs":
        return tokenize_pairs(rows, template, cut)[0]
    if needs.data == "rankings":
        return tokenize_rankings([row.ranking() for row in rows], template, cut)[0]
    if needs.data == "completions":
        return tokenize_completions([row.preferred() if pairs else row for row in rows], template, cut)[0]
    halves = [half for row in rows for half in row.halves()] if pairs else rows
    made = tokenize_labelled(halves, template, cut)[0]
    return list(mismatched(made)) if needs.mismatched else made


_COLLATE: dict[str, Any] = {
    "pairs": collate_pairs,
    "labelled": collate_labelled,
    "completions": collate_completions,
    "rankings": collate_rankings,
}


def ours(objective: Objective, on: Models, rows: Sequence[Any], *, micro: int = 0) -> ModelSide:
    """alignlab's loss, gradients and logged metrics on all rows as one global batch, `micro` rows a forward."""
    made = module(objective, on)
    ready = tokens(objective, rows, on.tokenizer)
    size = micro or len(ready)
    batches = [_COLLATE[objective.requires.data](ready[i : i + size]) for i in range(0, len(ready), size)]
    mean_count = sum(batch.imitated_tokens for batch in batches) / len(ready)
    seen = [made.compute_logps(batch, mean_count) for batch in batches]
    losses = torch.cat([objective(values) for values in seen])
    logged = {**made.compute_metrics(seen[0]), **objective.metrics(seen[0])} if len(seen) == 1 else {}
    return take(made.policy, losses.mean(), logged)


def rewarding(on: Models) -> Models:
    """The same models with a scalar head instead of the vocabulary."""
    return Models(with_scalar_head(copy.deepcopy(on.policy), seed=3), None, on.tokenizer)
