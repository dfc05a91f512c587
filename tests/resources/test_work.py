"""Operations of an update, against torch's counter, and the seconds that they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from alignlab.data.layout import Layout, collate_rows
from alignlab.models.adapters.base import Adapter
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.models.efficiency import checkpoint_layers
from alignlab.models.logps import score_answers
from alignlab.resources.gpus import GPUS
from alignlab.resources.memory import Memory
from alignlab.resources.setup import Setup
from alignlab.resources.work import BANDWIDTH_USED, UTILISATION, Work, passes, seconds_of, work_of

CONFIG = LlamaConfig(
    vocab_size=600, hidden_size=64, intermediate_size=160, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
PROMPT, ANSWER = 40, 24


def counted(setup: Setup) -> int:
    """Operations that torch counts in the forward and backward pass of a micro-batch of pairs."""
    model = AutoModelForCausalLM.from_config(CONFIG, attn_implementation="eager")
    policy = setup.adapter.wrap(model).train()
    if setup.checkpointing:
        checkpoint_layers(policy)
    pairs = [([1 + i] * PROMPT, [2 + i + side] * ANSWER) for i in range(setup.micro) for side in (0, 300)]
    rows = collate_rows(pairs, Layout(shared=setup.shared, split=True, width=64))
    with FlopCounterMode(display=False) as counter:
        score_answers(policy, rows).tokens.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("adapter", [FullFineTuning(), LoRA()])
@pytest.mark.parametrize(("checkpointing", "shared"), [(False, True), (True, False)])
def test_operations_are_those_that_torch_counts(adapter: Adapter, checkpointing: bool, shared: bool) -> None:
    setup = Setup(
        config=CONFIG, adapter=adapter, checkpointing=checkpointing, shared=shared, rows=2, micro_rows=2,
        prompt=PROMPT, answer=ANSWER,
    )  # fmt: skip
    (layers, head), backward = passes(setup)
    expected = layers * (2 if checkpointing else 1) + head + backward
    assert counted(setup) == pytest.approx(expected, rel=0.06)


def small(**changes: Any) -> Setup:
    made = Setup(config=CONFIG, adapter=FullFineTuning(), rows=8, micro_rows=2, prompt=PROMPT, answer=ANSWER)
    return replace(made, **changes)


def test_parts_of_an_update() -> None:
    shape = small().shape
    cached, copy = work_of(small()), work_of(small(reference="copy"))
    assert cached.scoring == cached.sampling == cached.steps == 0
    assert cached.tokens == 8 * 2 * 64
    (layers, head), _ = passes(small())
    assert copy.scoring == pytest.approx(4 * (layers + head))
    assert work_of(small(checkpointing=True)).training == pytest.approx(cached.training + 4 * layers)
    online = work_of(small(answers=1, sampled=4, rollouts=8.0))
    assert online.steps == 2 * ANSWER, "two batches of four answers, token by token"
    assert online.sampling == pytest.approx(2 * (8 * 64 * shape.linear + 8 * ANSWER * shape.head))
    assert online.scoring == pytest.approx(8 * 64 * 2 * shape.linear)


def test_seconds_on_a_gpu() -> None:
    memory = Memory(weights=16e9, gradients=0, optimizer=0, reference=0, critic=0, activations=0, logits=0, rollouts=0)
    h100 = GPUS["h100"]
    trained = seconds_of(Work(1e15, 0, 0, 0, 1), memory, h100)
    assert (trained.low, trained.high) == pytest.approx(
        (1e15 / 989e12 / UTILISATION[1], 1e15 / 989e12 / UTILISATION[0])
    )
    sampled = seconds_of(Work(0, 0, 0, 100, 1), memory, h100)
    assert sampled.low == pytest.approx(100 * 16e9 / 3.35e12 / BANDWIDTH_USED[1])
