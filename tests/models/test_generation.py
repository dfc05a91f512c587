"""Generation configs: the tokens at which a model stops, and the config that is saved with a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from alignlab.models.adapters.lora import LoRA
from alignlab.models.generation import save_model, stop_ids, template_of
from alignlab.models.heads import with_scalar_head
from alignlab.models.sources.hub import Hub
from tests.data.families import FAMILIES, tokenizer_of
from tests.models.small import small_llama

CHATML, PHI3 = FAMILIES[0], FAMILIES[1]


def saved(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    return found


@pytest.mark.parametrize("named", [256, [256], [256, 5], None])
def test_the_saved_model_stops_at_the_end_of_a_turn_and_where_it_did_before(tmp_path: Path, named: Any) -> None:
    tokenizer = tokenizer_of(CHATML)
    model = small_llama(len(tokenizer))
    model.generation_config.eos_token_id = named
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    before = [] if named is None else [named] if isinstance(named, int) else named
    assert stop_ids(model) == (before or [2]), "2 is the default of Llama's config"
    ends = template_of(model, tokenizer).ends
    assert ends[0] == end
    assert set(ends) == {end, 256, *stop_ids(model)}
    save_model(model, tokenizer, tmp_path)
    assert set(saved(tmp_path)["eos_token_id"]) == set(ends)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(template_of(again, tokenizer).ends) == set(ends)
    assert model.generation_config.eos_token_id == named, "the model itself is left as it was"


def test_a_config_that_says_it_all_stays_as_it_is(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHATML)
    end = tokenizer.eos_token_id
    tokenizer.chat_template = None
    model = small_llama(len(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, max_length=77)
    save_model(model, tokenizer, tmp_path)
    assert saved(tmp_path) == {"eos_token_id": end, "pad_token_id": end, "max_length": 77}


def test_a_config_that_transformers_would_not_write_is_kept(tmp_path: Path) -> None:
    """Published configs have a temperature without do_sample. transformers refuses to save such a config."""
    tokenizer = tokenizer_of(PHI3)
    model = small_llama(len(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=256, temperature=0.6, top_p=0.9, do_sample=False)
    save_model(model, tokenizer, tmp_path)
    found = saved(tmp_path)
    assert (found["temperature"], found["top_p"]) == (0.6, 0.9)
    assert found["eos_token_id"] == [256, tokenizer.convert_tokens_to_ids("<|end|>")]
    again, _ = Hub(name=str(tmp_path)).load()
    save_model(again, tokenizer, tmp_path / "again")
    assert saved(tmp_path / "again") == found


def test_an_adapter_has_its_own(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHATML)
    model = small_llama(len(tokenizer))
    model.generation_config.eos_token_id = 256
    model.save_pretrained(tmp_path / "base")
    policy = LoRA(r=2).wrap(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    save_model(policy, tokenizer, tmp_path / "adapter")
    ends = [256, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert saved(tmp_path / "adapter")["eos_token_id"] == ends
    assert saved(tmp_path / "base")["eos_token_id"] == 256
    merged, _ = Hub(name=str(tmp_path / "adapter")).load()
    assert stop_ids(merged) == ends
    (tmp_path / "adapter/generation_config.json").unlink()  # as if other software had saved the adapter
    assert stop_ids(Hub(name=str(tmp_path / "adapter")).load()[0]) == [256]


def test_a_classifier_generates_nothing(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHATML)
    scorer = with_scalar_head(small_llama(len(tokenizer)), seed=0)
    save_model(scorer, tokenizer, tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
    assert template_of(scorer, tokenizer).end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert torch.is_tensor(scorer.score.weight)
