"""Sharded weights. A group of one process divides nothing, but makes the calls that several processes make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from alignlab.models.sharding import fill, gathered, shard, shard_like, whole, without_values
from tests.models.small import small_llama


class Root(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[..., Any], *args: Any) -> Any:
        return compute(*args)


@pytest.fixture
def _group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_sharded_weights_are_the_weights() -> None:
    model, ids = small_llama(11), torch.tensor([[3, 4, 5]])
    before, logits = {name: p.detach().clone() for name, p in model.named_parameters()}, model(ids).logits
    empty = without_values(model)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    root = Root(model)
    shard(root, [model], torch.device("cpu"))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    found = root(lambda: model(ids).logits)
    assert torch.equal(found, logits)
    found.sum().backward()
    gradient = model.lm_head.weight.grad
    assert isinstance(gradient, DTensor)
    with gathered(root):
        assert not any(isinstance(p, DTensor) for p in model.parameters())
        assert torch.equal(model(ids).logits, logits)
        assert torch.equal(model(ids).logits, logits), "a pass does not free the weights"
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert model.lm_head.weight.grad is gradient
    fill(empty, model, keep=True)
    assert all(torch.equal(p, before[name]) for name, p in empty.named_parameters())
    assert torch.equal(empty(ids).logits, logits)
    part = shard_like(before["lm_head.weight"], model.lm_head.weight)
    assert isinstance(part, DTensor)
    assert torch.equal(whole(part), before["lm_head.weight"])
