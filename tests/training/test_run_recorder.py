"""A saved policy ends its answers where the chat template ends a turn, also under plain `generate()`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alignlab.evaluation.examples import Examples
from alignlab.models.lineage import lineage
from tests.data.families import FAMILIES, tokenizer_of
from tests.models.small import always_saying, small_llama

Run = Callable[..., Any]
RUNS = Path("outputs/runs")
FAMILY = {family.name: family for family in FAMILIES}


def begun(tmp_path: Path, name: str, *, named: Any = 256, saying: str = "") -> list[str]:
    """Overrides for a model folder, with `named` as end tokens in its generation config, and for ten pairs."""
    tokenizer = tokenizer_of(FAMILY[name])
    model = small_llama(len(tokenizer))
    if saying:
        always_saying(model, tokenizer.convert_tokens_to_ids(saying))
    model.generation_config.eos_token_id = named
    model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / name)
    pairs = [{"prompt": f"{i} + {i}?", "chosen": f"It is {2 * i}.", "rejected": f"No {i}."} for i in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return [
        "train", "model=hub", f"model.name={tmp_path / name}", "data=pairs", f"data.path={tmp_path / 'pairs.jsonl'}",
        "evaluation=off",
        "trainer.max_steps=2", "trainer.batch_size=2", "tracking=none",
    ]  # fmt: skip


def read_json(file: Path) -> Any:
    return json.loads(file.read_text())


def policy_of(kind: str) -> Path:
    (found,) = RUNS.glob(f"{kind}-*/policy")
    return found


def generated(model: Any, tokenizer: Any, token: str) -> list[int]:
    """The answer of plain `generate()` if the head always predicts one token."""
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    found: list[int] = always_saying(whole, tokenizer.convert_tokens_to_ids(token)).generate(prompt)[0].tolist()
    return found[prompt.shape[1] :]


@pytest.mark.parametrize("name", ["chatml", "phi3", "gemma3"])
def test_a_saved_policy_stops_at_the_end_of_a_turn(alignlab: Run, tmp_path: Path, name: str) -> None:
    result = alignlab(*begun(tmp_path, name), "objective=sft", "peft=none")
    assert result.code == 0, result.err
    folder, end = policy_of("sft"), FAMILY[name].end
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    token = tokenizer.convert_tokens_to_ids(end)
    assert generated(model, tokenizer, end) == [token]
    assert generated(model, tokenizer, tokenizer.convert_ids_to_tokens(256)) == [256], "where it stopped before"
    (line,) = (line for line in (folder.parent / "train.log").read_text().splitlines() if "answers end in" in line)
    names = f"answers end in {end} ({token}), which the chat template names; the model's generation config names "
    assert f"{names}{tokenizer.convert_ids_to_tokens(256)} (256); sampling stops at each of them" in line


def test_an_adapter_is_loaded_with_the_config_beside_it(alignlab: Run, tmp_path: Path) -> None:
    """A base that alignlab did not write is not changed; the README shows how to load it."""
    result = alignlab(*begun(tmp_path, "chatml"), "peft=lora")
    assert result.code == 0, result.err
    folder = policy_of("dpo")
    base = lineage(str(folder)).base
    assert base == str(tmp_path / "chatml")
    assert read_json(Path(base) / "generation_config.json")["eos_token_id"] == 256
    tokenizer, config = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert config.eos_token_id == [256, end]
    for model in (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, generation_config=config), folder),
        AutoModelForCausalLM.from_pretrained(folder, generation_config=config),
    ):
        assert generated(model, tokenizer, "<|im_end|>") == [end]


def test_a_base_that_alignlab_wrote_stops_at_the_end_of_a_turn(alignlab: Run, tmp_path: Path) -> None:
    """A parent's adapter is merged into its base, so that plain peft can load an adapter trained on top of it."""
    parent = 'model.parent=["objective=sft","trainer.max_steps=1","peft=lora"]'
    result = alignlab(*begun(tmp_path, "chatml"), "peft=lora", parent)
    assert result.code == 0, result.err
    folder = policy_of("dpo")
    base = lineage(str(folder)).base
    assert Path(base).parent.name.startswith("sft-")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert generated(model, tokenizer, "<|im_end|>") == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


@pytest.mark.parametrize(("name", "token"), [("phi3", "<|end|>"), ("phi3", "<|endoftext|>"), ("chatml", "x")])
def test_sampled_answers_end_there_and_where_the_model_stopped_before(
    alignlab: Run, tmp_path: Path, name: str, token: str
) -> None:
    """A model that always predicts one end token, trained online and evaluated: every answer is that token."""
    named = tokenizer_of(FAMILY[name]).convert_tokens_to_ids(token)
    args = begun(tmp_path, name, named=[256, named], saying=token)
    (tmp_path / "lengths.py").write_text("def longer(prompt, answer):\n    return float(len(answer))\n")
    result = alignlab(
        *args, "objective=rloo", "objective.samples=2", "reward=gold", "reward.function=lengths:longer", "peft=none",
        "rollout.max_new_tokens=5", "evaluation.at_end=true", "evaluation.max_new_tokens=6",
    )  # fmt: skip
    assert result.code == 0, result.err
    (run,) = RUNS.glob("rloo-*")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train/completions/mean_length"] == 1
    assert first["train/completions/clipped_ratio"] == 0
    assert first["train/objective/scores"] == 0
    (rows,) = run.glob("evaluation/*/rows.parquet")
    examples = Examples.read(rows.parent)
    for side in ("policy", "reference"):
        assert set(examples[f"{side}/tokens"]) == {1}
        assert set(examples[f"{side}/ended"]) == {True}
        assert set(examples[f"{side}/answer"]) == {""}
    assert torch.tensor(examples["policy/policy_logps"][0]).exp().item() == pytest.approx(1, abs=1e-3)
