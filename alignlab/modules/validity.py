"""Whether the numbers of a batch are right: finite, and equal to the reference's before the first update."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.errors import DivergedError, NonFiniteError, PolicyIsNotReferenceError
from alignlab.models.tolerances import tolerance_of
from alignlab.objectives.base import Objective
from alignlab.spelling import counted
from alignlab.types import Logps


def check_start(policy: nn.Module, objective: Objective, loss: float, values: Any) -> None:
    """Check that the policy equals its reference before the first update.

    Then all log-ratios are 0, and the loss of many objectives is known. With dropout, nothing is checked.
    Raises PolicyIsNotReferenceError if a log-ratio or the loss is wrong.
    """
    if any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in policy.modules()):
        return
    tolerance, expected = tolerance_of(policy), objective.loss_at_reference
    faults = (
        [f"log-ratios of up to {far:.6f} nats per token, but all must be 0"]
        if (far := _farthest(values)) > tolerance.start_ratio
        else []
    )
    if expected is not None and abs(loss - expected) > tolerance.start_loss * max(1.0, abs(expected)):
        faults.append(f"first loss is {loss:.6f} but must be {expected:.6f}")
    if faults:
        raise PolicyIsNotReferenceError(
            f"{'; '.join(faults)} while the policy equals its reference\n"
            "  the reference log-probabilities belong to other weights, another tokenizer or another dtype;\n"
            "  type: reference=copy to compute them again"
        )


def non_finite(numbers: Tensor, index: Tensor, step: int, values: Any = None) -> NonFiniteError | None:
    """The error for examples with a number that is not finite; None if all `numbers` [B] are finite.

    index:  [B] places of the examples in the data.
    values: log-probabilities of the examples. If those of the reference are not finite, the run has not diverged,
            because training does not change the reference.
    """
    bad = ~torch.isfinite(numbers)
    if not bad.any():
        return None
    if values is not None and not _finite_reference(values):
        return NonFiniteError(
            f"the reference's log-probabilities are not finite at step {step} for "
            f"{_rows(index[bad])} of the data; either the reference's weights or these rows are at fault"
        )
    text = f"log-probabilities or loss are not finite at step {step} for {_rows(index[bad])} of the data"
    return _diverged_or_wrong(text, step)


def _rows(index: Tensor) -> str:
    """How many rows these are, and the places of the first ones."""
    places = [str(int(place)) for place in index]
    return f"{counted(len(places), 'row')} ({', '.join(places[:5])}{', ...' if len(places) > 5 else ''})"


def gradient_not_finite(norm: float, step: int) -> NonFiniteError:
    """The error for a gradient that is not finite although all other numbers are."""
    return _diverged_or_wrong(f"the gradient is not finite at step {step} (2-norm {norm})", step)


def _diverged_or_wrong(text: str, step: int) -> NonFiniteError:
    """DivergedError after the first update. Before it, NonFiniteError: the weights or the data are wrong."""
    if step:
        return DivergedError(text)
    return NonFiniteError(f"{text}: nothing is trained yet, so either the loaded weights or the data are at fault")


def _farthest(values: Any) -> float:
    """Largest absolute log-ratio per token of any answer in a batch; 0 without a reference."""
    if isinstance(values, Logps):
        return 0.0 if values.reference is None else float(values.logratio("mean").abs().max())
    parts = [getattr(values, field.name) for field in fields(values)]
    return max([0.0, *(_farthest(part) for part in parts if is_dataclass(part))])


def _finite_reference(values: Any) -> bool:
    """Whether all log-probabilities of the reference are finite."""
    if isinstance(values, Logps):
        seen = (values.reference, values.reference_tokens)
        return all(bool(torch.isfinite(tensor).all()) for tensor in seen if tensor is not None)
    parts = [getattr(values, field.name) for field in fields(values)]
    return all(_finite_reference(part) for part in parts if is_dataclass(part))
