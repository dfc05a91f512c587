"""Turns a composed config into a plan: the run, its id, and the runs that it needs first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

from alignlab.checks import untouched_later_settings
from alignlab.config.composer import without_hydra
from alignlab.config.hydra_errors import plain_cause, unreadable
from alignlab.config.own_plugins import plugins_of_run
from alignlab.config.preflight import PreflightCache, to_train
from alignlab.config.references import require_resolved
from alignlab.config.registry import GROUPS
from alignlab.config.remote_code import keys_of_command_line, keys_of_stage, problems_of_config
from alignlab.config.schemas import Train, inherited_keys, keys_outside_id
from alignlab.config.selection import choosable, selection_problems
from alignlab.config.sent_keys import problems_of_sent_keys
from alignlab.config.stages import keys_of_stages, stage_overrides
from alignlab.discovery import module_name
from alignlab.errors import ConfigError, Problem
from alignlab.judges.base import Judge
from alignlab.runs.directory import FINISHED, RunDir
from alignlab.runs.identity import flatten, run_id


@dataclass(frozen=True)
class Plan:
    """One run before it starts.

    train:   typed config.
    config:  the same config in plain containers, as the run's record holds it.
    id:      id of the run.
    parent:  run that it starts from, if any.
    judges:  judge's name -> run that trains this judge.
    reward:  run that trains the reward model that this run learns from; None if no run of alignlab does.
    content: dotted key -> digest of the files that a group names, taken when the run was planned.
    """

    train: Train
    config: Mapping[str, Any]
    id: str
    parent: Plan | None
    judges: Mapping[str, Plan] = field(default_factory=dict)
    reward: Plan | None = None
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def run(self) -> RunDir:
        """The run's directory."""
        return RunDir.of(self.train.output_root, self.id)

    def needs_training(self) -> bool:
        """Whether the run has no result yet, or is trained again (`rerun`)."""
        return self.train.rerun or self.run.status() not in FINISHED

    @property
    def needed(self) -> list[Plan]:
        """Plans of the runs that must be done before this one starts. Each may need further runs."""
        return [plan for plan in (self.parent, self.reward) if plan is not None]

    @property
    def kinds(self) -> dict[str, str]:
        """Config group -> name of the option that this run has."""
        parts = {name: getattr(self.train, name, None) for name in GROUPS}
        return {n: module_name(type(part)) for n, part in parts.items() if isinstance(part, GROUPS[n].base)}

    @property
    def measured_on(self) -> Literal["pairs", "labelled", ""]:
        """The held-out rows on which the trained policy is compared with its start: pairs, or labels without pairs.

        In the lab, only runs that train on pairs or halves of pairs are. KL and reward are computed exactly there, and
        other runs do not read the pairs.
        """
        needs, data = self.train.objective.requires, self.train.data
        if not self._has_start_to_compare:
            return ""
        if "pairs" in data.shapes:
            return "pairs" if data.world is None or needs.rows in ("pairs", "labelled") else ""
        return "labelled" if "labelled" in data.shapes else ""

    @property
    def is_measured_exactly(self) -> bool:
        """Whether KL and reward, compared with the policy that it started from, are computed by enumeration.

        They are not for imitation that starts from the weights of the config: such runs are parents of others.
        """
        return self._is_compared_with_start and self.train.data.world is not None

    @property
    def is_evaluated_at_end(self) -> bool:
        """Whether answers are sampled and judged when the run is done.

        Unless `evaluation.at_end` decides it, they are if the policy is compared with a reference on text.
        """
        chosen = self.train.evaluation.at_end
        return chosen if chosen is not None else self._is_compared_with_start and self.train.data.world is None

    @property
    def _is_compared_with_start(self) -> bool:
        starts_trained = self.train.objective.requires.any_reference or self.parent is not None
        return self._has_start_to_compare and starts_trained

    @property
    def _has_start_to_compare(self) -> bool:
        needs = self.train.objective.requires
        return self.train.reference != "none" and needs.data != "rankings"

    def with_length(self, rows: int) -> Plan:
        """The plan with the `trainer.max_steps` that `trainer.max_epochs` means for this many training rows.

        Raises ConfigError if there are not more updates than optim.warmup_steps.
        """
        trainer, warmup = self.train.trainer, self.train.optim.warmup_steps
        if not trainer.max_epochs:
            return self
        steps = self.train.steps(rows)
        if warmup >= steps:
            text = f"must be smaller than the number of updates: trainer.max_epochs={trainer.max_epochs:g} is {steps}"
            raise ConfigError([Problem("optim.warmup_steps", warmup, text, f"optim.warmup_steps={steps // 10}")])
        train = replace(self.train, trainer=replace(trainer, max_steps=steps))
        config = {**self.config, "trainer": {**self.config["trainer"], "max_steps": steps}}
        return replace(self, train=train, config=config)

    def chain(self) -> list[Plan]:
        """All runs that this run needs, in an order in which they can run, each once. This run is the last one."""
        before = {plan.id: plan for needed in self.needed for plan in needed.chain()}
        return [*before.values(), self]


