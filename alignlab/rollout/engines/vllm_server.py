"""Samples from `vllm serve` on this machine, which reads the policy's weights from a folder."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from alignlab.errors import EngineError
from alignlab.models.merging import save_whole
from alignlab.progress import Progress, silent
from alignlab.rollout.engines.base import Sampler
from alignlab.rollout.sampling import Draw, Sample, refuse_too_long
from alignlab.rollout.settings import Sampling

_START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve <model> --host 127.0.0.1 --dtype <that of the policy> "
    "--logprobs-mode processed_logprobs --generation-config vllm"
)

# Seconds without a reply after which the server counts as lost.
_TIMEOUT = 600.0


class ServerSampler(Sampler):
    """Sends prompts to the completions of an OpenAI-compatible server, `concurrency` at a time.

    Weights are updated by vLLM's route `/collective_rpc`, which exists with VLLM_SERVER_DEV_MODE=1.
    """

    def __init__(self, address: str, concurrency: int) -> None:
        self._address, self._concurrency = address.rstrip("/").removesuffix("/v1"), concurrency
        self._folder = TemporaryDirectory(prefix="alignlab-vllm-")

    def update(self, model: Any) -> None:
        folder = Path(self._folder.name)
        save_whole(model, folder)
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        if not self._post("/reset_prefix_cache", {}).get("success", True):
            raise EngineError(
                f"the server {self._address} kept states of the weights from before the update, because it answers "
                "other requests\n  start a server that only this command uses"
            )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Draw],
        how: Sampling,
        ends: Sequence[int],
        progress: Progress = silent,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[Sample]:
        from openai import APIError, OpenAI

        client = OpenAI(base_url=f"{self._address}/v1", api_key="none", timeout=_TIMEOUT)

        def ask(prompt: Sequence[int], one: Draw) -> Sample:
            reply = client.completions.create(
                model=name,
                prompt=list(prompt),
                max_tokens=how.max_new_tokens,
                temperature=how.temperature,
                seed=one.key,
                logprobs=0,
                extra_body={"stop_token_ids": list(ends), "ignore_eos": True, "return_token_ids": True},
            )
            return _sample(reply.choices[0])

        try:
            (served, *_) = client.models.list().data
            name = served.id
            refuse_too_long(prompts, how, (served.model_extra or {}).get("max_model_len"))
            with ThreadPoolExecutor(self._concurrency) as pool:
                return list(progress(pool.map(ask, prompts, draws), "sampling"))
        except APIError as error:
            raise EngineError(f"the server {self._address} did not answer a prompt: {error}") from error

    def _post(self, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request. Raises EngineError if the server does not accept it."""
        data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        request = urllib.request.Request(self._address + route, data, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
                return dict(json.loads(reply.read() or "{}"))
        except (OSError, ValueError) as error:  # ValueError: a reply that is no JSON
            raise EngineError(
                f"the server {self._address} did not take the policy's weights ({route}: {error})\n"
                f"  it must run on this machine, started with: {_START}"
            ) from error


def _sample(choice: Any) -> Sample:
    """The sample of a completion. Raises EngineError if it has no token ids."""
    ids = (choice.model_extra or {}).get("token_ids")
    if not ids:
        raise EngineError("the server gives no token ids (return_token_ids): it is not vLLM, or an old version of it")
    logps = choice.logprobs.token_logprobs if choice.logprobs else None
    return Sample(list(ids), choice.finish_reason == "stop", list(logps or ()))
