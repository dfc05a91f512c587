"""Writes a model with the architecture of Llama as one GGUF file, the format of llama.cpp.

The names of keys and tensors are those of the package gguf, which llama.cpp publishes. llama.cpp rotates neighbouring
features of a head, where Hugging Face rotates the two halves, so the rows of the query and key layers are reordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignlab.errors import ModelError
from alignlab.models.export.gguf_tokenizer import vocabulary_of
from alignlab.models.generation import all_ends

DTYPES = ("float32", "bfloat16", "float16", "q8_0")

# Architectures whose function llama.cpp computes as `llama`.
_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
_BLOCK = 32  # numbers that share a scale in q8_0


def gguf_faults(config: Any, tokenizer: Any, architecture: str = "") -> Iterator[str]:
    """Why a model can't be written as GGUF, by its config and its tokenizer. No weights are needed.

    architecture: name of the model's class; empty takes the one that the config names.
    """
    name = architecture or next(iter(config.architectures or ()), "an unknown architecture")
    if name not in _ARCHITECTURES:
        yield f"{name} is not one of {', '.join(_ARCHITECTURES)}"
        return
    if config.num_hidden_layers < 1:
        yield "the model has no layers (a tabular policy)"
    window = getattr(config, "sliding_window", None)
    if window and window < config.max_position_embeddings:
        yield f"it attends to a window of {window} tokens only, which the architecture llama of llama.cpp does not have"
    if config.hidden_act != "silu":
        yield f"its activation is {config.hidden_act}, and that of llama.cpp's llama is silu"
    if (kind := _rope(config)["rope_type"]) not in ("default", "linear", "llama3"):
        yield f"its rotary embeddings are scaled by {kind}; default, linear and llama3 are supported"
    try:
        vocabulary_of(tokenizer, config.vocab_size)
    except ModelError as error:
        yield str(error)


def write_gguf(model: Any, tokenizer: Any, file: Path, *, dtype: str = "") -> None:
    """Write weights, tokenizer, chat template and end tokens.

    dtype: one of DTYPES; empty keeps the model's. Vectors are float32 always, because llama.cpp needs that.
    Raises ModelError if `gguf_faults` finds any.
    """
    import gguf

    config = model.config
    if faults := list(gguf_faults(config, tokenizer, type(model).__name__)):
        raise ModelError(f"no GGUF file can be written: {'; '.join(faults)}")
    kind = dtype or str(model.dtype).removeprefix("torch.")
    writer = gguf.GGUFWriter(file, "llama")
    _add_sizes(writer, config, kind)
    _add_vocabulary(writer, model, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():
            continue  # llama.cpp takes the embeddings if there is no output layer
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ModelError(f"no GGUF file can be written: llama.cpp's llama has no tensor for {name}")
        writer.add_tensor(known, *_encoded(_reordered(name, weight, config), kind))
    if (factors := _rope_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: Any, config: Any, kind: str) -> None:
    import gguf

    rope = _rope(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    types = gguf.LlamaFileType
    writer.add_file_type(
        {
            "float32": types.ALL_F32,
            "float16": types.MOSTLY_F16,
            "bfloat16": types.MOSTLY_BF16,
            "q8_0": types.MOSTLY_Q8_0,
        }[kind]
    )


def _add_vocabulary(writer: Any, model: Any, tokenizer: Any) -> None:
    found = vocabulary_of(tokenizer, model.config.vocab_size)
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    if found.scores:
        writer.add_token_scores(found.scores)
        writer.add_add_space_prefix(found.adds_space)
    else:
        writer.add_token_merges(found.merges)
    writer.add_add_bos_token(found.adds_bos)
    writer.add_add_eos_token(False)
    for token, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token is not None:
            add(token)
    ends = sorted(all_ends(model, tokenizer), key=lambda token: token != tokenizer.eos_token_id)
    # llama.cpp has three names for tokens that end a text: end of sequence, of turn, and of message.
    names = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for token, add in zip(ends, names, strict=False):
        add(token)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _reordered(name: str, weight: Any, config: Any) -> Any:
    """A tensor as float32 [...], with the rows of query and key layers in llama.cpp's order."""
    values = weight.detach().float().cpu().numpy()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _encoded(values: Any, kind: str) -> tuple[Any, None, Any]:
    """(data, no raw shape, type) of a tensor for the writer."""
    import gguf

    types = gguf.GGMLQuantizationType
    wanted = {"float32": types.F32, "float16": types.F16, "bfloat16": types.BF16, "q8_0": types.Q8_0}[kind]
    if values.ndim == 1 or (wanted == types.Q8_0 and values.shape[-1] % _BLOCK):
        wanted = types.F32
    return gguf.quants.quantize(values, wanted), None, wanted


def _rope(config: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, **(config.rope_parameters or {})}


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope_factors(config: Any) -> Any:
    """[head size / 2] divisors of the rotary frequencies of Llama 3.1, float32; None for other models.

    Long wavelengths are divided by `factor`, short ones stay, and those between are interpolated.
    """
    import numpy as np

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size = _head_size(config)
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2) / size)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = (rope["original_max_position_embeddings"] / wavelengths - low) / (high - low)
    smooth = smooth.clip(0.0, 1.0)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
