"""What parents, reward models and judges inherit from the run that needs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import hydra
import pytest

from alignlab.config.plan import Plan, plan
from alignlab.errors import ConfigError
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.none import FullFineTuning
from alignlab.rollout.engines.huggingface import HuggingFace
from tests.rollout.engines.engines import SERVER

pytestmark = pytest.mark.usefixtures("hydra_conf")

TEXT = ("model=tiny", "data=support_desk", "tracking=none")
JUDGE = ("judge=reward_model", "judge.reward_model.model=''")


def planned(*overrides: str) -> Plan:
    return plan(hydra.compose("train", list(overrides)), overrides)


def override_list(*words: str) -> str:
    """A list of overrides as an override's value."""
    return json.dumps(words)


@pytest.mark.parametrize(
    ("peft", "words", "expected"),
    [
        (("peft=lora", "peft.r=4"), (), LoRA(r=4)),
        (("peft=lora", "peft.r=4"), ("peft=none",), FullFineTuning()),
        (("peft=lora", "peft.r=4", "peft.alpha=7"), ("peft.r=8",), LoRA(r=8, alpha=7.0)),
        (("peft=lora", "peft.r=4"), ("peft=lora",), LoRA()),
        (("peft=lora", "peft.r=4"), ("peft=lora", "peft.r=8"), LoRA(r=8)),
        (("peft=none",), (), FullFineTuning()),
        (("peft=none",), ("peft=lora",), LoRA()),
    ],
)
def test_stages_take_the_runs_peft(peft: Sequence[str], words: Sequence[str], expected: object) -> None:
    """The parent, the parent's parent, the reward model and the judge's reward model."""
    of_parent = override_list("objective=sft", f"model.parent={override_list('objective=sft')}", *words)
    made = planned(
        *TEXT, *peft, f"model.parent={of_parent}", "objective=ppo", "reward=reward_model",
        f"reward.run={override_list('objective=reward_model', *words)}",
        *JUDGE, f"judge.reward_model.run={override_list('objective=reward_model', *TEXT[:2], *words)}",
    )  # fmt: skip
    assert made.parent
    assert made.parent.parent
    assert made.reward
    stages = (made.parent, made.parent.parent, made.reward, made.judges["reward_model"])
    assert [stage.train.peft for stage in stages] == [expected] * 4
    assert [stage.kinds["peft"] for stage in stages] == [made.parent.kinds["peft"]] * 4
    assert made.reward.parent == made.parent


def test_a_field_that_the_inherited_peft_has_not_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r"model\.parent.*\n.*it sets peft\.r, which does not exist"):
        planned(*TEXT, "peft=none", f"model.parent={override_list('objective=sft', 'peft.r=8')}")


def test_the_labs_parent_learns_everything() -> None:
    """It starts from random weights, from which LoRA would learn next to nothing."""
    with_lora, without = (planned("experiment=lab_dpo", f"peft={peft}", "tracking=none") for peft in ("lora", "none"))
    assert with_lora.parent
    assert without.parent
    assert with_lora.parent.id == without.parent.id
    assert with_lora.id != without.id


def test_a_later_setting_is_part_of_an_id_only_if_it_is_changed(hydra_conf: None) -> None:
    """The id is that of commit 2dd229a, which had no `data.template`."""
    words = ["experiment=support_desk_dpo_smollm2", "model.origin=hub"]
    assert planned(*words).id == planned(*words, "data.template=auto").id == "dpo-ad6338000dbc"
    assert planned(*words, "data.template=none").id != "dpo-ad6338000dbc"


def test_an_engine_counts_in_the_id_only_if_it_can_change_what_the_run_learns_from() -> None:
    """vLLM does for an online objective. Its settings, and engines of offline objectives, do not."""
    online, vllm = ("objective=grpo", "tracking=none"), ("engine=vllm", SERVER)
    default = planned(*online)
    assert default.train.engine == HuggingFace()
    assert (default.id, default.kinds["engine"]) == ("grpo-2d63e868bd50", "huggingface"), "as before there were engines"
    other = planned(*online, *vllm)
    assert other.id not in (default.id, "")
    assert planned(*online, *vllm, "engine.concurrency=3").id == other.id
    assert planned("tracking=none").id == planned("tracking=none", *vllm).id


def test_an_engine_that_has_no_effect_or_gets_no_whole_weights_is_refused(tmp_path: Path) -> None:
    rows = Path(__file__).parents[1] / "fixtures" / "candidates.jsonl"
    words = ("engine=vllm", SERVER, "model=tiny", "tracking=none")
    with pytest.raises(ConfigError, match="answers are chosen among candidates"):
        planned(*words, "data=candidates", f"data.path={rows}", "objective=rloo")
    with pytest.raises(ConfigError) as error:
        planned("engine=vllm", "engine.server=nowhere", "engine.eager=true", "engine.cache_gb=0", "tracking=none")
    assert sorted(problem.key for problem in error.value.problems) == [
        "engine.cache_gb", "engine.cache_gb", "engine.eager", "engine.server",
    ]  # fmt: skip


def test_parts_that_need_whole_weights_are_refused_with_sharded_ones() -> None:
    words = (*TEXT, "model.parent=[]", "engine=vllm", SERVER, "optim=adamw_8bit")
    with pytest.raises(ConfigError) as error:
        planned(*words, "strategy=fsdp")
    found = [problem for problem in error.value.problems if problem.key == "strategy"]
    assert [problem.value for problem in found] == ["fsdp", "fsdp"]
    assert [problem.allowed.split()[-4] for problem in found] == ["optim=adamw_8bit", "engine=vllm"]
    assert planned(*words[:4], "strategy=fsdp").id == planned(*words[:4]).id


def test_deepspeed_divides_what_its_stage_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignlab.strategies.deepspeed.version", lambda name: "0.19.8+cu130")
    words = (*TEXT, "model.parent=[]", "strategy=deepspeed")
    assert (
        planned(*words, "strategy.stage=3").id == planned(*words, "strategy.stage=3", "strategy.offload=optimizer").id
    )
    assert planned(*words, "engine=vllm", SERVER).train.strategy.shards_optimizer
    for more, fault in (
        (["optim=adamw_8bit"], "divides the optimizer's state among the devices, and optim=adamw_8bit needs whole"),
        (["engine=vllm", SERVER, "strategy.stage=3"], "divides weights among the devices, and engine=vllm needs whole"),
        (["strategy.stage=1"], "must be 2 or 3"),
        (["strategy.offload=all"], "needs stage 3"),
        (["strategy.offload=optimizer"], "type: strategy.stage=3 strategy.offload=optimizer"),
        (["strategy.offload=cpu"], "must be one of: none, optimizer, all"),
    ):
        with pytest.raises(ConfigError) as error:
            planned(*words, *more)
        assert fault in str(error.value)


@pytest.mark.parametrize(
    ("installed", "fault"), [("", "which is not installed"), ("0.18.9", "needs the package deepspeed 0.19.8 or")]
)
def test_deepspeed_must_be_new_enough(installed: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if installed:
            return installed
        raise PackageNotFoundError(name)

    monkeypatch.setattr("alignlab.strategies.deepspeed.version", version)
    with pytest.raises(ConfigError, match=fault) as error:
        planned(*TEXT, "model.parent=[]", "strategy=deepspeed")
    assert "pip install" in str(error.value)
