"""Composes many command lines over one set of config files: the files once for each choice of groups, then the values.

Hydra needs a tenth of a second or more to compose a config. Nearly all of this time goes into the defaults list and the
merging of files, which depend on the chosen groups only. Hydra's own function then applies values to a copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

# Hydra has no public function that applies overrides to a composed config.
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignlab.config.hints import Hint, hint_for, of_other_options, option_with, strategy_for
from alignlab.config.hydra_errors import plain_cause
from alignlab.config.preflight import accepts, unknown_key
from alignlab.config.registry import GROUPS
from alignlab.data.files import format_of
from alignlab.errors import Problem
from alignlab.spelling import as_typed, correct_option, correct_spelling, of_the_same_family

# What composing raises for a bad override. omegaconf fails an assertion if a key is below one that is null.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, AssertionError)

# Group -> its option for any folder and any name on the hub, and the setting that names it.
_PLACES = {"model": ("hub", "name"), "data": ("pairs", "path")}

# Of a group with more options than this, only the nearest are named.
_MANY = 12

_FOUR_BITS = (
    "keeps weights in 4 bits, which only models from the hub or a folder can: model=hub and the presets of published "
    "models, such as model=smollm2_135m"
)


class Composer:
    """Composes command lines for one config. The results have no `hydra` node.

    fixed: overrides of Hydra's own node that every command line has.
    """

    def __init__(self, loader: ConfigLoader, config_name: str, fixed: Sequence[str] = ()) -> None:
        self.loader = loader
        self.config_name = config_name
        self.fixed = tuple(fixed)
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], tuple[DictConfig, list[Problem]]] = {}
        self._explained: dict[tuple[tuple[str, ...], str], Problem] = {}

    def parse(self, text: str) -> Override:
        """One parsed override. Raises HydraException if it can't be read."""
        if text not in self._parsed:
            (self._parsed[text],) = self._parser.parse_overrides([text])
        return self._parsed[text]

    def chooses_group(self, override: Override) -> bool:
        """Whether an override chooses config files or belongs to Hydra itself. Other overrides set values."""
        key = override.key_or_group
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            return True
        if override.is_sweep_override():
            return self.is_group(key)
        return self.is_group(key) and not isinstance(override.value(), dict)

    def is_group(self, key: str) -> bool:
        """Whether a key names a config group."""
        return bool(self.loader.repository.group_exists(key))  # type: ignore[attr-defined]

    def groups(self) -> list[str]:
        """Groups that a user may choose from."""
        # `loader.list_groups` would copy all schemas first.
        found = self.loader.repository.get_group_options("", ObjectType.GROUP)  # type: ignore[attr-defined]
        return [g for g in found if g not in ("schema", "hydra", "stage")]

    def _optional(self, config: DictConfig) -> set[str]:
        """Groups that can be chosen although the config has no key with their name."""
        return set(self.groups()) - {"benchmark"} if "trainer" in config else set()

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, list[Problem]]:
        """The composed config, which the caller may change, and the problems of overrides.

        Overrides with a problem are left out of the config.
        """
        parsed = [self.parse(text) for text in overrides]
        groups = tuple(t for t, o in zip(overrides, parsed, strict=True) if self.chooses_group(o))
        base, found = self._base(groups)
        config, problems = copy.deepcopy(base), list(found)
        for text, override in zip(overrides, parsed, strict=True):
            if text in groups:
                continue
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], config)
            except COMPOSE_ERRORS as error:
                if (groups, text) not in self._explained:
                    self._explained[groups, text] = self._explain(override, text, error, base)
                problems.append(self._explained[groups, text])
        return config, problems

    def _base(self, groups: tuple[str, ...]) -> tuple[DictConfig, list[Problem]]:
        """The config with these choices of groups, and the problems of choices that had to be left out."""
        if groups not in self._bases:
            problems: list[Problem] = []
            try:
                config = self._load(groups)
            except COMPOSE_ERRORS:
                good: list[str] = []
                config = self._load(good)
                ordered = sorted(groups, key=_sets_a_value)  # groups first, because they decide which keys exist
                for _ in range(2):  # an option may need one that was typed after it
                    problems = []
                    for text in [text for text in ordered if text not in good]:
                        try:
                            config = self._load([*good, text])
                            good.append(text)
                        except COMPOSE_ERRORS as error:
                            whole = self.load(good) if _sets_a_value(text) else config
                            problems.append(self._explain(self.parse(text), text, error, whole))
            if any(problem.key == "model" for problem in problems):  # the model in its place may lack what peft sets
                problems = [problem for problem in problems if problem.allowed != _FOUR_BITS]
            self._bases[groups] = config, problems
        return self._bases[groups]

    def _load(self, groups: Sequence[str]) -> DictConfig:
        return without_hydra(self.load(groups))

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """The config as Hydra composes it, with the `hydra` node."""
        return self.loader.load_configuration(
            self.config_name, [*self.fixed, *overrides], run_mode=RunMode.RUN, validate_sweep_overrides=False
        )

    def _explain(self, override: Override, setting: str, error: Exception, base: DictConfig) -> Problem:
        """The problem of one override that failed, with a correction if one is known.

        base: the config that the override was applied to.
        """
        key = override.key_or_group
        value = setting.split("=", 1)[1] if "=" in setting else None
        typed = re.sub(r"^hydra\.(?=(launcher|sweeper)\.)", "", key)
        if key == "stage":
            text = "can't be chosen for a run itself; a run names the stage that it starts from"
            return Problem(key, value, text, f"model.parent={value}")
        if key == "benchmark" and key not in base:
            text = "belongs to an evaluation, and this command makes none of its own"
            return Problem(key, value, text, f"alignlab evaluate run=<run> benchmark={value}")
        reason = str(error.__cause__ or error).splitlines()[0]
        if override.is_delete() and (
            self.is_group(key) or "does not support deletion" in reason or "The value of" in reason
        ):
            text = "can't be removed" + ("" if value is None else ": it has another value")
            return Problem(key, value, text, f"the same without {setting}")
        if self.is_group(key):
            return self._no_such_option(key.removeprefix("hydra/"), value, error, self.loader.get_group_options(key))
        expected = re.search(r"could not be converted to (\w+)", reason)
        if override.is_add() and "Could not append" in str(error):
            return Problem(key, value, "is in the config already", f"{key}={value}")
        parent, _, leaf = key.rpartition(".")
        node: Any = OmegaConf.select(base, parent) if parent else base
        if isinstance(node, DictConfig) and leaf not in node:
            known = {str(k) for k in node if not str(k).startswith("_")} | (set() if parent else self._optional(base))
            hint = self._hint(override, setting, base, known)
            return unknown_key(typed, sorted(known), value, hint)
        if (above := _without_fields(base, parent)) is not None:
            present = "a list" if isinstance(node, ListConfig) else OmegaConf.select(base, above)
            others = [option for option in self.loader.get_group_options(above) if not option.startswith("_")]
            fix = f"{above}=<one of {', '.join(others)}>" if others else f"{above}=<a new value>"
            return Problem(key, value, f"nothing can be set there: {above} is {as_typed(present)}", fix)
        if expected:
            kind = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
            text, fix = f"must be {kind.get(expected.group(1), expected.group(1))}", f"{typed}=..."
            if value and value.startswith("["):
                return Problem(
                    typed, value, f"{text}; several values need -m", f"{fix}   or   -m {typed}={value[1:-1]}"
                )
            return Problem(typed, value, text, fix)
        if "is not Optional" in reason:
            return Problem(typed, value, "can't be null: it needs a value", f"{typed}=...")
        if "is not a ListConfig" in reason:
            nested = typed == "sweep.zip"
            fix = "'sweep.zip=[[objective,seed]]'" if nested else f"{typed}=[...]"
            return Problem(typed, value, f"must be a list{' of lists' * nested}", fix)
        if "to Dict[" in reason:
            return Problem(typed, value, "must be a list of mappings", f"'{typed}=[{{objective:ipo}}]'")
        if not isinstance(node, DictConfig):
            return self._unknown_section(override, setting, base)
        return Problem(typed, value, reason)

    def _no_such_option(self, key: str, value: str | None, error: Exception, found: Sequence[str]) -> Problem:
        """The problem of an option that does not exist, or whose file can't be merged."""
        options = [option for option in found if not option.startswith("_")]
        words = [word.strip() for word in (value or "").strip("[]").split(",")]
        unknown = [word for word in words if word not in options]
        if not unknown:
            explained = plain_cause(error)
            if key == "peft" and explained.endswith(" sets model.quantize, which does not exist"):
                return Problem(key, value, _FOUR_BITS, "model=hub model.name=<name or folder>   or   peft=lora")
            asks = (
                "; is its first line `# @package _global_`?"
                if explained.startswith(f"{key}/") and f" sets {key}." in explained
                else ""
            )
            return Problem(key, value, f"can't be used: {explained}{asks}")
        if value == "null" and not self._needs_option(key):
            return Problem(key, value, "no such option; an empty list chooses nothing", f"{key}=[]")
        if key == "data" and len(words) == 1 and format_of(words[0]):
            return Problem(key, value, "is a file, not the kind of its rows", f"data=pairs data.path={words[0]}")
        if key in _PLACES and len(words) == 1 and "/" in words[0]:
            choice, setting = _PLACES[key]
            fix = f"{key}={choice} {key}.{setting}={words[0]}"
            return Problem(key, value, f"is a folder or a name on the hub, which {key}={choice} takes", fix)
        guess = correct_option(unknown[0], options) if len(words) == 1 else ""
        if key == "strategy" and not guess and (fix := strategy_for(unknown[0])):
            return Problem(key, value, f"no such option; there are: {', '.join(options)}", fix)
        near = of_the_same_family(unknown[0], options) if len(options) > _MANY else []
        if near:
            some = ", ".join(dict.fromkeys([guess, *near] if guess else near))
            text = f"no such option; of {len(options)}, the nearest are: {some} (`alignlab train --help` shows all)"
        else:
            text = f"no such option; there are: {', '.join(options)}"
        fix = f"{key}={guess or '<one of these>'}"
        if not guess and key in (*GROUPS, "experiment"):
            fix += "   or, if it is a part of your own: plugins=<package or folder>"
        return Problem(key, value, text, fix)

    def _needs_option(self, group: str) -> bool:
        """Whether one option of a group must be chosen."""
        config = self._load([])
        return group in config and isinstance(config._get_node(group), DictConfig) and bool(config[group])

    def _hint(self, override: Override, setting: str, base: DictConfig, known: Collection[str]) -> Hint:
        key, _, text = setting.lstrip("+~").partition("=")
        if key.startswith("hydra."):
            parent, _, leaf = key.removeprefix("hydra.").rpartition(".")
            above = parent if parent.split(".")[0] in ("launcher", "sweeper") else f"hydra.{parent}".rstrip(".")
            if not (guess := correct_spelling(leaf, known)):
                options = _stored(f"hydra/{parent}")
                choice = option_with(parent, leaf, options)
                fix = f"{choice} {above}.{leaf}={text}" if choice else ""
                return Hint(of_other_options(parent, leaf, options, known), fix)
            trial = copy.deepcopy(base)
            try:
                OmegaConf.update(trial, f"hydra.{parent}.{guess}".replace("..", "."), override.value(), merge=False)
            except OmegaConfBaseException:
                text = "..."
            return Hint(type_this=f"{above}.{guess}={text}")
        own = without_hydra(copy.deepcopy(base))
        value = text if override.is_sweep_override() or override.is_delete() else override.value()
        return hint_for(key, text, value, own, lambda settings: accepts(own, settings))

    def _unknown_section(self, override: Override, setting: str, base: DictConfig) -> Problem:
        """The problem of a key whose parent does not exist either."""
        key, _, value = setting.lstrip("+~").partition("=")
        first, *rest = key.split(".")
        options = self.loader.get_group_options(first) if self.is_group(first) else []
        node = base._get_node(first) if rest and rest[0] in options else None
        if isinstance(node, DictConfig):
            if not {str(name) for name in node} <= set(options):  # one option can be chosen, and its fields are here
                shorter = ".".join([first, *rest[1:]])
                text = f"no such key; {first} has the fields of its option"
                return Problem(key, value, text, f"{first}={rest[0]} {shorter}={value}" if rest[1:] else "")
            chosen = ",".join([*map(str, base[first]), rest[0]])
            choice = f"{first}={chosen}" if chosen == rest[0] else f"'{first}=[{chosen}]'"
            return Problem(key, value, f"{first}={rest[0]} is not chosen", f"{choice} {setting}")
        known = {str(name) for name in base} | self._optional(base)
        parts = [".".join(key.split(".")[: n + 1]) for n in range(len(rest) + 1)]
        lacking = next(part for part in parts if OmegaConf.select(base, part) is None)
        above = lacking.rpartition(".")[0]
        present = known if not above else {str(name) for name in OmegaConf.select(base, above)}
        missing = unknown_key(lacking, sorted(present), None, self._hint(override, setting, base, known))
        return replace(missing, key=key, value=value)


