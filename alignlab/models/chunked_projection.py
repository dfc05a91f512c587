"""Projects hidden states onto the vocabulary in pieces, so that [answer tokens, vocabulary] never exists as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class TokenScores(NamedTuple):
    """One value per token and field, [n] each, in nats if not noted. Gradients flow through the first three fields."""

    logp: torch.Tensor
    reference_kl: torch.Tensor | None
    spread: torch.Tensor | None  # the entropy again, with gradient
    collision: torch.Tensor | None
    entropy: torch.Tensor | None
    correct: torch.Tensor | None  # bool: whether the token is the most probable one
    mean_logit: torch.Tensor | None


class ChunkedProjection(torch.autograd.Function):
    """Applies `see` to the hidden states piece by piece. The logits are not kept for the backward pass.

    The backward pass computes them again. If the projection is not trained and only log-probabilities carry a gradient,
    the gradient of each token's log-probability with respect to its hidden state is kept instead ([N, H]), and nothing
    is computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        see: Callable[[torch.Tensor, slice], TokenScores],
        pieces: Sequence[slice],
        hidden: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> Any:
        ctx.see, ctx.pieces, ctx.parameters = see, pieces, parameters
        trained = any(ctx.needs_input_grad[3:])
        found: list[list[torch.Tensor | None]] = []
        slopes: list[torch.Tensor] = []
        for tokens in pieces:
            keep_slope = ctx.needs_input_grad[2] and not trained
            with torch.set_grad_enabled(keep_slope):
                piece = hidden[tokens].detach().requires_grad_(keep_slope)
                seen = see(piece, tokens)
                keep_slope = keep_slope and seen.reference_kl is None and seen.spread is None
                slopes += torch.autograd.grad(seen.logp.sum(), piece) if keep_slope else ()
            found.append([None if values is None else values.detach() for values in seen])
        ctx.save_for_backward(torch.cat(slopes) if slopes else hidden)
        ctx.has_slopes = bool(slopes)
        out = [None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True)]
        ctx.mark_non_differentiable(*(values for values in out[3:] if values is not None))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, logp: torch.Tensor, kl: torch.Tensor | None, spread: torch.Tensor | None, *_: Any) -> Any:
        (kept,) = ctx.saved_tensors
        if ctx.has_slopes:
            return (None, None, kept * logp[:, None].to(kept.dtype), *(None for _ in ctx.parameters))
        wanted = [p for p in ctx.parameters if p.requires_grad]
        into = torch.empty_like(kept)
        totals: list[torch.Tensor | None] = [None] * len(wanted)
        for tokens in ctx.pieces:
            with torch.enable_grad():
                piece = kept[tokens].detach().requires_grad_()
                seen = ctx.see(piece, tokens)
            outs = [(seen.logp, logp), (seen.reference_kl, kl), (seen.spread, spread)]
            into_each = [(out, slope[tokens]) for out, slope in outs if out is not None and slope is not None]
            made, given = zip(*into_each, strict=True)
            slope, *found = torch.autograd.grad(made, [piece, *wanted], given, allow_unused=True)
            into[tokens] = slope
            totals = [new if old is None else old.add_(new) for old, new in zip(totals, found, strict=True)]
        filled = iter(totals)
        return (None, None, into, *(next(filled) if p.requires_grad else None for p in ctx.parameters))
