"""The whole config of a run as one typed value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast, get_args

from alignlab.callbacks.base import Callback
from alignlab.checks import Checked, at_least, later_setting, one_of, within
from alignlab.data.order import SAMPLING
from alignlab.data.sources.base import Source
from alignlab.discovery import module_name
from alignlab.errors import Problem
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.evaluation.settings import Evaluation
from alignlab.judges.base import Judge, ScoreJudge
from alignlab.metrics.base import Metric
from alignlab.models.adapters.base import Adapter
from alignlab.models.efficiency import COMPILE, cpp_compiler
from alignlab.models.layout_check import LAYOUTS
from alignlab.models.reference import KINDS
from alignlab.models.sources.base import ModelSource
from alignlab.objectives.base import Objective
from alignlab.optim.base import Optim
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.settings import Rollout
from alignlab.runs.directory import Keep
from alignlab.spelling import correct_spelling, counted
from alignlab.strategies.base import Strategy
from alignlab.strategies.place import given_place
from alignlab.synthesis.settings import READ_BY, Synthesis
from alignlab.tracking.metrics import BETTER, CHOOSES, definitions
from alignlab.tracking.sinks.base import Tracking
from alignlab.types import Requires

KEEP = get_args(Keep)
ACCELERATORS = ("auto", "cpu", "gpu", "mps")

_LONGEST_NAME = 200  # bytes of a sweep's name: most file systems take 255, and endings are added to it
_SETTING = "alignlab"  # key of a field's metadata
_ALL = ("parents", "judges")

# Shape of rows -> the source that reads a file of them.
_SOURCE_OF = {"completions": "completions", "labelled": "unpaired", "rankings": "rankings"}


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
    """Length of the training, size of its batches, and its device.

    max_steps:        number of optimizer updates, unless `max_epochs` is set.
    max_epochs:       number of passes over the training rows, in place of `max_steps`; 0: not used. The last update may
                      begin another pass. Batches of rollouts are counted with their `rollout.epochs`.
    batch_size:       rows per update over all processes. A row is a pair or an answer; for online objectives it is a
                      prompt with all of its answers.
    sampling:         epochs (every row once, in a new order each time) or replacement (each row of a batch is sampled
                      from all rows).
    micro_batch_size: largest number of rows per forward pass. It changes the use of memory, but no results (except for
                      rounding and dropout masks). If memory does not suffice, it is halved for the rest of the run.
    micro_batch_tokens: largest number of tokens of prompts and answers per forward pass. A longer row has its own pass.
    layout:           auto or plain. In the plain layout each answer follows a copy of its prompt, and the model's own
                      head computes the logits. With auto, answers to a prompt share it and logits are computed in
                      pieces, if a check finds this exact for the model. The two have different dropout masks.
    gradient_checkpointing: keep only the inputs of layers for the backward pass, and compute the rest again.
    compile:          always, never or auto. Compiling the layers of the model (torch.compile) needs a C++ compiler and
                      takes up to a minute. auto compiles if that pays: in long runs on a CPU. Compiled layers have
                      other dropout masks.
    token_stats:      log entropy, token accuracy and mean logits.
    log_every:        updates between rows of training metrics. The first and the last update are always logged. The
                      means over the last tenth of a run (`tail/`) are over logged rows.
    gradient_clip:    largest 2-norm of the gradient. 0: no clipping.
    eval_every:       updates between evaluations on held-out rows. 0: only at the end.
    checkpoint_every: updates between checkpoints. 0: updates are not counted.
    checkpoint_minutes: minutes between checkpoints. 0: time is not counted. The training state is saved when either is
                      over, and at the end. While a run goes on, its last two states are kept; see `keep`.
    accelerator:      auto, cpu, gpu or mps.
    devices:          number of devices of each node. Each has a process of its own, which trains on an equal share of
                      the batch; on a CPU these are just processes. Loss and metrics are those of one device.
    nodes:            number of machines. More than one are started by torchrun or srun, which also say how many devices
                      there are if `devices` and `nodes` are 1.
    progress:         show progress bars if the output is a terminal.
    keep:             what stays in the directory of a run that is done: record (no weights: its config, record, metrics
                      and evaluations), policy (the trained policy too) or state (the last training state too, from
                      which a longer run can go on). The policy is deleted after the run was evaluated. Runs that
                      others start from keep their policies.
    keep_best:        metric of the held-out rows, such as eval/loss, by which the policy of the run is chosen: the one
                      with the best value among all evaluations (`eval_every`). The last policy is then saved as `last`.
                      Record and tables say after which update the policy was chosen. Empty: the last policy is chosen.
    anomaly:          find what made the first number that is not finite: the module of the policy, or the function of
                      the backward pass. It is slow. A run that diverged is replayed from its last training state.
    patience:         number of evaluations in a row without a better value of `keep_best` after which the run stops. 0:
                      it does not stop early.
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
    checkpoint_minutes: float = setting(default=10.0, in_id=False)
    accelerator: str = setting(default="auto", in_id=False, inherited_by=_ALL)
    devices: int = setting(default=1, in_id=False, inherited_by=_ALL)
    nodes: int = setting(default=1, in_id=False, inherited_by=_ALL)
    progress: bool = setting(default=True, in_id=False, inherited_by=_ALL)
    max_epochs: float = later_setting(default=0.0)
    keep: str = setting(default="policy", in_id=False)
    keep_best: str = later_setting(default="")
    patience: int = later_setting(default=0)
    anomaly: bool = setting(default=False, in_id=False)

    @property
    def known_steps(self) -> int:
        """The number of updates as far as it is known before rows are loaded: 0 if `max_epochs` decides it."""
        return 0 if self.max_epochs else self.max_steps

    @property
    def kept(self) -> Keep:
        return cast(Keep, self.keep)

    def problems(self) -> Iterator[Problem]:
        for key, example in (
            ("max_steps", 100),
            ("batch_size", 16),
            ("micro_batch_size", 4),
            ("micro_batch_tokens", 2048),
            ("log_every", 100),
            ("devices", 1),
            ("nodes", 1),
        ):
            yield from at_least(key, getattr(self, key), 1, example=example)
        counts = ("eval_every", "checkpoint_every", "checkpoint_minutes", "max_epochs", "patience")
        for key in ("gradient_clip", *counts):
            yield from at_least(key, getattr(self, key), 0, example=0)
        if self.keep_best and self.keep_best not in CHOOSES:
            text = f"is not a metric by which a run can choose its policy; there are: {', '.join(CHOOSES)}"
            guess = correct_spelling(self.keep_best, CHOOSES)
            yield Problem("keep_best", self.keep_best, text, f"keep_best={guess or next(iter(CHOOSES))}")
        if self.keep_best and not self.eval_every:
            text = "evaluates only at the end, so trainer.keep_best has nothing to choose from"
            yield Problem("eval_every", 0, text, f"eval_every={max(1, self.max_steps // 10)}")
        if self.patience and not self.keep_best:
            text = "needs the metric that trainer.patience watches"
            yield Problem("keep_best", "''", text, "keep_best=eval/loss")
        if min(self.devices, self.nodes, self.batch_size) >= 1:
            yield from _unequal_shares(self.batch_size, self.devices * self.nodes)
        yield from one_of("sampling", self.sampling, SAMPLING)
        yield from one_of("layout", self.layout, LAYOUTS)
        yield from one_of("compile", self.compile, COMPILE)
        yield from one_of("accelerator", self.accelerator, ACCELERATORS)
        yield from one_of("keep", self.keep, KEEP)


