"""Base class of model sources: dataclasses that name weights and a tokenizer, and load them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from alignlab import hub
from alignlab.checks import Checked, names_a_run, one_of
from alignlab.errors import DamagedError, ModelError, Problem
from alignlab.integrity import DAMAGE_EXTRA, MANIFEST, read_record, sha256_of, verify_folder
from alignlab.models.lineage import Lineage, lineage, read_config
from alignlab.models.quantization import one_function, quantization, quantization_under

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")

# Names under which Hugging Face configs keep a dropout rate.
_DROPOUT_KEYS = (
    "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "activation_dropout", "dropout",
    "attention_probs_dropout_prob", "hidden_dropout_prob", "embedding_dropout", "layerdrop", "emb_pdrop",
    "resid_dropout", "embed_dropout",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfigs:
    """The configs of a model whose weights are not loaded. `template_of` and `stop_ids` take it in place of a model."""

    config: Any
    generation_config: Any = None


@dataclass(kw_only=True)
class ModelSource(Checked, ABC):
    """Base of all model sources.

    name:   name of the model in tables. A pretrained model is also loaded from there.
    dtype:  type of the weights: float32, bfloat16 or float16. Log-probabilities are float32 with each of them.
    parent: the run whose policy this one starts from, such as an SFT run: the name of a stage (conf/stage), or a list
            of stages and overrides of `alignlab train`. It is trained once and shared. [] starts from the weights.
    """

    name: str
    dtype: str = "float32"
    parent: Any = field(default_factory=list)

    # Fields that only locate the weights. In the identity of a run, `fingerprint` replaces them.
    content_fields: ClassVar[tuple[str, ...]] = ()

    # Names of a source whose weights are not loaded from its name. Another name would promise another model.
    own_names: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterator[Problem]:
        yield from one_of("dtype", self.dtype, DTYPES)
        yield from names_a_run("parent", self.parent, example="sft")

    def missing(self) -> Iterator[Problem]:
        """Problems with files or packages that are missing. They are checked before any weights are loaded."""
        return iter(())

    @property
    def vocabulary(self) -> str | None:
        """All letters of a tokenizer that knows only letters; None for ordinary tokenizers."""
        return None

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the model; None if it is unknown before loading."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether the weights themselves can be trained. If not, only an adapter on them can."""
        return True

    @property
    def allows_remote_code(self) -> bool:
        """Whether code that comes with the model may run."""
        return False

    def unreachable(self) -> Iterator[Problem]:
        """The problem of a name of the hub whose commit is unknown, because neither the cache nor the hub tells it."""
        return iter(())

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of local weights, or hub name and commit. It replaces `content_fields` in a run's identity."""

    @abstractmethod
    def load(self) -> tuple[Any, Any]:
        """(model, tokenizer), on the CPU, in `dtype`, with dropout off. Raises ModelError if loading fails."""

    def load_tokenizer(self) -> tuple[ModelConfigs, Any]:
        """(configs, tokenizer). Raises ModelError if loading fails. Sources that need no weights for it override it."""
        model, tokenizer = self.load()
        return ModelConfigs(model.config, getattr(model, "generation_config", None)), tokenizer

    def load_config(self) -> Any:
        """The Hugging Face config, from which the size of the model is planned. No weights are loaded for it.

        Raises ModelError if loading fails.
        """
        return self.load_tokenizer()[0].config

    def restore_base(self, folder: str) -> None:
        """Recreate the base of the adapter in `folder` if this source made it and it no longer exists."""

    def load_from(self, folder: str) -> tuple[Any, Any]:
        """(model, tokenizer) of a policy that was trained from this source and saved to `folder`."""
        return load_pretrained(folder, dtype=self.dtype)

    def load_tokenizer_from(self, folder: str) -> tuple[ModelConfigs, Any]:
        """(configs, tokenizer) of a policy that was trained from this source and saved to `folder`."""
        return load_tokenizer(folder, trust_remote_code=self.allows_remote_code)


def load_pretrained(
    path: str,
    *,
    dtype: str,
    revision: str = "",
    attention: str = "",
    quantize: str = "none",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) from a hub name or a folder. An adapter is merged into its base.

    revision: revision of a hub name, or of an adapter's base if the adapter names none.
    quantize: quantization of a whole model (see `quantization`). An adapter ignores it: the adapter is merged into the
              base that it was trained on, quantized or not, and the result is not quantized again.
    The model's `name_or_path` and `revision` say where its weights can be loaded from. They are empty for a merged
    model, which is stored nowhere.
    Raises ModelError if loading fails, or if the files do not hold exactly the weights that the config describes.
    """
    from alignlab.models.weights_check import loading  # imports torch, which is not needed to check configs

    with loading(f"model {path}"):
        warn_of_changes(path)
        return _load(path, dtype, revision, attention, quantize, trust_remote_code)


def load_tokenizer(path: str, *, revision: str = "", trust_remote_code: bool = False) -> tuple[ModelConfigs, Any]:
    """(configs, tokenizer) from a hub name or a folder, which may be that of an adapter. No weights are read.

    Raises ModelError if loading fails.
    """
    from transformers import AutoTokenizer, GenerationConfig

    from alignlab.models.generation import FILE
    from alignlab.models.weights_check import loading

    with loading(f"the tokenizer of {path}"):
        found = lineage(path, revision)
        origin = origin_of(found, trust_remote_code)
        config = _config_of_policy(path, found, origin)
        own = [str(folder) for folder in found.adapters if (folder / FILE).is_file()]
        try:
            generation = GenerationConfig.from_pretrained(own[-1] if own else found.base, revision=origin["revision"])
        except OSError:  # not every model has one
            generation = None
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(found), **origin)
    return ModelConfigs(config, generation), tokenizer


def load_config(path: str, *, revision: str = "", trust_remote_code: bool = False) -> Any:
    """The Hugging Face config of a hub name or a folder, which may be that of an adapter.

    Raises ModelError if loading fails.
    """
    from alignlab.models.weights_check import loading

    with loading(f"the config of {path}"):
        found = lineage(path, revision)
        return _config_of_policy(path, found, origin_of(found, trust_remote_code))


def check_pretrained(path: str, *, trust_remote_code: bool = False) -> None:
    """Check the names and shapes of a model's weights, without reading the weights of the base.

    Raises the same ModelError as `load_pretrained` if one of them is wrong.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignlab.models.merging import merged
    from alignlab.models.weights_check import check_tokens, load_weights, loading

    with loading(f"model {path}"):
        found = lineage(path)
        origin = origin_of(found, trust_remote_code)
        config = _config_of_policy(path, found, origin)
        model, _ = load_weights(AutoModelForCausalLM, found.base, config=config, device_map="meta", **origin)
        for adapter in found.adapters:
            model = merged(model, adapter)
        check_tokens(model, AutoTokenizer.from_pretrained(tokenizer_of(found), **origin), path)


