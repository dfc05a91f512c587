"""The contracts of model sources, adapters and benchmarks, which are tried with a tiny model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.models.adapters.base import Adapter
from alignlab.models.reference import weights_digest
from alignlab.models.sources.base import ModelSource
from alignlab.models.sources.tiny import Tiny


def _tiny() -> tuple[Any, Any]:
    return Tiny(name="tiny", hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=512).load()


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(input_ids=torch.tensor([[1, 2, 3, 4]])).logits)


def the_same_weights_every_time(source: ModelSource) -> Iterator[str]:
    """The weights are the same every time, without dropout, on the CPU, and in the dtype of the settings."""
    (model, tokenizer), (again, _) = source.load(), source.load()
    if weights_digest(model) != weights_digest(again):
        yield "two calls of `load` give different weights; use a seed of your own"
    found = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if found != {source.dtype}:
        yield f"the weights are {', '.join(sorted(found))}, not dtype={source.dtype}"
    model.train()
    ids = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        if not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits):
            yield "two forward passes in training mode differ: switch dropout off"
    if not callable(getattr(tokenizer, "decode", None)):
        yield f"the tokenizer is a {type(tokenizer).__name__}, not one of transformers"


def the_fingerprint_stays(source: ModelSource) -> Iterator[str]:
    """The fingerprint of a source stays the same."""
    if source.fingerprint() != source.fingerprint():
        yield "two calls of `fingerprint` differ"


def the_policy_starts_as_the_model(adapter: Adapter) -> Iterator[str]:
    """The wrapped model computes what the model computes, and some of its parameters are trainable."""
    model, _ = _tiny()
    before = _logits(model)
    policy = adapter.wrap(model)
    if not torch.allclose(_logits(policy), before, atol=1e-5):
        yield f"the logits change by {float((_logits(policy) - before).abs().max()):.3g} when the model is wrapped"
    if not any(p.requires_grad for p in policy.parameters()):
        yield "no parameter is trainable"


def an_adapter_can_be_switched_off(adapter: Adapter) -> Iterator[str]:
    """If `can_switch_off` is declared, the policy without its adapter is the model, also after training."""
    if not adapter.can_switch_off:
        return
    model, _ = _tiny()
    before = _logits(model)
    policy = adapter.wrap(model)
    with torch.no_grad():
        for parameter in (p for p in policy.parameters() if p.requires_grad):
            parameter.add_(0.1)
    with policy.disable_adapter():
        if not torch.allclose(_logits(policy), before, atol=1e-5):
            yield "the policy without its adapter is not the model"


def every_item_has_a_score(benchmark: Benchmark) -> Iterator[str]:
    """Each score has one finite number for each item, and the same numbers for the same model."""
    model, tokenizer = _tiny()
    model.eval()
    first, second = (benchmark.scores(model, tokenizer) for _ in range(2))
    if not first:
        yield "there are no scores"
    for name, values in first.items():
        if not len(values) or not all(math.isfinite(float(value)) for value in values):
            yield f"{name} has {len(values)} scores, and not all are finite numbers"
        elif list(values) != list(second[name]):
            yield f"{name} has other scores when the same model is asked again"


MODELS: tuple[Contract, ...] = (*EVERY_PART, the_same_weights_every_time, the_fingerprint_stays)
ADAPTERS: tuple[Contract, ...] = (*EVERY_PART, the_policy_starts_as_the_model, an_adapter_can_be_switched_off)
BENCHMARKS: tuple[Contract, ...] = (*EVERY_PART, every_item_has_a_score)