@dataclass(kw_only=True)
class Sweep(Checked):
    """Name and question of a sweep, and which combinations of its axes are points.

    name:     folder below `<output_root>/sweeps`. Empty: the preset's name with a digest of the points.
    question: printed above the table.
    zip:      groups of axes that take their values together, one by one, instead of in all combinations.
    exclude:  combinations that are not run: axis -> value, or a list of values.
    metric:   ranks the settings if `seed` is an axis. Empty: the first of these that all settings have: the gap to the
              frontier at equal KL, accuracy on held-out pairs, accuracy of rewards, the loss (one objective only).
    better:   lower or higher. Empty: the known better direction of the metric.
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
        elif self.name.startswith("-"):
            yield Problem("name", self.name, "begins like a flag of a command", "name=beta_on_hh")
        elif (length := len(self.name.encode(errors="surrogatepass"))) > _LONGEST_NAME:
            text = f"is too long for the name of a folder: it has {length} bytes, and may have {_LONGEST_NAME}"
            yield Problem("name", f"{self.name[:20]}...", text, "name=beta_on_hh")
        if self.better:
            yield from one_of("better", self.better, ("lower", "higher"))
        if self.metric and self.metric not in definitions():
            guess = correct_spelling(self.metric, definitions())
            text = "no such metric; alignlab/tracking/metrics.py has all of them"
            yield Problem("metric", self.metric, text, f"metric={guess}" if guess else "")
        elif self.metric and not self.better and self.metric not in BETTER:
            text = f"must be lower or higher: {self.metric} does not have a better direction of its own"
            yield Problem("better", "''", text, "better=lower")


# Groups that may name files, folders and packages. Each has a method `missing`, which yields problems.
WITH_FILES = (
    "data", "model", "optim", "strategy", "engine", "judge", "reward", "evaluation", "synthesis", "benchmark"
)  # fmt: skip


@dataclass(kw_only=True)
class RunEvaluation(Evaluation):
    """Evaluation of a run by `alignlab train`. The other settings are those of `alignlab evaluate`.

    at_end: evaluate the run when it is done, as `alignlab evaluate` would: true or false. null (the default) evaluates
            policies that are compared with a reference, and takes at most a tenth of the training time for it: then
            there may be fewer than `prompts` prompts, but at least 16. Nothing is sampled in the lab, where KL, reward
            and win-rate are exact, and judges that ask a person are left out.
    every:  updates between evaluations of the current policy, which are logged under eval/. 0: none. Each of them calls
            the judges. Unless at_end is true, they ask at most 16 prompts and are left out if the evaluations of the
            run would sample for more than a tenth of the training time.
    """

    at_end: bool | None = None
    every: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("every", self.every, 0, example=50)
        if self.every and (others := [name for name in self.baselines if name not in ("reference", "chosen")]):
            text = f"during training only reference and chosen are possible, not {', '.join(others)}"
            yield Problem("baselines", self.baselines, text, "evaluation.baselines=[reference,chosen]")


@dataclass(kw_only=True)
class Train(Checked):
    """One run of `alignlab train`.

    strategy:    how the processes of `trainer.devices` share the work: auto, ddp, fsdp and others.
    reference:   source of the reference log-probabilities: cached (one pass, stored and shared by runs), copy (a second
                 model in memory), adapter_off (the policy without its adapter), none or auto. auto is cached if
                 log-probabilities of answers suffice. none is possible if the objective needs no reference; metrics
                 that compare with the reference are then missing.
    seed:        seed of the order of rows, the initial adapter weights and dropout.
    reward:      scorer of the answers that the policy samples in training. null: the lab's gold reward.
    rollout:     settings of sampling in training.
    engine:      samples the answers of an online objective, and those of the evaluation of the run. Engines whose
                 answers are not those of the Hugging Face model count in the id of a run that is online.
    metric:      further metrics: name -> metric. They are logged as train/<name> and eval/<name>.
    callback:    Lightning callbacks: name -> callback.
    plugins:     packages and folders with parts of your own, as the command line named them.
    strength:    value of the objective's strength, whatever its name (DPO's beta, IPO's tau, ORPO's lambda). With it
                 one axis covers several objectives. Setting `objective.<field>` instead gives the same run.
    rounds:      number of rounds of iterative training. Each round samples the policy of the round before, labels the
                 samples and trains on them from that policy on, as a run of its own. 0 trains once, on the data.
    synthesis:   settings of the samples and rows of `rounds`, as in `alignlab synthesize`.
    output_root: folder for all results.
    rerun:       train a finished run again.
    if_running:  wait for a run that another process works on, or skip it.
    """

    objective: Objective
    model: ModelSource = setting(inherited_by=["parents"])
    peft: Adapter = setting(inherited_by=_ALL)
    data: Source = setting(inherited_by=["parents"])
    optim: Optim
    trainer: Trainer
    strategy: Strategy = setting(in_id=False, inherited_by=_ALL)
    tracking: dict[str, Tracking] = setting(in_id=False, inherited_by=_ALL, default_factory=dict)
    evaluation: RunEvaluation = setting(in_id=False, default_factory=RunEvaluation)
    judge: dict[str, Judge] = setting(in_id=False, default_factory=dict)
    reward: ScoreJudge | None = None
    rollout: Rollout = field(default_factory=Rollout)
    engine: Engine = setting(in_id=False)  # its `identity` counts
    metric: dict[str, Metric] = setting(in_id=False, default_factory=dict)
    callback: dict[str, Callback] = field(default_factory=dict)
    plugins: list[str] = setting(in_id=False, inherited_by=_ALL, default_factory=list)
    sweep: Sweep = setting(in_id=False, inherited_by=_ALL, default_factory=Sweep)
    reference: str = "auto"
    seed: int = 1
    strength: float | None = None
    rounds: int = setting(default=0, in_id=False)
    synthesis: Synthesis = setting(in_id=False, default_factory=Synthesis)
    output_root: str = setting(default="outputs", in_id=False, inherited_by=_ALL)
    rerun: bool = setting(default=False, in_id=False)
    if_running: str = setting(default="wait", in_id=False)

    @property
    def reference_kind(self) -> str:
        """The source of the reference log-probabilities for this objective: cached, copy, adapter_off or none."""
        return reference_kind(self.reference, self.objective.requires, self.peft)

    def steps(self, rows: int) -> int:
        """The number of updates of a run on this many training rows."""
        if not self.trainer.max_epochs:
            return self.trainer.max_steps
        passes = self.trainer.max_epochs * (self.rollout.epochs if self.objective.requires.online else 1)
        return math.ceil(rows * passes / self.trainer.batch_size)

    def problems(self) -> Iterator[Problem]:
        """Problems of combinations of groups. A group reports problems of its own values itself."""
        return combination_problems({f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(kw_only=True)
class Evaluate(Checked):
    """One `alignlab evaluate`.

    run:         a run (its id, the beginning of its id, or its folder), or a sweep: all of its runs that are done.
    model:       a policy that was not trained here, instead of `run`.
    reference:   the run or model that the KL of `model` is taken to. Empty: no KL.
    data:        its held-out prompts are asked of `model`, unless evaluation.questions names a file of prompts.
    evaluation:  settings of sampling, and the baselines.
    judge:       judge's name -> judge. Without judges the result has lengths, KL and, in the lab, the gold reward.
    benchmark:   benchmark's name -> benchmark. Policy and reference are asked its items.
    engine:      samples the answers.
    plugins:     packages and folders with parts of your own, as the command line named them.
    output_root: folder that holds the runs.
    accelerator: auto, cpu, gpu or mps.
    progress:    show progress bars if the output is a terminal.
    trust_remote_code: run code that comes with the models of the run, its baselines and its reward model judges. Only
                 the command line can allow this, not the record of a run.
    """

    run: str = ""
    model: ModelSource | None = None
    reference: str = ""
    data: Source | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    judge: dict[str, Judge] = field(default_factory=dict)
    benchmark: dict[str, Benchmark] = field(default_factory=dict)
    engine: Engine
    plugins: list[str] = field(default_factory=list)
    output_root: str = "outputs"
    accelerator: str = "auto"
    progress: bool = True
    trust_remote_code: bool = False

    def problems(self) -> Iterator[Problem]:
        yield from one_of("accelerator", self.accelerator, ACCELERATORS)
        if not self.run and self.model is None:
            text = "needs the id of a run, its folder, or a sweep; or model=<folder or hub name>"
            yield Problem("run", None, text, "run=dpo-3c90")
        elif self.run and self.model is not None:
            yield Problem("run", self.run, "can't be combined with model=...; leave one of the two out")
        for key in ("reference", "data"):
            if self.run and getattr(self, key):
                text = "belongs to model=...; a run has its own"
                yield Problem(key, module_name(type(self.data)) if key == "data" else self.reference, text)
        prompts = self.data is not None or self.evaluation.questions
        if self.model is not None and not (self.run or prompts or self.benchmark):
            text = "needs prompts: a file of them, or the held-out rows of a data set"
            fix = "evaluation.questions=my_prompts.jsonl   or   data=<a data set>   or   benchmark=<a benchmark>"
            yield Problem("evaluation.questions", "''", text, fix)
        if self.model is not None and self.data is not None and self.data.world is not None:
            text = "is enumerable, and answers to it are compared with a run's reference; evaluate a run"
            yield Problem("data", module_name(type(self.data)), text, "run=<id of a run>")


@dataclass(kw_only=True)
class Synthesize(Checked):
    """One `alignlab synthesize`.

    run:         a finished run, whose policy is sampled: its id, the beginning of its id, or its folder.
    model:       the policy that is sampled, instead of `run`. With `model.parent` it is the policy of that run.
    peft:        adapter of runs that are trained first: the model's parent and the judge's reward model. With `run` it
                 is that of the run.
    data:        its training rows give the prompts. Without it they are those of the run's own data.
    judge:       judge's name -> judge.
    synthesis:   settings of prompts, samples and rows.
    engine:      samples the answers.
    plugins:     packages and folders with parts of your own, as the command line named them.
    output_root: folder for all results. The rows are written to `<output_root>/synthesis/<id>/`.
    to:          file that gets a copy of the rows, with their provenance beside it. Empty: no copy.
    accelerator: auto, cpu, gpu or mps.
    progress:    show progress bars if the output is a terminal.
    trust_remote_code: run code that comes with the models of the run and the judge. Only the command line can allow
                 this, not the record of a run.
    """

    run: str = ""
    model: ModelSource | None = None
    peft: Adapter | None = None
    data: Source | None = None
    judge: dict[str, Judge] = field(default_factory=dict)
    synthesis: Synthesis = field(default_factory=Synthesis)
    engine: Engine
    plugins: list[str] = field(default_factory=list)
    output_root: str = "outputs"
    to: str = ""
    accelerator: str = "auto"
    progress: bool = True
    trust_remote_code: bool = False

    def problems(self) -> Iterator[Problem]:
        yield from one_of("accelerator", self.accelerator, ACCELERATORS)
        if self.to and not self.to.endswith(f".{self.synthesis.format}"):
            text = f"must end in .{self.synthesis.format}, the format of the rows (synthesis.format)"
            yield Problem("to", self.to, text, f"to=my_rows.{self.synthesis.format}")
        if bool(self.run) == (self.model is not None):
            text = "needs the policy to sample: the id of a finished run, or model=<one of the models> instead"
            value = None if not self.run else self.run
            yield Problem("run", value, text if not self.run else f"{text}, not both", "run=dpo-3c90")
        if self.model is not None and self.data is None and not self.synthesis.questions:
            text = "needs prompts: data=<a data set>, or a file of prompts"
            yield Problem("data", None, text, "synthesis.questions=my_prompts.jsonl")
        if self.model is not None and self.data is not None:
            yield from letters_problems(self.model, self.data)
        world = self.data is not None and self.data.world is not None and self.data.world.is_whole
        yield from labelling_problems(self.synthesis, self.judge, has_gold=world or bool(self.run))
        if self.synthesis.preferred == "data" and self.judge:
            text = "is not asked if the data's own answers are preferred; leave it out"
            yield Problem("judge", ", ".join(self.judge), text, "synthesis.preferred=judge")


def labelling_problems(how: Synthesis, judges: Mapping[str, Judge], *, has_gold: bool) -> Iterator[Problem]:
    """Problems of the judge that scores sampled answers.

    has_gold: whether the data may have a gold reward of its own, which scores if no judge is chosen.
    """
    if how.preferred == "data":
        return
    if how.judge and how.judge not in judges:
        names = ", ".join(judges) or "none is chosen"
        yield Problem("synthesis.judge", how.judge, f"is none of the judges ({names})", "judge=gold")
    elif not how.judge and len(judges) > 1:
        text = f"must name the judge that scores the answers, since several are chosen: {', '.join(judges)}"
        yield Problem("synthesis.judge", "''", text, f"synthesis.judge={next(iter(judges))}")
    elif not judges and not has_gold:
        text = "needs a judge that scores the samples, unless the data's own answers are preferred"
        fix = "judge=gold judge.gold.function=my_rules:score   or   synthesis.preferred=data"
        yield Problem("judge", None, text, fix)
    else:
        for name, judge in labelling_judge(how, judges).items():
            if how.judging == "rate" and not judge.rates:
                text = f"the judge {name} compares answers and does not rate single ones"
                yield Problem("synthesis.judging", how.judging, text, "synthesis.judging=compare")
            if how.judging == "compare" and isinstance(judge, ScoreJudge):
                text = f"the judge {name} scores single answers, so there is nothing to compare"
                yield Problem("synthesis.judging", how.judging, text, "synthesis.judging=rate")


def labelling_judge(how: Synthesis, judges: Mapping[str, Judge]) -> dict[str, Judge]:
    """The judge that scores sampled answers, under its name. Empty if there is none."""
    if how.preferred == "data":
        return {}
    return {name: judge for name, judge in judges.items() if name == how.judge or len(judges) == 1}


def combination_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of combinations of the parts of a Train. A part with problems of its own is absent and is skipped."""
    yield from one_of("reference", parts["reference"], KINDS)
    yield from one_of("if_running", parts["if_running"], ("wait", "skip"))
    yield from within("seed", parts["seed"], 0, 2**32 - 1, example=1)
    yield from _unusable_here(parts)
    if {"objective", "peft"} <= parts.keys():
        yield from _reference_problems(parts["reference"], parts["objective"].requires, parts["peft"])
    if {"objective", "trainer"} <= parts.keys():
        size = parts["trainer"].batch_size
        if parts["objective"].requires.mismatched and size < 2:
            text = "must be at least 2: each row's KL is estimated from the answers of other rows of the batch"
            yield Problem("trainer.batch_size", size, text, "trainer.batch_size=16")
    yield from _online_problems(parts)
    yield from at_least("rounds", parts["rounds"], 0, example=3, hint="0 trains once, on the data")
    if parts["rounds"] > 0 and {"objective", "model", "data", "synthesis", "judge"} <= parts.keys():
        yield from _round_problems(parts)
    elif parts["rounds"] == 0 and parts.get("synthesis", Synthesis()) != Synthesis():
        text = "the settings synthesis.* are used in rounds only"
        yield Problem("rounds", 0, text, "rounds=3")
    if {"objective", "evaluation"} <= parts.keys():
        every = parts["evaluation"].every
        if every and parts["objective"].requires.data == "rankings":
            text = "must be 0: a reward model writes no answers that could be evaluated during training"
            yield Problem("evaluation.every", every, text, "evaluation.every=0 evaluation.at_end=true")
    if {"objective", "data"} <= parts.keys():
        yield from _unread_problems(parts["objective"].requires, parts["data"])
        wanted, shapes = parts["objective"].requires.rows, parts["data"].shapes
        if wanted not in (*shapes, "prompts"):
            text = f"has {' and '.join(shapes) or 'prompts without answers'}, but this objective works on {wanted}"
            yield Problem("data", type(parts["data"]).__name__.lower(), text, f"data={_SOURCE_OF.get(wanted, 'pairs')}")
        if parts["objective"].requires.demonstrations and "completions" not in shapes:
            text = "has prompts without answers, but this objective learns from the data's answers too"
            yield Problem("data", module_name(type(parts["data"])), text, "data=completions")
    if {"data", "model"} <= parts.keys():
        yield from letters_problems(parts["model"], parts["data"])
    if {"model", "peft"} <= parts.keys() and not (parts["model"].trainable or parts["peft"].can_switch_off):
        text = "4-bit weights can't be trained themselves, but an adapter on them can"
        yield Problem("model.quantize", parts["model"].quantize, text, "peft=lora")
    if {"engine", "model", "data"} <= parts.keys():
        yield from _engine_problems(parts["engine"], parts["model"], parts["data"])
    if {"strategy", "model", "optim", "engine"} <= parts.keys():
        yield from _sharding_problems(parts["strategy"], parts["model"], parts["optim"], parts["engine"])
    if {"optim", "trainer"} <= parts.keys():
        warmup, steps = parts["optim"].warmup_steps, parts["trainer"].max_steps
        if warmup >= steps and not parts["trainer"].max_epochs:
            text = f"must be smaller than trainer.max_steps ({steps})"
            yield Problem("optim.warmup_steps", warmup, text, f"optim.warmup_steps={steps // 10}")