def _stored(group: str) -> dict[str, type]:
    """option -> dataclass, for the launchers or sweepers that are registered."""
    store = ConfigStore.instance()
    if store.get_type(group) != ObjectType.GROUP:
        return {}
    found = {file.removesuffix(".yaml"): store.load(f"{group}/{file}").node for file in store.list(group)}
    types = {option: OmegaConf.get_type(node) for option, node in found.items()}
    return {option: cls for option, cls in types.items() if is_dataclass(cls)}


def _sets_a_value(text: str) -> bool:
    """Whether an override sets a value of Hydra's own node. Other overrides choose groups."""
    return text.lstrip("+~").startswith("hydra.")


def _without_fields(config: DictConfig, key: str) -> str | None:
    """The first part of a key at which the config has a value without fields; None if there is no such part."""
    parts = key.split(".") if key else []
    for i, part in enumerate(parts):
        if not isinstance(config, DictConfig) or part not in config:
            return None
        if not isinstance(config._get_node(part), DictConfig) or config[part] is None:
            return ".".join(parts[: i + 1])
        config = config[part]
    return None


def without_hydra(config: DictConfig) -> DictConfig:
    """The config without its `hydra` node, which is removed in place."""
    if "hydra" in config:
        with open_dict(config):
            del config["hydra"]
    return config
