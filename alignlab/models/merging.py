"""Merges an adapter into the model that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.errors import ModelError
from alignlab.models.weights_check import check_finite, load_adapter, saved_weights
from alignlab.spelling import counted


def merged(model: Any, adapter: Path) -> Any:
    """The model with a saved adapter merged into its weights. All weights are trainable. `model` itself is changed.

    The merged weights are stored in no folder and under no hub name, so the result has an empty `name_or_path`.
    Raises ModelError if the adapter does not fit the model.
    """
    saved = saved_weights(str(adapter))
    _fit_vocabulary(model, adapter, saved)
    untied = _untie(model, saved)
    model = load_adapter(model, str(adapter)).merge_and_unload()
    if untied:
        _tie_if_equal(model)
    check_finite(model, str(adapter))
    model.name_or_path = model.revision = ""
    return model.requires_grad_(True)  # peft froze the base


def _fit_vocabulary(model: Any, adapter: Path, saved: Mapping[str, Any]) -> None:
    """Add embedding rows for tokens that were added before the adapter was trained. The adapter holds all rows.

    Raises ModelError if the adapter has more embeddings than the model and no weights of the output layer for them.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    rows = _rows(saved, _name_of(model, embedding))
    if rows <= embedding.weight.shape[0]:
        return
    if output is not None and output.weight is not embedding.weight:
        name = _name_of(model, output)
        if _rows(saved, name) != rows:
            raise ModelError(
                f"adapter {adapter} has embeddings of {counted(rows, 'token')}, and no {name}.weight for as many"
            )
    model.resize_token_embeddings(rows, mean_resizing=False)


def _rows(saved: Mapping[str, Any], layer: str) -> int:
    """Number of rows of a layer that an adapter holds as a whole; 0 if it does not."""
    wrappers = ("", ".base_layer", ".modules_to_save", ".token_adapter.base_layer")
    ends = tuple(f".{layer}{wrapper}.weight" for wrapper in wrappers)
    return next((len(tensor) for key, tensor in saved.items() if key.endswith(ends)), 0)


def _untie(model: Any, saved: Mapping[str, Any]) -> bool:
    """Give the output layer weights of its own if it shares the embedding's and the adapter changes one of the two."""
    import torch

    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is None or output.weight is not embedding.weight:
        return False
    names = [_name_of(model, module) for module in (embedding, output)]
    if not any(f".{name}." in key for name in names for key in saved):
        return False
    output.weight = torch.nn.Parameter(output.weight.detach().clone())
    return True


def _tie_if_equal(model: Any) -> None:
    """Tie embedding and output layer again if their weights are equal, else set the config to untied."""
    import torch

    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if embedding.is_meta or output.is_meta:  # tensors on the meta device have no values to compare
        return
    equal = torch.equal(embedding, output)
    model.config.tie_word_embeddings = equal
    if equal:
        model.tie_weights()


def _name_of(model: Any, module: Any) -> str:
    return next(name for name, part in model.named_modules() if part is module)