def _engine_problems(engine: Engine, model: ModelSource, data: Source) -> Iterator[Problem]:
    """Problems of an engine that has weights and probabilities of its own."""
    if engine.exact:
        return
    name = module_name(type(engine))
    if not model.trainable:
        text = "gets whole weights, and this model has weights of 4 bits"
        yield Problem("engine", name, text, "engine=huggingface   or   model.quantize=none")
    if data.world is not None and not data.world.is_whole:
        text = "has no effect: answers are chosen among candidates by their probabilities under the policy"
        yield Problem("engine", name, text, "engine=huggingface")


def _sharding_problems(strategy: Strategy, model: ModelSource, optim: Optim, engine: Engine) -> Iterator[Problem]:
    """Problems of parts that need whole weights, or a whole state of the optimizer, if processes hold parts of them."""
    name, weights = module_name(type(strategy)), strategy.shards_weights
    other = "strategy.stage=2" if name == "deepspeed" else "strategy=ddp"
    if weights and not model.trainable:
        text = "can't divide weights of 4 bits"
        yield Problem("strategy", name, text, f"model.quantize=none   or   {other}")
    if strategy.shards_optimizer and not optim.works_on_parts:
        what = "weights" if weights else "the optimizer's state"
        text = f"divides {what} among the devices, and optim={module_name(type(optim))} needs whole ones"
        yield Problem("strategy", name, text, "optim=adamw   or   strategy=ddp")
    if weights and not engine.exact:
        text = f"divides weights among the devices, and engine={module_name(type(engine))} needs whole ones"
        yield Problem("strategy", name, text, f"engine=huggingface   or   {other}")


