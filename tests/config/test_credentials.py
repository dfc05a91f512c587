"""Keys and passwords among the settings are refused before anything starts, and no message repeats them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from alignlab.config.credentials import problems_of_credentials

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"judge": {"llm": {"base_url": "https://me:hunter22@host/v1"}}}, ["judge.llm.base_url"]),
        ({"judge": {"llm": {"base_url": "https://host/v1?key=hunter22"}}}, ["judge.llm.base_url"]),
        ({"judge": {"llm": {"base_url": "https://host/v1?api_key=hunter22&x=1"}}}, ["judge.llm.base_url"]),
        ({"judge": {"llm": {"model": "sk-proj-abcdefghijklmnop1234"}}}, ["judge.llm.model"]),
        ({"judge": {"llm": {"api_key_env": "hf_abcdefghijklmnopqrst"}}}, ["judge.llm.api_key_env"]),
        ({"tracking": {"mlflow": {"uri": "postgresql://me:hunter22@host/db"}}}, ["tracking.mlflow.uri"]),
        ({"tracking": {"wandb": {"project": "wandb_v1_abcdefghijklmnopqrstuvwx"}}}, ["tracking.wandb.project"]),
        ({"model": {"name": "${oc.env:ALIGNLAB_TEST_SECRET}"}}, ["model.name"]),
        ({"model": {"parent": ["sft", "judge.llm.model=sk-proj-abcdefghijklmnop1234"]}}, ["model.parent"]),
        ({"callback": {"mine": {"password": "hunter22"}}}, ["callback.mine.password"]),
        ({"judge": {"llm": {"base_url": "http://localhost:8000/v1", "api_key_env": "MY_KEY"}}}, []),
        ({"data": {"path": "task-sk-1/hf_hub", "token": None}, "model": {"name": "a/b", "pad_token": "<pad>"}}, []),
    ],
)
def test_values_that_are_secrets(config: dict[str, Any], keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNLAB_TEST_SECRET", "hf_abcdefghijklmnopqrst")
    found = list(problems_of_credentials(OmegaConf.create(config)))
    assert [problem.key for problem in found] == keys
    assert not any(secret in str(found) for secret in ("hunter22", "abcdefghij"))


def test_a_command_line_with_a_secret_stores_and_shows_nothing_of_it(alignlab: Run, tmp_path: Path) -> None:
    for words in (
        ["judge=llm", "judge.llm.model=m", "judge.llm.base_url=https://me:hunter22@host/v1"],
        ["judge=llm", "judge.llm.model=m", "judge.llm.api_key=hunter22"],
    ):
        found = alignlab("train", "experiment=lab_dpo", *words)
        assert found.code == 2, found.err
        assert "hunter22" not in found.out + found.err
        assert "(hidden)" in found.err
    assert not any(b"hunter22" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
