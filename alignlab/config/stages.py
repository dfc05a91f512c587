"""Stages: presets in conf/stage that describe a run which another run needs, such as its SFT parent or reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from alignlab.config.open_dicts import with_own_keys
from alignlab.config.renamed import with_new_names
from alignlab.errors import ConfigError, Problem
from alignlab.runs.identity import flatten
from alignlab.spelling import correct_option

GROUP = "stage"


def stage_overrides(key: str, run: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """(names of stages, overrides) of a run that another run needs. Raises ConfigError for unknown stages.

    key: where the run is described, such as `model.parent`.
    run: the name of a stage, or a list of stages and overrides.
    """
    words = [run] if isinstance(run, str) else run
    overrides = [with_own_keys(with_new_names(word)) for word in words if "=" in word or word.startswith("~")]
    stages = [word for word in words if "=" not in word and not word.startswith("~")]
    known = _loader().get_group_options(GROUP)
    unknown = [name for name in stages if name not in known]
    if unknown:
        guess = correct_option(unknown[0], known)
        text = f"no such stage: {', '.join(unknown)}; there are: {', '.join(known)}"
        raise ConfigError([Problem(key, run, text, f"{key}={guess or '<one of these>'}")])
    return stages, overrides


def keys_of_stages(stages: Sequence[str]) -> list[str]:
    """Groups that these presets choose, and dotted keys that they set."""
    return [key for name in stages for key in _keys(name)]


def _keys(name: str) -> Iterator[str]:
    content = _content(f"{GROUP}/{name}")
    for entry in content.pop("defaults", []):
        if isinstance(entry, DictConfig):
            yield from (str(key).split()[-1].lstrip("/") for key in entry)  # of `override /peft`
        elif entry != "_self_":  # another stage
            yield from _keys(str(entry).removeprefix(f"/{GROUP}/"))
    yield from flatten(cast("dict[str, Any]", OmegaConf.to_container(content)))


def _content(path: str) -> DictConfig:
    """A config file as it stands, from the folder of the search path that Hydra takes it from."""
    source = next(source for source in _loader().get_sources() if source.is_config(path))
    return cast(DictConfig, source.load_config(path).config)


def _loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()