def _round_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of iterative training, whose rounds train on samples of the round before."""
    needs, data, how, rounds = parts["objective"].requires, parts["data"], parts["synthesis"], parts["rounds"]
    shapes = READ_BY[how.form](path="made").shapes
    if data.world is not None:
        text = "needs text: the lab's model reads the lab's own rows only"
        yield Problem("rounds", rounds, text, "objective=online_dpo   or   data=support_desk model=tiny")
    if needs.online:
        text = "works only with objectives on given answers; this objective samples answers while it trains"
        yield Problem("rounds", rounds, text, "rounds=0")
    elif needs.data == "rankings":
        yield Problem("rounds", rounds, "needs a policy that writes answers; this objective trains a reward model")
    elif needs.data not in shapes:
        text = f"gives {' and '.join(shapes)}, but this objective works on {needs.data}"
        yield Problem("synthesis.form", how.form, text, "synthesis.form=pairs")
    if rounds > 1 and not parts["model"].trainable:
        text = "rounding a policy to 4 bits again would undo what the round before has learnt"
        yield Problem("model.quantize", parts["model"].quantize, text, "model.quantize=none   or   rounds=1")
    yield from labelling_problems(how, parts["judge"], has_gold=data.world is not None)


def letters_problems(model: ModelSource, data: Source) -> Iterator[Problem]:
    """Problems of a model that knows only the letters of the lab, or of lab data with another model."""
    name, vocabulary = model.name, model.vocabulary
    world = data.world if data.world is not None and data.world.is_whole else None
    if world is not None and vocabulary != world.alphabet:
        text = f"lab data needs a model whose tokens are the letters of the lab ({world.alphabet})"
        yield Problem("model", name, text, "model=lab")
    if vocabulary is not None and world is None:
        kind = name if name in model.own_names else "".join(model.own_names[-1:])
        yield Problem(
            "model", kind or name, f"knows only the letters {vocabulary}, but this data is text", "model=tiny"
        )


def reference_kind(reference: str, needs: Requires, peft: Adapter) -> str:
    """The source of the reference log-probabilities for a value of `reference`. `auto` is the cheapest that suffices.

    It is "none" for imitation and reward models, which never use a reference.
    """
    if not needs.any_reference:
        return "none"
    if reference != "auto":
        return reference
    if not needs.live_reference:
        return "cached"
    return "adapter_off" if peft.can_switch_off else "copy"


def _online_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of the reward, and of settings with which sampling and training would use different policies."""
    if not {"objective", "data", "peft", "trainer", "reward", "rollout"} <= parts.keys():
        return
    objective, reward = parts["objective"], parts["reward"]
    if not objective.requires.online:
        if reward is not None:
            text = "is used by online objectives only, such as ppo, rloo and grpo"
            yield Problem("reward", module_name(type(reward)), text, "reward=lab_gold   or   objective=ppo")
        return
    if parts["data"].world is not None and not parts["data"].world.is_whole and objective.requires.critic:
        text = (
            "has a critic, whose values are those of answers of any kind; on candidates, baselines must be other "
            "answers to the same prompt"
        )
        yield Problem("objective", module_name(type(objective)), text, "objective=rloo")
    if objective.scored and reward is None and parts["data"].world is None:
        text = "this objective needs a reward: a reward model, or a function of yours"
        yield Problem("reward", None, text, "reward=reward_model")
    if not objective.scored and reward is not None:
        text = "is not used by this objective; leave it out, or remove it if an experiment sets it"
        yield Problem("reward", module_name(type(reward)), text, "'~reward'")
    if parts["data"].world is not None and parts["rollout"].missing_end != "keep":
        text = "must be keep: the longest answers of the lab are complete although they have no end token"
        yield Problem("rollout.missing_end", parts["rollout"].missing_end, text, "rollout.missing_end=keep")
    if getattr(parts["peft"], "dropout", 0.0):
        text = "must be 0: answers are sampled without dropout, and training must use the same policy"
        yield Problem("peft.dropout", parts["peft"].dropout, text, "peft.dropout=0")


