"""If memory runs out, a batch is repeated with smaller micro-batches, from the same state and with equal results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.errors import NotEnoughMemoryError
from alignlab.models.memory import out_of_memory
from alignlab.modules.base import AlignmentModule
from alignlab.objectives.dpo import DPO
from alignlab.objectives.sft import SFT
from tests.modules.cases import ANSWERS, build, objectives, train
from tests.modules.test_equivalence import EXACT, assert_same

OBJECTIVES = objectives()
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def refuse(module: AlignmentModule, when: Callable[[int], bool], error: BaseException = FULL) -> None:
    """Make the policy raise `error` if `when` is true for the number of sequences in a forward pass.

    The reference never raises it.
    """

    def before(backbone: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if when(len(kwargs["input_ids"])):
            raise error

    module.policy.model.register_forward_pre_hook(before, with_kwargs=True)  # type: ignore[union-attr, operator]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name.startswith("alignlab") and r.levelno >= logging.WARNING]


def test_what_counts_as_out_of_memory() -> None:
    assert out_of_memory(FULL)
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.parametrize("name", ["sft", "dpo", "tdpo", "kto", "bco", "aot", "mix", "reward_model"])
def test_training_goes_on_with_fewer_rows(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Metrics (including num_tokens), gradients, weights and evaluation equal those of a run that starts with 2 rows.

    Forward passes without gradient have room for 4 rows. So a coupled loss runs out of memory in its second pass, after
    the objective's state (BCO) was updated with the batch.
    """
    small = train(build(OBJECTIVES[name], micro=2), tmp_path)
    module = build(OBJECTIVES[name], micro=8)
    each = {"pairs": 2, "rankings": 4}.get(module.objective.requires.data, 1)  # maximum number of answers per row
    refuse(module, lambda answers: answers > each * (2 if torch.is_grad_enabled() else 4))
    assert_same(small, train(module, tmp_path))
    assert warnings_of(caplog) == [
        "not enough memory for 8 rows at a time; continuing with 4",
        "not enough memory for 4 rows at a time; continuing with 2",
    ]


@pytest.mark.parametrize("name", ["dpo", "bco", "kto", "mix"])
def test_what_an_attempt_left_behind_is_not_kept(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Memory runs out once, in the second step, after half of the batch has its gradients."""
    small = train(build(OBJECTIVES[name], micro=2), tmp_path)
    module = build(OBJECTIVES[name], micro=4)
    forwards = 0

    def second_half_of_second_step(answers: int) -> bool:
        nonlocal forwards
        if torch.is_grad_enabled():
            forwards += 1
        return torch.is_grad_enabled() and forwards == 4

    refuse(module, second_half_of_second_step)
    assert_same(small, train(module, tmp_path))
    assert warnings_of(caplog) == ["not enough memory for 4 rows at a time; continuing with 2"]


def test_an_evaluation_goes_on_with_fewer_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """16 rows are tried 8 at a time and end up 2 at a time. A later training keeps that size."""
    module = build(OBJECTIVES["bco"])
    plain = train(module, tmp_path)
    refuse(module, lambda answers: answers > 2)
    held_out = module.validate(module.trainer.datamodule.held_out_rows())  # type: ignore[attr-defined]
    assert held_out == pytest.approx(plain.held_out, **EXACT)
    assert len(warnings_of(caplog)) == 2
    assert module.micro_batches.rows == 2


@pytest.mark.parametrize(
    "error", [FULL, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")], ids=repr
)
def test_a_single_row_that_is_too_large(error: BaseException, tmp_path: Path) -> None:
    module = build(SFT(), micro=1)
    tokens = max(len(row.prompt) + len(row.completion) for row in ANSWERS)
    forwards: list[int] = []

    def always(answers: int) -> bool:
        forwards.append(answers)
        return len(forwards) < 5 or pytest.fail("the same row is tried again and again")

    refuse(module, always, error)
    with pytest.raises(NotEnoughMemoryError) as found:
        train(module, tmp_path)
    message = str(found.value)
    assert message.startswith("not enough memory for one row of ")
    assert 2 <= int(message.split("one row of ")[1].split()[0]) <= tokens
    assert f"at step 0: {error}" in message
    assert "type: trainer.gradient_checkpointing=true, or a smaller data.max_length" in message


def test_rows_that_were_cut_by_tokens_are_halved_from_what_was_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Portions may have 64 rows but never had more than 8. The next ones have 4 rows, not 32."""
    module = build(DPO(beta=0.5), micro=64)
    refuse(module, lambda answers: answers > 8)
    train(module, tmp_path)
    assert warnings_of(caplog) == ["not enough memory for 8 rows at a time; continuing with 4"]


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory")], ids=repr)
def test_other_errors_pass_through(error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = build(SFT())
    refuse(module, lambda answers: True, error)
    with pytest.raises(type(error)) as found:
        train(module, tmp_path)
    assert found.value is error
    assert not warnings_of(caplog)
    assert module.micro_batches.rows == 8
