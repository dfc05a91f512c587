"""The model card of a run: what it says, and that a record of somebody else can't put markup into it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignlab.integrity import read_record, write_sealed
from alignlab.reports.model_card import Export, _without_folders, command, model_card
from alignlab.runs.directory import RunDir
from tests.test_old_runs import FIXTURE, LOW


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run of a sweep."""
    shutil.copytree(FIXTURE, tmp_path / "outputs")
    return RunDir.of(tmp_path / "outputs", LOW)


def export(**values: Any) -> Export:
    about = {"form": "merged", "name": "me/thing", "base": "org/base", "parameters": 1234567, "dtype": "bfloat16"}
    return Export(**{**about, "ends": ("<|im_end|>", "</s>"), **values})  # type: ignore[arg-type]


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_what_the_card_says(run: RunDir) -> None:
    record = run.record()
    card = model_card(record, run, export())
    assert metadata(card) == {
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["alignlab", "alignlab-dpo"],
    }
    for text in (
        "# me/thing", "1,234,567 parameters, bfloat16", f"Run `{LOW}`", "Answers end at `<|im_end|>` or `</s>`.",
        'from_pretrained("me/thing")', "vllm serve me/thing", "dpo (dialect: paper", "beta 0.1",
        "| exact KL (nats) | 0.115 |  |", "one run with seed 1", f"| parent run | {record['parent']} |",
    ):  # fmt: skip
        assert text in card, text
    assert "## Verdicts\n\n- Sweep betas" in card, "the answer of its sweep"
    assert "No answers were sampled or judged." in card


def test_intervals_and_verdicts(run: RunDir) -> None:
    """Held-out pairs have Wilson's interval: 30 of 40 are 0.598 to 0.858."""
    record = run.record()
    numbers = {
        "eval/pairs/accuracy": 0.75,
        "eval/pairs/n": 40.0,
        "eval/winrate/llm": 0.6,
        "eval/winrate/llm/ci_low": 0.5,
    }
    numbers |= {"eval/winrate/llm/ci_high": 0.7, "eval/kl_ref/sequence_k1": 2.0, "eval/kl_ref/sequence_k1/se": 0.25}
    health = {"verdict": "collapsed", "checks": [{"name": "length", "value": 1.0, "limit": 2.0, "hit": True}]}
    summary = {"rows": 1, "prompts": 1, "kl": {}, "answers": {"policy": {}}, "compared": {}, "best_of_n": {}}
    tokens = dict.fromkeys(("tokens", "characters", "ended", "repetition"))
    summary["answers"] = {"policy": {**tokens, "distinct_2": 0.5}}
    write_sealed(run.path / "evaluation/abc/summary.json", {**summary, "health": health})
    write_sealed(run.path / "evaluation/def/summary.json", {"kl": "nonsense"})
    card = model_card({**record, "summary": {**record["summary"], **numbers}}, run, export())
    assert "| held-out pair accuracy | 0.750 | 0.598 to 0.858 |" in card
    assert "| win-rate by llm | 0.600 | 0.500 to 0.700 |" in card
    assert "| sampled KL (nats) | 2.000 | standard error 0.250 |" in card
    assert "- verdict: collapsed (length 1.000, limit 2.000)" in card
    assert card.count("verdict: collapsed") == 1
    assert "No answers were sampled" not in card


def test_forms(run: RunDir) -> None:
    record = run.record()
    adapter = model_card(record, run, export(form="adapter"))
    assert (metadata(adapter)["library_name"], metadata(adapter)["base_model_relation"]) == ("peft", "adapter")
    assert "AutoPeftModelForCausalLM" in adapter
    assert "--base" not in adapter
    named = model_card(record, run, export(form="adapter", base="org/base", recorded_base="/home/me/base"))
    assert "from `org/base` (as given by `--base` and not checked; the run's config names `.../base`) with" in named
    gguf = model_card(record, run, export(form="gguf", gguf="thing.gguf"))
    assert "llama-server --model thing.gguf --jinja" in gguf
    reward = model_card(record, run, export(is_reward_model=True))
    assert metadata(reward)["pipeline_tag"] == "text-classification"
    assert "A reward model that" in reward
    assert "Answers end" not in reward
    here = model_card(record, run, export(base="/home/me/base"))
    assert "base_model" not in metadata(here)
    assert "/home/me" not in here
    named = {**record, "config": {**record["config"], "data": {"path": ["org/set", "/data/own.jsonl", "own.jsonl"]}}}
    assert metadata(model_card(named, run, export()))["datasets"] == ["org/set"]
    assert "weights of its base did not come from the hub" in model_card(named, run, export())
    from_hub = {**named, "model": {"fingerprint": "org/base@abc"}}
    assert "did not come from the hub" not in model_card(from_hub, run, export())


def test_a_record_of_somebody_else_is_text(run: RunDir) -> None:
    evil = "</td><script>x</script> [a](http://b) | c\n# heading `code` ```"
    record = json.loads(json.dumps(run.record()))
    record["objective"] = {"name": "dpo", "beta": evil, "spoken": evil, "dialect": evil}
    record["data"] = {"fingerprint": evil, "train": {"rows": 3, "dropped": {evil: 1}}, "eval": {"rows": float("nan")}}
    record["data"]["audit"] = {"warnings": [{"text": evil}, "no mapping"], "errors": None}
    record["versions"] = {evil: evil}
    record["overrides"] = [f"data.path={evil}", "judge.llm.api_key=sk-abcdefghijklmnopqrstuvwxyz"]
    record["sweep"] = "../../other"
    card = model_card(record, run, export(base=evil, name=evil))
    before_command, _, after = card.partition("## Command")
    prose = before_command.replace("```python", "").replace("```sh", "")
    assert "<script>" not in prose.replace("from_pretrained", "").split("## Training")[1]
    assert "\n# heading" not in before_command.split("# ", 1)[1]
    assert "sk-abc" not in card
    assert after.count("````") == 2, "the block of the command is longer than the backticks in it"
    empty = model_card({"id": LOW}, run, export())
    assert "Nothing was measured." in empty


def test_paths_are_shortened(run: RunDir) -> None:
    assert _without_folders("data.path=/home/me/x/rows.jsonl") == "data.path=.../rows.jsonl"
    assert _without_folders("['a=../b/c', 'd=~/e', f=/g]") == "['a=.../c', 'd=.../e', f=.../g]"
    assert _without_folders("org/model https://x.y/z 1/2 objective.beta=0.1") == (
        "org/model https://x.y/z 1/2 objective.beta=0.1"
    )
    record = {
        "overrides": [
            "objective=dpo",
            "output_root=/tmp/x",
            "tracking=wandb",
            "data.path=/a/b.jsonl",
            "model.token=xyz",
        ]
    }
    assert command(record) == "alignlab train objective=dpo data.path=.../b.jsonl 'model.token=(hidden)'"


def test_the_fixture_is_read_as_it_is(run: RunDir) -> None:
    model_card(run.record(), run, export())
    assert read_record(run.record_file) == read_record(FIXTURE / "runs" / LOW / "run.json")
