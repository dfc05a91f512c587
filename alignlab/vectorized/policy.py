"""Several policies of one architecture as one model. Its weights have a leading dimension of points (torch.func)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import embedding

from alignlab.data.layout import Layout, Rows
from alignlab.models.forward import Predictions, at_least_float32, attention_mask
from alignlab.models.logps import AnswerScores, answer_logps, score_predictions
from alignlab.models.tolerances import tolerance_of
from alignlab.vectorized.answer_table import AnswerTable


@dataclass(frozen=True, eq=False)
class VectorizedInputs:
    """Rows for P policies.

    rows:      P * R rows, ordered by policy.
    arguments: arguments of the model's forward: tensors [P * S, ...], or [S, ...] if all policies get the same input.
    points:    P, or None if all policies get the same input.
    columns:   columns of the sequences for which logits are computed.
    at:        (int64[N] sequence, int64[N] column within `columns`) of the logits that predict each answer token.
    """

    rows: Rows
    arguments: dict[str, Any]
    points: int | None
    columns: slice
    at: tuple[Tensor, Tensor]


class VectorizedPolicy(nn.Module):
    """P policies that start from the same weights. Their trained weights are one parameter [P, D]; the rest is shared.

    policy:  a policy with the initial weights; it is not changed.
    weights: [P, D] the trained parameters of each policy, flattened in the order of `policy.named_parameters()`.
    """

    weights: Tensor

    def __init__(self, policy: Any, points: int) -> None:
        super().__init__()
        model = copy.deepcopy(policy).eval()
        # This implementation of attention uses only operations that vmap supports.
        model.set_attn_implementation("eager")
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.__class__ = _Embedding
        self._model = (model,)  # in a tuple, so that its weights are not parameters of this module
        self._trained = {name: p.shape for name, p in policy.named_parameters() if p.requires_grad}
        flat = torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])
        self.weights = nn.Parameter(flat.expand(points, -1).clone())

    def write_into(self, policy: Any, point: int) -> None:
        """Copy the weights of a point into a policy of the same architecture."""
        with torch.no_grad():
            for name, value in self._named(self.weights[point]).items():
                policy.get_parameter(name).copy_(value)

    def inputs_for_each(self, rows: Rows) -> VectorizedInputs:
        """Inputs from P * R plain rows, ordered by policy: each policy gets its own R rows."""
        return self._given(rows, self._arguments(rows), len(self.weights))

    def inputs_for_all(self, rows: Rows) -> VectorizedInputs:
        """Inputs from R rows, which every policy gets."""
        return self._given(rows.repeated(len(self.weights)), self._arguments(rows), None)

    def score(self, given: VectorizedInputs, *, collision: bool = False, stats: bool = False) -> AnswerScores:
        """Log-probabilities (nats) of the answers and, if asked for, statistics: P * R rows, ordered by policy."""
        logits = at_least_float32(self._logits(given).flatten(0, 1)[given.at])
        predictions = Predictions(logits, lambda states: states, logits.shape[-1], None)
        return score_predictions(predictions, given.rows, collision=collision, stats=stats)

    def _given(self, rows: Rows, arguments: dict[str, Any], points: int | None) -> VectorizedInputs:
        at, length = rows.predicted_at, rows.ids.shape[1]
        sequence, column = at // length, at % length
        first = int(column.min())
        return VectorizedInputs(
            rows, arguments, points, slice(first, int(column.max()) + 1), (sequence, column - first)
        )

    def _logits(self, given: VectorizedInputs) -> Tensor:
        """[P, S, C, V] logits of all sequences, for `given.columns`."""
        model = self._model[0]
        fixed = {"use_cache": False, "logits_to_keep": given.columns}

        def logits(weights: Tensor, arguments: dict[str, Any]) -> Tensor:
            return functional_call(model, self._named(weights), (), {**arguments, **fixed}).logits

        if given.points is None:
            return vmap(logits, in_dims=(0, None))(self.weights, given.arguments)
        return vmap(logits)(self.weights, _unflatten(given.arguments, given.points))

    def _arguments(self, rows: Rows) -> dict[str, Any]:
        mask = attention_mask(self._model[0].config, rows, self.weights.dtype)
        return {"input_ids": rows.ids, "attention_mask": mask, "position_ids": rows.positions}

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """Name -> trained parameter, from the flat weights [D] of one policy."""
        sizes = [shape.numel() for shape in self._trained.values()]
        parts = weights.split(sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self._trained.items(), parts, strict=True)}


def _unflatten(values: Any, points: int) -> Any:
    """Tensors [P * R, ...] as [P, R, ...], also inside dictionaries."""
    if isinstance(values, dict):
        return {key: _unflatten(value, points) for key, value in values.items()}
    return values.unflatten(0, (points, -1))


class _Embedding(nn.Embedding):
    """An embedding without a gradient for its padding token: vmap ignores `padding_idx` if the weights are batched."""

    def forward(self, input: Tensor) -> Tensor:
        padding = torch.arange(self.num_embeddings, device=input.device).eq(self.padding_idx or 0)[:, None]
        return embedding(input, torch.where(padding, self.weight.detach(), self.weight))


def vectorization_error(
    policy: Any, table: AnswerTable, places: Sequence[int], layout: Layout | None = None
) -> str | None:
    """Why a policy can't be vectorized; None if it can.

    Two copies of the policy are computed as one model on some answers. Their log-probabilities and gradients must equal
    those of the policy itself, except for rounding.

    places: places of the answers in the table.
    layout: layout of the rows, if they are the same for all points; None if each point has its own plain rows.
    """
    looked_at = torch.tensor(list(places), device=table.rows.ids.device)
    trained = [p for p in policy.parameters() if p.requires_grad]
    alone = answer_logps(policy, table.plain_rows_at(looked_at))
    gradients = torch.autograd.grad(alone.sum(), trained, allow_unused=True, materialize_grads=True)
    expected = torch.cat([part.flatten() for part in gradients])
    try:
        pair = VectorizedPolicy(policy, 2).to(looked_at.device)
        if layout is None:
            given = pair.inputs_for_each(table.plain_rows_at(looked_at.repeat(2)))
        else:
            given = pair.inputs_for_all(table.rows_at(looked_at, layout))
        vectorized = pair.score(given).tokens
        (gradient,) = torch.autograd.grad(vectorized.sum(), pair.weights)
    except (RuntimeError, ValueError, TypeError) as error:
        return f"its forward can't be vectorized ({str(error).splitlines()[0]})"
    logp_error = float((vectorized.detach().unflatten(0, (2, -1)) - alone.detach()).abs().max())
    gradient_error = float((gradient - expected).norm(dim=1).max() / expected.norm())
    tolerance = tolerance_of(policy).rearranged
    if logp_error <= tolerance and gradient_error <= tolerance:
        return None
    return (
        f"its log-probabilities differ by up to {logp_error:.2g} nats when vectorized, and its gradient by "
        f"{gradient_error:.2g} of its norm"
    )
