"""The whole config of a run as one typed value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from alignlab.checks import Checked, at_least, one_of, within
from alignlab.data.order import SAMPLING
from alignlab.data.sources.base import Source
from alignlab.discovery import module_name
from alignlab.errors import Problem
from alignlab.evaluation.settings import Evaluation
from alignlab.judges.base import Judge, ScoreJudge
from alignlab.models.adapters.base import Adapter
from alignlab.models.efficiency import COMPILE, cpp_compiler
from alignlab.models.layout_check import LAYOUTS
from alignlab.models.reference import KINDS
from alignlab.models.sources.base import ModelSource
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.rollout.settings import Rollout
from alignlab.spelling import correct_spelling
from alignlab.tracking.metrics import ALL, BETTER
from alignlab.tracking.sinks.base import Tracking
from alignlab.types import Requires

ACCELERATORS = ("auto", "cpu", "gpu", "mps")

_SETTING = "alignlab"  # key of a field's metadata
_ALL = ("parents", "judges")


def setting(*, in_id: bool = True, inherited_by: Sequence[str] = (), **options: Any) -> Any:
    """A field of `Train` or `Trainer`, with what its value means for run ids and for other runs.

    in_id:        False if the value changes no result beyond rounding, such as a folder or the size of a forward. Runs
                  that differ only in such values have the same id.
    inherited_by: which runs that this run needs take over its value: "parents" (its parent and its reward model) and
                  "judges" (reward models of its judges). What a stage sets itself is kept.
    options:      of `dataclasses.field`, such as default.
    """
    return field(metadata={_SETTING: {"in_id": in_id, "inherited_by": tuple(inherited_by)}}, **options)


def keys_outside_id() -> tuple[str, ...]:
    """Dotted keys of a config that are not part of a run's id."""
    return tuple(key for key, mark in _marks() if not mark.get("in_id", True))


def inherited_keys(by: str) -> list[str]:
    """Dotted keys of a config whose values `by` ("parents" or "judges") inherit from the run that needs them."""
    return [key for key, mark in _marks() if by in mark.get("inherited_by", ())]


def _marks() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for f in fields(Train):
        yield f.name, f.metadata.get(_SETTING, {})
    for f in fields(Trainer):
        yield f"trainer.{f.name}", f.metadata.get(_SETTING, {})


@dataclass(kw_only=True)
class Trainer(Checked):
    """How long, in which portions, on what.

    max_steps:        optimizer updates.
    batch_size:       rows (pairs or answers; where answers are drawn, prompts with all of theirs) per update, over all
                      processes.
    sampling:         epochs (every row once, in a new order each time) or replacement (each row of a batch is drawn
                      from all rows).
    micro_batch_size: most rows per forward; a matter of memory, not of results (beyond rounding, and the draws of
                      dropout). Halved by itself, for the rest of the run, where memory does not suffice.
    micro_batch_tokens: most tokens of prompts and answers per forward; a row that has more goes alone.
    layout:           auto (answers side by side behind one prompt, and the vocabulary projected onto in pieces, for
                      models that were found exact so) or plain (each answer behind its prompt, the model's own head);
                      dropout, where there is any, draws otherwise.
    gradient_checkpointing: keep only the inputs of layers for the backward pass and compute the rest again.
    compile:          always or never compile the model's layers (torch.compile), which needs a C++ compiler and up to a
                      minute; auto does where that pays: in long runs on a CPU. Dropout draws otherwise then.
    token_stats:      log entropy, token accuracy and mean logits.
    log_every:        updates between rows of training metrics; the first and the last update are always logged. The
                      means over the last tenth of a run (`tail/`) are over what was logged.
    gradient_clip:    largest 2-norm of the gradient; 0 switches clipping off.
    eval_every:       updates between evaluations on held-out rows; 0 evaluates at the end only.
    checkpoint_every: updates between checkpoints; 0 writes one at the end only.
    accelerator:      auto, cpu, gpu or mps; one device.
    progress:         show progress bars where the terminal can.
    """

    max_steps: int = 100
    batch_size: int = 16
    sampling: str = "epochs"
    micro_batch_size: int = setting(default=16, in_id=False, inherited_by=_ALL)
    micro_batch_tokens: int = setting(default=2048, in_id=False, inherited_by=_ALL)
    layout: str = setting(default="auto", in_id=False, inherited_by=_ALL)
    gradient_checkpointing: bool = setting(default=False, in_id=False, inherited_by=_ALL)
    compile: str = setting(default="auto", in_id=False, inherited_by=_ALL)
    token_stats: bool = setting(default=True, in_id=False, inherited_by=_ALL)
    log_every: int = setting(default=1, in_id=False)
    gradient_clip: float = 1.0
    eval_every: int = 0
    checkpoint_every: int = setting(default=0, in_id=False)
    accelerator: str = setting(default="auto", in_id=False, inherited_by=_ALL)
    progress: bool = setting(default=True, in_id=False, inherited_by=_ALL)

    def problems(self) -> Iterator[Problem]:
        for key, example in (
            ("max_steps", 100),
            ("batch_size", 16),
            ("micro_batch_size", 4),
            ("micro_batch_tokens", 2048),
            ("log_every", 100),
        ):
            yield from at_least(key, getattr(self, key), 1, example=example)
        for key in ("gradient_clip", "eval_every", "checkpoint_every"):
            yield from at_least(key, getattr(self, key), 0, example=0)
        yield from one_of("sampling", self.sampling, SAMPLING)
        yield from one_of("layout", self.layout, LAYOUTS)
        yield from one_of("compile", self.compile, COMPILE)
        yield from one_of("accelerator", self.accelerator, ACCELERATORS)


