"""An adapter merged into the model that it was trained on, so that the sum computes what both did together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.models.weights_check import check_finite, load_adapter, saved_weights


def merged(model: Any, adapter: Path) -> Any:
    """The model with a saved adapter merged into its weights, all of them trainable; `model` is used up.

    No folder and no hub name holds these weights: the `name_or_path` of the sum is empty.
    Raises ModelError if the adapter does not fit the model.
    """
    saved = saved_weights(str(adapter))
    _fit_vocabulary(model, adapter, saved)
    untied = _untie(model, saved)
    model = load_adapter(model, str(adapter)).merge_and_unload()
    if untied and not model.get_output_embeddings().weight.is_meta:  # names and shapes alone have nothing to compare
        _tie_if_equal(model)
    check_finite(model, str(adapter))
    model.name_or_path = model.revision = ""
    return model.requires_grad_(True)  # an adapter had frozen its base


def _fit_vocabulary(model: Any, adapter: Path, saved: Mapping[str, Any]) -> None:
    """Give the model rows for tokens that were added before the adapter was trained.

    The adapter holds the rows of those that were trained. All others start from a fixed seed, so that the model is the
    same whenever it is loaded.
    """
    import torch
    from transformers import AutoTokenizer

    there, name = model.get_input_embeddings().weight.shape[0], _name_of(model, model.get_input_embeddings())
    ends = (f".{name}.weight", f".{name}.base_layer.weight")
    rows = [len(tensor) for key, tensor in saved.items() if key.endswith(ends)]
    if not rows and (adapter / "tokenizer_config.json").is_file():
        rows = [len(AutoTokenizer.from_pretrained(adapter))]
    if rows and rows[0] > there:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(rows[0], mean_resizing=False)


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
    """Share the weights of embedding and output layer again, or have the config say that they are two."""
    import torch

    equal = torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    model.config.tie_word_embeddings = equal
    if equal:
        model.tie_weights()


def _name_of(model: Any, module: Any) -> str:
    return next(name for name, part in model.named_modules() if part is module)