def require_reachable(plans: Sequence[Plan]) -> None:
    """Raise ConfigError with every model and data set of the hub that the runs to be trained can't load."""
    waiting = {step.id: step.train for point in plans for step in point.chain() if step.needs_training()}
    problems = {
        str(problem): problem
        for train in waiting.values()
        for group, part in (("model", train.model), ("data", train.data))
        for problem in (one.under(group) for one in part.unreachable())
    }
    if problems:
        raise ConfigError(problems.values())


def plan(
    config: DictConfig,
    typed: Sequence[str] = (),
    known: PreflightCache | None = None,
    allowed: frozenset[str] | None = None,
) -> Plan:
    """Check a composed config and its parents. Raises ConfigError with all problems. Needs an initialised Hydra.

    typed:   the overrides that the config was composed with.
    known:   results of checks, shared by the points of a sweep.
    allowed: keys that count as typed on the command line. Only these may allow a model's code to run, or send a key of
             the environment to another server. None: the keys of this process's command line.
    """
    config, known = without_hydra(config), known or PreflightCache()
    allowed = keys_of_command_line() if allowed is None else allowed
    train = _checked(config, typed, known, allowed)
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    parent = _parent(config, train, plain, known, allowed)
    plain["objective"] = asdict(train.objective)  # with the values that `strength` and `dialect` set
    del plain["strength"]  # the objective's own field has it
    for name, part in getattr(train.data, "parts", {}).items():  # the parts of a mixture
        plain["data"]["parts"][name]["source"] = module_name(type(part))
    judges = judge_plans(config, train.judge, known, allowed)
    reward = _reward_plan(config, train, known, allowed)
    content = _content(train, reward, known)
    made = Plan(train, plain, _identity(train, plain, parent, content), parent, judges, reward, content)
    names = choosable(train.objective, made.measured_on, exactly=made.is_measured_exactly)
    if problems := list(selection_problems(train.trainer.keep_best, names)):
        raise ConfigError(problems)
    return made


def _checked(config: DictConfig, typed: Sequence[str], known: PreflightCache, allowed: frozenset[str]) -> Train:
    """The typed config. Raises ConfigError with its problems and with every setting that must be typed and was not."""
    require_resolved(config)
    untyped = [*problems_of_config(config, allowed), *problems_of_sent_keys(config, allowed)]
    untyped += _unloaded_name(config, allowed)
    try:
        train = to_train(config, typed, known)
    except ConfigError as error:
        raise ConfigError([*error.problems, *untyped]) from error
    if untyped:
        raise ConfigError(untyped)
    return train


def _unloaded_name(config: DictConfig, typed: frozenset[str]) -> Iterator[Problem]:
    """The problem of a typed `model.name` that nothing is loaded from: a random model would have that name."""
    own = getattr(OmegaConf.get_type(config.model), "own_names", ())
    if own and "model.name" in typed and (name := str(config.model.name)) not in own:
        text = (
            f"is only a name here: the weights of {' and '.join(own)} are random; model=hub loads a model by its name"
        )
        yield Problem("model.name", name, text, f"model=hub model.name={name}")


