"""Tiny Llamas with tokenizers of several kinds, and answers of llama.cpp."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPTS = [
    "What is the capital of France?", "Say hola!", "2 + 2 = 1234567", "Ünïcode ¿qué? 北京 🙂", "def f(x):\n    pass",
    "it's we'll I'D", "a", "  two  spaces ", "tab\tand\r\nlines\n\n\n", "x" * 40, "ALL CAPS 007", "a.b,c;d:e!f?g",
    "no-break\u00a0space", "<not a token>", "50% of 3.14", "#@^&*()", "über naïve façade", "the the the", "q: why\na:",
    "[1, 2, 3]",
]  # fmt: skip
TEXTS = ["the capital of France is Paris", "hello world, it's 1234 today", "we will see the spaces  here", *PROMPTS] * 4


def llama(rows: int, **settings: Any) -> Any:
    """A Llama with random weights, large enough that its greedy answers vary. Token 1 ends an answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=rows, max_position_embeddings=512, **sizes, **ends, **settings)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    return model


def byte_pairs(*splits: Any, bos: bool = False, add_prefix_space: bool = False) -> Any:
    """A tokenizer of byte pairs that is trained on TEXTS.

    splits: pre-tokenizers before the one that makes bytes. Without them, that one splits as GPT-2 does.
    bos:    begin every text with <s>.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    own = not splits or isinstance(splits[-1], pre_tokenizers.Digits)
    last = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=own)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, last]) if splits else last
    made.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(TEXTS, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return _fast(made)


def sentence_pieces(bos: bool = True) -> Any:
    """A tokenizer as Llama 2 has it: spaces are marked, and characters that are no token become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        [t for t in TEXTS if t.isascii()], trainers.BpeTrainer(vocab_size=420, special_tokens=special)
    )
    spec = json.loads(made.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]  # the bytes are ordinary tokens
    made = Tokenizer.from_str(json.dumps(spec))
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return _fast(made)


def _fast(made: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


class LlamaCpp:
    """A GGUF file that llama.cpp serves on loopback."""

    def __init__(self, server: Any) -> None:
        self.address: str = server.listening_address

    def post(self, place: str, **body: Any) -> Any:
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.address + place, data, kind), timeout=300) as reply:
            return json.loads(reply.read())

    def tokens(self, text: str) -> list[int]:
        """Ids of a text with BOS, as in a prompt."""
        return list(self.post("/tokenize", content=text, add_special=True)["tokens"])

    def greedy(self, prompt: str, most: int) -> list[int]:
        """Ids of the most probable answer."""
        how = {"temperature": 0.0, "n_predict": most, "return_tokens": True, "cache_prompt": False}
        return list(self.post("/completion", prompt=prompt, **how)["tokens"])


@contextmanager
def served(file: Path, context: int = 512) -> Iterator[LlamaCpp]:
    """llama.cpp with a file, with keys and values in float32. context: most tokens of a prompt with its answer."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup = context, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    try:
        yield LlamaCpp(server)
    finally:
        del server


def greedy(model: Any, tokenizer: Any, prompts: Sequence[str], most: int) -> list[list[int]]:
    """Ids of the most probable answers by transformers, without tokens that end them."""
    import torch

    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        answer = model.generate(ids, do_sample=False, max_new_tokens=most)[0, ids.shape[1] :].tolist()
        found.append([token for token in answer if token not in ends])
    return found
