"""Resolving model names: the base of an adapter's folder, and what counts as its content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.errors import ModelError
from alignlab.integrity import write_sealed
from alignlab.judges.reward_model import RewardModel
from alignlab.models.adapters.lora import LoRA
from alignlab.models.heads import with_scalar_head
from alignlab.models.lineage import Lineage, adapter_faults, lineage, weights_fingerprint
from alignlab.models.sources.base import load_pretrained
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.tiny import Tiny


def save_base(folder: Path, seed: int = 0) -> Path:
    model, tokenizer = Tiny(name="t", hidden_size=16, init_seed=seed).load()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Save an adapter on `base` with weights that are not zero. `config` changes its adapter_config.json."""
    torch.manual_seed(seed)
    model, tokenizer = load_pretrained(str(base), dtype="float32")
    policy = LoRA(r=2).wrap(model)
    tokenizer.save_pretrained(folder)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    policy.save_pretrained(folder)
    write_config(folder, base_model_name_or_path=str(base), **config)
    return folder


def write_config(adapter: Path, **values: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(save_base(tmp_path / "base"), tmp_path / "adapter")


def test_a_relative_base_is_found_from_the_working_directory_or_the_adapter(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str((tmp_path / "base").resolve())
    write_config(adapter, base_model_name_or_path="base")
    monkeypatch.chdir(tmp_path)
    assert lineage("adapter") == Lineage(base, "", (adapter.resolve(),))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_config(adapter, base_model_name_or_path="../base")
    assert lineage(str(adapter)).base == base
    monkeypatch.chdir("/")
    assert lineage(str(adapter)).base == base


def test_what_is_wrong_with_an_adapter_is_said_before_weights_are_loaded(adapter: Path, tmp_path: Path) -> None:
    def problem_of(**values: Any) -> str:
        write_config(adapter, **values)
        (problem,) = Hub(name=str(adapter)).missing()
        (same,) = RewardModel(model=str(adapter)).missing()
        assert same.allowed == problem.allowed
        return problem.allowed

    assert not list(adapter_faults(str(adapter)))
    gone = str(tmp_path / "gone")
    assert f"belongs to the model {gone}, and there is no such folder" in problem_of(base_model_name_or_path=gone)
    assert "does not name the model" in problem_of(base_model_name_or_path=None)
    assert "itself as its base" in problem_of(base_model_name_or_path=str(adapter))
    (adapter / "adapter_config.json").write_text("{")
    assert "can't be read" in next(adapter_faults(str(adapter)))
    with pytest.raises(ModelError, match="can't be read"):
        load_pretrained(str(adapter), dtype="float32")


def test_the_base_is_found_when_its_output_root_was_moved(tmp_path: Path) -> None:
    policy = tmp_path / "outputs" / "runs" / "dpo-1" / "policy"
    policy.mkdir(parents=True)
    for inside in ("bases/0123", "runs/sft-1/policy"):
        (policy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": f"/gone/results/{inside}"}))
        with pytest.raises(
            ModelError, match=f"belongs to the model /gone/results/{inside}, and there is no such folder"
        ):
            lineage(str(policy))
        base = tmp_path / "outputs" / inside
        base.mkdir(parents=True)
        assert lineage(str(policy)).base == str(base)


def test_a_base_that_is_gone_is_named_by_its_weights(tmp_path: Path) -> None:
    policy = tmp_path / "runs" / "dpo-1" / "policy"
    policy.mkdir(parents=True)
    (policy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone/model"}))
    for record, said in (
        ({"model": {"reference_weights": "0123abcd"}}, True),
        ({"reference_weights": "0123abcd"}, True),
        ({"model": "x", "reference_weights": 3}, False),
    ):
        write_sealed(policy.parent / "run.json", record)
        (fault,) = adapter_faults(str(policy))
        assert fault.startswith(f"the adapter {policy} belongs to the model /gone/model, and there is no such folder\n")
        assert ("its weights have the digest 0123abcd" in fault) == said
        assert "write its new path into base_model_name_or_path" in fault


def test_a_hub_name_keeps_the_revision_of_the_adapter(adapter: Path) -> None:
    write_config(adapter, base_model_name_or_path="org/model")
    assert lineage(str(adapter), "v1").revision == "v1"
    one = weights_fingerprint(str(adapter))
    write_config(adapter, revision="v2")
    assert lineage(str(adapter), "v1").revision == "v2"
    assert weights_fingerprint(str(adapter)) != one
    assert weights_fingerprint("org/model", "v2") == "org/model@v2"
    assert weights_fingerprint("org/model") == "org/model@main"


def test_a_saved_adapter_keeps_the_revision_of_its_base(tmp_path: Path) -> None:
    model, _ = Tiny(name="t", hidden_size=16).load()
    model.name_or_path, model.revision = "org/model", "v2"
    LoRA(r=2).wrap(with_scalar_head(model, seed=0)).save_pretrained(tmp_path / "reward")
    LoRA(r=2).wrap(model).save_pretrained(tmp_path / "policy")
    for folder in ("policy", "reward"):
        found = lineage(str(tmp_path / folder))
        assert (found.base, found.revision) == ("org/model", "v2")


def test_content_counts_and_places_do_not(adapter: Path, tmp_path: Path) -> None:
    before = Hub(name=str(adapter)).fingerprint()
    judge = RewardModel(model=str(adapter)).content()
    assert before == judge != weights_fingerprint(str(tmp_path / "base"))

    (tmp_path / "moved").mkdir()
    moved = shutil.move(tmp_path / "base", tmp_path / "moved/base")
    write_config(adapter, base_model_name_or_path=str(moved), peft_version="0.0")
    (adapter / "README.md").write_text(f"base_model: {moved}")
    adapter = Path(shutil.move(adapter, tmp_path / "moved/adapter"))
    assert Hub(name=str(adapter)).fingerprint() == before

    write_config(adapter, lora_alpha=7)
    other_scale = Hub(name=str(adapter)).fingerprint()
    save_base(tmp_path / "moved/base", seed=1)
    other_base = Hub(name=str(adapter)).fingerprint()
    assert RewardModel(model=str(adapter)).content() == other_base
    (adapter / "quantization_config.json").write_text("{}")
    assert len({before, other_scale, other_base, Hub(name=str(adapter)).fingerprint()}) == 4


def test_an_adapter_on_an_adapter(adapter: Path, tmp_path: Path) -> None:
    """An adapter on an adapter is loaded with both merged, and its fingerprint depends on the base."""
    merged, tokenizer = load_pretrained(str(adapter), dtype="float32")
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    on_top = save_adapter(tmp_path / "merged", tmp_path / "on_top", seed=1)
    ids = torch.tensor([[1, 2, 3]])
    expected = load_pretrained(str(on_top), dtype="float32")[0](ids).logits
    write_config(on_top, base_model_name_or_path=str(adapter))
    assert lineage(str(on_top)).adapters == (adapter.resolve(), on_top.resolve())
    found = load_pretrained(str(on_top), dtype="float32")[0](ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - merged(ids).logits).abs().max() > 0.01
    before = weights_fingerprint(str(on_top))
    save_base(tmp_path / "base", seed=1)
    assert weights_fingerprint(str(on_top)) != before
