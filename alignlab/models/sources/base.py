"""What a model source is: a dataclass that names weights and a tokenizer, and loads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from alignlab.checks import Checked, one_of
from alignlab.errors import ModelError, Problem
from alignlab.models.quantization import one_function, quantization, quantization_under
from alignlab.models.weights_check import check_finite, check_tokens, load_adapter, load_weights, loading, merge_adapter

DTYPES = ("float32", "bfloat16", "float16")

# Names under which Hugging Face configs keep a dropout rate.
_DROPOUT_KEYS = (
    "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "activation_dropout", "dropout",
    "attention_probs_dropout_prob", "hidden_dropout_prob", "embedding_dropout", "layerdrop", "emb_pdrop",
    "resid_dropout", "embed_dropout",
)  # fmt: skip


@dataclass(kw_only=True)
class ModelSource(Checked, ABC):
    """Base of all model sources.

    name:   what the model is called in tables; for pretrained ones also where it is loaded from.
    dtype:  of the weights: float32, bfloat16 or float16. Log-probabilities are float32 whatever this is.
    parent: overrides of `alignlab train` that make the run whose policy this one starts from (an SFT run, say); it is
            trained once and shared. [] starts from the weights themselves.
    """

    name: str
    dtype: str = "float32"
    parent: list[str] = field(default_factory=list)

    # Fields that only say where weights lie: `fingerprint` stands for them in the identity of a run.
    content_fields: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterator[Problem]:
        yield from one_of("dtype", self.dtype, DTYPES)

    def missing(self) -> Iterator[Problem]:
        """Files or packages that are not there. Looked at before any weights are loaded."""
        return iter(())

    @property
    def vocabulary(self) -> str | None:
        """All letters the tokenizer knows, where it knows only letters; None for ordinary tokenizers."""
        return None

    @property
    def parameters(self) -> int | None:
        """How many parameters the model has, where that is known before it is loaded."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether the weights can be trained themselves, not only an adapter on them."""
        return True

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of local weights, or the hub name and revision; stands for `content_fields` in a run's identity."""

    @abstractmethod
    def load(self) -> tuple[Any, Any]:
        """(model, tokenizer), on the CPU, in `dtype`, dropout off."""

    def load_from(self, folder: str) -> tuple[Any, Any]:
        """(model, tokenizer) of a policy that was trained from this source and saved to `folder`."""
        return load_pretrained(folder, dtype=self.dtype)


def load_pretrained(
    path: str,
    *,
    dtype: str,
    revision: str = "",
    attention: str = "",
    quantize: str = "none",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) from a hub name or a folder; an adapter's folder is loaded merged into its base.

    quantize: of a whole model. What an adapter is merged into is its base as it was trained on, rounded or not, and the
    sum is not rounded again.
    Raises ModelError where that fails, and where the files do not hold exactly the weights that the config describes.
    """
    with loading(f"model {path}"):
        return _load(path, dtype, revision, attention, quantize, trust_remote_code)


def check_pretrained(path: str) -> None:
    """Raise ModelError where `load_pretrained` would, as far as names and shapes of weights tell; none is read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with loading(f"model {path}"):
        base, adapter = base_of_adapter(path)
        config = _config_of_policy(path, base, adapter)
        model, _ = load_weights(AutoModelForCausalLM, base, config=config, device_map="meta")
        if adapter:
            load_adapter(model, adapter)
        check_tokens(model, AutoTokenizer.from_pretrained(path), path)


def _load(
    path: str, dtype: str, revision: str, attention: str, quantize: str, trust_remote_code: bool
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = base_of_adapter(path)
    origin: dict[str, Any] = {"revision": revision or None, "trust_remote_code": trust_remote_code}
    config = _config_of_policy(path, base, adapter, **origin)
    switch_dropout_off(config)
    if attention:
        origin["attn_implementation"] = attention
    rounded = quantization_under(adapter) if adapter else quantization(quantize, dtype)
    if rounded:  # on the CPU wherever it will run: the same weights everywhere
        origin |= {"quantization_config": rounded, "device_map": {"": "cpu"}}
    model = one_function(
        load_weights(AutoModelForCausalLM, base, config=config, dtype=getattr(torch, dtype), **origin)[0]
    )
    if adapter:
        if rounded:
            model = model.dequantize(getattr(torch, dtype))
        model = merge_adapter(load_adapter(model, adapter))
        check_finite(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or None, trust_remote_code=trust_remote_code)
    check_tokens(model, tokenizer, path)
    return model, tokenizer


def _config_of_policy(path: str, base: str, adapter: str | None, **origin: Any) -> Any:
    """The config of the base. Raises ModelError where `path` is a reward model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, **origin)
    if _scores(adapter, config):
        raise ModelError(
            f"{path} is a reward model: as a policy, or as the start of another one, its head would be thrown away\n"
            f"  type: reward=reward_model reward.run=[] reward.model={path}, or name the model that it was trained from"
        )
    return config


def _scores(adapter: str | None, config: Any) -> bool:
    """Whether weights are those of a classifier, a reward model for one."""
    import json
    from pathlib import Path

    if adapter:
        return json.loads((Path(adapter) / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS"
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def switch_dropout_off(config: Any) -> None:
    """Set every dropout rate of a Hugging Face config to 0: policy and reference must be the same function."""
    for part in (config, getattr(config, "text_config", None)):
        for key in _DROPOUT_KEYS:
            if getattr(part, key, 0.0):
                setattr(part, key, 0.0)


def base_of_adapter(path: str) -> tuple[str, str | None]:
    """(base model, adapter folder or None) of what stands at `path`."""
    import json
    from pathlib import Path

    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        return path, None
    return json.loads(file.read_text())["base_model_name_or_path"], path
