"""alignlab's own parts keep the contracts that `alignlab test-plugin` runs; broken ones are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from alignlab.callbacks.base import Callback
from alignlab.contracts import data, engines, judges, models, optim, training
from alignlab.contracts.base import Contract, promise
from alignlab.contracts.table import CONTRACTS
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.data.sources.support_desk import SupportDesk
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.judges.base import Answer, ScoreJudge
from alignlab.judges.gold import Gold
from alignlab.metrics.base import Metric
from alignlab.models.adapters.dora import DoRA
from alignlab.models.adapters.lora import LoRA
from alignlab.models.adapters.vera import VeRA
from alignlab.models.sources.tiny import Tiny
from alignlab.optim.adamw import AdamW
from alignlab.optim.base import schedules
from alignlab.optim.rmsprop import RMSprop
from alignlab.optim.schedules.base import Schedule
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.strategies.auto import Auto
from alignlab.strategies.base import Strategy
from alignlab.strategies.ddp import DDP
from alignlab.strategies.deepspeed import DeepSpeed
from alignlab.strategies.fsdp import FSDP
from alignlab.tracking.sinks.csv import Csv
from tests.rollout.engines.engines import Other


def length(prompt: str, answer: str) -> float:
    return float(len(answer))


OWN: list[tuple[str, Any]] = [
    ("optim", AdamW(lr=1e-2)),
    ("optim", RMSprop(lr=1e-2)),
    *(("schedule", cls()) for cls in schedules().values()),
    ("judge", Gold(function=f"{__name__}:length")),
    ("reward", Gold(function=f"{__name__}:length")),
    ("data", SupportDesk(eval_limit=60)),
    ("model", Tiny(name="tiny", hidden_size=16, layers=1, heads=2, intermediate_size=32)),
    ("peft", LoRA()),
    ("peft", DoRA()),
    ("peft", VeRA(r=8)),
    ("engine", HuggingFace()),
    ("engine", Other(off=0.04)),
    ("tracking", Csv()),
    ("strategy", Auto()),
    ("strategy", DDP(find_unused=True)),
    ("strategy", FSDP()),
    ("strategy", DeepSpeed(stage=3)),
]


@pytest.mark.parametrize(
    ("group", "part"), OWN, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_own_parts_keep_the_contracts(group: str, part: Any) -> None:
    found = {promise(contract): list(contract(part)) for contract in CONTRACTS[group]}
    assert {text: broken for text, broken in found.items() if broken} == {}


@dataclass(kw_only=True)
class Careless(Source):
    """Everything that a source should not do."""

    def fingerprint(self) -> str:
        return ""

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        return Loaded([Pair("p", str(torch.rand(1)), "b") for _ in range(5)])


@dataclass(kw_only=True)
class Ranked(ScoreJudge):
    """Scores an answer by the others.

    weight: of something.
    """

    weight: float = 1.0
    other: float = 1.0

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return [float(i) for i in range(len(rows))]


class Growing(Schedule):
    def factor(self, progress: float) -> float:
        return 2 * progress


@dataclass(kw_only=True)
class Still(AdamW):
    """An optimizer whose `update` is not its own."""

    def update(self, weights: Any, gradient: Any, moments: Any, rate: Any, step: int) -> Any:
        return weights


@dataclass(kw_only=True)
class Same(Callback):
    """The same object every time."""

    def build(self) -> Any:
        return SHARED


SHARED = object()


@dataclass(kw_only=True)
class NoStrategy(Strategy):
    """The name of a strategy."""

    def build(self) -> Any:
        return "ddp"


@dataclass(kw_only=True)
class Half(Strategy):
    """It says that it shards weights, but copies them."""

    @property
    def shards_weights(self) -> bool:
        return True

    def build(self) -> Any:
        return DDP().build()


@dataclass(kw_only=True)
class Unknown(Metric):
    """A metric that nobody defined."""

    def __call__(self, batch: Any) -> Mapping[str, torch.Tensor]:
        return {"my/number": torch.zeros(2)}


@dataclass(kw_only=True)
class Guess(Benchmark):
    """Another score every time."""

    def scores(self, model: Any, tokenizer: Any) -> Mapping[str, Sequence[float]]:
        return {"luck": [float(torch.rand(1))], "none": []}


BROKEN: list[tuple[Contract, Any, str]] = [
    (data.the_same_rows_every_time, Careless(), "the train rows differ when they are read again"),
    (data.nothing_is_trained_on_that_is_held_out, Careless(), "1 prompts are in both splits, such as 'p'"),
    (data.limits_are_respected, Careless(), "train_limit=3 gives 5 rows"),
    (judges.scores_do_not_depend_on_other_answers, Ranked(), "in another order"),
    (judges.swapped_answers_swap_the_verdict, Ranked(), "must add up to 1"),
    (judges.EVERY_PART[0], Ranked(), "has no line `other:`"),
    (judges.EVERY_PART[1], Ranked(), "weight=nan is not refused"),
    (optim.schedules_are_shares, Growing(), "factor returns 1.02"),
    (optim.schedules_are_shares, Growing(), "factor(0) is 0"),
    (optim.update_is_that_of_the_optimizer, Still(lr=0.1), "after update 1, `update` differs by 0.1"),
    (training.it_is_a_lightning_callback, Same(), "build returns a object"),
    (training.it_builds_a_strategy_of_lightning, NoStrategy(), "build returns a str"),
    (training.it_shards_by_the_protocol, Half(), "it shards, but DDPStrategy"),
    (training.metrics_are_defined_numbers, Unknown(), "without a definition in tracking/metrics.py: my/number"),
    (training.metrics_are_defined_numbers, Unknown(), "my/number has 2 numbers, not one"),
    (engines.it_has_the_weights_of_the_last_update, Other(off=0.06), "after update 1, log-probabilities differ"),
    (engines.it_has_the_weights_of_the_last_update, Other(stale=True), "after update 2, log-probabilities differ"),
    (engines.it_has_the_weights_of_the_last_update, Other(silent=True), "samples have no log-probabilities"),
    (engines.answers_end_where_they_should, Other(endless=True), "with the end tokens (0, 5) has ended=False"),
    (models.every_item_has_a_score, Guess(), "luck has other scores"),
    (models.every_item_has_a_score, Guess(), "none has 0 scores"),
]


@pytest.mark.parametrize(("contract", "part", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_broken_contracts_are_told(contract: Contract, part: Any, text: str) -> None:
    told: Iterator[str] = contract(part)
    assert any(text in sentence for sentence in told), list(contract(part))
