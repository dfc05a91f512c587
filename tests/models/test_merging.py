"""The folder of an adapter loads as the trained policy, also if the vocabulary grew or weights are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignlab.errors import ModelError
from alignlab.models.adapters.lora import LoRA
from alignlab.models.merging import save_whole
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.tiny import Tiny

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model with tied embedding and output layer."""
    model, tokenizer = Tiny(name="t", hidden_size=16).load()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(model: Any, folder: Path, **config: Any) -> Any:
    """A policy with an adapter that has no zero weights, saved to `folder`."""
    policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, **config))
    torch.manual_seed(0)
    for p in policy.parameters():
        if p.requires_grad:
            p.data += 0.2 * torch.randn_like(p)
    policy.save_pretrained(folder)
    Tiny(name="t").load()[1].save_pretrained(folder)
    return policy.eval()


def loaded_twice(adapter: Path, folder: Path) -> tuple[Any, Any]:
    """(model from an adapter's folder, the same model after saving and loading it whole)."""
    model, tokenizer = Hub(name=str(adapter)).load()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, Hub(name=str(folder)).load()[0]


def test_a_merged_model_can_be_trained_and_has_no_name(base: Path, tmp_path: Path) -> None:
    trained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", target_modules="all-linear")
    model, _ = Hub(name=str(tmp_path / "adapter")).load()
    assert all(p.requires_grad for p in model.parameters())
    assert model.name_or_path == ""
    assert LoRA(r=2).wrap(model).peft_config["default"].base_model_name_or_path is None
    assert Hub(name=str(base)).load()[0].name_or_path == str(base.resolve())


@pytest.mark.parametrize(
    ("config", "still_tied"),
    [
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}, True),
    ],
    ids=["layers", "embedding", "head", "adapter on the head", "adapter on the embedding", "tokens"],
)
def test_shared_weights(config: dict[str, Any], still_tied: bool, base: Path, tmp_path: Path) -> None:
    policy = trained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", **config)
    model, again = loaded_twice(tmp_path / "adapter", tmp_path / "whole")
    expected = policy(IDS).logits
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(again(IDS).logits, expected, atol=1e-4, rtol=0)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == still_tied


@pytest.mark.parametrize(
    "config", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": [257]}, {}],
    ids=["embedding", "token", "resized"],
)  # fmt: skip
def test_a_new_token(config: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """The base has no embedding of the added token; the adapter's tokenizer knows the token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.resize_token_embeddings(len(tokenizer))
    policy = trained(model, tmp_path / "adapter", target_modules=["q_proj"], **config)
    tokenizer.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([tokenizer("a<|new|>b")["input_ids"]])
    assert 257 in ids
    merged, again = loaded_twice(tmp_path / "adapter", tmp_path / "whole")
    torch.testing.assert_close(merged(ids).logits, policy(ids).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(again(ids).logits, policy(ids).logits, atol=1e-4, rtol=0)


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base(base: Path, tmp_path: Path) -> None:
    trained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", target_modules=["q_proj"])
    for file in (tmp_path / "adapter").glob("*token*"):
        file.unlink()
    assert len(Hub(name=str(tmp_path / "adapter")).load()[1]) == 257


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    trained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", target_modules=["q_proj"])
    model, _ = Tiny(name="t", hidden_size=32).load()
    model.save_pretrained(base)
    with pytest.raises(ModelError, match=r"q_proj.lora_A.weight is \[2, 16\]"):
        Hub(name=str(tmp_path / "adapter")).load()


@pytest.mark.parametrize("dora", [False, True])
def test_a_policy_is_saved_whole_while_it_trains(base: Path, tmp_path: Path, dora: bool) -> None:
    """The folder has the adapter merged in, or is the base if the adapter is switched off. The policy stays as it is.

    A generation config that transformers refuses to write is no obstacle.
    """
    start = AutoModelForCausalLM.from_pretrained(base)
    start.generation_config.temperature = 0.6
    before = start(IDS).logits
    policy = trained(start, tmp_path / "adapter", target_modules="all-linear", use_dora=dora)
    weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    save_whole(policy, tmp_path / "whole")
    with policy.disable_adapter():
        save_whole(policy, tmp_path / "start")
    assert {name: torch.equal(tensor, weights[name]) for name, tensor in policy.state_dict().items()} == dict.fromkeys(
        weights, True
    )
    assert policy.get_base_model().generation_config.temperature == 0.6
    whole, same = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "start"))
    assert torch.equal(same(IDS).logits, before)
    assert torch.allclose(whole(IDS).logits, policy(IDS).logits, atol=1e-5)
    assert (whole(IDS).logits - before).abs().max() > 0.01
    start = AutoModelForCausalLM.from_pretrained(base)
    save_whole(start, tmp_path / "plain")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(IDS).logits, before)


def test_an_adapter_on_tied_weights_is_not_saved_whole(base: Path, tmp_path: Path) -> None:
    policy = trained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(ModelError, match="share their weights"):
        save_whole(policy, tmp_path / "whole")
