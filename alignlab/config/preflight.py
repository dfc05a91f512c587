"""Checks a composed config before anything starts, and turns it into a typed value. Reports all problems at once."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignlab.checks import with_parts
from alignlab.config.credentials import problems_of_credentials
from alignlab.config.hints import Hint, hint_for
from alignlab.config.own_plugins import problems_of_plugins
from alignlab.config.references import require_resolved
from alignlab.config.registry import NAMED_GROUPS, schemas
from alignlab.config.schemas import WITH_FILES, Evaluate, Synthesize, Train, combination_problems, problems_of_start
from alignlab.data.sources.mixture import with_keys_of_part
from alignlab.discovery import module_name
from alignlab.errors import ConfigError, Problem
from alignlab.objectives.base import Objective
from alignlab.spelling import correct_spelling

# Group that can't be removed -> its option that does nothing.
_OFF = {"evaluation": "off", "peft": "none"}


class PreflightCache:
    """Results of checks that the points of one sweep share, because most of their groups are the same.

    files: whether files and packages that the config names must exist. A run that is only planned needs none of them.
    """

    def __init__(self, *, files: bool = True) -> None:
        self.files = files
        self.groups: dict[tuple[type, str], Group] = {}
        self.parents: dict[str, Any] = {}
        self.contents: dict[str, str] = {}

    def content(self, part: Any) -> str:
        """`part.fingerprint()`, computed once for all points, since it reads files."""
        key = repr(part)
        if not self.files:
            return key
        if key not in self.contents:
            self.contents[key] = part.fingerprint()
        return self.contents[key]


@dataclass(frozen=True)
class Group:
    """The dataclass of a checked group (None if its values are wrong), and the group's problems."""

    made: Any
    problems: list[Problem]


def to_train(config: DictConfig, typed: Sequence[str] = (), known: PreflightCache | None = None) -> Train:
    """The typed config. Raises ConfigError with every unknown key, missing value, bad range and bad combination.

    typed: the overrides that the config was composed with. `strength` must not contradict them.
    known: results of checks, shared by the points of a sweep.
    """
    problems = list(_unchosen_groups(config, Train, typed))
    if problems:
        raise ConfigError(problems)
    known = known or PreflightCache()
    names = [f.name for f in fields(Train)]
    problems = [*_added_keys(config, names), *problems_of_plugins(config), *problems_of_credentials(config)]
    groups: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name in names:
        node = config._get_node(name)
        if not isinstance(node, DictConfig) or node._is_none():
            try:
                rest[name] = config[name]
            except OmegaConfBaseException as error:  # ${...} with an unknown name
                raise ConfigError([*problems, Problem(name, None, str(error).splitlines()[0])]) from error
            continue
        if name in NAMED_GROUPS:
            groups[name], found = _named(name, node, known)
            problems += found
            continue
        given, found = _strength(node, config.strength, typed) if name == "objective" else ({}, [])
        group = _group(name, node, given, known)
        problems += [*found, *(_by_strength(problem, given) for problem in group.problems)]
        if group.made is not None:
            groups[name] = group.made
    problems += combination_problems({**groups, **rest})
    problems += _two_lengths(groups.get("trainer"), typed)
    problems += problems_of_start(groups["trainer"]) if "trainer" in groups else []
    if problems:
        raise ConfigError(problems)
    return Train(**groups, **rest)


def to_evaluate(config: DictConfig) -> Evaluate:
    """The typed config of an evaluation. Raises ConfigError with everything that is wrong with it."""
    require_resolved(config)
    names = [f.name for f in fields(Evaluate)]
    if problems := list(_unchosen_groups(config, Evaluate)):
        raise ConfigError(problems)
    problems = [*_added_keys(config, names), *problems_of_plugins(config), *problems_of_credentials(config)]
    known = PreflightCache()
    evaluation = _group("evaluation", cast(DictConfig, config._get_node("evaluation")), {}, known)
    judges, wrong = _named("judge", config._get_node("judge"), known)
    benchmarks, also_wrong = _named("benchmark", config._get_node("benchmark"), known)
    problems += [*evaluation.problems, *wrong, *also_wrong]
    parts: dict[str, Any] = {}
    for name in ("model", "data", "engine"):
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            group = _group(name, node, {}, known)
            parts[name] = group.made
            problems += [of_named_model(problem, "model") for problem in group.problems]
    made = {"evaluation", "judge", "benchmark", "model", "data", "engine"}
    rest = {name: config[name] for name in names if name not in made}
    if evaluation.made is not None and not any(part is None for part in parts.values()):
        try:
            wanted = Evaluate(evaluation=evaluation.made, judge=judges, benchmark=benchmarks, **parts, **rest)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return wanted


