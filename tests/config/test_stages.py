"""Stages: presets for runs that another run needs. They give the same runs as lists of overrides."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest

from alignlab.config.plan import Plan, plan
from alignlab.config.stages import keys_of_stages
from alignlab.errors import ConfigError

Run = Callable[..., Any]

LAB_SFT = ["objective=sft", "peft=none", "optim.lr=3e-3", "optim.schedule=cosine", "trainer.batch_size=128"]
LAB_SFT += ["trainer.max_steps=600", "trainer.log_every=5"]
LAB_REWARD = ["objective=reward_model", "optim.lr=1.0e-3", "optim.schedule=linear", "trainer.max_steps=300"]
LAB_REWARD += ["trainer.batch_size=64"]
SUPPORT_DESK_SFT = ["objective=sft", "peft=lora", "optim.lr=3.0e-4", "trainer.max_steps=40", "trainer.batch_size=8"]
SUPPORT_DESK_REWARD = ["objective=reward_model", "model=smollm2_135m", "peft=lora", "data=support_desk", "data.seed=1"]
SUPPORT_DESK_REWARD += ["optim.lr=3.0e-4", "trainer.max_steps=30", "trainer.batch_size=8", "trainer.micro_batch_size=4"]
HH_SFT = ["objective=sft", "peft=lora", "optim.lr=3.0e-4", "trainer.max_steps=20", "trainer.batch_size=8"]
HH_REWARD = ["objective=reward_model", "peft=lora", "optim.lr=3.0e-4", "optim.schedule=linear", "trainer.max_steps=60"]
HH_REWARD += ["trainer.batch_size=8", "trainer.micro_batch_size=4"]


def planned(*overrides: str, typed: frozenset[str] = frozenset()) -> Plan:
    return plan(hydra.compose("train", list(overrides)), overrides, allowed=typed)


def needed(key: str, run: Plan) -> Plan | None:
    return {"model.parent": run.parent, "reward.run": run.reward}.get(key, run.judges.get("reward_model"))


@pytest.mark.parametrize(
    ("words", "key", "stage", "overrides"),
    [
        (["peft=lora"], "model.parent", "lab_sft", LAB_SFT),
        (["experiment=lab_ppo", "peft=lora", "peft.r=4"], "reward.run", "lab_reward_model", LAB_REWARD),
        (["model=tiny", "data=support_desk", "peft=lora"], "model.parent", "sft", ["objective=sft"]),
        (
            ["model=tiny", "data=support_desk", "objective=ppo", "reward=reward_model"],
            "reward.run",
            "reward_model",
            ["objective=reward_model"],
        ),
        (["experiment=support_desk_dpo_smollm2"], "model.parent", "support_desk_sft_smollm2", SUPPORT_DESK_SFT),
        (
            ["judge=reward_model", "judge.reward_model.model=''"],
            "judge.reward_model.run",
            "support_desk_reward_model_smollm2",
            SUPPORT_DESK_REWARD,
        ),
        (["experiment=hh_ppo_smollm2"], "model.parent", "hh_sft_smollm2", [*HH_SFT, "trainer.micro_batch_size=4"]),
        (["experiment=hh_ppo_smollm2"], "reward.run", "hh_reward_model_smollm2", HH_REWARD),
    ],
)
def test_a_stage_is_the_run_that_its_list_was(
    words: Sequence[str], key: str, stage: str, overrides: Sequence[str], hydra_conf: None
) -> None:
    """Same id, same micro-batches. Records of older runs hold such lists."""
    named, listed = (needed(key, planned(*words, f"{key}={value}")) for value in (stage, json.dumps(overrides)))
    assert named
    assert listed
    assert named.id == listed.id
    assert named.train == listed.train


def test_stages_have_the_ids_that_they_had_as_lists(hydra_conf: None) -> None:
    """The stages as they were in commit 248d320."""
    planned_runs = [
        planned("experiment=lab_ppo"),
        planned("experiment=hh_ppo_smollm2", "model.origin=hub"),
        planned("experiment=support_desk_dpo_smollm2", "model.origin=hub"),
    ]
    assert [run.id for plan in planned_runs for run in plan.needed] == [
        "sft-91da9e6d48ec", "reward_model-31402ee83d53",
        "sft-ffae136e4c13", "reward_model-6ba1c0334452",
        "sft-f05b92d20ee0",
    ]  # fmt: skip
    assert planned_runs[2].id == "dpo-ad6338000dbc"


def test_a_run_is_the_same_however_its_reward_model_is_described(hydra_conf: None) -> None:
    words = ["experiment=lab_ppo", "reward=reward_model"]
    named, listed = (planned(*words, f"reward.run={run}") for run in ("lab_reward_model", json.dumps(LAB_REWARD)))
    assert named.id == listed.id
    others = ("reward_model", json.dumps([*LAB_REWARD, "trainer.max_steps=7"]))
    assert len({named.id, *(planned(*words, f"reward.run={run}").id for run in others)}) == 3
    assert planned(*words, "reward.run=lab_reward_model", "reward.tie_margin=0.5").id != named.id


def test_overrides_beside_a_stage_change_it(hydra_conf: None) -> None:
    shorter = planned('model.parent=["lab_sft","trainer.max_steps=7","peft=lora"]').parent
    assert shorter
    assert (shorter.train.trainer.max_steps, shorter.train.optim.lr, shorter.kinds["peft"]) == (7, 3e-3, "lora")
    assert shorter.parent is None
    other = planned("model.parent=[lab_sft,support_desk_sft_smollm2]").parent  # of two stages the later one counts
    assert other
    assert (other.train.trainer.max_steps, other.train.trainer.batch_size, other.kinds["peft"]) == (40, 8, "lora")
    assert other.train.optim.schedule == "cosine"


def test_keys_of_a_stage(hydra_conf: None) -> None:
    keys = keys_of_stages(["support_desk_reward_model_smollm2"])
    assert keys == [
        "objective", "model", "peft", "data", "data.seed", "optim.lr", "trainer.max_steps", "trainer.batch_size",
        "trainer.micro_batch_size",
    ]  # fmt: skip


def test_a_stage_of_ones_own_may_build_on_another(alignlab: Run, tmp_path: Path) -> None:
    """Keys that a stage sets, or the stage that it is based on, are not inherited from the run."""
    (tmp_path / "mine" / "stage").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - lab_sft\n\ntrainer:\n  max_steps: 7\n"
    (tmp_path / "mine" / "stage" / "short.yaml").write_text(text)
    own = ["--config-dir", str(tmp_path / "mine")]
    named = alignlab("check", "model.parent=short", "peft=lora", *own)
    listed = alignlab("check", 'model.parent=["lab_sft","trainer.max_steps=7"]', "peft=lora")
    assert (named.code, listed.code) == (0, 0)
    assert named.out.splitlines()[1:] == listed.out.splitlines()[1:]


@pytest.mark.parametrize("typed", [[], ["model.trust_remote_code=true"]], ids=["nothing", "for the run's own model"])
def test_a_stage_file_does_not_allow_code_to_run(typed: list[str], alignlab: Run, tmp_path: Path) -> None:
    """Even if the command line names the stage, or allows the code of another model."""
    (tmp_path / "mine" / "stage").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /objective: sft\n  - override /model: hub\n"
    text += "  - override /data: hh_rlhf\n\nmodel:\n  name: org/other\n  trust_remote_code: true\n"
    (tmp_path / "mine" / "stage" / "trusting.yaml").write_text(text)
    found = alignlab(
        "check", "model=hub", "model.name=org/model", "data=hh_rlhf", "model.parent=trusting", *typed, "--config-dir",
        str(tmp_path / "mine"),
    )  # fmt: skip
    assert found.code == 2
    assert "parent.model.trust_remote_code = true\n      is set by a config file" in found.err


def test_code_that_was_allowed_for_the_model_is_allowed_for_its_parent(hydra_conf: None) -> None:
    words = ["model=hub", "model.name=org/model", "model.trust_remote_code=true", "data=hh_rlhf", "model.parent=sft"]
    run = planned(*words, typed=frozenset({"model.trust_remote_code"}))
    assert run.parent
    assert run.parent.train.model.allows_remote_code
    with pytest.raises(ConfigError, match=r"model\.trust_remote_code"):
        planned(*words)
