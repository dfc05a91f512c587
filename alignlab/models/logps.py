"""Log-probabilities of answers: the only place that shifts labels and reduces the vocabulary."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignlab.data.collate import Rows


def answer_logps(model: nn.Module, rows: Rows) -> Tensor:
    """[R, T] log pi(y_t | x, y_<t) of every answer token, nats, float32; 0 where `rows.answer_mask` is False.

    The log-softmax is taken in float32 whatever the model's dtype. Column P - 1 predicts the first answer token, so the
    model is asked for its last T + 1 columns of logits and the very last one is dropped.
    """
    accepts = inspect.signature(_innermost(model).forward).parameters
    optional = {"position_ids": rows.positions, "logits_to_keep": rows.answer_length + 1, "use_cache": False}
    out = model(
        input_ids=rows.ids, attention_mask=rows.attention, **{k: v for k, v in optional.items() if k in accepts}
    )
    logits = out.logits[:, -rows.answer_length - 1 : -1]
    targets = rows.ids[:, -rows.answer_length :].masked_fill(~rows.answer_mask, -100)
    nll = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return -nll.view_as(targets)


def _innermost(model: nn.Module) -> nn.Module:
    """The Hugging Face model below a peft wrapper, whose own forward takes anything."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


def summed(logps: Tensor, mask: Tensor) -> Tensor:
    """[R, T], bool[R, T] -> [R] summed log-probability of each answer, nats, float32."""
    return torch.where(mask, logps, 0.0).sum(dim=1)
