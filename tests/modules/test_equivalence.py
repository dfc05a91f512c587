"""For every objective, results do not depend on how a global batch is split, distributed, padded or ordered."""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.data.datamodule import BatchStream
from alignlab.data.layout import Layout
from alignlab.data.tokenize import mismatched
from alignlab.models.adapters.lora import LoRA
from alignlab.modules.base import AlignmentModule
from alignlab.objectives.base import Objective
from alignlab.training.data_shapes import SHAPES
from alignlab.types import join, map_tensors
from tests.models.test_logps import wider
from tests.modules.cases import PLAIN, ROWS, SHARED, Trained, build, data_for, objectives, train

OBJECTIVES = objectives()
Whole = Callable[[str], Trained]
EXACT = {"rel": 1e-6, "abs": 1e-9}


@pytest.fixture(params=sorted(OBJECTIVES), ids=lambda name: name.replace(" ", "_"))
def objective(request: pytest.FixtureRequest) -> Objective:
    return OBJECTIVES[request.param]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Name of an objective -> the same trained in one process on whole batches, once."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda name: train(build(OBJECTIVES[name]), folder))


def assert_same(one: Trained, two: Trained) -> None:
    """Compare loss, all metrics, the gradients of every step, the evaluation and the weights."""
    assert len(one.steps) == len(one.gradients) == 3
    for a, b in zip([*one.steps, one.held_out], [*two.steps, two.held_out], strict=True):
        assert b == pytest.approx(a, **EXACT)
    for first, second in zip([*one.gradients, one.weights], [*two.gradients, two.weights], strict=True):
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("micro", [2, 3])
@pytest.mark.parametrize("name", sorted(OBJECTIVES), ids=lambda name: name.replace(" ", "_"))
def test_a_batch_of_8_is_4_times_2(name: str, micro: int, whole: Whole, tmp_path: Path) -> None:
    """3 does not divide 8, and rows have different lengths. With 2, answers also share prompts and sequences."""
    layout = SHARED if micro == 2 else PLAIN
    assert_same(whole(name), train(build(OBJECTIVES[name], micro=micro, layout=layout), tmp_path))


# One objective of each way to put rows together: sums over rows, and means, ranks or moments of a whole batch.
OF_EACH_KIND = ["aot", "bco", "dpo", "ipo", "kto", "mix", "reward_model", "sft"]


@pytest.mark.parametrize(
    "names",
    [OF_EACH_KIND, pytest.param(sorted(OBJECTIVES.keys() - OF_EACH_KIND), marks=pytest.mark.slow)],
    ids=["of_each_kind", "others"],
)
def test_two_processes_are_one(names: list[str], whole: Whole, tmp_path: Path) -> None:
    """Two processes over gloo get half of every batch each, in micro-batches of 3, with shared prompts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_process, (port, str(tmp_path), names), nprocs=2, start_method="fork")
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    assert sorted(found) == sorted(names)
    for name in names:
        assert_same(whole(name), found[name])


def _process(rank: int, port: int, folder: str, names: list[str]) -> None:
    """One of two processes. The first one stores the results."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank),
        GROUP_RANK="0", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    found = {
        name: train(build(OBJECTIVES[name], micro=3, layout=SHARED), Path(folder), devices=2, strategy="ddp")
        for name in names
    }
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")


@pytest.mark.parametrize("name", ["aot", "kto", "bco", "mix"])
def test_a_second_look_has_the_dropout_masks_of_the_first(name: str, tmp_path: Path) -> None:
    """Gradients of a coupled loss with an adapter's dropout equal those of one graph through all micro-batches."""

    def with_adapter() -> AlignmentModule:
        module = build(OBJECTIVES[name], micro=3)
        module.policy = LoRA(r=4, dropout=0.3).wrap(module.policy)
        generator = torch.Generator().manual_seed(0)
        for key, parameter in module.policy.named_parameters():
            if "lora_B" in key:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return module

    trained = train(with_adapter(), tmp_path, steps=1)
    plain = with_adapter()
    plain.policy.train()
    data = data_for(plain.objective, 1)
    stream = BatchStream(data.train, 8, steps=1, seed=1, batch_transform=data.batch_transform)
    micro_batches = list(plain.micro_batches.of(next(iter(stream))))
    mean_count = sum(micro.imitated_tokens for micro in micro_batches) / 8
    values, beside = [], []
    for i, micro in enumerate(micro_batches):
        torch.manual_seed(i)  # AlignmentModule does the same in step 0 of seed 0
        values.append(plain.compute_logps(plain.with_gradient(micro), mean_count))
        torch.manual_seed(i)
        beside.append(plain.compute_without_grad(micro, mean_count))
    whole = plain.attach_without_grad(join(values), join(beside) if name == "kto" else None)
    if plain.state is not None:
        whole = dataclasses.replace(whole, state=plain.objective.next_state(whole, plain.state))
    loss = plain.objective(whole).mean()
    loss.backward()
    assert trained.steps[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-9)
    found = {key: p.grad for key, p in plain.policy.named_parameters() if p.grad is not None}
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-3
    for key, gradient in found.items():
        torch.testing.assert_close(trained.gradients[0][key], gradient, rtol=1e-8, atol=1e-11)


def test_padding_changes_nothing(objective: Objective) -> None:
    """There are more columns on the left of prompts and on the right of answers, with the id of a real token."""

    batch = collated(objective)
    wide = dataclasses.replace(batch, rows=wider(batch.rows, 3, 4))
    if getattr(batch, "mismatched", None) is not None:
        wide = dataclasses.replace(wide, mismatched=wider(batch.mismatched, 3, 4))
    assert_same_loss(objective, batch, wide, torch.arange(8))


@pytest.mark.parametrize("layout", [PLAIN, SHARED], ids=["plain", "shared"])
def test_the_order_of_rows_changes_nothing(objective: Objective, layout: Layout) -> None:
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    assert_same_loss(objective, collated(objective), collated(objective, order.tolist(), layout), order)


def collated(objective: Objective, order: list[int] | None = None, layout: Layout = PLAIN) -> Any:
    needs = objective.requires
    rows = ROWS[needs.data][:8]
    rows = mismatched(rows) if needs.mismatched else rows
    return SHAPES[needs.data].collate([rows[i] for i in order] if order else rows, layout)


def assert_same_loss(objective: Objective, batch: Any, other: Any, order: torch.Tensor) -> None:
    """Compare the losses row by row, the gradient of their mean, and every metric."""
    module = build(objective, drift=0.02)
    first, second = _of(module, batch), _of(module, other)
    torch.testing.assert_close(second[0], first[0][order], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(second[1], first[1], rtol=1e-9, atol=1e-10)
    assert second[2] == pytest.approx(first[2], rel=1e-9, abs=1e-10)


def _of(module: AlignmentModule, batch: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    module.policy.zero_grad()
    values = module.compute_logps(batch, batch.imitated_tokens / len(batch))
    if module.state is not None:
        values = dataclasses.replace(values, state=module.objective.next_state(values, module.state))
    loss = module.objective(values)
    loss.mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])
    return loss.detach(), gradient, module.metric_values(map_tensors(values, torch.Tensor.detach))
