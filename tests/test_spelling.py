"""Misspelt words are recognised, and other words are not taken for misspellings."""

from __future__ import annotations

import pytest

from alignlab.config.registry import schemas
from alignlab.spelling import correct_option, correct_spelling


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("bta", ["beta", "tau"], "beta"),
        ("outptu_root", ["output_root"], "output_root"),
        ("batchSize", ["batch_size", "micro_batch_size"], "batch_size"),
        ("atonce", ["at_once"], "at_once"),
        ("max_stpes", ["max_steps", "eval_every"], "max_steps"),
        ("max_epochs", ["max_steps"], ""),
        ("min_length", ["max_length"], ""),
        ("beta3", ["beta1", "beta2"], ""),
        ("lr", ["r"], ""),
        ("sted", ["step", "stem"], ""),  # two words are equally near
    ],
)
def test_keys(word: str, known: list[str], expected: str) -> None:
    assert correct_spelling(word, known) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dpoo", "dpo"), ("rlo", "rloo"), ("sipo", "simpo"), ("online-dpo", "online_dpo"), ("apo_zreo", "apo_zero")],
)
def test_misspelt_objectives(word: str, expected: str) -> None:
    assert correct_option(word, schemas()["objective"]) == expected


@pytest.mark.parametrize(
    "word", ["dapo", "gspo", "gpo", "cdpo", "odpo", "tpo", "epo", "apo", "rdpo", "dppo", "online_ipo"]
)
def test_other_methods_are_no_misspellings(word: str) -> None:
    assert correct_option(word, schemas()["objective"]) == ""
