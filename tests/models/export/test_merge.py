"""Exported folders are the trained model, stop where it stops, and hold no code and no path of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.data.layout import PLAIN, collate_rows
from alignlab.errors import ModelError
from alignlab.models.export.merge import write_adapter, write_merged
from alignlab.models.generation import save_model
from alignlab.models.heads import answer_rewards, load_scorer, save_offset, with_scalar_head
from alignlab.models.sources.base import load_pretrained
from alignlab.models.sources.tiny import Tiny

IDS = torch.tensor([[5, 9, 70, 31, 200]])


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Any, Any, Path]:
    """(trained policy, tokenizer, its folder) of an adapter whose updates are not zero."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = Tiny(name="tiny", hidden_size=16, intermediate_size=16, heads=2).load()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    save_model(model, tokenizer, tmp_path / "base")
    model, _ = load_pretrained(str(tmp_path / "base"), dtype="float32")
    policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    policy.base_model.model.generation_config.eos_token_id = [256, 10]
    save_model(policy, tokenizer, tmp_path / "policy")
    return policy.eval(), tokenizer, tmp_path / "policy"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_merged_adapter_is_the_policy(adapter: tuple[Any, Any, Path], tmp_path: Path) -> None:
    policy, _, folder = adapter
    (folder / "own_code.py").write_text("raise RuntimeError")
    model, tokenizer = load_pretrained(str(folder), dtype="float32")
    model.config.auto_map = {"AutoConfig": "own_code.Anything"}
    write_merged(model, tokenizer, tmp_path / "out", folder)
    found, _ = load_pretrained(str(tmp_path / "out"), dtype="float32")
    torch.testing.assert_close(logits(found), logits(policy), rtol=1e-5, atol=1e-5)
    base, _ = load_pretrained(str(tmp_path / "base"), dtype="float32")
    assert (logits(found) - logits(base)).abs().max() > 0.1, "the adapter counts"
    assert found.generation_config.eos_token_id == [256, 10]
    files = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} < files.keys()
    assert not [name for name in files if name.endswith((".py", ".bin"))]
    assert not [n for n, text in files.items() if str(tmp_path).encode() in text or b"auto_map" in text]
    assert b"local_files_only" not in files["tokenizer_config.json"]


def test_an_adapter_names_its_base_and_leaves_code_behind(adapter: tuple[Any, Any, Path], tmp_path: Path) -> None:
    policy, tokenizer, folder = adapter
    (folder / "own_code.py").write_text("raise RuntimeError")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    stops = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**stops, "custom_generate": str(folder)}))
    (tmp_path / "out").mkdir()
    assert write_adapter(folder, tokenizer, tmp_path / "out", base="org/base") == ["adapter_model.bin", "own_code.py"]
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    stops = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert (stops["eos_token_id"], "custom_generate" in stops) == ([256, 10], False)
    assert (config["base_model_name_or_path"], config["revision"], config["r"]) == ("org/base", None, 2)
    assert {"adapter_model.safetensors", "generation_config.json"} < {f.name for f in (tmp_path / "out").iterdir()}
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "out/adapter_config.json").write_text(json.dumps(config))
    found, _ = load_pretrained(str(tmp_path / "out"), dtype="float32")
    torch.testing.assert_close(logits(found), logits(policy), rtol=1e-5, atol=1e-5)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError):
        write_adapter(folder, tokenizer, tmp_path / "out")


def test_a_reward_model_keeps_its_offset(tmp_path: Path) -> None:
    model, tokenizer = Tiny(name="tiny", hidden_size=16, intermediate_size=16, heads=2).load()
    scorer = with_scalar_head(model, seed=1)
    save_model(scorer, tokenizer, tmp_path / "policy")
    save_offset(tmp_path / "policy", torch.tensor([1.0, 2.0, 6.0]))
    loaded, tokenizer = load_scorer(str(tmp_path / "policy"))
    write_merged(loaded, tokenizer, tmp_path / "out", tmp_path / "policy")
    found, _ = load_scorer(str(tmp_path / "out"))
    rows = collate_rows([([5, 9], [70, 31]), ([5], [200])], PLAIN)
    assert found.reward_offset == 3.0
    with torch.no_grad():
        torch.testing.assert_close(answer_rewards(found, rows) + 3.0, answer_rewards(scorer, rows))