@dataclass(kw_only=True)
class Sweep(Checked):
    """What a sweep is called, what it asks, and which of its points are left out.

    name:     folder below `<output_root>/sweeps`; empty takes the preset's name and a digest of the points.
    question: printed above its table.
    zip:      groups of axes that are walked together, value by value, instead of in all combinations.
    exclude:  combinations that are not run: axis -> value, or a list of values.
    metric:   ranks the settings if `seed` is an axis; empty takes the first of these that all settings have: the gap to
              the frontier at equal KL, accuracy on held-out pairs, accuracy of rewards, the loss (one objective only).
    better:   lower or higher; empty where the metric says it by itself.
    """

    name: str = ""
    question: str = ""
    zip: list[list[str]] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    metric: str = ""
    better: str = ""

    def problems(self) -> Iterator[Problem]:
        if self.name in (".", "..") or any(sign in self.name for sign in "/\\"):
            yield Problem("name", self.name, "must be the name of one folder", "name=beta_on_hh")
        if self.better:
            yield from one_of("better", self.better, ("lower", "higher"))
        if self.metric and self.metric not in ALL:
            guess = correct_spelling(self.metric, ALL)
            text = "no such metric; alignlab/tracking/metrics.py has all of them"
            yield Problem("metric", self.metric, text, f"metric={guess}" if guess else "")
        elif self.metric and not self.better and self.metric not in BETTER:
            text = f"must be lower or higher: {self.metric} does not say it by itself"
            yield Problem("better", "''", text, "better=lower")


# Groups that may name files, folders and packages; each says what is `missing`.
WITH_FILES = ("data", "model", "optim", "judge", "reward", "evaluation")


@dataclass(kw_only=True)
class RunEvaluation(Evaluation):
    """Samples of a run from within `alignlab train`; the rest as in `alignlab evaluate`.

    at_end: evaluate the run when it is done, as `alignlab evaluate` would.
    every:  updates between evaluations of the policy as it stands, logged under eval/; 0 for none. Judges are asked
            each time.
    """

    at_end: bool = False
    every: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("every", self.every, 0, example=50)
        if self.every and (others := [name for name in self.baselines if name not in ("reference", "chosen")]):
            text = f"is compared with at the end only: {', '.join(others)}; while it trains: reference, chosen"
            yield Problem("baselines", self.baselines, text, "evaluation.baselines=[reference,chosen]")


