"""A model source from its name: an option of the group `model`, a folder, or a name of the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from alignlab.config.composer import Composer
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import of_named_model, to_part
from alignlab.errors import ConfigError, Problem
from alignlab.models.sources.base import ModelSource
from alignlab.spelling import quoted

_QUOTES = ("'", '"')  # a name that begins with one is written in Hydra's grammar already


def is_place(name: str) -> bool:
    """Whether a name means a folder, or a model of the hub (`organisation/model`)."""
    return Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") == 1


def words_for(name: str) -> list[str]:
    """The words of a command line that choose a model by its name."""
    if not is_place(name):
        return [f"model={name}"]
    return ["model=hub", f"model.name={name if name.startswith(_QUOTES) else quoted(name)}"]


def named_model(name: str, *, trust_remote_code: bool = False) -> ModelSource:
    """The model source that a name means. Needs no initialised Hydra.

    Raises ConfigError if there is none, if its files are not complete, or if it has no weights of its own.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        options = [option for option in loader.get_group_options("model") if not option.startswith("_")]
        if not is_place(name) and name not in options:
            text = f"is neither a run, a folder, a name on the hub nor one of the models {', '.join(options)}"
            raise ConfigError([Problem("model", name, text, "alignlab runs")])
        allowed = ["model.trust_remote_code=true"] if trust_remote_code and is_place(name) else []
        config, problems = Composer(loader, "synthesize").compose([*words_for(name), *allowed])
        if problems:
            raise ConfigError(problems)
        try:
            source = cast(ModelSource, to_part("model", cast(DictConfig, config._get_node("model"))))
        except ConfigError as error:  # the name is a word of its own here, not the value of a key
            raise ConfigError(replace(of_named_model(p, "model"), type_this="") for p in error.problems) from error
    if source.parent:
        text = f"is trained first ({source.parent}); name the run whose policy you mean"
        raise ConfigError([Problem("model", name, text, "alignlab runs")])
    return source
