"""Folders whose files do not match their config are refused with a reason; unusual but valid ones load."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignlab.errors import ModelError
from alignlab.models.heads import check_scorer, load_scorer, with_scalar_head
from alignlab.models.sources.base import check_pretrained, load_pretrained
from alignlab.models.sources.tiny import Tiny, letters

Tensors = dict[str, torch.Tensor]
Edit = Callable[[Tensors], Tensors]

IDS = torch.tensor([[3, 1, 2, 0]])
SIZE: dict[str, Any] = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE: dict[str, Any] = {**SIZE, "intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8}
GPT2_SIZE = {"vocab_size": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
# Class name -> settings of a model with two layers of width 16.
KINDS: dict[str, dict[str, Any]] = {
    "Llama": WIDE,
    "GPT2": GPT2_SIZE,
    "Qwen2": WIDE,
    "OPT": {**SIZE, "ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    "GPTNeoX": {**SIZE, "intermediate_size": 16, "max_position_embeddings": 32},
    "Gemma": WIDE,
    "GPTJ": {**GPT2_SIZE, "rotary_dim": 4},
    "GPTNeo": {"vocab_size": 8, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 32,
               "attention_types": [[["global", "local"], 1]]},
}  # fmt: skip
# transformers takes an unused c_attn.bias of GPT-2 for the old mask attn.bias, and does not report it.
UNREPORTED = {"GPT2": 2}
FIVE = ["Llama", "GPT2", "Qwen2", "OPT", "GPTNeoX"]


def make(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **{**KINDS[kind], "bos_token_id": 7, "eos_token_id": 7, "pad_token_id": 7, **settings}
    )
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    return getattr(transformers, name)(config).eval()


def save(model: Any, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    letters("abcdefg").save_pretrained(folder)
    return folder


def edit(folder: Path, change: Edit, name: str = "model.safetensors") -> Path:
    tensors = {key: value.contiguous().clone() for key, value in change(load_file(folder / name)).items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return folder


def configure(folder: Path, name: str = "config.json", **settings: Any) -> Path:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **settings}))
    return folder


def refusal(folder: Path, **how: Any) -> str:
    """The error of loading a folder. Asserts that comparing only names and shapes gives the same error."""
    with pytest.raises(ModelError) as found:
        load_pretrained(str(folder), dtype="float32", **how)
    with pytest.raises(ModelError) as looked:
        check_pretrained(str(folder))
    if "quantize" not in how:
        assert str(looked.value) == str(found.value)
    assert str(folder) in str(found.value)
    return str(found.value)


def loaded(folder: Path, **how: Any) -> Any:
    check_pretrained(str(folder))
    return load_pretrained(str(folder), dtype="float32", **how)[0]


def prefixed(prefix: str) -> Edit:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without(*parts: str) -> Edit:
    return lambda tensors: {name: value for name, value in tensors.items() if not any(p in name for p in parts)}


@pytest.mark.parametrize("kind", FIVE)
def test_tensors_under_other_names(kind: str, tmp_path: Path) -> None:
    """All tensors are missing and all are unused; the error names the prefix of torch.compile or DDP."""
    model = make(kind)
    folder, reported = save(model, tmp_path), len(dict(model.named_parameters())) - UNREPORTED.get(kind, 0)
    edit(folder, prefixed("_orig_mod."))
    message = refusal(folder)
    assert "missing, so they would be random numbers: " in message
    assert f"not used by {type(model).__name__}: {reported} tensors (_orig_mod." in message
    assert f", and {reported - 3} more)" in message
    assert "names in the file begin with '_orig_mod.': torch.compile does that" in message
    edit(folder, lambda tensors: {"x" + name.removeprefix("_orig_mod"): value for name, value in tensors.items()})
    assert "names in the file begin with 'x.'" in refusal(folder)


@pytest.mark.parametrize("kind", FIVE)
def test_a_layer_that_the_file_lacks_or_has_besides(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    in_a_layer = len([name for name, _ in model.named_parameters() if ".1." in name])
    folder = save(model, tmp_path)
    configure(folder, num_hidden_layers=1, n_layer=1, layer_types=None)
    reported = in_a_layer - UNREPORTED.get(kind, 0) // 2
    message = refusal(folder)
    assert f"not used by {type(model).__name__}: {reported} tensors (" in message
    assert ".layers.1." in message or ".h.1." in message
    assert "missing" not in message
    configure(folder, num_hidden_layers=2, n_layer=2)
    edit(folder, without(".1."))
    message = refusal(folder)
    assert f"missing, so they would be random numbers: {in_a_layer} parameters (" in message
    assert "not used by" not in message


@pytest.mark.parametrize("kind", FIVE)
def test_other_shapes_and_tensors_of_nobody(kind: str, tmp_path: Path) -> None:
    """A wider vocabulary in the config and a value head in the file: one error names both."""
    folder = edit(save(make(kind), tmp_path), lambda tensors: {**tensors, "v_head.summary.weight": torch.ones(1, 16)})
    configure(folder, vocab_size=9)
    message = refusal(folder)
    assert "is [8, 16] in the file, and [9, 16] is needed" in message
    assert "1 tensor (v_head.summary.weight)" in message


@pytest.mark.parametrize("kind", ["Llama", "GPTNeoX"])
def test_a_model_without_its_language_head(kind: str, tmp_path: Path) -> None:
    folder = save(make(kind).base_model, tmp_path)
    message = refusal(folder)
    assert "random numbers: 1 parameter (lm_head.weight)" in message
    assert "a model saved without its language head predicts no tokens" in message


def test_another_kind_of_model_in_the_config(tmp_path: Path) -> None:
    """Gemma's names and shapes are Llama's, and it computes something else."""
    llama = save(make("Llama", tie_word_embeddings=True), tmp_path / "llama")
    own = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(make("Qwen2", tie_word_embeddings=True).config.to_json_string(use_diff=False))
    assert "random numbers: 6 parameters (model.layers.0.self_attn.k_proj.bias" in refusal(llama)
    (llama / "config.json").write_text(json.dumps({**own, "model_type": "gemma"}))
    message = refusal(llama)
    assert "model_type 'gemma' and architectures 'LlamaForCausalLM'" in message
    assert "correct the one" in message
    gpt2 = save(make("GPT2"), tmp_path / "gpt2")
    (gpt2 / "config.json").write_text(json.dumps(own))
    message = refusal(gpt2)
    assert "random numbers: 21 parameters" in message
    assert "not used by LlamaForCausalLM: 28 tensors" in message


def test_embeddings_that_are_tied_by_the_config_and_not_in_the_file(tmp_path: Path) -> None:
    model = make("Llama", tie_word_embeddings=False)
    folder = configure(save(model, tmp_path), tie_word_embeddings=True)
    with pytest.raises(ModelError) as found:
        load_pretrained(str(folder), dtype="float32")
    assert "holds other numbers for them: 1 tensor (lm_head.weight)" in str(found.value)
    assert '"tie_word_embeddings": false' in str(found.value)
    configure(folder, tie_word_embeddings=False)
    assert torch.equal(loaded(folder)(IDS).logits, model(IDS).logits)
    edit(folder, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    configure(folder, tie_word_embeddings=True)
    tied = loaded(folder)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return tensors

    folder = edit(save(make("Llama"), tmp_path), spoil)
    with pytest.raises(ModelError, match=r"infinite numbers in 1 parameter \(model.layers.1.mlp.up_proj.weight\)"):
        load_pretrained(str(folder), dtype="float32")


def test_weights_too_large_for_float16(tmp_path: Path) -> None:
    folder = edit(
        save(make("Llama"), tmp_path), lambda tensors: {**tensors, "model.norm.weight": torch.full((16,), 1e5)}
    )
    assert loaded(folder).model.norm.weight[0] == 1e5
    with pytest.raises(ModelError, match=r"\(model.norm.weight\)\n  type: model.dtype=float32"):
        load_pretrained(str(folder), dtype="float16")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_kept_as_something_else_than_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    """transformers would cast them to floats, without their scales."""
    change: Edit = lambda t: {n: v.to(dtype) if "q_proj" in n else v for n, v in t.items()}  # noqa: E731
    message = refusal(edit(save(make("Llama"), tmp_path), change))
    assert "no quantization_config" in message
    assert "2 tensors (model.layers.0.self_attn.q_proj.weight, model.layers.1.self_attn.q_proj.weight)" in message


def test_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = save(make("Llama"), tmp_path / "shards", max_shard_size="4KB")
    shards = sorted(folder.glob("model-*"))
    assert len(shards) > 3
    loaded(folder)
    whole = [shard.read_bytes() for shard in shards[:3]]
    shards[1].unlink()
    assert f"1 of {len(shards)} files that model.safetensors.index.json names are missing: {shards[1].name}" in (
        refusal(folder)
    )
    shards[0].write_bytes(whole[0][:-8])
    shards[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n")
    shards[2].write_bytes(b"")
    message = refusal(folder)
    assert "files are damaged" in message
    assert f"{shards[0].name}: Error while deserializing header" in message
    assert f"{shards[1].name}: a pointer of Git LFS; type: git lfs pull" in message
    assert shards[2].name in message
    for shard, content in zip(shards, whole, strict=False):
        shard.write_bytes(content)
    loaded(folder)
    index = folder / "model.safetensors.index.json"
    kept = json.loads(index.read_text())
    lost = [name for name, shard in kept["weight_map"].items() if shard == shards[0].name]
    index.write_text(json.dumps({**kept, "weight_map": {k: v for k, v in kept["weight_map"].items() if k not in lost}}))
    assert f"random numbers: {len(lost)} parameter" in refusal(folder)
    for broken in ("{", "{}"):
        index.write_text(broken)
        assert "can't be loaded" in refusal(folder)


def test_pickled_files(tmp_path: Path) -> None:
    model = make("Llama")
    folder = save(model, tmp_path)
    (folder / "model.safetensors").unlink()
    assert "can't be loaded" in refusal(folder)
    file = folder / "pytorch_model.bin"
    torch.save(model.state_dict(), file)
    assert torch.equal(loaded(folder)(IDS).logits, model(IDS).logits)
    torch.save(prefixed("module.")(model.state_dict()), file)
    assert "begin with 'module.': DistributedDataParallel" in refusal(folder)
    for content in (b"", b"hello", file.read_bytes()[:1000]):
        file.write_bytes(content)
        assert "can't be loaded" in refusal(folder)
    torch.save(model, file)
    assert "can't be loaded" in refusal(folder)


def test_tokens_without_an_embedding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(make("Llama"), tmp_path)
    letters("abcdefghij").save_pretrained(folder)
    message = refusal(folder)
    assert "8 rows of embeddings, and none for 3 of the tokenizer's tokens: 'i' (8), 'j' (9), " in message
    assert "resize_token_embeddings" in message
    tokenizer = letters("abcdefg")
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        loaded(folder)
    assert "none of the added tokens '<image>' (8)" in caplog.text
    tokenizer.chat_template = "{% for m in messages %}<image>{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    assert "'<image>' (8)" in refusal(folder)
    letters("abc").save_pretrained(folder)
    loaded(folder)  # more rows than tokens are allowed


def old_files(kind: str) -> Edit:
    """Buffers that older releases of transformers saved with the weights."""
    mask, least = torch.ones(1, 1, 32, 32), torch.tensor(-1e4)
    layer = {
        "GPT2": "transformer.h.{}.attn.{}",
        "GPTJ": "transformer.h.{}.attn.{}",
        "GPTNeo": "transformer.h.{}.attn.attention.{}",
        "GPTNeoX": "gpt_neox.layers.{}.attention.{}",
        "Llama": "model.layers.{}.self_attn.{}",
    }[kind]
    buffers = {"bias": mask, "masked_bias": least, "rotary_emb.inv_freq": torch.ones(4)}
    if kind == "Llama":
        buffers = {"rotary_emb.inv_freq": torch.ones(4)}
    more = {layer.format(i, name): buffer for i in (0, 1) for name, buffer in buffers.items()}
    return lambda tensors: {**tensors, **more}


@pytest.mark.parametrize("kind", ["GPT2", "GPTJ", "GPTNeo", "GPTNeoX", "Llama"])
def test_old_files_with_buffers_load(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    folder = edit(save(model, tmp_path), old_files(kind))
    assert torch.equal(loaded(folder)(IDS).logits, model(IDS).logits)
    if kind == "GPT2":  # as on the hub: without the prefix of the base
        edit(folder, lambda t: {name.removeprefix("transformer."): value for name, value in t.items()})
        assert torch.equal(loaded(folder)(IDS).logits, model(IDS).logits)


def test_a_file_that_is_overwritten_later_changes_no_loaded_weight(tmp_path: Path) -> None:
    """It is overwritten in place, as `cp` and `rsync --inplace` do."""
    folder = save(make("Llama"), tmp_path / "m")
    model, _ = load_pretrained(str(folder), dtype="float32")
    before = model(IDS).logits
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes((folder / "model.safetensors").stat().st_size))
    assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "OPT", "Gemma", "Qwen2", "GPTNeoX"])
def test_tied_embeddings_and_saved_bases_load(kind: str, tmp_path: Path) -> None:
    model = make(kind, tie_word_embeddings=True, vocab_size=9)  # Qwen2's tokenizer adds a token
    folder = save(model, tmp_path / "model")
    assert not any("lm_head" in name or "embed_out" in name for name in load_file(folder / "model.safetensors"))
    assert torch.equal(loaded(folder)(IDS).logits, model(IDS).logits)
    base = save(model.base_model, tmp_path / "base")
    assert torch.equal(loaded(base)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("kind", FIVE)
def test_a_reward_model_is_whole(kind: str, tmp_path: Path) -> None:
    folder = save(with_scalar_head(make(kind, vocab_size=9), 3), tmp_path)  # Qwen2's tokenizer adds a token
    whole = load_file(folder / "model.safetensors")
    check_scorer(str(folder))
    assert torch.equal(load_scorer(str(folder))[0].score.weight, whole["score.weight"])
    cases: list[tuple[Edit, str]] = [
        (without("score"), "saved without a head"),
        (without(".1."), "missing, so they would be random numbers"),
        (prefixed("module."), "begin with 'module.'"),
        (lambda t: {**t, "score.weight": torch.ones(2, 16)}, r"score.weight is \[2, 16\] in the file, and \[1, 16\]"),
    ]
    for change, message in cases:
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        edit(folder, change)
        for load in (load_scorer, check_scorer):
            with pytest.raises(ModelError, match=message):
                load(str(folder))


def test_a_causal_model_is_no_reward_model(tmp_path: Path) -> None:
    folder = save(make("GPTNeoX"), tmp_path)
    for load in (load_scorer, check_scorer):
        with pytest.raises(ModelError, match="saved without a head"):
            load(str(folder))


def adapter(tmp_path: Path, kind: str = "Llama", config: Any = None, **settings: Any) -> Path:
    """Folder of an adapter with random weights, next to the folder of its base."""
    base, folder = save(make(kind), tmp_path / "base"), tmp_path / "adapter"
    scores = settings.get("task_type") == "SEQ_CLS"
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    how = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 2, **settings}
    model = auto.from_pretrained(base, **({"num_labels": 1} if scores else {}))
    policy = get_peft_model(model, config or LoraConfig(**how))
    policy.save_pretrained(folder)
    if config is None:
        edit(folder, lambda t: {name: torch.randn_like(value) for name, value in t.items()}, ADAPTER)
    letters("abcdefg").save_pretrained(folder)
    return folder


ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize("kind", FIVE)
def test_an_adapter_that_does_not_fit(kind: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path, kind)
    whole = load_file(folder / ADAPTER)
    in_a_layer = len([name for name in whole if ".1." in name])
    loaded(folder)
    cases: list[tuple[Edit, str]] = [
        (without(".1."), f"missing, so they would be random numbers: {in_a_layer} parameters (base_model.model."),
        (prefixed("x."), f"on {tmp_path / 'base'}: {len(whole)} tensors (x.base_model.model."),
        (
            lambda t: {n: v[:1] if "lora_A" in n else v for n, v in t.items()},
            ".weight is [1, 16] in the file, and [2, 16] is needed",
        ),
        (lambda t: {**t, "base_model.model.v_head.weight": torch.ones(1)}, "1 tensor (base_model.model.v_head.weight)"),
        (lambda t: {}, f"random numbers: {len(whole)} parameters"),
    ]
    for change, message in cases:
        save_file(whole, folder / ADAPTER)
        edit(folder, change, ADAPTER)
        assert message in refusal(folder)


def test_an_adapter_and_its_config_disagree(tmp_path: Path) -> None:
    folder = adapter(tmp_path, target_modules=["q_proj"])
    configure(folder, "adapter_config.json", target_modules=["v_proj"])
    message = refusal(folder)
    assert "random numbers: 4 parameters" in message
    assert "not used by this adapter on" in message
    configure(folder, "adapter_config.json", target_modules=["nope"])
    assert "can't be loaded: Target modules" in refusal(folder)
    configure(folder, "adapter_config.json", target_modules=["q_proj"])
    save(make("Llama", hidden_size=32, head_dim=16), tmp_path / "base")
    assert "lora_A.weight is [2, 16] in the file, and [2, 32] is needed" in refusal(folder)
    save(make("Llama", num_hidden_layers=1), tmp_path / "base")
    assert "not used by this adapter on" in refusal(folder)
    save(make("Llama", num_hidden_layers=3), tmp_path / "base")
    assert "random numbers: 2 parameters (base_model.model.model.layers.2.self_attn.q_proj.lora_A" in refusal(folder)


def test_files_of_an_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    edit(folder, lambda t: {**t, "base_model.model.model.embed_tokens.weight": torch.ones(10, 16)}, ADAPTER)
    assert "has embeddings of 10 tokens, and no lm_head.weight for as many" in refusal(folder)
    (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:-8])
    assert f"files are damaged\n  {ADAPTER}: " in refusal(folder)
    (folder / ADAPTER).unlink()
    assert f"has no {ADAPTER}" in refusal(folder)


def test_an_adapter_that_is_no_change_of_weights(tmp_path: Path) -> None:
    folder = adapter(tmp_path, config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert "can't be merged" in refusal(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_adapters_of_all_sorts_load(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = adapter(tmp_path, "Qwen2", **settings)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = PeftModel.from_pretrained(base, folder).merge_and_unload().eval()(IDS).logits
    torch.testing.assert_close(loaded(folder)(IDS).logits, expected)
    assert not torch.allclose(expected, make("Qwen2")(IDS).logits)


def test_a_merged_adapter_can_be_trained_whole(tmp_path: Path) -> None:
    assert all(weight.requires_grad for weight in loaded(adapter(tmp_path)).parameters())


def test_an_adapters_biases_are_asked_for(tmp_path: Path) -> None:
    """peft reports no error if they are missing."""
    folder = edit(adapter(tmp_path, "Qwen2", bias="lora_only"), without(".bias"), ADAPTER)
    assert "random numbers: 6 parameters (base_model.model.model.layers.0.self_attn.k_proj" in refusal(folder)


def test_a_head_trained_below_tied_embeddings_is_saved_as_one_of_its_own(tmp_path: Path) -> None:
    save(make("Llama", tie_word_embeddings=True), tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    policy = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    policy.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter", lambda t: {name: torch.randn_like(v) for name, v in t.items()}, ADAPTER)
    letters("abcdefg").save_pretrained(tmp_path / "adapter")
    merged = loaded(tmp_path / "adapter")
    save(merged, tmp_path / "merged")
    assert torch.equal(loaded(tmp_path / "merged")(IDS).logits, merged(IDS).logits)


def test_an_adapter_with_a_head_is_a_reward_model(tmp_path: Path) -> None:
    folder = adapter(tmp_path, task_type="SEQ_CLS", modules_to_save=["score"])
    head = load_file(folder / ADAPTER)["base_model.model.score.weight"]
    check_scorer(str(folder))
    assert torch.equal(load_scorer(str(folder))[0].score.weight, head)
    edit(folder, without(".1."), ADAPTER)
    for load in (load_scorer, check_scorer):
        with pytest.raises(ModelError, match=r"random numbers: 14 parameters \(base_model.model.model.layers.1."):
            load(str(folder))


@pytest.mark.parametrize("tensor", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_rounded_to_4_bits(tensor: str, tmp_path: Path) -> None:
    """Quantized loading accepts any shape, and hides NaN."""
    pytest.importorskip("bitsandbytes")
    model = make("Llama", hidden_size=64, intermediate_size=64, head_dim=32)
    folder = save(model, tmp_path)
    whole = load_file(folder / "model.safetensors")
    assert (loaded(folder, quantize="nf4")(IDS).logits - model(IDS).logits).abs().max() < 0.1
    edit(folder, lambda t: {**t, tensor: t[tensor][:32]})
    assert f"{tensor} is [32" in refusal(folder, quantize="nf4")
    edit(folder, lambda t: {n: v for n, v in whole.items() if n != tensor})
    assert f"random numbers: 1 parameter ({tensor})" in refusal(folder, quantize="nf4")
    for value in (float("nan"), float("inf")):
        spoilt = whole[tensor].clone()
        spoilt.view(-1)[5] = value
        save_file({**whole, tensor: spoilt}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=rf"infinite numbers in 1 parameter \({tensor}\)"):
            load_pretrained(str(folder), dtype="float32", quantize="nf4")


def test_weights_that_are_stored_in_4_bits(tmp_path: Path) -> None:
    """The library loads such a file without the scales of the scales, and computes other numbers."""
    pytest.importorskip("bitsandbytes")
    model = make("Llama", hidden_size=64, intermediate_size=64, head_dim=32)
    rounded = load_pretrained(str(save(model, tmp_path / "model")), dtype="float32", quantize="nf4")[0]
    folder = save(rounded, tmp_path / "rounded")
    assert torch.equal(loaded(folder)(IDS).logits, rounded(IDS).logits)
    whole = load_file(folder / "model.safetensors")
    up_proj = "model.layers.1.mlp.up_proj.weight"
    stored = [name for name in whole if name.startswith(up_proj)]
    assert len(stored) == 6
    for name in (*stored, "model.norm.weight"):
        edit(folder, lambda t, name=name: {n: v for n, v in whole.items() if n != name})  # type: ignore[misc]
        assert f"random numbers: 1 parameter ({name})" in refusal(folder)
    edit(folder, lambda t: {n: v for n, v in whole.items() if not n.endswith("nested_absmax")})
    assert "random numbers: 14 parameters (model.layers.0.mlp.down_proj.weight.nested_absmax" in refusal(folder)


# From the command line.


@pytest.fixture
def train(alignlab: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`alignlab train` on a few pairs, with the model folder `good`; the folders `bad` and `reward` lack a layer."""
    model, tokenizer = Tiny(name="t", hidden_size=16, intermediate_size=16).load()
    for name, saved in (("good", model), ("bad", model), ("reward", with_scalar_head(model, 0))):
        saved.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        if name != "good":
            edit(tmp_path / name, without(".1."))
    rows = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = (
        "data=pairs",
        "evaluation=off",
        "data.path=pairs.jsonl",
        "trainer.max_steps=1",
        "trainer.batch_size=4",
        "tracking=none",
    )

    def run(*more: str) -> Any:
        return alignlab("train", *data, "model=hub", "model.name=good", "output_root=out", *more)

    return run


