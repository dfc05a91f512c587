"""Facts from the `config.json` of published models: with them the size of a model is known without a download.

Each entry holds what decides number and shapes of the weights, and the number of positions (of a family's members with
different numbers, the smallest). tests/models/test_known_configs.py builds every one of
them on torch's meta device and compares the number of parameters with the published one.

Sources: the config.json files on the hub, as they are also listed in litgpt 0.5 (litgpt/config.py), and for OPT and
SmolLM3 the configs of transformers and of vLLM's tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


def known_config(name: str) -> Any:
    """The transformers config of a published model, by its hub name; None if it is not in the table."""
    from transformers import AutoConfig

    facts = CONFIGS.get(name)
    return None if facts is None else AutoConfig.for_model(**facts)


def _llama3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> Facts:
    shape = _grouped(hidden, layers, heads, 8, inner, 128256, tied)
    return {"model_type": "llama", "max_position_embeddings": 131072, **shape}


def _smollm2(hidden: int, layers: int, heads: int, kv_heads: int, inner: int) -> Facts:
    shape = _grouped(hidden, layers, heads, kv_heads, inner, 49152, True)
    return {"model_type": "llama", "max_position_embeddings": 8192, **shape}


def _grouped(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, words: int, tied: bool) -> Facts:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": words,
        "tie_word_embeddings": tied,
    }


def _qwen2_5(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, words: int, tied: bool) -> Facts:
    shape = _grouped(hidden, layers, heads, kv_heads, inner, words, tied)
    return {"model_type": "qwen2", "max_position_embeddings": 32768, **shape}


def _qwen3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> Facts:
    shape = _grouped(hidden, layers, heads, 8, inner, 151936, tied)
    return {"model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 32768, **shape}


def _gemma3(hidden: int, layers: int, inner: int) -> Facts:
    shape = _grouped(hidden, layers, 4, 1, inner, 262144, True)
    return {
        "model_type": "gemma3_text",
        "head_dim": 256,
        "sliding_window": 512,
        "max_position_embeddings": 32768,
        **shape,
    }


def _mistral(words: int, window: int | None) -> Facts:
    shape = _grouped(4096, 32, 32, 8, 14336, words, False)
    return {"model_type": "mistral", "sliding_window": window, "max_position_embeddings": 32768, **shape}


def _pythia(hidden: int, layers: int, heads: int, words: int = 50304) -> Facts:
    return {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": words,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }


def _gpt2(hidden: int, layers: int, heads: int) -> Facts:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads}


def _opt(hidden: int, layers: int, heads: int, **more: Any) -> Facts:
    return {
        "model_type": "opt",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": 4 * hidden,
        "word_embed_proj_dim": hidden,
        **more,
    }


# Hub names that differ only in training share one entry here, with the endings of their names.
_FAMILIES: tuple[tuple[str, tuple[str, ...], Facts], ...] = (
    ("HuggingFaceTB/SmolLM2-135M", ("", "-Instruct"), _smollm2(576, 30, 9, 3, 1536)),
    ("HuggingFaceTB/SmolLM2-360M", ("", "-Instruct"), _smollm2(960, 32, 15, 5, 2560)),
    ("HuggingFaceTB/SmolLM2-1.7B", ("", "-Instruct"), _smollm2(2048, 24, 32, 32, 8192)),
    (
        "HuggingFaceTB/SmolLM3-3B",
        ("", "-Base"),
        {"model_type": "smollm3", "max_position_embeddings": 32768, **_grouped(2048, 36, 16, 4, 11008, 128256, True)},
    ),
    ("EleutherAI/pythia-160m", ("", "-deduped"), _pythia(768, 12, 12)),
    ("EleutherAI/pythia-410m", ("", "-deduped"), _pythia(1024, 24, 16)),
    ("EleutherAI/pythia-1b", ("", "-deduped"), _pythia(2048, 16, 8)),
    ("EleutherAI/pythia-1.4b", ("", "-deduped"), _pythia(2048, 24, 16)),
    ("EleutherAI/pythia-2.8b", ("", "-deduped"), _pythia(2560, 32, 32)),
    ("EleutherAI/pythia-6.9b", ("", "-deduped"), _pythia(4096, 32, 32, 50432)),
    ("openai-community/gpt2", ("",), _gpt2(768, 12, 12)),
    ("openai-community/gpt2-medium", ("",), _gpt2(1024, 24, 16)),
    ("openai-community/gpt2-large", ("",), _gpt2(1280, 36, 20)),
    ("openai-community/gpt2-xl", ("",), _gpt2(1600, 48, 25)),
    ("facebook/opt-125m", ("",), _opt(768, 12, 12)),
    ("facebook/opt-350m", ("",), _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)),
    ("facebook/opt-1.3b", ("",), _opt(2048, 24, 32)),
    ("facebook/opt-2.7b", ("",), _opt(2560, 32, 32)),
    ("facebook/opt-6.7b", ("",), _opt(4096, 32, 32)),
    ("Qwen/Qwen2.5-0.5B", ("", "-Instruct"), _qwen2_5(896, 24, 14, 2, 4864, 151936, True)),
    ("Qwen/Qwen2.5-1.5B", ("", "-Instruct"), _qwen2_5(1536, 28, 12, 2, 8960, 151936, True)),
    ("Qwen/Qwen2.5-3B", ("", "-Instruct"), _qwen2_5(2048, 36, 16, 2, 11008, 151936, True)),
    ("Qwen/Qwen2.5-7B", ("", "-Instruct"), _qwen2_5(3584, 28, 28, 4, 18944, 152064, False)),
    ("Qwen/Qwen2.5-14B", ("", "-Instruct"), _qwen2_5(5120, 48, 40, 8, 13824, 152064, False)),
    ("Qwen/Qwen2.5-32B", ("", "-Instruct"), _qwen2_5(5120, 64, 40, 8, 27648, 152064, False)),
    ("Qwen/Qwen2.5-72B", ("", "-Instruct"), _qwen2_5(8192, 80, 64, 8, 29568, 152064, False)),
    ("Qwen/Qwen3-0.6B", ("", "-Base"), _qwen3(1024, 28, 16, 3072, True)),
    ("Qwen/Qwen3-1.7B", ("", "-Base"), _qwen3(2048, 28, 16, 6144, True)),
    ("Qwen/Qwen3-4B", ("", "-Base"), _qwen3(2560, 36, 32, 9728, True)),
    ("Qwen/Qwen3-8B", ("", "-Base"), _qwen3(4096, 36, 32, 12288, False)),
    ("Qwen/Qwen3-14B", ("", "-Base"), _qwen3(5120, 40, 40, 17408, False)),
    ("Qwen/Qwen3-32B", ("",), _qwen3(5120, 64, 64, 25600, False)),
    ("meta-llama/Llama-3.2-1B", ("", "-Instruct"), _llama3(2048, 16, 32, 8192, True)),
    ("meta-llama/Llama-3.2-3B", ("", "-Instruct"), _llama3(3072, 28, 24, 8192, True)),
    ("meta-llama/Llama-3.1-8B", ("", "-Instruct"), _llama3(4096, 32, 32, 14336, False)),
    ("meta-llama/Llama-3.1-70B", ("", "-Instruct"), _llama3(8192, 80, 64, 28672, False)),
    ("meta-llama/Llama-3.3-70B", ("-Instruct",), _llama3(8192, 80, 64, 28672, False)),
    ("meta-llama/Llama-3.1-405B", ("", "-Instruct"), _llama3(16384, 126, 128, 53248, False)),
    ("google/gemma-3-270m", ("", "-it"), _gemma3(640, 18, 2048)),
    ("google/gemma-3-1b", ("-pt", "-it"), _gemma3(1152, 26, 6912)),
    ("mistralai/Mistral-7B", ("-v0.1",), _mistral(32000, 4096)),
    ("mistralai/Mistral-7B", ("-Instruct-v0.2",), _mistral(32000, None)),
    ("mistralai/Mistral-7B", ("-v0.3", "-Instruct-v0.3"), _mistral(32768, None)),
    ("alignment-handbook/zephyr-7b-sft-full", ("",), _mistral(32000, 4096)),
    ("HuggingFaceH4/zephyr-7b-beta", ("",), _mistral(32000, 4096)),
)

# Hub name -> facts.
CONFIGS: dict[str, Facts] = {name + end: facts for name, ends, facts in _FAMILIES for end in ends}
