"""Writes a trained model as a whole model or as an adapter, in Hugging Face format and without code of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from alignlab.errors import ModelError
from alignlab.integrity import MANIFEST
from alignlab.models.generation import FILE as GENERATION
from alignlab.models.generation import save_model
from alignlab.models.heads import OFFSET, check_scorer
from alignlab.models.lineage import ADAPTER_CONFIG, read_config
from alignlab.models.quantization import FILE as QUANTIZATION
from alignlab.models.sources.base import check_pretrained
from alignlab.models.weights_check import saved_weights

_WEIGHTS = "adapter_model.safetensors"

# Files of an adapter besides its config, weights and tokenizer. Each is JSON that alignlab wrote.
_BESIDE = (GENERATION, QUANTIZATION, OFFSET)

# Files of a policy's folder that an export writes anew, or that belong to the run alone.
_OF_THE_RUN = {"README.md", MANIFEST}

# Keys that name a place, or code.
_OF_THIS_PLACE = ("is_local", "local_files_only", "name_or_path", "auto_map", "custom_generate")


def write_merged(model: Any, tokenizer: Any, folder: Path, policy: Path, *, dtype: str = "") -> None:
    """Write a model whose adapters are merged: config, generation config, weights (safetensors) and tokenizer.

    The generation config names every token that ends an answer.

    policy: folder that the model was loaded from. The offset of a reward model is copied from there.
    dtype:  type of the written weights; empty keeps the model's.
    Raises ModelError if what was written does not have exactly the weights of the model.
    """
    import torch

    if dtype:
        model = model.to(getattr(torch, dtype))
    if type(model).__module__.startswith("transformers."):  # no code of others is needed, so none is named
        vars(model.config).pop("auto_map", None)
    save_model(model, tokenizer, folder)
    _forget_place(folder)
    if (policy / OFFSET).is_file():
        shutil.copyfile(policy / OFFSET, folder / OFFSET)
    if hasattr(model, "score"):
        check_scorer(str(folder))
    else:
        check_pretrained(str(folder))


def write_adapter(policy: Path, tokenizer: Any, folder: Path, *, base: str = "") -> list[str]:
    """Write the adapter in a folder with its tokenizer. Returns the names of files that are not written.

    These are files that neither alignlab nor peft writes for an adapter; they may be code.

    base: hub name of the model that the adapter belongs to; empty keeps the recorded name.
    Raises ModelError if the adapter's weights or config can't be read.
    """
    saved_weights(str(policy))
    if not (policy / _WEIGHTS).is_file():
        raise ModelError(f"adapter {policy} has no {_WEIGHTS}: only safetensors are exported")
    config = read_config(policy)
    if base:
        config |= {"base_model_name_or_path": base, "revision": None}
    tokenizer.save_pretrained(folder)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in (_WEIGHTS, *_BESIDE):
        if (policy / name).is_file():
            shutil.copyfile(policy / name, folder / name)
    _forget_place(folder)
    written = {file.name for file in folder.iterdir()}
    return sorted({file.name for file in policy.iterdir()} - written - _OF_THE_RUN)


def _forget_place(folder: Path) -> None:
    """Remove what only holds here from the configs of tokenizer and generation: how they were loaded, names of code."""
    for file in (folder / "tokenizer_config.json", folder / GENERATION):
        if file.is_file():
            config = json.loads(file.read_text(encoding="utf-8"))
            kept = {key: value for key, value in config.items() if key not in _OF_THIS_PLACE}
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding="utf-8")
