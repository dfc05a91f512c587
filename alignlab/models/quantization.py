"""Weights in 4 bits under an adapter: QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, by bitsandbytes.

The linear layers are rounded, all but the last one (lm_head); embeddings and norms stay as they are. peft's
`prepare_model_for_kbit_training` is left out: an adapter freezes its base anyway, and casting what is not rounded to
float32 would make the policy another function than the reference that was scored before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("none", "nf4")

# Beside a saved adapter: how the base that it was trained on is rounded, as transformers reads it.
_FILE = "quantization_config.json"


def quantization(kind: str, dtype: str) -> Any:
    """What `from_pretrained` is to do with linear layers: section 3's NF4, its constants rounded too; None for nothing.

    dtype: that they compute in.
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
    """Write into an adapter's folder how its base is rounded, where it is: peft keeps the base's name alone."""
    config = policy.config.to_dict().get("quantization_config")
    if config is not None:
        (folder / _FILE).write_text(json.dumps(config, indent=2))


def quantization_under(adapter: str) -> Any:
    """How the base below a saved adapter is rounded (`save_quantization`), for `from_pretrained`; None if it is not."""
    file = Path(adapter) / _FILE
    if not file.is_file():
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig.from_dict(json.loads(file.read_text()))


def one_function(model: Any) -> Any:
    """The model, with evaluation and training computing the same.

    On CPUs with AVX-512, bitsandbytes repacks 4-bit weights at the first evaluation. From then on they compute in
    bfloat16, which is not the function that is trained, and let no gradient through.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