@dataclass(kw_only=True)
class Train(Checked):
    """One run of `alignlab train`.

    reference:   how reference log-probabilities are had: cached (one pass, stored and shared), copy, adapter_off; auto
                 takes cached where they are enough; none spares them where the objective does not need them, and with
                 them the metrics that compare with the reference.
    seed:        of the order of rows, the initial adapter weights and dropout.
    reward:      what answers that are drawn while training are worth; null takes the lab's own reward.
    rollout:     how they are drawn.
    strength:    the objective's own strength, whatever its name (DPO's beta, IPO's tau, ORPO's lambda): a name for one
                 axis over several objectives. `objective.<field>` and this are the same run.
    output_root: everything is written below it.
    rerun:       do a finished run again.
    if_running:  what to do with a run that another process is running: wait for it, or skip it.
    """

    objective: Objective
    model: ModelSource = setting(inherited_by=["parents"])
    peft: Adapter = setting(inherited_by=_ALL)
    data: Source = setting(inherited_by=["parents"])
    optim: Optim
    trainer: Trainer
    tracking: Tracking = setting(in_id=False, inherited_by=_ALL)
    evaluation: RunEvaluation = setting(in_id=False, default_factory=RunEvaluation)
    judge: dict[str, Judge] = setting(in_id=False, default_factory=dict)
    reward: ScoreJudge | None = None
    rollout: Rollout = field(default_factory=Rollout)
    sweep: Sweep = setting(in_id=False, inherited_by=_ALL, default_factory=Sweep)
    reference: str = "auto"
    seed: int = 1
    strength: float | None = None
    output_root: str = setting(default="outputs", in_id=False, inherited_by=_ALL)
    rerun: bool = setting(default=False, in_id=False)
    if_running: str = setting(default="wait", in_id=False)

    @property
    def reference_kind(self) -> str:
        """cached, copy, adapter_off or none: what `reference` comes to for this objective."""
        return reference_kind(self.reference, self.objective.requires, self.peft)

    def problems(self) -> Iterator[Problem]:
        """Combinations of groups that can't be; what is wrong within a group the group says itself."""
        return combination_problems({f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(kw_only=True)
class Evaluate(Checked):
    """One `alignlab evaluate`.

    run:         a run (its id, the beginning of it, or its folder), or a sweep: then every run of it that is done.
    evaluation:  what is drawn, and what it is compared with.
    judge:       who judges, by name; none gives lengths, KL and, in the lab, the gold reward.
    output_root: the runs lie below it.
    accelerator: auto, cpu, gpu or mps.
    progress:    show progress bars where the terminal can.
    trust_remote_code: run code that comes with the models of the run, its baselines and its reward model judges. The
                 record of a run can't allow this.
    """

    run: str
    evaluation: Evaluation = field(default_factory=Evaluation)
    judge: dict[str, Judge] = field(default_factory=dict)
    output_root: str = "outputs"
    accelerator: str = "auto"
    progress: bool = True
    trust_remote_code: bool = False

    def problems(self) -> Iterator[Problem]:
        yield from one_of("accelerator", self.accelerator, ACCELERATORS)


def combination_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems between the parts of a Train; a part that is absent (because it is wrong in itself) is passed over."""
    yield from one_of("reference", parts["reference"], KINDS)
    yield from one_of("if_running", parts["if_running"], ("wait", "skip"))
    yield from within("seed", parts["seed"], 0, 2**32 - 1, example=1)
    yield from _unusable_here(parts)
    if {"objective", "peft"} <= parts.keys():
        yield from _reference_problems(parts["reference"], parts["objective"].requires, parts["peft"])
    if {"objective", "trainer"} <= parts.keys():
        size = parts["trainer"].batch_size
        if parts["objective"].requires.mismatched and size < 2:
            text = "must be at least 2: the KL is estimated from other rows' answers, and one row has only its own"
            yield Problem("trainer.batch_size", size, text, "trainer.batch_size=16")
    yield from _online_problems(parts)
    if {"objective", "evaluation"} <= parts.keys():
        every = parts["evaluation"].every
        if every and parts["objective"].requires.data == "rankings":
            text = "a reward model writes no answers to look at on the way"
            yield Problem("evaluation.every", every, text, "evaluation.every=0 evaluation.at_end=true")
    if {"objective", "data"} <= parts.keys():
        yield from _unread_problems(parts["objective"].requires, parts["data"])
        wanted, there = parts["objective"].requires.rows, parts["data"].shapes
        if wanted not in (*there, "prompts"):
            text = f"has {' and '.join(there)}, and this objective works on {wanted}"
            yield Problem("data", type(parts["data"]).__name__.lower(), text, "data=pairs")
    if {"data", "model"} <= parts.keys():
        name, vocabulary, world = parts["model"].name, parts["model"].vocabulary, parts["data"].world
        if world is not None and vocabulary != world.alphabet:
            text = f"the lab can be enumerated only for a model whose tokens are its letters ({world.alphabet})"
            yield Problem("model", name, text, "model=lab")
        if vocabulary is not None and world is None:
            yield Problem("model", name, f"knows only the letters {vocabulary}; this data is text", "model=tiny")
    if {"model", "peft"} <= parts.keys() and not (parts["model"].trainable or parts["peft"].can_switch_off):
        text = "4-bit weights can't be trained, only an adapter on them"
        yield Problem("model.quantize", parts["model"].quantize, text, "peft=lora")
    if {"optim", "trainer"} <= parts.keys():
        warmup, steps = parts["optim"].warmup_steps, parts["trainer"].max_steps
        if warmup >= steps:
            text = f"must be smaller than trainer.max_steps ({steps})"
            yield Problem("optim.warmup_steps", warmup, text, f"optim.warmup_steps={steps // 10}")


def reference_kind(asked: str, needs: Requires, peft: Adapter) -> str:
    """What `reference` comes to: single answers and rewards have none, `auto` is the cheapest that is enough."""
    if not needs.any_reference:
        return "none"
    if asked != "auto":
        return asked
    if not needs.live_reference:
        return "cached"
    return "adapter_off" if peft.can_switch_off else "copy"


def _online_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """What answers are learnt by, and what would make drawing and learning see two policies."""
    if not {"objective", "data", "peft", "trainer", "reward", "rollout"} <= parts.keys():
        return
    objective, reward = parts["objective"], parts["reward"]
    if not objective.requires.online:
        if reward is not None:
            text = "is learnt by online objectives only: ppo, rloo, grpo and their kin"
            yield Problem("reward", module_name(type(reward)), text, "reward=lab_gold   or   objective=ppo")
        return
    if objective.scored and reward is None and parts["data"].world is None:
        text = "needs what answers are worth: a reward model, or a function of yours"
        yield Problem("reward", None, text, "reward=reward_model")
    if not objective.scored and reward is not None:
        text = "is not asked by this objective; leave it out, or take away what an experiment says"
        yield Problem("reward", module_name(type(reward)), text, "'~reward'")
    if parts["data"].world is not None and parts["rollout"].missing_end != "keep":
        text = "must be keep: the lab's longest answers are whole, and have no end token"
        yield Problem("rollout.missing_end", parts["rollout"].missing_end, text, "rollout.missing_end=keep")
    if getattr(parts["peft"], "dropout", 0.0):
        text = "must be 0: answers are drawn without dropout, and learning has to see the policy that gave them"
        yield Problem("peft.dropout", parts["peft"].dropout, text, "peft.dropout=0")


def _reference_problems(asked: str, needs: Requires, peft: Adapter) -> Iterator[Problem]:
    kind = reference_kind(asked, needs, peft)
    if kind == "adapter_off" and not peft.can_switch_off:
        yield Problem("reference", kind, "needs an adapter that can be switched off", "peft=lora")
    if kind == "none" and needs.reference:
        yield Problem("reference", kind, "this objective compares with a reference", "reference=auto")
    if kind == "cached" and needs.live_reference:
        text = "the store keeps log-probabilities of answers, and this objective needs the reference's distributions"
        yield Problem("reference", kind, text, "reference=auto")


def _unread_problems(needs: Requires, data: Source) -> Iterator[Problem]:
    """Fields of labelled answers that an objective on pairs would pass over; a parent on answers inherits them."""
    defaults = {f.name: f.default for f in fields(data)}
    for name in data.labelled_fields if needs.data in ("pairs", "rankings") else ():
        value = getattr(data, name)
        if value != defaults[name]:
            text = "is read by objectives on labelled answers only"
            yield Problem(f"data.{name}", value, text, f"data.{name}={defaults[name]}")


def _unusable_here(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """What this machine has not: an output folder that can be written, the accelerator that is asked for."""
    if not parts["output_root"]:
        yield Problem("output_root", "''", "needs the name of a folder", "output_root=outputs")
    root = os.path.abspath(parts["output_root"])
    while not os.path.exists(root):
        root = os.path.dirname(root)
    if not (os.path.isdir(root) and os.access(root, os.W_OK)):
        yield Problem("output_root", parts["output_root"], f"can't be written ({root})", "output_root=outputs")
    if "trainer" in parts:
        import torch

        wanted = parts["trainer"].accelerator
        missing = (wanted == "gpu" and not torch.cuda.is_available()) or (
            wanted == "mps" and not torch.backends.mps.is_available()
        )
        if missing:
            yield Problem("trainer.accelerator", wanted, "is not there on this machine", "trainer.accelerator=auto")
        if parts["trainer"].compile == "always" and not torch.cuda.is_available() and cpp_compiler() is None:
            yield Problem("trainer.compile", "always", "needs a C++ compiler (g++, or CXX)", "trainer.compile=auto")
