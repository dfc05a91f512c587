"""A small Llama that is built from its config, with its own tokenizer. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from alignlab.checks import at_least
from alignlab.data.fingerprint import digest
from alignlab.errors import Problem
from alignlab.models.sources.base import ModelConfigs, ModelSource

END = "</s>"


@dataclass(kw_only=True)
class Tiny(ModelSource):
    """Randomly initialised Llama with a few thousand to a few million parameters.

    alphabet:      letters, each of which becomes one token. One more token begins and ends a text. If it is empty, each
                   byte is a token.
    hidden_size, layers, heads, intermediate_size: the usual sizes of a Llama.
    max_positions: longest row in tokens.
    init_seed:     seed of the initial weights.
    """

    own_names: ClassVar[tuple[str, ...]] = ("tiny", "lab")

    alphabet: str = ""
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 128
    max_positions: int = 2048
    init_seed: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for key in ("hidden_size", "layers", "heads", "intermediate_size", "max_positions"):
            yield from at_least(key, getattr(self, key), 1, example=getattr(type(self), key))
        if self.heads >= 1 and self.hidden_size % (2 * self.heads):
            yield Problem(
                "hidden_size", self.hidden_size, f"must be divisible by 2 * heads = {2 * self.heads}", "hidden_size=64"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if (size := 4 * (self.parameters or 0)) > memory:
            text = (
                f"this model would have {self.parameters:.3g} parameters, which take {size / 1e9:,.0f} GB; "
                f"this machine has {memory / 1e9:,.0f} GB"
            )
            yield Problem("hidden_size", self.hidden_size, text, "hidden_size=64 layers=2 intermediate_size=128")
        yield from at_least("init_seed", self.init_seed, 0, example=0)
        if len(set(self.alphabet)) < len(self.alphabet):
            yield Problem("alphabet", self.alphabet, "must not hold a letter twice", "alphabet=abcdef")

    @property
    def vocabulary(self) -> str | None:
        return self.alphabet or None

    @property
    def parameters(self) -> int | None:
        width, vocabulary = self.hidden_size, (len(self.alphabet) or 256) + 1
        layer = 4 * width * width + 3 * width * self.intermediate_size + 2 * width
        return 2 * vocabulary * width + self.layers * layer + width

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import LlamaForCausalLM

        configs, tokenizer = self.load_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            model = LlamaForCausalLM(configs.config)
        return model.to(getattr(torch, self.dtype)), tokenizer

    def load_tokenizer(self) -> tuple[ModelConfigs, Any]:
        from transformers import LlamaConfig

        tokenizer = letters(self.alphabet) if self.alphabet else raw_bytes()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return ModelConfigs(config), tokenizer


def letters(alphabet: str) -> Any:
    """A tokenizer with one token per letter, in order. The last token ends a text and also begins every prompt."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, END: len(vocabulary)}, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _with_first_token(tokenizer)


def raw_bytes() -> Any:
    """A tokenizer with one token per byte. The last token ends a text and also begins every prompt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**vocabulary, END: len(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_first_token(tokenizer)


def _with_first_token(tokenizer: Any) -> Any:
    """Let every text begin with the end token, so that the first token after an empty prompt can be predicted."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
