"""Checkpointed and compiled layers compute what plain ones do. Compiling starts where it pays."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import transformers

from alignlab.data.layout import Layout, Rows, collate_rows
from alignlab.models.adapters.lora import LoRA
from alignlab.models.efficiency import (
    checkpoint_layers,
    compile_layers,
    compiling_pays,
    flush_denormals,
)
from alignlab.models.logps import answer_logps
from tests.models.test_logps import SIZES

ANSWERS = [([1, 2, 3, 4], [5, 6, 7]), ([1, 2, 3, 4], [8, 9]), ([10, 11], [12, 13, 14, 15])]
SHARED = Layout(shared=True, split=True, width=32)


def policy(*, adapter: bool) -> Any:
    """A policy in training mode without dropout. The weights of its adapter are not zero."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if adapter:
        model = LoRA(r=4, dropout=0.0).wrap(model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.2)
    return model.train()


def step(model: Any, rows: Rows) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(loss, gradient of all trained weights, bytes kept from the forward to the backward pass)."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logps = answer_logps(model, rows)
        loss = (torch.linspace(-1.0, 2.0, logps.numel()).view_as(logps) * logps).sum()
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return loss.detach(), torch.cat(gradients), sum(kept.values())


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_checkpointed_layers_keep_less_and_compute_the_same(adapter: bool) -> None:
    """With two layers, less than half is kept: the inputs of the layers, and the first and last part of the model."""
    rows = collate_rows(ANSWERS, SHARED)
    model = policy(adapter=adapter)
    loss, gradient, kept = step(model, rows)
    checkpoint_layers(model)
    other_loss, other_gradient, other_kept = step(model, rows)
    assert gradient.abs().max() > 0.1
    torch.testing.assert_close(other_loss, loss, atol=0, rtol=1e-6)
    assert (other_gradient - gradient).abs().max() <= 1e-6 * gradient.abs().max()
    assert other_kept < kept / 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_compiled_layers_compute_the_same(checkpointed: bool) -> None:
    """Other lengths and other numbers of sequences are not compiled again. One sequence is a case of its own."""
    torch._dynamo.reset()
    plain, compiled = policy(adapter=True), policy(adapter=True)
    if checkpointed:
        checkpoint_layers(compiled)
    compile_layers(compiled)
    counters = torch._dynamo.utils.counters
    counters.clear()
    shapes, compiles = [], []
    longer = [(prompt * 2, answer * 3) for prompt, answer in ANSWERS]
    more = [([i] * 3, [i, i + 1] * 3) for i in range(1, 5)]
    for answers in (ANSWERS, longer, ANSWERS[1:] * 2, more, more[1:]):
        rows = collate_rows(answers, SHARED)
        loss, gradient, _ = step(plain, rows)
        other_loss, other_gradient, _ = step(compiled, rows)
        torch.testing.assert_close(other_loss, loss, atol=1e-5, rtol=1e-5)
        assert (other_gradient - gradient).abs().max() <= 1e-5 * gradient.abs().max()
        shapes.append(tuple(rows.ids.shape))
        compiles.append(counters["stats"]["unique_graphs"])
    assert shapes == [(1, 15), (1, 39), (2, 6), (4, 9), (3, 9)]
    once = compiles[0]
    assert once > 0
    assert compiles == [once, once, 2 * once, 2 * once, 2 * once]


def test_compiling_pays_where_a_run_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight of a matrix costs 6 operations per token, or 4 if it is frozen. The threshold is 3e13 operations."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    model = policy(adapter=False)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    enough = int(3e13 / (6 * weights)) + 1
    assert compiling_pays(model, enough)
    assert not compiling_pays(model, enough - 2)
    model.requires_grad_(False)
    assert not compiling_pays(model, enough)
    assert not compiling_pays(model, int(1.49 * enough))
    assert compiling_pays(model, int(1.51 * enough))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """If CXX is set, it names the compiler, as for torch.compile."""
    installed = {"g++"}
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in installed else None)
    monkeypatch.delenv("CXX", raising=False)
    model = policy(adapter=False)
    assert compiling_pays(model, 10**12)
    monkeypatch.setenv("CXX", "clang++")
    assert not compiling_pays(model, 10**12)
    installed.add("clang++")
    assert compiling_pays(model, 10**12)
    installed.clear()
    monkeypatch.delenv("CXX")
    assert not compiling_pays(model, 10**12)


def test_compiling_is_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert not compiling_pays(policy(adapter=False).to("meta"), 10**12)


def test_numbers_that_a_cpu_is_slow_with_are_zero() -> None:
    """1e-30 times 1e-10 and half of the smallest normal float32 are denormal. The smallest normal one is kept."""
    smallest = torch.finfo(torch.float32).tiny
    try:
        flush_denormals()
        found = torch.tensor([1e-30, smallest, 2 * smallest]) * torch.tensor([1e-10, 0.5, 0.5])
    finally:
        torch.set_flush_denormal(False)
    assert found.tolist() == [0.0, 0.0, smallest]
    assert float(torch.tensor(1e-30) * 1e-10) > 0.0
