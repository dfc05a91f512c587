"""Many policies of one architecture as one model whose weights have a leading point dimension (torch.func)."""

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

    rows:      P times R rows, policy by policy.
    arguments: of the model's forward: tensors [P * S, ...], or [S, ...] where all policies are given the same.
    points:    P, or None where all policies are given the same.
    columns:   of the sequences, those that logits are made of.
    at:        int64[N] sequence, and int64[N] column of `columns`, of what predicts each answer token.
    """

    rows: Rows
    arguments: dict[str, Any]
    points: int | None
    columns: slice
    at: tuple[Tensor, Tensor]


class VectorizedPolicy(nn.Module):
    """P policies that start from the same weights. What is trained of them is one parameter [P, D], the rest is shared.

    policy:  any one of them; it is left as it is.
    weights: [P, D] each policy's trained parameters, one after the other, in the order of `policy.named_parameters()`.
    """

    weights: Tensor

    def __init__(self, policy: Any, points: int) -> None:
        super().__init__()
        model = copy.deepcopy(policy).eval()
        # Of the implementations of attention this one is made of operations that are there for many models at once.
        model.set_attn_implementation("eager")
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.__class__ = _Embedding
        self._model = (model,)  # in a tuple: its weights are not this module's
        self._trained = {name: p.shape for name, p in policy.named_parameters() if p.requires_grad}
        flat = torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])
        self.weights = nn.Parameter(flat.expand(points, -1).clone())

    def write_into(self, policy: Any, point: int) -> None:
        """Give a policy of the same architecture the weights of a point."""
        with torch.no_grad():
            for name, value in self._named(self.weights[point]).items():
                policy.get_parameter(name).copy_(value)

    def given_each(self, rows: Rows) -> VectorizedInputs:
        """P times R plain rows, policy by policy, as what each policy is given."""
        return self._given(rows, self._arguments(rows), len(self.weights))

    def given_all(self, rows: Rows) -> VectorizedInputs:
        """R rows as what every policy is given."""
        return self._given(rows.repeated(len(self.weights)), self._arguments(rows), None)

    def score(self, given: VectorizedInputs, *, collision: bool = False, stats: bool = False) -> AnswerScores:
        """What the policies say of the answers, as R rows of each, policy by policy."""
        found = at_least_float32(self._logits(given).flatten(0, 1)[given.at])
        predictions = Predictions(found, lambda logits: logits, found.shape[-1], None)
        return score_predictions(predictions, given.rows, collision=collision, stats=stats)

    def _given(self, rows: Rows, arguments: dict[str, Any], points: int | None) -> VectorizedInputs:
        at, length = rows.predicted_at, rows.ids.shape[1]
        sequence, column = at // length, at % length
        first = int(column.min())
        return VectorizedInputs(
            rows, arguments, points, slice(first, int(column.max()) + 1), (sequence, column - first)
        )

    def _logits(self, given: VectorizedInputs) -> Tensor:
        """[P, S, C, V] logits of all sequences, in the columns that they are made of."""
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
        """[D] -> each trained parameter by its name."""
        sizes = [shape.numel() for shape in self._trained.values()]
        parts = weights.split(sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self._trained.items(), parts, strict=True)}


def _unflatten(values: Any, points: int) -> Any:
    """Tensors [P * R, ...] as [P, R, ...], in dictionaries too."""
    if isinstance(values, dict):
        return {key: _unflatten(value, points) for key, value in values.items()}
    return values.unflatten(0, (points, -1))


class _Embedding(nn.Embedding):
    """An embedding that learns nothing for its padding token, which vmap forgets where weights are many models'."""

    def forward(self, input: Tensor) -> Tensor:
        padding = torch.arange(self.num_embeddings, device=input.device).eq(self.padding_idx or 0)[:, None]
        return embedding(input, torch.where(padding, self.weight.detach(), self.weight))


def vectorization_error(
    policy: Any, table: AnswerTable, places: Sequence[int], layout: Layout | None = None
) -> str | None:
    """Why a policy can't be stacked, from a look at some rows: two in a stack must say and learn what it does.

    layout: of rows that are the same for all points; None where each has its own.
    """
    looked_at = torch.tensor(list(places), device=table.rows.ids.device)
    trained = [p for p in policy.parameters() if p.requires_grad]
    alone = answer_logps(policy, table.take(looked_at))
    slopes = torch.autograd.grad(alone.sum(), trained, allow_unused=True, materialize_grads=True)
    slope = torch.cat([part.flatten() for part in slopes])
    try:
        stack = VectorizedPolicy(policy, 2).to(looked_at.device)
        if layout is None:
            given = stack.given_each(table.take(looked_at.repeat(2)))
        else:
            given = stack.given_all(table.laid_out(looked_at, layout))
        found = stack.score(given).tokens
        (found_slope,) = torch.autograd.grad(found.sum(), stack.weights)
    except (RuntimeError, ValueError, TypeError) as error:
        return f"its forward can't be made for several models at once ({str(error).splitlines()[0]})"
    far = float((found.detach().unflatten(0, (2, -1)) - alone.detach()).abs().max())
    off = float((found_slope - slope).norm(dim=1).max() / slope.norm())
    tolerance = tolerance_of(policy).rearranged
    if far <= tolerance and off <= tolerance:
        return None
    return f"several models at once are off by {far:.2g} nats, and their gradients by {off:.2g} of them"
