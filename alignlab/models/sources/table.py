"""A tabular policy: one logit for each prompt and answer of a small world, or a log-linear one that generalises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from alignlab.checks import at_least
from alignlab.data.fingerprint import digest
from alignlab.data.sources.enumerable import world_problems
from alignlab.errors import Problem
from alignlab.lab.enumerable import NEVER, Enumerable, enumerable
from alignlab.models.sources.base import ModelSource
from alignlab.models.sources.tiny import letters


@dataclass(kw_only=True)
class Table(ModelSource):
    """softmax(theta_x + shared * theta_0) over the answers to prompt x. At the start it is the prior of the world.

    It is a Llama without layers, whose norm has no effect, because all embeddings have the same length. A prompt is one
    letter. Its embedding is the unit vector of the prompt beside the number `shared`, so the head is theta. Only the
    head is trained. Each answer is one token. The policy never samples the end token.

    kind, settings, prompts, world_seed: of the world, as in `alignlab.data.sources.enumerable`.
    shared: size of the feature that all prompts have in common. At 0 the policy is a table, which learns nothing about
            one prompt from the others.
    """

    kind: str = "random"
    settings: dict[str, float] = field(default_factory=dict)
    prompts: int = 1
    world_seed: int = 0
    shared: float = 0.0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from world_problems(self.kind, self.settings, self.prompts)
        yield from at_least("shared", self.shared, 0.0, example=1.0, hint="0: the policy is a table")

    @property
    def _world(self) -> Enumerable:
        return enumerable(self.kind, self.settings, prompts=self.prompts, seed=self.world_seed)

    @property
    def _width(self) -> int:
        return self.prompts + (self.shared > 0)

    @property
    def vocabulary(self) -> str | None:
        return self._world.alphabet

    @property
    def parameters(self) -> int | None:
        return (2 * (self._world.symbols + 1) + 1) * self._width

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        world, width = self._world, self._width
        tokenizer = letters(world.alphabet)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=0,
            num_attention_heads=1,
            head_dim=2,  # not used; its default, the width, may be odd
            intermediate_size=1,
            max_position_embeddings=8,
            rms_norm_eps=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = LlamaForCausalLM(config).requires_grad_(False)
        # With one prompt, which is empty, the token that begins every text stands for it.
        first = torch.eye(self.prompts)[torch.arange(len(tokenizer)) % self.prompts]
        features = torch.cat([first, torch.full((len(tokenizer), width - self.prompts), self.shared)], dim=1)
        model.model.embed_tokens.weight.copy_(features)
        # The norm before the head gives every embedding the length sqrt(width).
        model.model.norm.weight.fill_(math.sqrt((1 + self.shared**2) / width))
        theta = model.lm_head.weight.zero_()
        theta[:-1, : self.prompts] = torch.as_tensor(world.demonstrator_logps[:, 1:].T)
        theta[-1, : self.prompts] = NEVER
        theta.requires_grad_(True)
        return model.to(getattr(torch, self.dtype)), tokenizer
