"""Describes a tokenizer as llama.cpp does: tokens, their types, merges or scores, and how texts are split."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignlab.errors import ModelError

log = logging.getLogger(__name__)

_GPT2 = {"type": "ByteLevel", "use_regex": True}
_BYTES = {"type": "ByteLevel", "use_regex": False}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")

# llama.cpp's name of a way to split texts -> the pre-tokenizers that split so.
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}, _BYTES],
    "qwen2": [{"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}, _BYTES],
}
_KEYS = {"type", "use_regex", "individual_digits", "pattern", "behavior", "invert"}
_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in the terms of llama.cpp.

    model:      gpt2 (byte pairs with merges) or llama (SentencePiece's, with scores).
    pre:        name of the way in which texts are split before that.
    tokens:     text of each id. Ids of the model without a token have names of their own.
    types:      type of each id (gguf.TokenType).
    merges:     pairs of tokens, the first to be merged first; empty for llama.
    scores:     score of each id, the highest to be merged first; empty for gpt2.
    adds_bos:   whether every text begins with the BOS token.
    adds_space: whether every text begins with a space.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    adds_bos: bool = False
    adds_space: bool = False


def vocabulary_of(tokenizer: Any, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer. Raises ModelError if llama.cpp has no tokenizer like it.

    rows: number of the model's embeddings.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError("its tokenizer has no tokenizer.json")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise ModelError(f"its tokenizer is of the kind {spec['model']['type']}, and llama.cpp's is BPE")
    adds_bos = _adds_bos(tokenizer)
    texts = {number: text for text, number in spec["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in spec["added_tokens"]}
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(rows)]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in spec["model"]["merges"]]
    if spec["model"].get("byte_fallback"):
        return Vocabulary(
            "llama",
            "default",
            tokens,
            _types(spec, texts, rows, bytes_too=True),
            scores=_scores(tokens, merges),
            adds_bos=adds_bos,
            adds_space=_adds_space(spec),
        )
    types = _types(spec, texts, rows)
    # llama.cpp needs a list of merges, and gguf writes no empty one. Texts never hold two of these tokens in a row as
    # single characters, so this merge never happens.
    unused = [f"{tokens[-1]} {tokens[-1]}"]
    return Vocabulary("gpt2", _split_of(spec, merges), tokens, types, merges=merges or unused, adds_bos=adds_bos)


def _split_of(spec: Mapping[str, Any], merges: list[str]) -> str:
    """llama.cpp's name of the way in which the tokenizer splits texts. Raises ModelError if it has none."""
    if (normalizer := (spec["normalizer"] or {}).get("type", "none")) not in ("none", "NFC"):
        raise ModelError(f"its tokenizer changes texts by the normalizer {normalizer}, which llama.cpp does not do")
    found = spec["pre_tokenizer"] or {}
    steps = found.get("pretokenizers", [found])
    if any(step.get("add_prefix_space") for step in steps):
        raise ModelError("its tokenizer puts a space before each text, which llama.cpp's byte pairs do not do")
    plain = [{key: value for key, value in step.items() if key in _KEYS} for step in steps]
    if not merges and plain == [_BYTES]:
        return "gpt-2"  # every byte is a token, however texts are split
    name = next((name for name, known in _SPLITS.items() if known == plain), "")
    # llama.cpp takes a whole word that is a token without merging only where it splits as Llama 3 does.
    if not name or bool(spec["model"].get("ignore_merges")) != (name == "llama-bpe"):
        known = ", ".join(_SPLITS)
        raise ModelError(f"its tokenizer splits texts in none of the ways that are known here ({known})")
    return name


def _types(spec: Mapping[str, Any], texts: Mapping[int, str], rows: int, *, bytes_too: bool = False) -> list[int]:
    """The type of each id. With `bytes_too`, tokens such as `<0x0A>` stand for bytes."""
    from gguf import TokenType

    types = [TokenType.NORMAL if number in texts else TokenType.UNUSED for number in range(rows)]
    if bytes_too:
        for byte in range(256):
            types[spec["model"]["vocab"][f"<0x{byte:02X}>"]] = TokenType.BYTE
    for token in spec["added_tokens"]:
        if token["id"] < rows:
            types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if (unknown := spec["model"].get("unk_token")) is not None and bytes_too:
        types[spec["model"]["vocab"][unknown]] = TokenType.UNKNOWN
    return [int(kind) for kind in types]


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """The score of each token: the sooner its merge, the higher. Tokens that no merge makes have the lowest."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _adds_space(spec: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece tokenizer puts a space before texts. Raises ModelError if it does not mark spaces."""
    normalizer, splitter = spec["normalizer"] or {}, spec["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if splitter.get("type") == "Metaspace" and not normalizer:
        scheme = splitter.get("prepend_scheme", "always")
        if scheme == "first":
            log.warning(
                "llama.cpp puts a space before the text after each special token, and this tokenizer only before the "
                "first text; prompts with special tokens are other tokens there"
            )
        return bool(scheme != "never")
    kinds = [step.get("type") for step in steps]
    if splitter or not set(kinds) <= {"Prepend", "Replace"} or "Replace" not in kinds:
        raise ModelError("its tokenizer changes texts in a way that llama.cpp's SentencePiece tokenizer does not")
    return "Prepend" in kinds


def _adds_bos(tokenizer: Any) -> bool:
    """Whether texts begin with the BOS token. Raises ModelError if other tokens are added to them."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    if whole == plain:
        return False
    if whole == [tokenizer.bos_token_id, *plain]:
        return True
    raise ModelError(f"its tokenizer adds other tokens to texts than BOS: {tokenizer.convert_ids_to_tokens(whole)}")
