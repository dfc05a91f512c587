"""The JSON schema for editors accepts every config file of a run, and rejects keys and values that a run rejects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from alignlab.config.json_schema import json_schema
from alignlab.config.paths import conf_dir, share_dir

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FILES = sorted(
    [
        *(share_dir() / "sweeps").glob("*.yaml"),
        *(f for group in ("experiment", "stage", "debug") for f in (conf_dir() / group).rglob("*.yaml")),
    ]
)


def problems(config: Any) -> list[str]:
    return [".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(config)]


def test_there_are_files() -> None:
    assert len(FILES) > 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_files_of_the_package_pass(file: Path) -> None:
    assert problems(yaml.safe_load(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("trainer: {max_step: 3}", "trainer"),
        ("trainer: {max_steps: many}", "trainer.max_steps"),
        ("objective: {betta: 0.1}", "objective"),
        ("seed: 1.5", "seed"),
        ("sweep: {zip: [objective, seed]}", "sweep.zip"),
        ("tracking: {wandb: {projekt: x}}", "tracking.wandb"),
        ("lr: 0.1", ""),
        ("data: {noise: {flipt: 0.1}}", "data"),
    ],
)
def test_mistakes_are_found(text: str, where: str) -> None:
    assert problems(yaml.safe_load(text)) == [where]


@pytest.mark.parametrize(
    "text",
    [
        "trainer: {max_steps: 3}",
        "objective: {beta: 0.1, label_smoothing: 0.1}",
        "objective: {parts: [{name: dpo, beta: 0.1}]}",
        "model: {alphabet: '${data.alphabet}', parent: [sft, 'seed=3']}",
        "seed: ???",
        "strength: null",
        "hydra: {sweeper: {params: {objective.beta: '0.1,0.3', seed: 1}}}",
        "judge: {llm: {model: m, options: {top_p: null}}}",
    ],
)
def test_settings_pass(text: str) -> None:
    assert problems(yaml.safe_load(text)) == []


def test_keys_have_comments() -> None:
    steps = SCHEMA["properties"]["trainer"]["properties"]["max_steps"]
    assert steps["description"] == "number of optimizer updates, unless `max_epochs` is set."
    dpo = next(o for o in SCHEMA["properties"]["objective"]["anyOf"] if "label_smoothing" in o.get("properties", {}))
    assert "strength" in dpo["properties"]["beta"]["description"]