def judge_plans(
    config: DictConfig, judges: Mapping[str, Judge], known: PreflightCache, allowed: frozenset[str]
) -> dict[str, Plan]:
    """Judge's name -> plan of the run that trains it. These runs inherit only peft, output root, tracking and sweep."""
    found = {}
    for name, judge in judges.items():
        if run := judge.required_run():
            key = f"judge.{name}.run"
            found[name] = _reward_model(key, run, _other_plan(key, run, config, "judges", known, allowed))
    return found


def _reward_plan(config: DictConfig, train: Train, known: PreflightCache, allowed: frozenset[str]) -> Plan | None:
    """Plan of the reward model that an online run learns from.

    It has the start, peft and data of that run unless its description sets them.
    """
    if train.reward is None or not (run := train.reward.required_run()):
        return None
    return _reward_model(
        "reward.run", run, _other_plan("reward.run", run, config, "parents", known, allowed, same_start=True)
    )


def _reward_model(key: str, run: str | Sequence[str], made: Plan) -> Plan:
    """The plan, if its run trains a reward model. Raises ConfigError if it trains a policy, which scores nothing."""
    if made.train.objective.requires.data != "rankings":
        text = f"must train a reward model; this run's objective is {made.kinds['objective']}"
        raise ConfigError([Problem(key, run, text, f"{key}=reward_model")])
    return made


def _content(train: Train, reward: Plan | None, known: PreflightCache) -> dict[str, str]:
    content = {
        f"{group}.content": known.content(getattr(train, group))
        for group in ("data", "model")
        if getattr(train, group).content_fields
    }
    if train.reward is not None:
        content["reward.content"] = known.content(train.reward if reward is None else _made_by(reward, train.reward))
    return content


def _made_by(run: Plan, judge: Judge) -> Judge:
    """The judge with the id of its run in place of a folder. It does not depend on how the config describes the run."""
    data = run.train.data
    return judge.from_run(Path(run.id), max_length=data.max_length, max_prompt_length=data.max_prompt_length)


def _identity(train: Train, plain: Mapping[str, Any], parent: Plan | None, content: Mapping[str, str]) -> str:
    needs = train.objective.requires
    unused = [f"{group}.{f}" for group in ("data", "model") for f in getattr(train, group).content_fields]
    groups = [f.name for f in fields(train) if is_dataclass(getattr(train, f.name))]
    unused += [f"{group}.{name}" for group in groups for name in untouched_later_settings(getattr(train, group))]
    if needs.rows in ("completions", "prompts"):
        unused += [f"data.{f}" for f in (*train.data.pair_fields, "noise")]
    plain = {**plain, "reference": train.reference_kind, "objective": _without_dialects(plain["objective"])}
    if train.trainer.max_epochs:
        unused.append("trainer.max_steps")
    if not needs.any_reference:
        unused.append("reference")
    unused += ["rollout.batch_size", "rollout.shown"] if needs.online else ["reward", "rollout"]
    if train.reward is not None:
        unused.append("reward")
    kinds = {key: type(getattr(train, key)).__name__ for key in ("objective", "model", "peft", "data", "optim")}
    if needs.online and train.engine.identity:
        kinds["engine"] = train.engine.identity
    code = {f"plugins.{plugin.name}": plugin.identity for plugin in plugins_of_run(train)}
    return run_id(
        module_name(type(train.objective)),
        {**plain, "kinds": kinds},
        content={**content, **code},
        parent=parent.id if parent else None,
        ignored=(*keys_outside_id(), *unused, "model.parent"),
    )


def _without_dialects(value: Any) -> Any:
    """An objective's fields without the names of dialects. The fields that a dialect sets decide the run's id."""
    if isinstance(value, Mapping):
        return {key: _without_dialects(part) for key, part in value.items() if key != "dialect"}
    return [_without_dialects(part) for part in value] if isinstance(value, list) else value


def _parent(
    config: DictConfig, train: Train, plain: Mapping[str, Any], known: PreflightCache, allowed: frozenset[str]
) -> Plan | None:
    if not train.model.parent:
        return None
    values = {**flatten(plain), **plain}
    key = json.dumps([values[inherited] for inherited in inherited_keys("parents")], default=str)
    if key not in known.parents:
        try:
            known.parents[key] = _made_parent(config, train, known, allowed)
        except ConfigError as error:
            known.parents[key] = error
    if isinstance(known.parents[key], ConfigError):
        raise known.parents[key]
    return cast(Plan, known.parents[key])


