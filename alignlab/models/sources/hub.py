"""Any causal language model from a Hugging Face hub name or a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from alignlab import hub
from alignlab.checks import installed, one_of
from alignlab.errors import Problem
from alignlab.models.known_configs import known_config
from alignlab.models.lineage import adapter_faults, is_adapter, weights_fingerprint
from alignlab.models.quantization import KINDS
from alignlab.models.sources.base import ModelConfigs, ModelSource, load_config, load_pretrained, load_tokenizer


@dataclass(kw_only=True)
class Hub(ModelSource):
    """A causal LM in Hugging Face format, or the folder of a peft adapter, which is merged into its base.

    name:              hub name, or a local folder such as `outputs/runs/<id>/policy`.
    revision:          branch, tag or commit on the hub; empty takes the default. The commit that it stands for counts
                       in the run's id. If `name` is an adapter folder, it applies to the base, unless the adapter names
                       a revision.
    attention:         attention implementation of transformers (sdpa, eager, flash_attention_2). If it is empty,
                       transformers chooses one.
    quantize:          none, or nf4, which keeps the linear layers in 4 bits (QLoRA). nf4 works only under an adapter.
    trust_remote_code: run code that comes with the model. It has an effect only if you type it on the command line.
    """

    revision: str = ""
    attention: str = ""
    quantize: str = "none"
    trust_remote_code: bool = False

    content_fields: ClassVar[tuple[str, ...]] = ("name", "revision")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("quantize", self.quantize, KINDS)

    @property
    def trainable(self) -> bool:
        return self.quantize == "none"

    def missing(self) -> Iterator[Problem]:
        if not self.trainable:
            yield from installed("quantize", self.quantize, "bitsandbytes", extra="gpu")
        folder = Path(self.name)
        if folder.is_dir():
            if not any((folder / f).is_file() for f in ("config.json", "adapter_config.json")):
                yield Problem("name", self.name, "is a folder without config.json or adapter_config.json")
            elif not self.trainable and is_adapter(self.name):
                text = "works only for whole models, and name is the folder of an adapter"
                yield Problem("quantize", self.quantize, text, "quantize=none")
        elif self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
            text = f"no such folder (looked in {Path.cwd()})"
            yield Problem("name", self.name, text, "name=<a folder, or a hub name such as org/model>")
        for fault in adapter_faults(self.name):
            yield Problem("name", self.name, fault)

    @property
    def allows_remote_code(self) -> bool:
        return self.trust_remote_code

    def unreachable(self) -> Iterator[Problem]:
        if not is_adapter(self.name):
            yield from hub.problems("name", self.name, self.revision)

    def fingerprint(self) -> str:
        return weights_fingerprint(self.name, self.revision)

    def load_from(self, folder: str) -> tuple[Any, Any]:
        return load_pretrained(
            folder,
            dtype=self.dtype,
            attention=self.attention,
            quantize=self.quantize,
            trust_remote_code=self.trust_remote_code,
        )

    def load(self) -> tuple[Any, Any]:
        return load_pretrained(
            self.name,
            dtype=self.dtype,
            revision=self.revision,
            attention=self.attention,
            quantize=self.quantize,
            trust_remote_code=self.trust_remote_code,
        )

    def load_tokenizer(self) -> tuple[ModelConfigs, Any]:
        return load_tokenizer(self.name, revision=self.revision, trust_remote_code=self.trust_remote_code)

    def load_config(self) -> Any:
        known = None if Path(self.name).is_dir() else known_config(self.name)
        if known is not None:
            return known
        return load_config(self.name, revision=self.revision, trust_remote_code=self.trust_remote_code)
