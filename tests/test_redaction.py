"""Keys and passwords are hidden. Words that look similar stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.redaction import redacted, redacted_config, redacted_override, secret_variables


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234", "hf_abcdefghijklmnopqrst", "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "xoxb-1234567890-abc",
    ],
)  # fmt: skip
def test_secrets_are_found_by_their_form(secret: str) -> None:
    assert redacted(f"before {secret} after") == "before (hidden) after"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/x", "https://(hidden)@host/x"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer (hidden)"),
        ("OPENAI_API_KEY=abcd1234", "OPENAI_API_KEY=(hidden)"),
        ("{'api_key': 'abcd1234', 'n': 1}", "{'api_key': '(hidden)', 'n': 1}"),
        ("password: hunter22", "password: (hidden)"),
        ("max_new_tokens=128 pad_token=<pad> api_key_env=OPENAI_API_KEY", None),
        ("task-sk-1 hf_hub train/num_tokens 12", None),
    ],
)
def test_secrets_are_found_by_their_names(text: str, shown: str | None) -> None:
    assert redacted(text) == (text if shown is None else shown)


def test_values_of_secret_keys_are_hidden_in_configs_and_overrides() -> None:
    config = {
        "judge.llm.api_key": "abc", "data.token": "abc", "a.hub_token": "abc", "b": {"password": "abc"},
        "model.parent": ["judge.api_key=abc", "seed=1"], "judge.llm.api_key_env": "NAME",
        "data.eos_token": "</s>", "n": 3,
    }  # fmt: skip
    shown = redacted_config(config)
    assert "abc" not in str(shown)
    assert (shown["judge.llm.api_key_env"], shown["data.eos_token"], shown["n"]) == ("NAME", "</s>", 3)
    assert redacted_override("++judge.llm.api_key=abc") == "++judge.llm.api_key=(hidden)"
    assert redacted_override("seed=1") == "seed=1"


def test_values_of_secret_environment_variables_are_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OWN_SECRET", "hunter22/abc")
    monkeypatch.setenv("OWN_PASSWORD", "hunter22")
    monkeypatch.setenv("SHORT_TOKEN", "dpo")
    monkeypatch.setenv("OWN_TOKENIZER", "smollm2-135m")
    monkeypatch.setenv("KEY_FILE", str(tmp_path))
    text = f"model smollm2-135m, dpo, {tmp_path}"
    assert redacted(f"{text}, hunter22/abc, xhunter22x") == f"{text}, (hidden), x(hidden)x"
    assert redacted_config({"tracking.wandb.tags": ["a", "hunter22"]}) == {"tracking.wandb.tags": ["a", "(hidden)"]}
    assert redacted_override("seed=hunter22") == "seed=(hidden)"
    assert [name for name in secret_variables() if name.startswith(("OWN", "SHORT", "KEY"))] == [
        "OWN_SECRET",
        "OWN_PASSWORD",
    ]
