"""A key of the environment is sent only where the command line says, no matter who wrote the files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from alignlab.config.from_record import _trackers
from alignlab.config.sent_keys import problems_of_sent_keys
from alignlab.judges.llm import LLM

Run = Callable[..., Any]

NAME, PLACE = "judge.llm.api_key_env", "judge.llm.base_url"


@pytest.mark.parametrize(
    ("values", "typed", "refused"),
    [
        ({}, [], []),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY", "base_url": "https://other.org/v1"}, [], [NAME, PLACE]),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY", "base_url": "https://other.org/v1"}, [NAME], [PLACE]),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY", "base_url": "https://other.org/v1"}, [NAME, PLACE], []),
        ({"base_url": "https://other.org/v1"}, [], [PLACE]),
        ({"base_url": "https://api.openai.com.other.org/v1"}, [], [PLACE]),
        ({"base_url": "http://localhost:80@other.org/v1"}, [], [PLACE]),
        ({"base_url": "http://[other.org/v1"}, [], [PLACE]),
        ({"base_url": "https://api.openai.com/v1"}, [], []),
        ({"base_url": "http://127.0.0.1:8000/v1"}, [], []),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY", "base_url": "http://127.0.0.1:8000/v1"}, [], [NAME]),
    ],
)
def test_settings_of_a_judge(values: dict[str, str], typed: list[str], refused: list[str]) -> None:
    plain = OmegaConf.create({"judge": {"llm": values}})
    with_schema = OmegaConf.create({"judge": {"llm": OmegaConf.merge(OmegaConf.structured(LLM), values)}})
    for config in (plain, with_schema):
        assert [problem.key for problem in problems_of_sent_keys(config, frozenset(typed))] == refused


@pytest.mark.parametrize("command", [["check", "experiment=lab_dpo"], ["evaluate", "run=r"], ["synthesize", "run=r"]])
def test_a_file_of_options_sends_no_key(command: list[str], alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "conf/judge").mkdir(parents=True)
    text = "# @package judge.llm\ndefaults:\n  - /schema/judge/llm@_here_\n  - _self_\nmodel: m\n"
    text += "api_key_env: AWS_SECRET_ACCESS_KEY\nbase_url: https://other.org/v1\n"
    (tmp_path / "conf/judge/own.yaml").write_text(text)
    found = alignlab(*command, "judge=own")
    assert found.code == 2
    for word in (f"{NAME}=AWS_SECRET_ACCESS_KEY", f"{PLACE}=https://other.org/v1"):
        assert f"type: {word}" in found.err


def test_the_password_of_mlflow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    uri = "https://other.org/mlflow"
    record = {"tracking": {"mlflow": {"uri": uri}}}
    config = OmegaConf.create(record)
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert not list(problems_of_sent_keys(config, frozenset()))
    assert list(_trackers(record, {})) == ["mlflow"]

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    (problem,) = problems_of_sent_keys(config, frozenset())
    assert (problem.key, "MLFLOW_TRACKING_PASSWORD" in str(problem)) == ("tracking.mlflow.uri", True)
    assert not list(problems_of_sent_keys(config, frozenset(["tracking.mlflow.uri"])))
    with caplog.at_level(logging.WARNING):
        assert not _trackers(record, {})
    assert f"export MLFLOW_TRACKING_URI={uri}" in caplog.text

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not list(problems_of_sent_keys(config, frozenset()))
    assert list(_trackers(record, {})) == ["mlflow"]
