"""Keys and passwords among the settings are refused before anything starts, and no message repeats them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from alignlab.config.credentials import problems_of_credentials
from alignlab.errors import ConfigError
from hydra_plugins.alignlab_plugins.search_path import OwnConfSource, SweepFolderSource, _reads_environment

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


def test_values_of_secret_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNLAB_TEST_SECRET", "hunter22")
    config = {"tracking": {"wandb": {"tags": ["a", "${oc.env:ALIGNLAB_TEST_SECRET}"]}}, "seed": 1, "name": "hunter2"}
    (found,) = problems_of_credentials(OmegaConf.create(config))
    assert found.key == "tracking.wandb.tags"
    assert "ALIGNLAB_TEST_SECRET" in str(found)
    assert "hunter22" not in str(found)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("${oc.env:AWS_SECRET_ACCESS_KEY}", True),
        ("x ${ oc.env:A,'}'} y", True),
        ("${oc.env:A,'{'}", True),
        ("${oc.${own}:A}", True),
        ("${${own}:A}", True),
        ("${oc.${own}:A,'{'}", True),
        ("${oc.${oc.select:own}:A}", True),
        ("${oc.select:${oc.env:A}}", True),
        ("${oc.create:{a:1}}", True),
        ("${data.name} and ${oc.select:data.${part},'x'} and ${now:%Y}", False),
        ("a prompt about oc.env, with {braces} and $5", False),
    ],
)
def test_values_that_read_environment_variables(text: str, reads: bool) -> None:
    assert _reads_environment(text) == reads


def test_own_files_read_no_environment_variables(tmp_path: Path) -> None:
    for group in ("sweep", "experiment"):
        (tmp_path / group).mkdir()
        text = "# @package _global_\ntracking: {wandb: {tags: ['${oc.env:AWS_SECRET_ACCESS_KEY}']}}\n"
        (tmp_path / group / "own.yaml").write_text(text)
    sources = [
        SweepFolderSource("sweeps", f"sweeps://{tmp_path / 'sweep'}"),
        OwnConfSource("c", f"own-conf://{tmp_path}"),
    ]
    for source, file in zip(sources, ("sweep/own", "experiment/own"), strict=True):
        with pytest.raises(ConfigError) as refused:
            source.load_config(file)
        assert "tracking.wandb.tags.0" in str(refused.value)
        assert "may not read an environment variable" in str(refused.value)


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
