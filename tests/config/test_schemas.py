"""Combinations of the parts of a config."""

from __future__ import annotations

import pytest

from alignlab.config.schemas import inherited_keys, keys_outside_id, reference_kind
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.types import Requires


@pytest.mark.parametrize(
    ("asked", "needs", "with_lora", "full"),
    [
        ("auto", Requires(data="pairs", reference=True), "cached", "cached"),
        ("auto", Requires(data="pairs"), "cached", "cached"),
        ("auto", Requires(data="labelled", reference=True, mismatched=True), "cached", "cached"),
        ("auto", Requires(data="pairs", reference=True, reference_kl=True), "adapter_off", "copy"),
        ("auto", Requires(data="pairs", reference=True, reference_tokens=True), "cached", "cached"),
        ("copy", Requires(data="pairs", reference=True), "copy", "copy"),
        ("none", Requires(data="pairs"), "none", "none"),
        ("auto", Requires(data="completions"), "none", "none"),
        ("copy", Requires(data="rankings"), "none", "none"),
    ],
)
def test_reference_kind(asked: str, needs: Requires, with_lora: str, full: str) -> None:
    assert reference_kind(asked, needs, LoRA()) == with_lora
    assert reference_kind(asked, needs, FullFineTuning()) == full


def test_what_the_fields_say_of_ids_and_of_the_runs_that_are_needed() -> None:
    """The ids of all runs depend on this list: a key that leaves it or joins it makes every run another one."""
    assert set(keys_outside_id()) == {
        "output_root", "tracking", "evaluation", "judge", "sweep", "rerun", "if_running", "trainer.accelerator",
        "trainer.progress", "trainer.checkpoint_every", "trainer.micro_batch_size", "trainer.micro_batch_tokens",
        "trainer.layout", "trainer.gradient_checkpointing", "trainer.compile", "trainer.token_stats",
        "trainer.log_every", "trainer.keep", "trainer.checkpoint_minutes", "rounds", "synthesis", "plugins", "metric",
        "trainer.anomaly", "trainer.devices", "trainer.nodes", "strategy", "engine",
    }  # fmt: skip
    inherited = set(inherited_keys("parents"))
    assert inherited - set(inherited_keys("judges")) == {"model", "data"}
    assert {key for key in inherited if "." not in key} == {
        "model", "peft", "data", "output_root", "tracking", "sweep", "plugins", "strategy",
    }  # fmt: skip
    assert {key for key in inherited if "." in key} == {
        "trainer.accelerator", "trainer.progress", "trainer.micro_batch_size", "trainer.micro_batch_tokens",
        "trainer.layout", "trainer.gradient_checkpointing", "trainer.compile", "trainer.token_stats",
        "trainer.devices", "trainer.nodes",
    }  # fmt: skip