def warn_of_changes(path: str) -> None:
    """Warn if a model that alignlab wrote, or the base of its adapter, has changed since it was written.

    The folder is used as it is, because people may edit it on purpose.
    """
    found = lineage(path)
    for folder in dict.fromkeys((*found.adapters, Path(found.base))):
        try:
            verify_folder(folder)
            _verify_owner(folder)
        except DamagedError as error:
            text = "%s; if nobody edited it, create it again: repeat the command that made it with rerun=true"
            log.warning(text, error, extra=DAMAGE_EXTRA)


def _verify_owner(policy: Path) -> None:
    """Raise DamagedError if a folder is not the policy with which the run it belongs to has ended.

    The folder's own checksums don't show this, because they move with it. Runs of older versions are not verified.
    """
    record, sums = policy.parent / "run.json", policy / MANIFEST
    if policy.name != "policy" or not record.is_file():
        return
    found = read_record(record)
    expected = found.get("policy_sha256") if found.get("status") == "done" else None
    if expected and not sums.is_file():
        raise DamagedError(policy, f"has no {MANIFEST}, which {record} names")
    if expected and sha256_of(sums) != expected:
        raise DamagedError(policy, f"is not the policy with which this run ended ({record} names another {MANIFEST})")


def _load(
    path: str, dtype: str, revision: str, attention: str, quantize: str, trust_remote_code: bool
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignlab.models.generation import read_generation_config  # these import torch
    from alignlab.models.merging import merged
    from alignlab.models.weights_check import check_tokens, load_weights

    found = lineage(path, revision)
    base, adapters, origin = found.base, found.adapters, origin_of(found, trust_remote_code)
    config = _config_of_policy(path, found, origin)
    switch_dropout_off(config)
    if attention:
        origin["attn_implementation"] = attention
    quantized = quantization_under(str(adapters[0])) if adapters else quantization(quantize, dtype)
    if quantized:  # always on the CPU, so that every machine gets the same weights
        origin |= {"quantization_config": quantized, "device_map": {"": "cpu"}}
    model = one_function(
        load_weights(AutoModelForCausalLM, base, config=config, dtype=getattr(torch, dtype), **origin)[0]
    )
    if quantized and adapters:
        model = model.dequantize(getattr(torch, dtype))
    model.name_or_path, model.revision = base, found.revision
    for adapter in adapters:
        model = merged(model, adapter)
        read_generation_config(model, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(found), **origin_of(found, trust_remote_code))
    check_tokens(model, tokenizer, path)
    return model, tokenizer


def origin_of(found: Lineage, trust_remote_code: bool) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a base, besides its name.

    Raises OSError at once if it is a name of the hub whose commit is unknown, since then nothing can be loaded.
    """
    for problem in hub.problems("model", found.base, found.revision):
        raise OSError(f"{problem.allowed}\n  type: {problem.type_this}" if problem.type_this else problem.allowed)
    return {"revision": found.revision or None, "trust_remote_code": trust_remote_code}


def _config_of_policy(path: str, found: Lineage, origin: dict[str, Any]) -> Any:
    """The config of the base. Raises ModelError if `path` is a reward model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(found.base, **origin)
    if getattr(config, "auto_map", None) and not origin["trust_remote_code"]:
        log.info("%s comes with Python code, which is not run; transformers' %s is used", found.base, config.model_type)
    if _scores(found, config):
        raise ModelError(
            f"{path} is a reward model: as a policy, or as the start of another model, it would lose its head\n"
            f"  type: reward=reward_model 'reward.run=[]' reward.model={path}, "
            "or name the model that it was trained from"
        )
    return config


def tokenizer_of(found: Lineage) -> str:
    """Folder or hub name of a model's tokenizer: the last adapter that has one, else the base."""
    with_tokenizer = [folder for folder in found.adapters if (folder / "tokenizer_config.json").is_file()]
    return str(with_tokenizer[-1]) if with_tokenizer else found.base


def _scores(found: Lineage, config: Any) -> bool:
    """Whether the model is a classifier, such as a reward model."""
    if found.adapters:
        return any(read_config(adapter).get("task_type") == "SEQ_CLS" for adapter in found.adapters)
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def switch_dropout_off(config: Any) -> None:
    """Set every dropout rate of a Hugging Face config to 0: policy and reference must be the same function."""
    for part in (config, getattr(config, "text_config", None)):
        for key in _DROPOUT_KEYS:
            if getattr(part, key, 0.0):
                setattr(part, key, 0.0)
