"""Misspelt words are recognised, and other words are not taken for misspellings."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from alignlab.config.registry import schemas
from alignlab.spelling import (
    as_typed,
    correct_option,
    correct_spelling,
    counted,
    for_shell,
    of_the_same_family,
    size_in_words,
)


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
        ("partion", ["partition", "position"], "partition"),
        ("constrnt", ["constraint"], "constraint"),
        ("lengths", ["strength"], ""),
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


def test_names_of_the_same_family() -> None:
    known = ["qwen3_14b", "qwen3_8b_base", "qwen3_8b", "qwen2_5_7b", "llama3_1_8b_instruct", "qwerty_8b"]
    assert of_the_same_family("qwen3_8b_instruct", known) == ["qwen3_8b", "qwen3_8b_base", "qwen3_14b", "qwen2_5_7b"]
    assert of_the_same_family("Qwen3-8B-Instruct", known, most=1) == ["qwen3_8b"]
    assert of_the_same_family("phi4", known) == []


@pytest.mark.parametrize(("number", "expected"), [(0, "0 points"), (1, "1 point"), (2, "2 points")])
def test_counts(number: int, expected: str) -> None:
    assert counted(number, "point") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        ("a b", "a b"),
        ([], "[]"),
        (["lab_sft", "seed=3"], '[lab_sft,"seed=3"]'),
        ({"seed": [1, None], "on": False}, "{seed:[1,null],on:false}"),
        (OmegaConf.create({"parts": [{"name": "dpo", "beta": 0.1}]}), "{parts:[{name:dpo,beta:0.1}]}"),
    ],
)
def test_values_are_shown_as_they_are_typed(value: Any, expected: str) -> None:
    assert as_typed(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("objective.beta=0.1", "objective.beta=0.1"),
        ("judge=[]", "'judge=[]'"),
        ("run=<run> data.columns={a: b c, d: [e]} seed=1", "run=<run> 'data.columns={a: b c, d: [e]}' seed=1"),
        ("'data.columns={a: b}' judge=[x,y]", "'data.columns={a: b}' 'judge=[x,y]'"),
        ("a=[1]   or   b={c:1}, or d", "'a=[1]'   or   'b={c:1}', or d"),
        ('pip install "alignlab[wandb]"', 'pip install "alignlab[wandb]"'),
        ("seed=[1", "seed=[1"),
    ],
)
def test_what_to_type_is_in_quotes_if_zsh_needs_them(text: str, expected: str) -> None:
    assert for_shell(text) == expected
    assert for_shell(expected) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (123_456, "123.5 kB"), (2_300_000, "2.3 MB"),
     (7_000_000_000, "7.0 GB")],
)  # fmt: skip
def test_sizes(size: int, expected: str) -> None:
    assert size_in_words(size) == expected
