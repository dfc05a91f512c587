"""Log-probabilities of answers. Only this file shifts labels and reduces over the vocabulary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from alignlab.data.layout import Rows
from alignlab.models.chunked_projection import ChunkedProjection, TokenScores
from alignlab.models.forward import Predictions, at_temperature, predict
from alignlab.types import TokenStats

# Maximum number of logits in a piece, if they are computed in pieces: 64 MB in float32.
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """How a model scores the answers of R rows, in nats and float32. Values off `rows.answer_mask` are 0.

    tokens:       [R, T] log pi(y_t | x, y_<t).
    collision:    [R, T] log sum_v pi(v | x, y_<t)^2, without gradient, or None.
    reference_kl: [R] sum_t KL(ref(.|s_t) || pi(.|s_t)), or None.
    stats:        [R, T] statistics of every token's prediction, without gradient, or None.
    entropy:      [R, T] entropy of every token's prediction, with gradient, or None.
    """

    tokens: torch.Tensor
    collision: torch.Tensor | None = None
    reference_kl: torch.Tensor | None = None
    stats: TokenStats | None = None
    entropy: torch.Tensor | None = None


def score_answers(
    model: torch.nn.Module,
    rows: Rows,
    *,
    temperature: float = 1.0,
    collision: bool = False,
    reference: Predictions | None = None,
    stats: bool = False,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> AnswerScores:
    """Score all rows in one forward pass. Everything but `tokens` is computed only on request.

    reference: predictions of the reference, for `reference_kl`.
    If the layout is `split`, no tensor of all answer tokens times the vocabulary is kept. At most `logits_at_once`
    logits exist at a time, and the backward pass computes those that it needs again.
    """
    return score_predictions(
        at_temperature(predict(model, rows), temperature),
        rows,
        collision=collision,
        reference=reference,
        stats=stats,
        logits_at_once=logits_at_once,
    )


def score_predictions(
    predictions: Predictions,
    rows: Rows,
    *,
    collision: bool = False,
    reference: Predictions | None = None,
    stats: bool = False,
    entropy: bool = False,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> AnswerScores:
    """`score_answers` for a forward pass that was done before. `entropy` requests the entropy with its gradient."""
    targets = rows.targets

    def see(hidden: torch.Tensor, tokens: slice) -> TokenScores:
        logits = predictions.project(hidden)
        others = None if reference is None else reference.project(reference.hidden[tokens])
        return _see(logits, targets[tokens], others, collision, stats, entropy)

    vocabulary = predictions.vocabulary
    if predictions.parameters is None or len(targets) * vocabulary <= logits_at_once:
        seen = see(predictions.hidden, slice(None))
    else:
        pieces = _pieces(len(targets), max(1, logits_at_once // vocabulary))
        seen = TokenScores(*ChunkedProjection.apply(see, pieces, predictions.hidden, *predictions.parameters))
    tables = [None if values is None else rows.scatter(values) for values in seen]
    tokens, kl, with_gradient, log_collision, entropies, correct, mean_logit = tables
    assert tokens is not None
    return AnswerScores(
        tokens,
        log_collision,
        None if kl is None else kl.sum(dim=1),
        TokenStats(entropies, correct, mean_logit) if entropies is not None else None,  # type: ignore[arg-type]
        with_gradient,
    )


def answer_logps(model: torch.nn.Module, rows: Rows, *, temperature: float = 1.0) -> torch.Tensor:
    """[R, T] log pi(y_t | x, y_<t) of every answer token, nats, float32. Values off `rows.answer_mask` are 0."""
    return score_answers(model, rows, temperature=temperature).tokens


def summed(logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[R, T], bool[R, T] -> [R] summed log-probability of each answer, nats, float32."""
    return torch.where(mask, logps, 0.0).sum(dim=1)


def _see(
    logits: torch.Tensor, targets: torch.Tensor, others: torch.Tensor | None, collision: bool, stats: bool, spread: bool
) -> TokenScores:
    """[n, V] logits -> the requested scores of n tokens. `others` [n, V] are the reference's logits."""
    logp = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    kl = log_collision = entropy = correct = mean_logit = None
    if others is not None:
        reference = others.log_softmax(dim=-1)
        kl = (reference.exp() * (reference - logits.log_softmax(dim=-1))).sum(dim=-1)
    with torch.no_grad():
        if collision:
            log_collision = (2 * logits).logsumexp(dim=-1) - 2 * logits.logsumexp(dim=-1)
        if stats:
            entropy = _entropy(logits)
            correct = logits.argmax(dim=-1) == targets
            mean_logit = logits.mean(dim=-1)
    return TokenScores(logp, kl, _entropy(logits) if spread else None, log_collision, entropy, correct, mean_logit)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """[n, V] logits -> [n] entropy in nats: log Z - E[z].

    The maximum is subtracted first, so that sums over a large vocabulary stay precise.
    """
    moved = logits - logits.amax(dim=-1, keepdim=True)
    return moved.logsumexp(dim=-1) - torch.linalg.vecdot(moved.softmax(dim=-1), moved)


def _pieces(total: int, size: int) -> list[slice]:
    """Slices of about equal size, none larger than `size`."""
    count = -(-total // size)
    bounds = [total * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
