"""Composes every option of a plug-in with alignlab's own, to find out whether it can be chosen, and makes its part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from alignlab.config.composer import COMPOSE_ERRORS, Composer
from alignlab.config.diagnose import diagnose
from alignlab.config.own_plugins import problems_of_parts
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_evaluate, to_train
from alignlab.config.registry import GROUPS, NAMED_GROUPS, schemas
from alignlab.errors import ConfigError, Problem
from alignlab.plugins import Plugin

# Group -> what it is tried with, one after the other, until there is no problem.
_BESIDE: dict[str, tuple[tuple[str, ...], ...]] = {
    "data": (
        ("model=tiny", "objective=dpo"),
        ("model=tiny", "objective=kto"),
        ("model=tiny", "objective=reward_model"),
        ("model=tiny", "objective=sft"),
        ("model=tiny", "objective=online_dpo"),
    ),
    "model": (("data=support_desk",), ("data=lab",)),
    "reward": (("objective=ppo",), ("objective=ppo", "model=tiny", "data=support_desk")),
    "objective": ((), ("model=tiny", "data=support_desk")),
}
_ANYTHING: tuple[tuple[str, ...], ...] = ((), ("model=tiny", "data=support_desk"))


@dataclass(frozen=True)
class Option:
    """An option of a plug-in, as it was tried.

    chosen:   what chooses it, such as `objective=squared_hinge`.
    group:    its config group.
    part:     the dataclass that it makes; None if there is none, or if there are problems.
    lacking:  keys that need a value of the user.
    problems: why it can't be chosen.
    """

    chosen: str
    group: str
    part: Any = None
    lacking: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def options_of(plugin: Plugin, words: Sequence[str]) -> Iterator[Option]:
    """Every option, experiment, stage and sweep of an active plug-in, tried.

    words: values for keys of options, such as `data.path=rows.jsonl`. Each is used where the option has the key.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composers = {name: Composer(loader, name) for name in ("train", "evaluate")}
        conf, faulty = plugin.folder / "conf", problems_of_parts(plugin)
        for file in sorted(conf.rglob("*.yaml")):
            group, _, name = file.relative_to(conf).with_suffix("").as_posix().partition("/")
            if not name:
                text = "is in no folder; the folder of a file is its config group"
                yield Option(file.name, "", problems=[Problem(f"conf/{file.name}", None, text)])
            elif problems := faulty.pop(f"conf/{group}/{name}.yaml", []):
                yield Option(f"{group}={name}", group, problems=problems)
            else:
                yield _tried(composers, group, name, words)
        for file in sorted((plugin.folder / "sweeps").glob("*.yaml")):
            found = diagnose("train", [f"sweep={file.stem}"], many=True)
            yield _judged(Option(f"sweep={file.stem}", "sweep"), found)
        for name, problems in faulty.items():
            yield Option(name, "", problems=problems)


def without_yaml(plugin: Plugin) -> Iterator[str]:
    """A sentence for each part that no YAML file of a plug-in chooses."""
    named: set[tuple[str, str]] = set()
    for file in (plugin.folder / "conf").rglob("*.yaml"):
        defaults = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
        for entry in defaults:
            if isinstance(entry, str) and entry.startswith("/schema/"):
                group, _, option = entry.removeprefix("/schema/").partition("@")[0].rpartition("/")
                named.add((GROUPS[group].package if group in GROUPS else group, option))
    told = set()
    for group, classes in schemas().items():
        for name, cls in classes.items():
            if plugin.defines(cls) and (GROUPS[group].package, name) not in named and cls not in told:
                told.add(cls)
                yield f"{cls.__module__} can't be chosen: there is no conf/{group}/{name}.yaml"


def _tried(composers: dict[str, Composer], group: str, name: str, words: Sequence[str]) -> Option:
    option = Option(f"{group}={name}", group)
    if group == "benchmark":
        return _made(option, composers["evaluate"], [f"{group}={name}", "run=any"], words)
    chosen = f"+stage={name}" if group == "stage" else f"{group}={name}"
    tried = []
    for beside in _BESIDE.get(group, _ANYTHING if group in GROUPS else ((),)):
        tried.append(_made(option, composers["train"], [*beside, chosen], words))
        if not tried[-1].problems:
            break
    return min(tried, key=lambda one: len(one.problems))


def _made(option: Option, composer: Composer, base: Sequence[str], words: Sequence[str]) -> Option:
    """The option with its part, composed with `base` and with those of the words that it has a key for."""
    own = [word for word in words if word.split(".")[0] == option.group]
    given = [word for word in own if not _problems_of(composer, [*base, word])]
    try:
        config, problems = composer.compose([*base, *given])
        made = to_evaluate(config) if composer.config_name == "evaluate" else to_train(config)
    except ConfigError as error:
        return _judged(option, [*problems, *error.problems])
    except COMPOSE_ERRORS as error:
        return _judged(option, [Problem(option.chosen, None, str(error.__cause__ or error).splitlines()[0])])
    if problems or option.group not in GROUPS:
        return _judged(option, problems)
    parts = getattr(made, option.group)
    if option.group in NAMED_GROUPS:
        (parts,) = parts.values() if len(parts) == 1 else (None,)
    return Option(option.chosen, option.group, parts)


def _problems_of(composer: Composer, words: Sequence[str]) -> list[Problem]:
    try:
        return composer.compose(words)[1]
    except COMPOSE_ERRORS:
        return [Problem(words[-1], None, "can't be read")]


def _judged(option: Option, problems: Sequence[Problem]) -> Option:
    """The option with its problems. Values that only a user knows are no problems of the option."""
    lacking = [problem.key for problem in problems if problem.allowed == "needs a value"]
    others = [problem for problem in problems if problem.key not in lacking]
    return Option(option.chosen, option.group, None, lacking, others)
