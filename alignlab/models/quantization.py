"""Weights in 4 bits under an adapter: QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, by bitsandbytes.

All linear layers but the last one (lm_head) are quantized. Embeddings and norms stay as they are. peft's
`prepare_model_for_kbit_training` is not used. It freezes the base, which an adapter does anyway. It also casts the
other weights to float32, after which the policy would be another function than the reference that was scored before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("none", "nf4")

# File in an adapter's folder: the quantization of the base that it was trained on, in the format of transformers.
FILE = "quantization_config.json"


def quantization(kind: str, dtype: str) -> Any:
    """The argument `quantization_config` of `from_pretrained`; None if `kind` is "none".

    kind:  one of KINDS. "nf4" is the NF4 of section 3 with double quantization (the constants are quantized too).
    dtype: type in which the quantized layers compute.
    """
    if kind == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def save_quantization(policy: Any, folder: Path) -> None:
    """Write the quantization of an adapter's base, if it has one, into the adapter's folder.

    peft saves only the name of the base.
    """
    config = policy.config.to_dict().get("quantization_config")
    if config is not None:
        (folder / FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")


def quantization_under(adapter: str) -> Any:
    """The quantization of a saved adapter's base, as `save_quantization` wrote it; None if the base has none."""
    file = Path(adapter) / FILE
    if not file.is_file():
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))


def one_function(model: Any) -> Any:
    """The model, changed so that it computes the same function in evaluation and in training.

    On CPUs with AVX-512, bitsandbytes repacks 4-bit weights at the first evaluation. From then on they compute in
    bfloat16, which is not the function that is trained, and no gradient passes through them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
