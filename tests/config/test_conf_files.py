"""Every YAML file under conf/ and sweeps/ composes into a valid config. Files are found recursively and counted."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from alignlab.config.axes import grid
from alignlab.config.composer import Composer, without_hydra
from alignlab.config.paths import conf_dir, share_dir, sweep_dirs
from alignlab.config.points import plan_points
from alignlab.config.preflight import to_evaluate, to_synthesize, to_train
from alignlab.config.registry import schemas
from alignlab.config.schemas import Evaluate, Train, Trainer
from alignlab.errors import ConfigError, Problem
from alignlab.objectives.online import Online

CONF = conf_dir()
# Presets that only name a published model. They are alike, so one of them is composed here, and their names are checked
# in tests/models/test_known_configs.py.
PUBLISHED = {
    file
    for file in (CONF / "model").glob("*.yaml")
    if set(yaml.safe_load(file.read_text())) == {"defaults", "name"} and file.stem not in ("hub", "tiny", "qwen3_8b")
}
FILES = sorted(set(CONF.rglob("*.yaml")) - PUBLISHED)
PRESETS = sorted((share_dir() / "sweeps").rglob("*.yaml"))

# Public sets of pairs and rankings.
PUBLIC_PAIRS = (
    "arena_55k", "capybara_dpo", "dpo_mix_7k", "helpsteer2", "helpsteer3", "nectar", "oasst1", "orca_dpo_pairs",
    "pku_saferlhf", "shp", "skywork_80k", "tldr", "tulu3_8b", "ultrafeedback_binarized", "ultrafeedback_cleaned",
    "ultrafeedback_raw", "webgpt",
)  # fmt: skip

# What an option needs to be valid: files of the user, and matching options of other groups.
NEEDS = {
    "data/hh_rlhf": ["model=tiny"],
    "data/hh_helpful_base": ["model=tiny"],
    "data/pairs": ["model=tiny", "data.path=org/dataset"],
    "model/hub": ["data=hh_rlhf", "model.name=org/model"],
    "model/tiny": ["data=hh_rlhf"],
    "model/qwen3_8b": ["data=hh_rlhf"],
    "peft/qlora": ["data=hh_rlhf", "model=qwen3_8b"],
    "model/smollm2_135m": ["data=hh_rlhf", "model.origin=hub"],
    "data/support_desk": ["model=tiny"],
    "benchmark/lm_eval": ["benchmark.lm_eval.tasks=[ifeval]"],
    "engine/vllm": ["engine.server=http://127.0.0.1:8000"],  # the package vllm need not be installed
    "judge/gold": ["judge.gold.function=math:dist"],
    "judge/llm": ["judge.llm.model=m", "judge.llm.base_url=http://127.0.0.1:1/v1"],
    "judge/reward_model": ["judge.reward_model.model=org/model"],
    "data/rankings": ["model=tiny", "data.path=org/dataset", "objective=reward_model"],
    "data/ratings": ["model=tiny", "data.path=org/dataset"],
    "data/unpaired": ["model=tiny", "data.path=org/dataset", "objective=kto"],
    "data/candidates": ["model=tiny", f"data.path={Path(__file__).parents[1] / 'fixtures/candidates.jsonl'}"],
    "data/completions": ["model=tiny", "data.path=org/dataset", "objective=sft"],
    "data/prompts": [
        "model=tiny",
        "data.path=org/dataset",
        "objective=best_of_n",
        "reward=gold",
        "reward.function=math:dist",
    ],
    "data/llama_factory_dpo": ["model=tiny", "data.path=org/dataset"],
    "data/llama_factory_kto": ["model=tiny", "data.path=org/dataset", "objective=kto"],
    "data/llama_factory_alpaca": ["model=tiny", "data.path=org/dataset", "objective=sft"],
    "data/rasbt": ["model=tiny", "data.path=org/dataset"],
    "data/self_instruct": ["model=tiny", "data.path=org/dataset", "objective=sft"],
    "data/imdb": ["model=tiny", "objective=kto"],
    "data/kto_mix_15k": ["model=tiny", "objective=kto"],
    "data/dolly": ["model=tiny", "objective=sft"],
    "data/tldr_sft": ["model=tiny", "objective=sft"],
    "data/mixture": ["model=tiny", "+data@data.parts.a=hh_rlhf", "+data@data.parts.b=support_desk"],
    **{f"data/{name}": ["model=tiny"] for name in PUBLIC_PAIRS},
    "objective/mix": ["objective.parts=[{name:dpo,beta:0.1},{name:sft,weight:0.2}]"],
    "optim/rmsprop": ["trainer.max_steps=200"],
    "experiment/hh_dpo_smollm2": ["model.origin=hub"],
    "experiment/support_desk_dpo_smollm2": ["model.origin=hub"],
    "experiment/hh_ppo_smollm2": ["model.origin=hub"],
    "stage/support_desk_reward_model_smollm2": ["model.origin=hub"],
    "reward/gold": ["objective=ppo", "reward.function=math:dist"],
    "reward/reward_model": ["objective=ppo"],
    "reward/lab_reward_model": ["objective=ppo"],
    "reward/hh_reward_model_smollm2": ["objective=ppo"],
    "reward/word_classifier": ["objective=ppo"],
    "stage/imdb_sft": ["model=tiny"],
    "experiment/paper/imdb_gpt2_large": ["data.path=org/dataset"],
    "experiment/paper/candidates_smollm2": [
        "model.origin=hub",
        f"data.path={Path(__file__).parents[1] / 'fixtures/candidates.jsonl'}",
    ],
    "experiment/paper/no_never_smollm2": ["model.origin=hub", "data.path=org/dataset"],
    "experiment/paper/imdb_smollm2": ["model.origin=hub", "data.path=org/dataset"],
}


def test_nothing_is_left_out() -> None:
    assert len(PUBLISHED) == 67
    assert len(FILES) == 158
    assert len(PRESETS) == len(POINTS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONF)))
def test_composes(file: Path, hydra_conf: None) -> None:
    """Each file gives a config that passes preflight. An option of a group has the dataclass that it names."""
    group, _, option = str(file.relative_to(CONF).with_suffix("")).rpartition("/")
    if option == "evaluate":
        to_evaluate(without_hydra(compose(option, ["run=dpo"])))
        return
    if option == "synthesize":
        to_synthesize(without_hydra(compose(option, ["run=dpo"])))
        return
    if not group:
        to_train(without_hydra(compose(option)))
        return
    if group == "benchmark":
        pytest.importorskip(option, reason='pip install "alignlab[benchmarks]"')
        chosen = to_evaluate(
            without_hydra(compose("evaluate", ["run=dpo", f"benchmark={option}", *NEEDS[f"{group}/{option}"]]))
        )
        assert type(chosen.benchmark[option]) is schemas()[group][option]
        return
    if (group, option) == ("strategy", "deepspeed"):
        pytest.importorskip(option, reason='pip install "alignlab[deepspeed]"')
    first, _, inner = group.partition("/")  # a set-up of a paper is experiment=paper/<name>
    chosen = f"+stage={option}" if group == "stage" else f"{first}={'/'.join(filter(None, (inner, option)))}"
    overrides = [chosen, *NEEDS.get(f"{group}/{option}", [])]
    train = to_train(without_hydra(compose("train", overrides)))
    if group in schemas() and "defaults" in yaml.safe_load(file.read_text()):
        named = yaml.safe_load(file.read_text())["defaults"][0].removeprefix(f"/schema/{group}/").partition("@")[0]
        made = getattr(train, group)[named] if group in ("judge", "tracking") else getattr(train, group)
        assert type(made) is schemas()[group][named]


# preset -> its points
POINTS = {
    "dpo_beta": 4,
    "seeds": 5,
    "objectives_beta": 104,
    "objectives_lr": 108,
    "datasets_beta": 12,
    "worlds_beta": 16,
    "noise": 30,
    "kto_imbalance": 21,
    "ppo_kl": 4,
    "online_beta": 15,
}


# preset -> places of its data in place of the user's files
PLACES = {"datasets_beta": {"data.path": "org/a,org/b,org/c"}}


@pytest.mark.parametrize("file", PRESETS, ids=lambda f: f.stem)
def test_every_point_of_a_sweep_composes(file: Path, hydra_conf: None) -> None:
    """No two of them are the same run."""
    preset = yaml.safe_load(file.read_text())
    assert preset["sweep"]["question"].endswith("?")
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    config = composer.load([f"sweep={file.stem}"])
    params = {**config.hydra.sweeper.params, **PLACES.get(file.stem, {})}
    given = [f"{key}={values}" for key, values in params.items()]
    asked = grid([composer.parse(text) for text in given], config.sweep.zip, config.sweep.exclude)
    plans = plan_points(composer, [[f"sweep={file.stem}", *job] for job in asked.jobs], asked.problems)
    assert len({point.id for point in plans}) == len(plans) == POINTS[file.stem]


def test_objectives_beta_has_every_objective_on_given_answers_that_has_a_strength(hydra_conf: None) -> None:
    preset = yaml.safe_load((share_dir() / "sweeps/objectives_beta.yaml").read_text())
    named = preset["hydra"]["sweeper"]["params"]["objective"].replace(" ", "").split(",")
    offline = {name: cls for name, cls in schemas()["objective"].items() if not issubclass(cls, Online)}
    assert set(named) == {name for name, cls in offline.items() if cls.strength is not None}
    assert {named.count(name) for name in named} == {4}


def test_the_sweep_folder_of_the_working_directory_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sweep_dirs() == [share_dir() / "sweeps", tmp_path / "sweeps"]


def test_hydra_finds_every_schema_and_gives_a_copy(hydra_conf: None) -> None:
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    groups = set(repository.get_group_options("schema", ObjectType.GROUP)) - {"trainer"}
    assert {group for group, classes in schemas().items() if classes} <= groups
    assert groups <= schemas().keys()
    assert repository.get_group_options("schema", ObjectType.CONFIG) == ["evaluate", "synthesize", "train"]
    assert repository.get_group_options("schema/objective") == sorted(schemas()["objective"])
    stored: dict[str, tuple[str, type]] = {
        "schema/train": ("_global_", Train),
        "schema/evaluate": ("_global_", Evaluate),
        "schema/trainer/default": ("trainer", Trainer),
    }
    for group, classes in schemas().items():
        stored |= {f"schema/{group}/{name}": (group, cls) for name, cls in classes.items()}
    for path, (package, cls) in stored.items():
        found = repository.load_config(path)
        assert OmegaConf.get_type(found.config) is cls
        assert found.header == {"package": package}
    found = repository.load_config("schema/objective/dpo")
    found.config.beta = 0.1
    assert OmegaConf.is_missing(repository.load_config("schema/objective/dpo").config, "beta")


def test_another_hydra_application_of_the_environment_has_no_schemas(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("beta: 0.1\n")
    code = f"""
