"""The tokens at which a model's `generate` stops. They are read for sampling and saved with a policy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignlab.data.template import Template
from alignlab.models.forward import innermost

FILE = "generation_config.json"


def stop_ids(model: Any) -> list[int]:
    """Ids of the tokens at which `model.generate` stops, from its generation config or else from its config."""
    whole = innermost(model)
    for config in (getattr(whole, "generation_config", None), whole.config.get_text_config()):
        named = getattr(config, "eos_token_id", None)
        if named is not None:
            return [int(token) for token in named] if isinstance(named, list | tuple) else [int(named)]
    return []


def all_ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids of all tokens that end an answer: those at which `generate` stops, and those of the chat template."""
    named = stop_ids(model)
    return [*named, *(token for token in Template(tokenizer, named).ends if token not in named)]


def template_of(model: Any, tokenizer: Any, use: str = "auto") -> Template:
    """The template of a model's tokenizer. It also ends sampled answers where the model's `generate` stops.

    use: `data.template` of the run.
    """
    return Template(tokenizer, stop_ids(model), use)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model (or only its adapter, if it has one) and its tokenizer to `folder` in Hugging Face format.

    The saved generation config names all tokens that end an answer, and is otherwise unchanged. It is also saved with
    an adapter, because peft saves none and would use the base's.
    """
    whole = innermost(model)
    tokenizer.save_pretrained(folder)
    generation = getattr(whole, "generation_config", None)
    if generation is None:  # a classifier
        model.save_pretrained(folder)
        return
    ends = all_ends(whole, tokenizer)
    saved = copy.deepcopy(generation)
    saved.eos_token_id = ends if len(ends) > 1 else ends[0]
    with default_generation_config(whole):
        model.save_pretrained(folder)
    (folder / FILE).write_text(saved.to_json_string(ignore_metadata=True), encoding="utf-8")


@contextmanager
def default_generation_config(whole: Any) -> Iterator[None]:
    """Inside the block, `whole` has a default generation config, so that it can be saved.

    transformers reads some configs that it refuses to write, such as a temperature without do_sample=True.
    """
    generation = whole.generation_config
    whole.generation_config = type(generation)()
    try:
        yield
    finally:
        whole.generation_config = generation


def read_generation_config(model: Any, folder: str) -> None:
    """Use the generation config in `folder`, if there is one. `save_model` writes one beside an adapter."""
    from transformers import GenerationConfig

    if (Path(folder) / FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
