"""The tests compose configs as Hydra does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
import pytest
from hydra import compose
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alignlab.config.paths import conf_dir
from alignlab.config.registry import schemas
from tests import composing
from tests.lab_runs import LAB, REWARD


@pytest.fixture
def composed_by_hydra(hydra_conf: None) -> Callable[..., DictConfig]:
    """Compose a config as Hydra does outside of the tests."""

    def composed(overrides: Sequence[str]) -> DictConfig:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config_loader_impl, "create_defaults_list", composing.create_defaults_list)
            patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", composing.merge_files)
            patch.setattr(ConfigRepository, "load_config", composing.load_option)
            patch.setattr(defaults_list, "_create_interpolation_map", composing.interpolation_map)
            patch.setattr(FileConfigSource, "load_config", composing.read_file)
            patch.setattr(OverridesParser, "parse_rule", composing.parse_rule)
            patch.delattr(ConfigStore, "__deepcopy__")
            return _composed(overrides)

    return composed


def _composed(overrides: Sequence[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration("train", list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        LAB,
        [*LAB, "objective.beta=0.3", "data.length=2"],
        [*LAB, *REWARD, "objective=ppo", "+trainer.nope=1"],
        ["experiment=lab_dpo", "objective=ipo", "objective.tau=0.3", "hydra/launcher=serial"],
        ["experiment=lab_dpo", "sweep=dpo_beta", "~tracking"],
        ["model=tiny", "peft=lora", "judge=[gold,llm]"],
        ["objective=dpo,ipo", "seed=1,2", "optim=rmsprop"],
    ],
)
def test_configs_are_the_same(overrides: list[str], composed_by_hydra: Callable[..., DictConfig]) -> None:
    wanted = composed_by_hydra(overrides)
    changed = _composed(overrides)
    changed.seed, changed.model.parent = 7, ["sft"]
    _composed([*overrides, "seed=8", "model=tiny"])
    again = _composed(overrides)
    assert OmegaConf.to_yaml(again) == OmegaConf.to_yaml(wanted)
    assert OmegaConf.get_type(again.objective) is OmegaConf.get_type(wanted.objective)
    assert OmegaConf.is_struct(again)


@pytest.mark.parametrize("mistake", ["objective=nope", "objective.nope=1", "+seed=1", "objective=[", "seed=1,2,"])
def test_mistakes_are_the_same(mistake: str, composed_by_hydra: Callable[..., DictConfig]) -> None:
    said = []
    for composed in (composed_by_hydra, _composed, _composed):
        with pytest.raises(Exception, match=r"objective|seed|input") as error:
            composed([mistake])
        said.append((type(error.value), str(error.value)))
    assert len(set(said)) == 1


def test_files_of_ones_own_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "objective").mkdir()
    own = tmp_path / "objective/own.yaml"
    values = []
    for beta in (0.2, 0.3):
        own.write_text(f"defaults:\n  - /schema/objective/dpo@_here_\n  - _self_\nbeta: {beta}\n")
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            values.append(compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "objective=own"]).objective.beta)
    assert values == [0.2, 0.3]


def test_an_option_that_names_another_choice(tmp_path: Path) -> None:
    """Hydra resolves an interpolation in a defaults list to the option that was chosen."""
    (tmp_path / "extra").mkdir()
    for judge in ("gold", "llm"):
        text = "# @package _global_\ndefaults:\n  - /judge@judge.second: ${extra}\n"
        (tmp_path / f"extra/{judge}.yaml").write_text(text)
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", f"+extra={judge}"])
        assert OmegaConf.get_type(config.judge.second) is schemas()["judge"][judge]
