"""Old names of options. They work for one release, on the command line and in sweep files of users."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

log = logging.getLogger(__name__)

REMOVED_IN = "0.3"

# Config group -> an option's old name -> its name now.
OPTIONS = {
    "experiment": {
        "homework": "support_desk_dpo_smollm2",
        "ipo_bandit": "bandit_ipo",
        "lab": "lab_dpo",
        "rlhf": "lab_ppo",
        "rlhf_smollm2": "hh_ppo_smollm2",
        "smollm2_hh": "hh_dpo_smollm2",
    },
    "reward": {
        "lab_model": "lab_reward_model",
        "planted": "lab_gold",
        "smollm2_model": "hh_reward_model_smollm2",
    },
    "judge": {
        "support_desk": "support_desk_gold",
        "support_desk_model": "support_desk_reward_model_smollm2",
    },
    "hydra/launcher": {
        "here": "serial",
        "stacked": "vectorized",
    },
}

# A key's old name -> its name now.
KEYS = {f"tracking.{name}": f"tracking.wandb.{name}" for name in ("project", "entity", "mode", "tags")}


def with_new_names(override: str, own: Path | None = None) -> str:
    """An override such as `experiment=lab` or `judge=[support_desk,llm]` with today's names of options and keys.

    own: the folder of the user's own options. An option there that has an old name keeps it.
    """
    group, equals, options = override.partition("=")
    key = group.lstrip("+~")
    if key in KEYS:
        _log_new_key(key, KEYS[key])
        return f"{group.replace(key, KEYS[key])}{equals}{options}"
    return f"{group}{equals}{with_new_options(group.lstrip('+~'), options, own)}"


def with_new_options(group: str, options: str, own: Path | None = None) -> str:
    """One or several options of a group with today's names. Logs each old name once."""
    names = OPTIONS.get(group, {})

    def new_name(found: re.Match[str]) -> str:
        old = found[0]
        if old not in names or (own and (own / group / f"{old}.yaml").is_file()):
            return old
        _log_new_name(group.removeprefix("hydra/"), old, names[old])
        return names[old]

    return re.sub(r"[\w./-]+", new_name, options)


def rename_in_file(config: DictConfig) -> None:
    """Give the options that a sweep file chooses, in its defaults list or as axes, today's names."""
    choices = [entry for entry in config.get("defaults") or [] if isinstance(entry, DictConfig)]
    for chosen in (*choices, OmegaConf.select(config, "hydra.sweeper.params") or {}):
        for key, options in chosen.items():
            group = str(key).split()[-1].lstrip("/")  # of `override /reward`
            if isinstance(options, str):
                chosen[key] = with_new_options(group, options)
            elif isinstance(options, ListConfig):
                chosen[key] = [with_new_options(group, str(option)) for option in options]


@cache
def _log_new_name(group: str, old: str, new: str) -> None:
    log.warning("%s=%s is called %s now; the old name works until %s", group, old, new, REMOVED_IN)


@cache
def _log_new_key(old: str, new: str) -> None:
    log.warning("%s is called %s now; the old name works until %s", old, new, REMOVED_IN)