def to_synthesize(config: DictConfig) -> Synthesize:
    """The typed config of a synthesis. Raises ConfigError with everything that is wrong with it."""
    require_resolved(config)
    names = [f.name for f in fields(Synthesize)]
    if problems := list(_unchosen_groups(config, Synthesize)):
        raise ConfigError(problems)
    problems, known = (
        [*_added_keys(config, names), *problems_of_plugins(config), *problems_of_credentials(config)],
        PreflightCache(),
    )
    parts: dict[str, Any] = {}
    for name in ("model", "peft", "data", "synthesis", "engine"):
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            group = _group(name, node, {}, known)
            parts[name] = group.made
            problems += group.problems
    parts["judge"], wrong = _named("judge", config._get_node("judge"), known)
    problems += wrong
    if problems:
        raise ConfigError(problems)
    made = {"model", "peft", "data", "synthesis", "engine", "judge"}
    rest = {name: config[name] for name in names if name not in made}
    return Synthesize(**parts, **rest)


def to_part(name: str, node: DictConfig) -> Any:
    """The dataclass of one group of a config. Raises ConfigError with everything that is wrong with it."""
    group = _group(name, node, {}, PreflightCache())
    if group.problems:
        raise ConfigError(group.problems)
    return group.made


def of_named_model(problem: Problem, key: str) -> Problem:
    """The same problem, with `model.name` called `key`: the word that a verb takes for a folder or a hub name."""
    if problem.key != "model.name":
        return problem
    return replace(problem, key=key, type_this=problem.type_this.replace("model.name=", f"{key}=", 1))


def _named(group: str, node: Any, known: PreflightCache) -> tuple[dict[str, Any], list[Problem]]:
    """(name -> option, problems) of a group with several options at once. Options with wrong values are left out.

    group: one of NAMED_GROUPS.
    """
    found = {str(name): _group(f"{group}.{name}", node._get_node(name), {}, known) for name in node}
    problems = [problem for group in found.values() for problem in group.problems]
    return {name: group.made for name, group in found.items() if group.made is not None}, problems


def _strength(node: DictConfig, strength: float | None, typed: Sequence[str]) -> tuple[dict[str, float], list[Problem]]:
    """The objective's own field with the value of `strength`.

    There is a problem if the objective has no strength, or if another value was typed for the field.
    """
    if strength is None:
        return {}, []
    objective = cast(type[Objective], OmegaConf.get_type(node))
    if objective.strength is None:
        name = module_name(objective)
        text = f"{name} has no strength; leave the key out, or exclude these points"
        return {}, [Problem("strength", strength, text, f"'sweep.exclude=[{{objective:{name}}}]'")]
    field = objective.strength
    for key, _, value in (text.lstrip("+").partition("=") for text in typed):
        if key == f"objective.{field}" and not _equal(value, strength):
            text = f"means {key} for this objective, but {key}={value} was typed too; leave one of the two out"
            return {}, [Problem("strength", strength, text)]
    return {field: strength}, []


def _two_lengths(trainer: Any, typed: Sequence[str]) -> Iterator[Problem]:
    """The problem that `trainer.max_steps` was typed for a run whose length `trainer.max_epochs` decides."""
    if trainer and trainer.max_epochs and any(text.lstrip("+").startswith("trainer.max_steps=") for text in typed):
        text = f"trainer.max_epochs={trainer.max_epochs:g} decides the length already: leave one of the two out"
        yield Problem("trainer.max_steps", trainer.max_steps, text, "trainer.max_epochs=0")


