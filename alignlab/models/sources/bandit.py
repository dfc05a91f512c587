"""A tabular policy over a few actions: one logit per action, independent of the context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from alignlab.data.fingerprint import digest
from alignlab.errors import Problem
from alignlab.models.sources.base import ModelSource
from alignlab.models.sources.tiny import letters

# Logit of the end token. Its probability (e^-10000) and its gradient are 0 in every float type.
_NEVER = -1e4


@dataclass(kw_only=True)
class Bandit(ModelSource):
    """softmax(theta), theta = 0 at the start: the tabular policy of IPO's bandits (Azar et al. 2023, section 5.4).

    It is a Llama of width 1 without layers. Its hidden state is 1 everywhere, and its head is theta. Only the head is
    trained. The letters are the actions. The policy never samples the end token.

    alphabet: one letter for each action.
    """

    own_names: ClassVar[tuple[str, ...]] = ("bandit",)

    alphabet: str = "abc"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if len(self.alphabet) < 2 or len(set(self.alphabet)) < len(self.alphabet):
            yield Problem("alphabet", self.alphabet, "must hold at least two different letters", "alphabet=abc")

    @property
    def vocabulary(self) -> str | None:
        return self.alphabet

    @property
    def parameters(self) -> int | None:
        return 2 * (len(self.alphabet) + 1) + 1

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = letters(self.alphabet)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=1,
            num_hidden_layers=0,
            num_attention_heads=1,
            intermediate_size=1,
            max_position_embeddings=8,
            rms_norm_eps=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = LlamaForCausalLM(config).requires_grad_(False)
        model.model.embed_tokens.weight.fill_(1.0)
        theta = model.lm_head.weight
        theta.zero_()[tokenizer.eos_token_id] = _NEVER
        theta.requires_grad_(True)
        return model.to(getattr(torch, self.dtype)), tokenizer
