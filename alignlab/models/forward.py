"""The forward pass of a causal language model that predicts the answer tokens: masks, backbone, projection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from alignlab.data.layout import Rows


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for N answer tokens. Logits are computed on demand.

    hidden:     [N, H] last hidden states; [N, V] logits if the model's own head computed them.
    project:    [n, H] -> [n, V] logits, in float32 even if the model has half precision.
    vocabulary: V.
    parameters: parameters of the projection; None if `hidden` are logits already.
    """

    hidden: torch.Tensor
    project: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int
    parameters: Sequence[torch.Tensor] | None


def predict(model: torch.nn.Module, rows: Rows) -> Predictions:
    """Predictions of all answer tokens, row by row, by one forward pass of all rows."""
    whole = innermost(model)
    if not rows.layout.split:
        logits = _own_logits(model, rows)
        return Predictions(logits, lambda logits: logits, logits.shape[-1], None)
    hidden = hidden_states(backbone(whole), rows)[rows.predicted_at]
    layer = whole.get_output_embeddings()
    scale, cap = _scale_and_cap(whole.config)

    def project(hidden: torch.Tensor) -> torch.Tensor:
        logits = layer(hidden)
        logits = logits * scale if scale != 1.0 else logits
        return at_least_float32(cap * torch.tanh(logits / cap) if cap else logits)

    return Predictions(hidden, project, int(whole.config.vocab_size), tuple(layer.parameters()))


def at_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions with logits divided by a temperature."""
    if temperature == 1.0:
        return predictions
    return replace(predictions, project=lambda hidden: predictions.project(hidden) / temperature)


def hidden_states(base: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """[S * L, H] last hidden states of a model without its head (S sequences of L columns)."""
    out = _call(base, rows, {"position_ids": rows.positions, "use_cache": False})
    return out.last_hidden_state.flatten(0, 1)


@contextmanager
def watched_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """A list that holds the input of the model's head in the latest forward pass: one tensor [B, L, H].

    For models whose layout is `split`, this input is the last hidden states.
    """
    seen: list[torch.Tensor] = []

    def keep(head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen[:] = given[:1]

    hook = innermost(model).get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def backbone(model: Any) -> Any:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)


def innermost(model: Any) -> Any:
    """The Hugging Face model inside a peft wrapper. Its layers contain the adapter."""
    get_base = getattr(model, "get_base_model", None)
    return get_base() if callable(get_base) else model


def on_device(model: Any, device: torch.device) -> Any:
    """The model, moved to a device unless it is there. Moving a model with sharded weights would free gathered ones."""
    return model if next(model.parameters()).device == device else model.to(device)


def precision(model: torch.nn.Module) -> str:
    """Name of the dtype of a model's weights, such as "float32"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Values as float32. float64 stays as it is, because tests against closed forms use it."""
    return values if values.dtype == torch.float64 else values.float()


def attention_mask(config: Any, rows: Rows, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """The argument `attention_mask` of a model.

    - Plain rows: int64[S, L].
    - Answers that share a prompt: [S, 1, L, L] in `dtype`, which the model adds to its attention scores.
    - The same, and a model with several kinds of layers: one such mask for each kind.

    A token sees its own prompt and answer up to itself (`Rows.visible_until`). Padding sees only itself, because some
    attention implementations return NaN for a token that sees nothing. A sliding window counts positions, not columns.
    """
    if not rows.layout.shared:
        return rows.attention
    column = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    itself = column == column[:, None]
    full = (column <= column[:, None]) & (column[:, None] < rows.visible_until[:, None, :]) | itself
    kinds = set(getattr(config, "layer_types", None) or ())
    window = window_of(config)
    if window is None:
        masks = {"full_attention": _added(full, dtype)}
    else:
        near = rows.positions[:, :, None] - rows.positions[:, None, :] < window
        masks = {"full_attention": _added(full, dtype), "sliding_attention": _added(full & near, dtype)}
    if kinds:
        return {kind: masks[kind] for kind in kinds}
    return masks["full_attention" if window is None else "sliding_attention"]


def window_of(config: Any) -> int | None:
    """Number of tokens that a layer with a sliding window sees, including the current one; None without such layers."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def _added(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """bool[S, L, L] -> [S, 1, L, L]: 0 if seen, else the most negative number (-inf may turn into NaN)."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _scale_and_cap(config: Any) -> tuple[float, float | None]:
    """(factor of the logits, as in Granite and Cohere; bound that tanh squashes them to, as in Gemma 2, or None)."""
    scale = getattr(config, "logit_scale", None) or 1.0
    return scale / (getattr(config, "logits_scaling", None) or 1.0), getattr(config, "final_logit_softcapping", None)


def _own_logits(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """[N, V] logits that predict the answer tokens, by the model's own head.

    If the model supports `logits_to_keep`, it computes no logits for other columns.
    """
    at = rows.predicted_at
    length = rows.ids.shape[1]
    columns, place = (at % length).unique(return_inverse=True)
    logits = _call(model, rows, {"position_ids": rows.positions, "logits_to_keep": columns, "use_cache": False}).logits
    if logits.shape[1] != len(columns):
        place = at % length
    return at_least_float32(logits[at // length, place])


def _call(model: torch.nn.Module, rows: Rows, optional: dict[str, Any]) -> Any:
    """Forward pass with those optional arguments that the model accepts."""
    inner = innermost(model)
    accepts = inspect.signature(inner.forward).parameters
    given = {k: v for k, v in optional.items() if k in accepts}
    mask = attention_mask(inner.config, rows, inner.dtype)
    return model(input_ids=rows.ids, attention_mask=mask, **given)
