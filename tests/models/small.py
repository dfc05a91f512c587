"""A Llama of a few thousand weights for a tokenizer of any size."""

from __future__ import annotations

from typing import Any


def small_llama(vocabulary: int) -> Any:
    """A model with random weights. Token 2 ends a text, which is the default of Llama's config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=256, **sizes)).eval()


def always_saying(model: Any, token: int) -> Any:
    """The same model with weights that make `token` almost certain at every position."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        model.get_input_embeddings().weight.fill_(1.0)
        model.get_output_embeddings().weight[token] = 2.0
    return model
