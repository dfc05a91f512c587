"""Combinations of the parts of a config."""

from __future__ import annotations

import pytest

from alignlab.config.schemas import reference_kind
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
