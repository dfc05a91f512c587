"""What to change if a run does not fit: the overrides, and that they do what is said."""

from __future__ import annotations

import itertools
from dataclasses import replace

from transformers import LlamaConfig

from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.resources.advice import advice_for, devices_for
from alignlab.resources.memory import memory_of
from alignlab.resources.setup import Setup

CONFIG = LlamaConfig(
    vocab_size=2000, hidden_size=256, intermediate_size=700, num_hidden_layers=8, num_attention_heads=4,
    tie_word_embeddings=False,
)  # fmt: skip


def setup(**changes: object) -> Setup:
    return Setup(config=CONFIG, adapter=FullFineTuning(), rows=4, micro_rows=4, **changes)  # type: ignore[arg-type]


def test_overrides_until_it_fits() -> None:
    full = setup(reference="copy")
    total = memory_of(full).total
    all_of_it = advice_for(full, 0)
    assert [one.words[-1] for one in all_of_it] == [
        "trainer.micro_batch_size=1",
        "trainer.gradient_checkpointing=true",
        "reference=cached",
        "model.dtype=bfloat16",
        "optim=adamw_8bit",
        "peft=lora",
        "peft=qlora",
    ]
    assert [one.changes for one in all_of_it] == [False] * 3 + [True] * 4
    totals = [total, *(one.memory.total for one in all_of_it)]
    assert all(after < 0.99 * before for before, after in itertools.pairwise(totals))
    assert [one.words[-1] for one in advice_for(full, totals[1])] == ["trainer.micro_batch_size=1"]
    assert advice_for(full, total) == []


def test_overrides_that_later_ones_make_superfluous_are_left_out() -> None:
    full = setup()
    small = replace(full, micro_rows=1, checkpointing=True, dtype="bfloat16", adapter=LoRA())
    limit = 1.01 * memory_of(small).total
    last = advice_for(full, limit)[-1]
    assert last.words[-1] == "peft=lora"
    assert "optim=adamw_8bit" not in last.words, "an adapter has few moments"
    assert last.memory.total <= limit


def test_only_what_applies_is_advised() -> None:
    words = [one.words[-1] for one in advice_for(setup(reference="copy", needs_live=True), 0)]
    assert "reference=cached" not in words, "the objective needs the reference's distributions"
    adapter = Setup(config=CONFIG, adapter=LoRA(), rows=1, micro_rows=1, checkpointing=True, dtype="bfloat16")
    assert "peft=qlora" in [one.words[-1] for one in advice_for(adapter, 0)]
    assert "peft=lora" not in [one.words[-1] for one in advice_for(adapter, 0)]


def test_devices_that_hold_it() -> None:
    full = setup()
    one = memory_of(full).total
    assert devices_for(full, one) == 1
    needed = devices_for(full, 0.4 * one)
    assert needed in (2, 4, 8, 16)
    assert devices_for(full, 1) is None


def test_every_advised_override_is_one() -> None:
    import hydra

    from alignlab.config.paths import conf_dir

    words = [one.words[-1] for one in advice_for(setup(reference="copy"), 0)]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("train", ["model=qwen3_8b", "data=ultrafeedback_binarized", *words[:5], words[6]])
    assert (config.model.dtype, config.model.quantize, config.peft.r) == ("bfloat16", "nf4", 16)
    assert (config.reference, config.trainer.micro_batch_size, config.optim.paged) == ("cached", 1, False)
    assert config.trainer.gradient_checkpointing
