"""Memory of an update, against values by hand and against what torch's profiler counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from transformers import AutoConfig, LlamaConfig

from alignlab.cli.main import main
from alignlab.config.paths import conf_dir
from alignlab.config.plan import plan
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.known_configs import known_config
from alignlab.models.sources.tiny import Tiny
from alignlab.optim.adamw_8bit import AdamW8bit
from alignlab.resources.memory import NF4_BYTES, memory_of, offloaded_of
from alignlab.resources.setup import Setup, setup_of
from tests.resources.measured import second_update

SMALL = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
# Two embeddings, three layers of four attention matrices, three of the MLP and two norms, and the last norm.
LINEAR = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160)
WEIGHTS = 2 * 1000 * 64 + LINEAR + 3 * 2 * 64 + 64
LORA = 3 * 16 * (128 + 96 + 96 + 128 + 3 * 224)


def small(**changes: Any) -> Setup:
    made = Setup(config=SMALL, adapter=FullFineTuning(), rows=4, micro_rows=4, prompt=20, answer=10)
    return replace(made, **changes)


def test_a_micro_batch() -> None:
    pairs = small()
    assert (pairs.micro, pairs.sequences, pairs.length, pairs.predicted) == (4, 4, 40, 80)
    plain = small(shared=False)
    assert (plain.sequences, plain.length, plain.predicted) == (8, 30, 80)
    few = small(micro_tokens=130)
    assert (few.micro, few.micro_batches) == (2, 2)
    assert small(micro_tokens=10).micro == 1
    assert (small(answers=1).sequences, small(answers=1).length) == (4, 30)
    long = small(prompt=10, answer=2000)
    assert not long.packed, "attention over both answers would cost more than the prompt's copy"


def test_weights_gradients_and_moments() -> None:
    full = memory_of(small(rows=8, micro_rows=4))
    assert (full.weights, full.gradients, full.optimizer) == (4 * WEIGHTS, 4 * WEIGHTS, 8 * WEIGHTS)
    half = memory_of(small(dtype="bfloat16"))
    assert (half.weights, half.optimizer) == (2 * WEIGHTS, 4 * WEIGHTS)
    lora = memory_of(small(adapter=LoRA(), dtype="bfloat16", rows=8))
    assert lora.weights == 2 * WEIGHTS + 4 * LORA, "peft keeps adapters in float32"
    assert (lora.gradients, lora.optimizer) == (4 * LORA, 8 * LORA)
    four_bits = memory_of(small(adapter=LoRA(), quantized=True))
    assert four_bits.weights == pytest.approx(LINEAR * NF4_BYTES + 4 * (WEIGHTS - LINEAR + LORA))
    assert memory_of(small(reference="copy")).reference == 4 * WEIGHTS
    assert AdamW8bit(lr=1e-4).state_bytes(4) == 2.03125


def test_what_llama_keeps_for_the_backward_pass() -> None:
    """By hand, for each token: three states at each norm; queries, keys, values, output; four of the MLP."""
    hidden, inner, heads = 64, 160, 4
    by_hand = 2 * 3 * hidden + 4 * hidden + 4 * inner + heads + 2  # log-sums of the heads, factors of the norms
    setup = small()
    assert setup.saved.layer == 4 * by_hand * 4 * 40
    assert setup.saved.inputs == 4 * hidden * 4 * 40
    lora = small(adapter=LoRA())
    without_normed_states = by_hand - 2 * hidden
    assert lora.saved.layer == 4 * (without_normed_states + 7 * 16) * 4 * 40
    assert lora.saved.of(3, checkpointing=True) - lora.saved.of(2, checkpointing=True) == lora.saved.inputs


def test_several_devices() -> None:
    one = small(rows=1)
    ddp, zero2, fsdp = (memory_of(one, devices=4, strategy=s) for s in ("ddp", "zero2", "fsdp"))
    alone = memory_of(one)
    assert (ddp.weights, ddp.optimizer) == (alone.weights, alone.optimizer)
    copy = 4 * WEIGHTS  # DeepSpeed has one in float32
    assert (zero2.weights, zero2.optimizer) == (alone.weights, (alone.optimizer + copy) / 4)
    zero3 = memory_of(one, devices=4, strategy="zero3")
    assert (zero3.weights, zero3.optimizer) == (alone.weights / 4, zero2.optimizer)
    assert zero3.activations == fsdp.activations
    offload = memory_of(replace(one, offload="optimizer"), devices=4, strategy="zero2")
    assert (offload.weights, offload.gradients, offload.optimizer) == (alone.weights, 0, 0)
    offload = memory_of(replace(one, offload="all"), devices=4, strategy="zero3")
    assert (offload.weights, offload.optimizer) == (0, 0)
    assert offload.activations == fsdp.activations, "layers are still gathered on the device"
    moved = replace(one, offload="optimizer"), replace(one, offload="all")
    assert offloaded_of(moved[0], devices=4, strategy="zero2") == (8 + 4 + 4) * WEIGHTS / 4, "moments, copy, gradients"
    assert offloaded_of(moved[1], devices=4, strategy="zero3") == (8 + 4 + 4 + 4) * WEIGHTS / 4
    assert offloaded_of(one, devices=4, strategy="zero2") == offloaded_of(moved[0], devices=1, strategy="zero2") == 0
    assert (fsdp.weights, fsdp.optimizer) == (alone.weights / 4, alone.optimizer / 4)
    assert fsdp.activations > alone.activations, "two layers are gathered"
    assert memory_of(one, devices=1, strategy="fsdp") == alone
    sampling = memory_of(small(sampled=10_000), devices=4, strategy="fsdp")
    assert sampling.activations == 4 * sampling.weights == alone.weights, "all weights are gathered"


def test_sharded_weights_are_gathered_for_a_while() -> None:
    """Two layers at a time, and all pass long what is around the layers."""
    pairs = small(adapter=LoRA())
    alone, sharded = memory_of(pairs), memory_of(pairs, devices=4, strategy="fsdp")
    around = 4 * (WEIGHTS - LINEAR)
    assert sharded.activations - alone.activations == pytest.approx(2 * 4 * (LINEAR + LORA) / 3 + around)
    copy = memory_of(replace(pairs, reference="copy"), devices=4, strategy="fsdp")
    assert copy.activations - sharded.activations == pytest.approx(around), "a copy has embeddings of its own"


def test_rollouts_of_a_long_answer_are_the_peak() -> None:
    online = small(adapter=LoRA(), answers=1, sampled=64, prompt=20, answer=400, rows=1, micro_rows=1)
    memory = memory_of(online)
    keys = 2 * 32 * 4 * 64 * 420
    assert memory.rollouts == keys * 4 + 4 * 8 * 64 * 1000
    assert memory.activations == memory.logits == 0


def test_llama_8b_as_torchtune_measured_it() -> None:
    """16.2 GiB with LoRA on one RTX 4090 (docs/scale.md). Its LoRA has rank 8 and is kept in bfloat16."""
    from alignlab.models.adapters.lora import LoRA

    setup = Setup(
        config=known_config("meta-llama/Llama-3.1-8B"), adapter=LoRA(r=8), dtype="bfloat16", checkpointing=True,
        token_stats=False, rows=2, micro_rows=2, micro_tokens=10**6, prompt=1, answer=2047, answers=1,
        reference="none", shared=False,
    )  # fmt: skip
    assert memory_of(setup).weights / 2**30 == pytest.approx(15.0, abs=0.1)
    assert memory_of(setup).total / 2**30 == pytest.approx(16.2, rel=0.15)


P, A = 200, 100
COMMON = [
    "model=hub", "model.name=base", "tracking=none", "evaluation=off", "trainer.compile=never", "trainer.max_steps=3",
    f"data.max_length={P + A}", f"data.max_prompt_length={P}", "trainer.progress=false", "trainer.keep=record",
    "trainer.batch_size=4", "trainer.micro_batch_tokens=100000",
]  # fmt: skip
DPO = ["objective=dpo", "data=pairs", "data.path=pairs.jsonl"]
SFT = ["objective=sft", "data=completions", "data.path=sft.jsonl"]
PPO = [
    "objective=ppo", "data=prompts", "data.path=sft.jsonl", "reward=gold", "reward.function=rules:length",
    f"rollout.max_new_tokens={A}",
]  # fmt: skip
SETUPS = {
    "dpo": DPO,
    "dpo_in_two": [*DPO, "trainer.micro_batch_size=2"],
    "dpo_lora": [*DPO, "peft=lora"],
    "dpo_lora_checkpointing": [*DPO, "peft=lora", "trainer.gradient_checkpointing=true"],
    "sft": SFT,
    "sft_checkpointing": [*SFT, "trainer.gradient_checkpointing=true"],
    "ppo": PPO,
    "ppo_lora": [*PPO, "peft=lora"],
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a million parameters, and rows of equal lengths."""

    def text(row: int, length: int) -> str:
        return "".join(chr(97 + (row * 7 + i * i + i * row) % 26) for i in range(length))

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rules.py").write_text("def length(prompt, answer):\n    return float(len(answer))\n")
    rows = [
        {"prompt": text(i, P - 1), "chosen": text(i + 50, A - 1), "rejected": text(i + 99, A - 1)} for i in range(20)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    demonstrations = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, demonstrations)))
    model, tokenizer = Tiny(name="t", hidden_size=128, layers=6, heads=4, intermediate_size=384).load()
    model.resize_token_embeddings(8192, mean_resizing=False)
    model.save_pretrained("base")
    tokenizer.save_pretrained("base")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_the_peak_is_what_torch_counts(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*COMMON, *SETUPS[name]]
    with monkeypatch.context() as patch, second_update(patch, files) as counted:
        assert main(["train", *words]) == 0
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = plan(hydra.compose("train", words), words)
    online = run.train.objective.requires.online  # its rows have no answers yet; an untrained model does not stop
    answer = A if online else counted.answer
    setup = setup_of(run, AutoConfig.from_pretrained("base"), prompt=counted.prompt, answer=answer)
    assert counted.peak > 30e6
    assert memory_of(setup).total == pytest.approx(counted.peak, rel=0.1)