def _equal(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False  # this is reported as a problem of its own


def _by_strength(problem: Problem, given: Mapping[str, float]) -> Problem:
    """The problem under the key `strength`, if it is one of the field that `strength` set."""
    _, _, field = problem.key.rpartition(".")
    if field not in given:
        return problem
    fix = problem.type_this.replace(problem.key, "strength", 1)
    return Problem(
        "strength", problem.value, f"{problem.allowed}; strength means {problem.key} for this objective", fix
    )


def unknown_key(key: str, known: Sequence[str], value: object, hint: Hint) -> Problem:
    """The problem of a key that does not exist. It lists the keys that do, unless the hint explains more."""
    parent = key.rpartition(".")[0]
    own = f"{parent or 'the config'} has: {', '.join(sorted(known))}" if known else f"{parent} has no settings"
    return Problem(key, value, hint.text or f"no such key; {own}", hint.type_this)


def accepts(config: DictConfig, settings: Mapping[str, Any]) -> bool:
    """Whether a config accepts settings (key -> value, group -> option): their types, ranges and combinations."""
    trial = copy.deepcopy(config)
    try:
        with open_dict(trial):
            for key, value in settings.items():
                OmegaConf.update(trial, key, _chosen(key, value), merge=False)
        _check_of(trial)(trial)
    except ConfigError as error:
        return not any(problem.key in settings for problem in error.problems)
    except (OmegaConfBaseException, ValueError):
        return False
    return True


def _chosen(key: str, value: Any) -> Any:
    """The node of a config for a setting: the dataclass of an option, or a value."""
    options = schemas().get(key, {})
    if key in NAMED_GROUPS and key != "judge":  # a dict of trackers, for instance
        return {value: OmegaConf.structured(options[value])} if value in options else {}
    return OmegaConf.structured(options[value]) if options and key != "judge" else value


def _check_of(config: DictConfig) -> Callable[[DictConfig], Any]:
    """The check of the verb that a config belongs to."""
    return to_train if "objective" in config else to_evaluate if "evaluation" in config else to_synthesize


def _added_keys(config: DictConfig, names: Sequence[str]) -> Iterator[Problem]:
    """Problems of keys that `+key=value` added to a config that does not have them."""
    added = [key for key in config if key not in names]
    if not added:
        return
    own = copy.deepcopy(config)
    with open_dict(own):
        for key in added:
            del own[key]
    for key in added:
        hint = hint_for(str(key), str(config[key]), config[key], own, lambda settings: accepts(own, settings))
        yield unknown_key(str(key), names, config[key], hint)


def _unchosen_groups(config: DictConfig, schema: Any, typed: Sequence[str] = ()) -> Iterator[Problem]:
    """Problems of groups that were removed (`~optim`) or have no choice, and of removed keys (`~seed`).

    typed: the overrides that the config was composed with. A group that they remove may still have its fields.
    """
    verb = "train" if schema is Train else schema.__name__.lower()
    removed = {text.partition("=")[0][1:] for text in typed if text.startswith("~")}
    for field in fields(schema):
        node = config._get_node(field.name) if field.name in config else None
        has_fields = isinstance(node, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(node))
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if (optional and field.name not in config) or (field.name in removed and (has_fields or not optional)):
            fix = f"{field.name}={_OFF[field.name]}" if field.name in _OFF else f"the same without ~{field.name}"
            yield Problem(field.name, None, "can't be removed", fix)
            continue
        chosen = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
        if not optional and (not chosen or inspect.isabstract(OmegaConf.get_type(node))):
            yield Problem(
                field.name, None, f"needs one of the options that `alignlab {verb} --help` shows", f"{field.name}=..."
            )


def _group(name: str, node: DictConfig, given: Mapping[str, Any], known: PreflightCache) -> Group:
    """Check a group: its keys, its values and the files that it names. `given` replaces some of its values."""
    schema = cast(type, OmegaConf.get_type(node))
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:  # for instance an interpolation with an unknown name
        return Group(None, [Problem(name, None, str(error).splitlines()[0])])
    values |= given
    for field, parts in _parts(name, node, known).items():
        if problems := [problem for part in parts.values() for problem in part.problems]:
            return Group(None, problems)
        values[field] = {part: group.made for part, group in parts.items()}
    key = (schema, json.dumps(values, default=str))
    if key not in known.groups:
        known.groups[key] = _checked(name, schema, values, files=known.files)
    return known.groups[key]


def _parts(name: str, node: DictConfig, known: PreflightCache) -> dict[str, dict[str, Group]]:
    """Field -> key -> checked dataclass, for the fields of a group that are dicts of dataclasses (`data.parts`)."""
    found: dict[str, dict[str, Group]] = {}
    for field in map(str, node):
        parts = node._get_node(field)
        if isinstance(parts, DictConfig) and OmegaConf.get_type(parts) is dict:
            nodes = {str(key): cast(DictConfig, parts._get_node(key)) for key in parts}
            if nodes and all(dataclasses.is_dataclass(OmegaConf.get_type(part)) for part in nodes.values()):
                found[field] = {key: _group(f"{name}.{field}.{key}", part, {}, known) for key, part in nodes.items()}
    return found


def _checked(name: str, schema: type, values: dict[str, Any], *, files: bool) -> Group:
    names = [f.name for f in fields(schema)]
    problems = [
        unknown_key(f"{name}.{key}", names, None if value == "???" else value, _misspelt(name, key, schema, values))
        for key, value in values.items()
        if key not in names
    ]
    lacking = [key for key in names if values[key] == "???"]
    problems += [Problem(f"{name}.{key}", None, "needs a value", f"{name}.{key}=...") for key in lacking]
    if lacking:
        return Group(None, problems)
    try:
        made = schema(**with_parts(schema, {key: value for key, value in values.items() if key in names}))
    except ConfigError as error:
        return Group(None, [*problems, *(problem.under(name) for problem in error.problems)])
    if files and name.partition(".")[0] in WITH_FILES:
        missing = [problem.under(name) for problem in made.missing()]
        if name.startswith("data.parts."):
            missing = [replace(p, allowed=with_keys_of_part(p.allowed, name, made)) for p in missing]
        problems += missing
    return Group(made, problems)


def _misspelt(name: str, key: str, schema: type, values: Mapping[str, Any]) -> Hint:
    """The hint with the field that an added key misspells, and with the key's value if the field accepts it."""
    known = [f.name for f in fields(schema)]
    guess = correct_spelling(key, known)
    if not guess:
        return Hint()
    try:
        schema(**{field: values[field] for field in known} | {guess: values[key]})
    except (ConfigError, TypeError) as error:
        if not isinstance(error, ConfigError) or any(problem.key == guess for problem in error.problems):
            return Hint(type_this=f"{name}.{guess}=...")
    return Hint(type_this=f"{name}.{guess}={values[key]}")
