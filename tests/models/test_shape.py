"""The size of models under adapters, without weights."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, MixtralConfig

from alignlab.errors import ModelError
from alignlab.models.adapters.dora import DoRA
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.adapters.vera import VeRA
from alignlab.models.known_configs import known_config
from alignlab.models.shape import class_of, saved_of, shape_of

SMALL = LlamaConfig(
    vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
INPUTS, OUTPUTS = 4 * 32 + 2 * 32 + 48, 32 + 16 + 16 + 32 + 48 + 48 + 32  # of the seven linear layers of a layer


def test_a_full_model() -> None:
    shape = shape_of(SMALL, FullFineTuning())
    linear = 5 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    assert (shape.linear, shape.head, shape.tied) == (linear, 3200, True)
    assert shape.weights == shape.trained == linear + 3200 + 5 * 64 + 32
    assert (shape.added, shape.frozen, shape.trains_head) == (0, 0, True)
    assert (shape.layers, shape.hidden, shape.query, shape.key, shape.largest) == (5, 32, 32, 16, 32 * 48)


def test_adapters() -> None:
    lora, dora, vera = (shape_of(SMALL, adapter) for adapter in (LoRA(r=4), DoRA(r=4), VeRA(r=8)))
    assert (lora.trained, lora.added, lora.frozen) == (0, 5 * 4 * (INPUTS + OUTPUTS), 0)
    assert dora.added == 5 * (4 * (INPUTS + OUTPUTS) + OUTPUTS)
    assert vera.added == 5 * (OUTPUTS + 7 * 8)
    assert vera.frozen == 8 * (48 + 48), "two matrices that all layers share, for the widest input and output"
    assert not lora.trains_head


def test_a_large_model_is_looked_at_without_memory() -> None:
    shape = shape_of(known_config("Qwen/Qwen2.5-72B"), LoRA())
    assert (shape.weights, shape.layers, shape.key) == (72_706_203_648, 80, 1024)
    assert shape.added == 80 * 16 * (2 * 8192 * 2 + 2 * (8192 + 1024) + 3 * (8192 + 29568))


def test_half_precision_keeps_more_numbers_for_adapters() -> None:
    """An adapter in float32 keeps its own copy of the input of each layer."""
    single, half = (saved_of(SMALL, LoRA(r=4), dtype, 1, 10).layer for dtype in (torch.float32, torch.bfloat16))
    assert half > 0.8 * single


def test_other_architectures() -> None:
    assert class_of(known_config("openai-community/gpt2")) == "GPT2LMHeadModel"
    experts = MixtralConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(ModelError, match="experts or convolutions"):
        shape_of(experts, FullFineTuning())
