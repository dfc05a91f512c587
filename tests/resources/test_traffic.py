"""Bytes that devices exchange, against values by hand and against what FSDP2 gathers and adds up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from alignlab.models.adapters.base import Adapter
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.efficiency import checkpoint_layers
from alignlab.models.sharding import shard
from alignlab.resources.setup import Setup
from alignlab.resources.traffic import traffic_of
from tests.resources.test_memory import LINEAR, LORA, WEIGHTS, small

AROUND = WEIGHTS - LINEAR


def test_gradients_go_around_once() -> None:
    full = small(rows=8, micro_rows=4)
    assert traffic_of(full, devices=4, strategy="ddp") == 3 / 4 * 2 * 4 * WEIGHTS
    assert traffic_of(full, devices=4, strategy="zero2") == 3 / 4 * (2 + 1) * 4 * WEIGHTS, "after two micro-batches"
    assert traffic_of(full, devices=1, strategy="ddp") == traffic_of(full, devices=1, strategy="fsdp") == 0
    lora = replace(full, adapter=LoRA(), dtype="bfloat16")
    assert traffic_of(lora, devices=2, strategy="ddp") == 4 * LORA, "peft keeps adapters in float32"


def test_weights_are_gathered_for_each_micro_batch() -> None:
    full = small(rows=4, micro_rows=4)
    once = 4 * (2 * LINEAR + AROUND + WEIGHTS)
    for strategy in ("fsdp", "zero3"):
        assert traffic_of(full, devices=4, strategy=strategy) == pytest.approx(3 / 4 * once)
    half = replace(full, dtype="bfloat16")
    assert traffic_of(half, devices=2, strategy="fsdp") == pytest.approx(LINEAR * 2 + AROUND + 2 * WEIGHTS)
    assert traffic_of(replace(full, micro_rows=2), devices=4, strategy="fsdp") == pytest.approx(3 / 4 * 2 * once)
    copy = traffic_of(replace(full, reference="copy"), devices=4, strategy="fsdp")
    assert copy == pytest.approx(3 / 4 * (once + 4 * WEIGHTS)), "the reference makes one more pass"
    sampled = traffic_of(replace(full, sampled=8), devices=4, strategy="fsdp")
    assert sampled == pytest.approx(3 / 4 * (once + 4 * WEIGHTS)), "sampling needs all weights"


class Counted:
    """A collective operation that counts bytes and moves none."""

    def __init__(self) -> None:
        self.bytes = 0

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, *_: Any, **__: Any) -> None:
        self.bytes += max(output_tensor.nbytes, input_tensor.nbytes)
        output_tensor.zero_()


class Root(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[..., Any]) -> Any:
        return compute()


@pytest.fixture
def _four_processes() -> Iterator[None]:
    """A group of four, of which this process is the only one that is there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_four_processes")
@pytest.mark.parametrize("adapter", [FullFineTuning(), LoRA()])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fsdp_moves_what_is_planned(adapter: Adapter, checkpointing: bool) -> None:
    from torch.distributed.fsdp import FSDPModule

    setup: Setup = small(adapter=adapter, checkpointing=checkpointing)
    policy = adapter.wrap(AutoModelForCausalLM.from_config(setup.config)).train()
    if checkpointing:
        checkpoint_layers(policy)
    root = Root(policy)
    shard(root, [policy], torch.device("cpu"))
    moved = Counted()
    for unit in root.modules():
        if isinstance(unit, FSDPModule):
            unit.set_custom_all_gather(moved)  # type: ignore[arg-type]
            unit.set_custom_reduce_scatter(moved)  # type: ignore[arg-type]
    root(lambda: policy(torch.zeros(2, 5, dtype=torch.long)).logits.sum()).backward()
    assert traffic_of(setup, devices=4, strategy="fsdp") == pytest.approx(3 / 4 * moved.bytes, rel=0.01)