def _reference_problems(reference: str, needs: Requires, peft: Adapter) -> Iterator[Problem]:
    kind = reference_kind(reference, needs, peft)
    if kind == "adapter_off" and not peft.can_switch_off:
        yield Problem("reference", kind, "needs an adapter that can be switched off", "peft=lora")
    if kind == "none" and needs.reference:
        yield Problem("reference", kind, "this objective compares with a reference", "reference=auto")
    if kind == "cached" and needs.live_reference:
        text = "stores log-probabilities of answers, but this objective needs the reference's whole distributions"
        yield Problem("reference", kind, text, "reference=auto")


def _unread_problems(needs: Requires, data: Source) -> Iterator[Problem]:
    """Problems of fields of labelled answers that an objective on pairs would ignore.

    A parent that imitates answers inherits these fields, so it is not checked.
    """
    defaults = {f.name: f.default for f in fields(data)}
    for name in data.labelled_fields if needs.data in ("pairs", "rankings") else ():
        value = getattr(data, name)
        if value != defaults[name]:
            text = "is used by objectives on labelled answers only"
            yield Problem(f"data.{name}", value, text, f"data.{name}={defaults[name]}")
    if needs.data in ("pairs", "rankings") and data.noise.desirable_kept != 1.0:
        text = "is used by objectives on labelled answers only"
        yield Problem("data.noise.desirable_kept", data.noise.desirable_kept, text, "data.noise.desirable_kept=1.0")


