"""Merges an adapter into the model that it was trained on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.errors import ModelError
from alignlab.models.forward import innermost
from alignlab.models.generation import default_generation_config
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


def save_whole(policy: Any, folder: Path) -> None:
    """Save a policy as a whole model in Hugging Face format, without a tokenizer. The policy is not changed.

    An adapter is merged into copies of its layers, one layer at a time. If it is switched off, it is left out.
    Raises ModelError if an adapter changes one of two layers that share their weights.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = innermost(policy)
    adapted = {f"{name}.": part for name, part in whole.named_modules() if isinstance(part, BaseTunerLayer)}
    embeddings = (whole.get_input_embeddings(), whole.get_output_embeddings())
    if whole.config.tie_word_embeddings and any(part in embeddings for part in adapted.values()):
        raise ModelError(
            "the adapter changes the embedding or the output layer, which share their weights: the policy can't be "
            "saved as a whole model while it trains\n  type: peft.target_modules=all-linear"
        )
    starts = tuple(adapted)
    weights = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(starts or ("\0",))}
    for start, layer in adapted.items():
        weights |= {f"{start}{name}": tensor for name, tensor in _merged_layer(layer).state_dict().items()}
    with default_generation_config(whole):
        whole.save_pretrained(folder, state_dict=weights)


def _merged_layer(layer: Any) -> Any:
    """A copy of the layer below an adapter, with the adapter merged into it unless it is switched off."""
    if layer.disable_adapters:
        return layer.get_base_layer()
    copied = copy.deepcopy(layer)
    copied.merge()
    return copied.get_base_layer()


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
