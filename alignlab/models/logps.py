"""Log-probabilities of answers: the only place that shifts labels and reduces the vocabulary."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignlab.data.collate import Rows
from alignlab.types import TokenStats


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of the answers of R rows, nats, float32; 0 where `rows.answer_mask` is False.

    tokens:       [R, T] log pi(y_t | x, y_<t).
    collision:    [R, T] log sum_v pi(v | x, y_<t)^2, without gradient, or None.
    reference_kl: [R] sum_t KL(ref(.|s_t) || pi(.|s_t)), or None.
    stats:        of every token's prediction, or None.
    """

    tokens: Tensor
    collision: Tensor | None = None
    reference_kl: Tensor | None = None
    stats: TokenStats | None = None


def answer_logits(model: nn.Module, rows: Rows) -> Tensor:
    """[R, T, V] logits that predict the answer tokens, float32 also where the model is in less.

    Column P - 1 predicts the first answer token, so the model is asked for its last T + 1 columns of logits and the
    very last one is dropped.
    """
    optional = {"position_ids": rows.positions, "logits_to_keep": rows.answer_length + 1, "use_cache": False}
    out = _call(model, rows, optional)
    return at_least_float32(out.logits[:, -rows.answer_length - 1 : -1])


def score_answers(
    model: nn.Module,
    rows: Rows,
    *,
    collision: bool = False,
    reference_logits: Tensor | None = None,
    stats: bool = False,
) -> Answers:
    """One forward of all rows; `collision`, `stats` and KL from `reference_logits` [R, T, V] where asked for."""
    logits = answer_logits(model, rows)
    return Answers(
        token_logps(logits, rows),
        _log_collision(logits.detach(), rows.answer_mask) if collision else None,
        None if reference_logits is None else _kl_from(reference_logits, logits, rows.answer_mask),
        _token_stats(logits.detach(), rows) if stats else None,
    )


def token_logps(logits: Tensor, rows: Rows) -> Tensor:
    """[R, T, V] -> [R, T] log-probability of every answer token, nats; 0 where `rows.answer_mask` is False."""
    targets = rows.ids[:, -rows.answer_length :].masked_fill(~rows.answer_mask, -100)
    nll = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return -nll.view_as(targets)


def answer_logps(model: nn.Module, rows: Rows) -> Tensor:
    """[R, T] log pi(y_t | x, y_<t) of every answer token, nats, float32; 0 where `rows.answer_mask` is False."""
    return score_answers(model, rows).tokens


def summed(logps: Tensor, mask: Tensor) -> Tensor:
    """[R, T], bool[R, T] -> [R] summed log-probability of each answer, nats, float32."""
    return torch.where(mask, logps, 0.0).sum(dim=1)


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values as float32; float64 stays (tests against closed forms run in it)."""
    return values if values.dtype == torch.float64 else values.float()


def last_hidden(backbone: nn.Module, rows: Rows) -> Tensor:
    """[R, H] hidden state on the last real token of every row, found by the masks and never by a token id."""
    hidden = _call(backbone, rows, {"position_ids": rows.positions, "use_cache": False}).last_hidden_state
    last = hidden.shape[1] - rows.answer_length + rows.answer_mask.sum(dim=1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _log_collision(logits: Tensor, mask: Tensor) -> Tensor:
    """[R, T] log sum_v pi(v)^2."""
    log_collision = (2 * logits).logsumexp(dim=-1) - 2 * logits.logsumexp(dim=-1)
    return log_collision.masked_fill(~mask, 0.0)


def _token_stats(logits: Tensor, rows: Rows) -> TokenStats:
    """Row by row, so that no second tensor of the size of all logits is made."""
    targets, mask = rows.ids[:, -rows.answer_length :], rows.answer_mask
    parts = [
        (
            torch.special.entr(row.softmax(dim=-1)).sum(dim=-1),
            row.argmax(dim=-1) == target,
            row.mean(dim=-1),
        )
        for row, target in zip(logits, targets, strict=True)
    ]
    entropy, correct, mean_logit = (torch.stack(values) for values in zip(*parts, strict=True))
    return TokenStats(entropy.masked_fill(~mask, 0.0), correct & mask, mean_logit.masked_fill(~mask, 0.0))


def _kl_from(reference_logits: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """[R] KL(reference || policy) over the vocabulary, summed over the answer's tokens."""
    reference = reference_logits.log_softmax(dim=-1)
    kl = (reference.exp() * (reference - logits.log_softmax(dim=-1))).sum(dim=-1)
    return kl.masked_fill(~mask, 0.0).sum(dim=1)


def _call(model: nn.Module, rows: Rows, optional: dict[str, Any]) -> Any:
    """Forward with those of the optional arguments that the model has."""
    accepts = inspect.signature(_innermost(model).forward).parameters
    given = {k: v for k, v in optional.items() if k in accepts}
    return model(input_ids=rows.ids, attention_mask=rows.attention, **given)


def _innermost(model: nn.Module) -> nn.Module:
    """The Hugging Face model below a peft wrapper, whose own forward takes anything."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model
