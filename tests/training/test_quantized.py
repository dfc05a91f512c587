"""Runs with a 4-bit base or 8-bit moments, through the command line. They need bitsandbytes, but no GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.judges.base import Answer
from alignlab.judges.reward_model import RewardModel
from alignlab.models.quantization import quantization_under
from alignlab.models.sources.tiny import Tiny
from alignlab.tracking.sinks.jsonl import read_rows
from tests.lab_runs import LAB, RUNS, only, records
from tests.training.test_training import at_step

Run = Callable[..., Any]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
)

IDS = torch.arange(60, 90)[None]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """LoRA on a folder's model in 4 bits, evaluated after every second update."""
    model, tokenizer = Tiny(name="t").load()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    pairs = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return [
        "train", "model=hub", "model.name=base", "model.quantize=nf4", "peft=lora", "data=pairs", "evaluation=off",
        "data.path=mine.jsonl", "trainer.max_steps=6", "trainer.batch_size=4", "trainer.eval_every=2",
        "optim.lr=1e-2", "tracking=none",
    ]  # fmt: skip


def logits(base: str, adapter: Path | None = None) -> torch.Tensor:
    """Log-probabilities of a saved model, or of an adapter on its base as trained, with transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if adapter is None:
        return AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization_under(str(adapter)), device_map={"": "cpu"}
    )
    return PeftModel.from_pretrained(model, adapter).train()(IDS).logits


def test_the_three_references_train_the_same(alignlab: Run, command: list[str]) -> None:
    losses, base = {}, str(Path("base").resolve())
    for kind in ("auto", "copy", "adapter_off"):
        result = alignlab(*command, f"reference={kind}", f"output_root={kind}")
        assert result.code == 0, result.err
        assert "kernels" not in result.err, "libraries keep their advice to themselves"
        (run,) = Path(kind).glob("runs/dpo-*")
        losses[kind] = [row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
        assert losses[kind][0] == pytest.approx(math.log(2), abs=1e-6)
        assert losses[kind][-1] < 0.5
        assert json.loads((run / "policy/adapter_config.json").read_text())["base_model_name_or_path"] == base
        assert quantization_under(str(run / "policy")).load_in_4bit
    assert losses["auto"] == pytest.approx(losses["copy"], abs=1e-5)
    assert losses["adapter_off"] == pytest.approx(losses["copy"], abs=1e-5)


def test_four_bits_are_another_run_with_another_reference(alignlab: Run, command: list[str]) -> None:
    for quantize in ("nf4", "none"):
        assert alignlab(*command, f"model.quantize={quantize}", "trainer.max_steps=1").code == 0
    both = records().values()
    assert len(both) == 2
    assert len({record["model"]["reference_weights"] for record in both}) == 2
    assert len(list(Path("outputs/reference").iterdir())) == 2


@pytest.mark.parametrize(("of_parent", "of_child"), [("nf4", "none"), ("none", "nf4")])
def test_parent_or_child_in_four_bits(of_parent: str, of_child: str, alignlab: Run, command: list[str]) -> None:
    """The child starts from the parent's policy: an adapter on the base that it was trained on, rounded or not."""
    model = f'"model=hub","model.name=base","model.quantize={of_parent}"'
    parent = f'model.parent=["objective=sft","peft=lora","optim.lr=1e-2","trainer.max_steps=6",{model}]'
    result = alignlab(*command, parent, f"model.quantize={of_child}")
    assert result.code == 0, result.err
    dpo, sft = only("dpo"), only("sft")
    assert records()[dpo.name]["summary"]["start/loss"] == pytest.approx(math.log(2), abs=1e-6)
    merged = json.loads((dpo / "policy/adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(merged) == (sft / "merged").resolve()
    assert (quantization_under(str(dpo / "policy")) is None) == (of_child == "none")
    torch.testing.assert_close(logits(merged), logits("base", sft / "policy"), atol=1e-4, rtol=0)
    assert (logits(merged) - logits("base")).abs().max() > 0.1, "the parent has learnt"


@pytest.mark.parametrize("quantize", ["nf4", "none"])
def test_rewards_count_from_the_preferred_answers(quantize: str, alignlab: Run, command: list[str]) -> None:
    """The same holds for later scoring by the adapter on the base that it was trained on, rounded or not."""
    words = ["objective=reward_model", f"model.quantize={quantize}", "data.eval_path=mine.jsonl"]
    result = alignlab(*command, *words)
    assert result.code == 0, result.err
    judge = RewardModel(model=str(only("reward_model") / "policy"))
    asked = [[Answer(str(i), (f"Say {i}",), (said,)) for i in range(12)] for said in ("", "no, never")]
    asked[0] = [dataclasses.replace(one, answer=(f"{i}!",)) for i, one in enumerate(asked[0])]
    preferred, others = (sum(judge.score(rows)) / 12 for rows in asked)
    assert preferred == pytest.approx(0.0, abs=1e-4)
    assert others < -0.5


def test_a_policy_is_not_rounded_twice(alignlab: Run, command: list[str]) -> None:
    result = alignlab(*command, 'model.parent=["objective=sft","peft=lora"]')
    assert result.code == 2
    for text in ("model.parent", "would undo what it learnt", "type: model.quantize=none"):
        assert text in result.err
    assert not RUNS.exists()


def test_8_bit_moments_are_resumed(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full fine-tuning with weights of up to 4096 elements ends like the uninterrupted run, to the last bit."""
    from safetensors.torch import load_file

    command = ["train", *LAB, "optim=adamw_8bit", "trainer.max_steps=24"]
    assert alignlab(*command, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_step(patched, 13, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab(*command).code == 130
    run = only("dpo")
    (state,) = torch.load(next(run.rglob("*.ckpt")), weights_only=True)["optimizer_states"]
    kept = [moments["__bnb_optimizer_quant_state__"]["state1"] for moments in state["state"].values()]
    assert {moment.dtype for moment in kept} == {torch.uint8, torch.float32}
    assert alignlab(*command).code == 0
    one, two = (load_file(r / "policy/model.safetensors") for r in (run, Path("whole/runs") / run.name))
    assert all(torch.equal(one[name], two[name]) for name in one)