def _unequal_shares(batch_size: int, processes: int) -> Iterator[Problem]:
    """The problem that a batch can't be divided equally among processes."""
    if batch_size % processes:
        text = f"must be a multiple of {processes}, the number of devices that share each batch"
        nearest = max(1, round(batch_size / processes)) * processes
        yield Problem("batch_size", batch_size, text, f"batch_size={nearest}")


def problems_of_start(trainer: Trainer) -> Iterator[Problem]:
    """Problems of the number of processes that torchrun or srun has started, or that nobody has.

    A number that is left at 1 contradicts no start: torchrun and srun need no word of config.
    """
    place = given_place()
    started = {"devices": place.each, "nodes": place.nodes}
    wrong = [key for key, number in started.items() if getattr(trainer, key) not in (1, number)]
    if place.world > 1 and wrong:
        key = wrong[0]
        text = f"contradicts the start of {place.world} processes on {counted(place.nodes, 'node')}; leave it out"
        yield Problem(f"trainer.{key}", getattr(trainer, key), text, f"trainer.{key}={started[key]}")
    elif place.world > 1:
        yield from (problem.under("trainer") for problem in _unequal_shares(trainer.batch_size, place.world))
    elif trainer.nodes > 1:
        text = "needs one start on each node, by torchrun or srun"
        start = f"torchrun --nnodes={trainer.nodes} --nproc-per-node={trainer.devices} -m alignlab train ..."
        yield Problem("trainer.nodes", trainer.nodes, text, start)


def _unusable_here(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of this machine: the output folder, the accelerator and the C++ compiler."""
    if not parts["output_root"]:
        yield Problem("output_root", "''", "needs the name of a folder", "output_root=outputs")
    names = str(parts["output_root"]).split(os.sep)
    if long := [name for name in names if len(name.encode(errors="surrogatepass")) > 255]:
        yield Problem(
            "output_root", f"{long[0][:20]}...", "is too long for the name of a folder", "output_root=outputs"
        )
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
            yield Problem("trainer.accelerator", wanted, "this machine has none", "trainer.accelerator=auto")
        if parts["trainer"].compile == "always" and not torch.cuda.is_available() and cpp_compiler() is None:
            yield Problem("trainer.compile", "always", "needs a C++ compiler (g++, or CXX)", "trainer.compile=auto")