import hydra
from hydra.core.config_store import ConfigStore

def groups(folder, name):
    with hydra.initialize_config_dir(folder, version_base="1.3"):
        hydra.compose(name)
    return sorted(group for group in ConfigStore.instance().repo if not group.endswith(".yaml"))

print(groups({str(tmp_path)!r}, "app"), groups({str(CONF)!r}, "train"))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.splitlines()[-1] == "['hydra'] ['hydra', 'schema']"


@pytest.mark.parametrize("group", sorted(schemas()))
def test_options_choose_only_keys_that_the_dataclass_has(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        if "defaults" not in content:  # an option that stands for none, such as peft=none
            assert content in ({}, {group: None})
            continue
        schema, _, package = content["defaults"][0].removeprefix(f"/schema/{group}/").partition("@")
        fields = {f.name for f in dataclasses.fields(schemas()[group][schema])}
        own = content.get(group, {}) if package == group else content  # of files in the package _global_
        assert set(own) - {"defaults"} <= fields, file


def defaults_of(schema: type) -> dict[str, object]:
    """Field -> default, for fields that have one."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(schema):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


@pytest.mark.parametrize("group", sorted(schemas()))
def test_defaults_stand_in_the_dataclasses(group: str) -> None:
    """An objective's YAML file shows the defaults of its dataclass. Other options show only what differs."""
    held = 0
    for file in sorted((CONF / group).glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        if "defaults" not in content:
            continue
        schema = content.pop("defaults")[0].removeprefix(f"/schema/{group}/").partition("@")[0]
        defaults = defaults_of(schemas()[group][schema])
        for key in content.keys() & defaults.keys():
            assert (content[key] == defaults[key]) == (group == "objective"), f"{file}: {key}"
            held += 1
    assert held > (80 if group == "objective" else -1)


def test_the_letters_of_a_model_without_a_lab_are_its_datas_default() -> None:
    for name in ("lab", "bandit"):
        said = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["alphabet"]
        assert said == f"${{oc.select:data.alphabet,{defaults_of(schemas()['data'][name])['alphabet']}}}"


@pytest.mark.parametrize("name", sorted(schemas()["objective"]))
def test_an_objectives_yaml_shows_every_field(name: str) -> None:
    content = yaml.safe_load((CONF / "objective" / f"{name}.yaml").read_text())
    fields = {f.name for f in dataclasses.fields(schemas()["objective"][name])}
    assert set(content) - {"defaults"} == fields


def test_every_key_of_an_objective_is_explained_above_it() -> None:
    for file in (CONF / "objective").glob("*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# "), file
        for above, line in itertools.pairwise(lines):
            if line and not line.startswith((" ", "#", "defaults")):
                assert above.startswith("#"), f"{file}: {line}"


def test_a_missing_value_is_a_problem(hydra_conf: None) -> None:
    with pytest.raises(ConfigError) as caught:
        to_train(without_hydra(compose("train", ["model=hub", "data=hh_rlhf"])))
    assert [p.key for p in caught.value.problems] == ["model.name"]


EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
JUDGES = sorted(file.stem for file in (CONF / "judge").glob("*.yaml"))
REWARDS = sorted(file.stem for file in (CONF / "reward").glob("*.yaml"))


def composed(words: list[str], config: str = "train") -> DictConfig:
    found, problems = Composer(GlobalHydra.instance().config_loader(), config).compose(words)
    assert problems == []
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_judge_can_be_chosen_with_every_experiment(experiment: str, hydra_conf: None) -> None:
    """Settings of an experiment's own judges are dropped when other judges are chosen."""
    for judge in JUDGES:
        words = [f"experiment={experiment}", f"judge={judge}", *NEEDS.get(f"judge/{judge}", [])]
        config = composed(words)
        option = yaml.safe_load((CONF / "judge" / f"{judge}.yaml").read_text())["defaults"][0]
        assert list(config.judge) == [option.removeprefix("/schema/judge/").removesuffix("@_here_")]
        problems = [p for p in problems_of(config) if p.key.startswith("judge")]
        assert problems == []
    several = ["judge=[gold,llm]", *NEEDS["judge/gold"], *NEEDS["judge/llm"]]
    assert list(composed([f"experiment={experiment}", *several]).judge) == ["gold", "llm"]
    assert list(composed([f"experiment={experiment}", "judge=[]"]).judge) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_reward_can_be_chosen_with_every_experiment(experiment: str, hydra_conf: None) -> None:
    for reward in REWARDS:
        config = composed([f"experiment={experiment}", f"reward={reward}", *NEEDS.get(f"reward/{reward}", [])])
        assert (config.reward is None) == (reward == "lab_gold")
        assert [p for p in problems_of(config) if p.key.startswith("reward.")] == []


def test_every_judge_can_be_chosen_for_an_evaluation(hydra_conf: None) -> None:
    for judge in JUDGES:
        config = composed(["run=dpo", f"judge={judge}", *NEEDS.get(f"judge/{judge}", [])], "evaluate")
        assert len(to_evaluate(config).judge) == 1


def problems_of(config: DictConfig) -> list[Problem]:
    try:
        to_train(config)
    except ConfigError as error:
        return error.problems
    return []