@pytest.mark.parametrize(
    "more",
    [
        ["objective=dpo", "model.name=bad"],
        ["objective=dpo", "judge=reward_model", "judge.reward_model.run=[]", "judge.reward_model.model=reward"],
        ["objective=rloo", "reward=reward_model", "reward.run=[]", "reward.model=reward"],
        ["objective=dpo", "evaluation.baselines=[bad]"],
    ],
    ids=["model", "judge", "reward", "baseline"],
)
def test_nothing_is_trained_with_a_folder_that_lacks_weights(
    more: list[str], train: Callable[..., Any], tmp_path: Path
) -> None:
    result = train(*more)
    assert result.code == 2, result.err
    assert "random numbers: 9 parameters (model.layers.1.input_layernorm.weight, " in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.glob("out/runs/*/metrics.jsonl"))


def test_a_parents_policy_that_was_damaged_since(train: Callable[..., Any], tmp_path: Path) -> None:
    how = ("objective=dpo", "model.parent=['objective=sft']")
    assert train(*how).code == 0
    (policy,) = tmp_path.glob("out/runs/sft-*/policy")
    file = policy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    result = train(*how, "objective.beta=0.2")
    assert result.code == 2
    assert "files are damaged\n  model.safetensors: " in result.err
    file.write_bytes(whole)
    edit(policy, without(".1."))
    result = train(*how, "objective.beta=0.2")
    assert result.code == 2
    assert f"model {policy.resolve()} can't be used" in result.err
    assert "random numbers: 9 parameters" in result.err