def _made_parent(config: DictConfig, train: Train, known: PreflightCache, allowed: frozenset[str]) -> Plan:
    made = _other_plan("model.parent", train.model.parent, config, "parents", known, allowed)
    if not (train.model.trainable or made.train.model.trainable):
        # 4-bit weights have 16 values in each block: rounding would remove the small changes of a merged adapter.
        text = "is trained in 4 bits, and rounding its policy to 4 bits again would undo what it learnt"
        raise ConfigError([Problem("model.parent", train.model.parent, text, "model.quantize=none")])
    return made


def _other_plan(
    key: str,
    run: str | Sequence[str],
    config: DictConfig,
    by: str,
    known: PreflightCache,
    allowed: frozenset[str],
    *,
    same_start: bool = False,
) -> Plan:
    """The plan of a run that another run needs.

    key, run:   where and how it is described (see `stage_overrides`).
    config:     of the run that needs it.
    by:         "parents" or "judges": which values it inherits (see `schemas.setting`).
    same_start: whether it also inherits `model.parent`, so that both runs start from the same policy.
    """
    inherited = inherited_keys(by)
    stages, overrides = stage_overrides(key, run)
    preset = keys_of_stages(stages)
    own = [*preset, *(text.lstrip("+").split("=", 1)[0] for text in overrides)]
    # The inherited peft is chosen first, so that peft.r=8 among the overrides changes a field of it.
    inherits_peft = "peft" in config and "peft" not in own
    kind = [f"peft={module_name(cast(type, OmegaConf.get_type(config.peft)))}"] if inherits_peft else []
    try:
        parent = _composed((*kind, f"+stage=[{','.join(stages)}]", *overrides)).copy()
    except OverrideParseException as error:
        problem = unreadable(error.override)
        raise ConfigError([replace(problem, key=key, value=error.override)]) from error
    except HydraException as error:
        raise ConfigError([Problem(key, run, plain_cause(error))]) from error
    set_values = {name: OmegaConf.select(parent, name) for name in own if "." in name}
    of_child = OmegaConf.create(config)  # a copy, without flags that forbid changes
    with open_dict(parent):
        for name in inherited:
            if name not in own and name in config:
                parent[name] = of_child[name]
            elif name.startswith("trainer.") and "trainer" in config:
                OmegaConf.update(parent, name, OmegaConf.select(config, name))
        if "model" in inherited and "model" not in own and not same_start:
            parent.model.parent = []
        for name, value in set_values.items():  # values of its description override what it inherits
            OmegaConf.update(parent, name, value)
    try:
        return plan(parent, overrides, known, keys_of_stage(key, overrides, preset, allowed, inherited))
    except ConfigError as error:
        where = "parent" if key == "model.parent" else key
        raise ConfigError([problem.under(where) for problem in error.problems]) from error


@lru_cache(maxsize=32)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """The parent's config, cached because the points of a sweep mostly have the same parent."""
    return compose("train", list(overrides))


def starting_from(made: Plan, parent: Plan | None) -> Plan:
    """The plan of the same run with another parent. Without one it starts from the weights of its model."""
    start = [] if parent is None else [parent.id]
    config = {**made.config, "model": {**made.config["model"], "parent": start}}
    return replace(made, config=config, parent=parent, id=_identity(made.train, config, parent, made.content))


def start_plan(config: DictConfig, parent: str | Sequence[str], allowed: frozenset[str]) -> Plan:
    """The plan of the run that a model starts from.

    config:  of the command that names the model. The run inherits `model`, `peft` and `data` from it, if it has them.
    parent:  `model.parent`.
    allowed: as in `plan`.
    """
    given = OmegaConf.masked_copy(config, [str(key) for key in config if config[key] is not None])
    return _other_plan("model.parent", parent, given, "parents", PreflightCache(), allowed)


def judge_from_plan(plan: Plan, judge: Judge) -> Judge:
    """The judge with the reward model that a run has trained."""
    data, policy = plan.train.data, plan.run.policy
    plan.train.model.restore_base(str(policy))
    return judge.from_run(policy, max_length=data.max_length, max_prompt_length=data.max_prompt_length)
