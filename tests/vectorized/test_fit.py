"""Vectorized runs equal the runs that are trained on their own. Points that can't be vectorized have a reason."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

from alignlab.config.composer import Composer
from alignlab.config.plan import Plan
from alignlab.config.points import plan_points
from alignlab.config.registry import schemas
from alignlab.data.layout import Layout, Rows
from alignlab.errors import ConfigError, NonFiniteError, NotVectorizableError
from alignlab.models.forward import attention_mask
from alignlab.objectives.online import Online
from alignlab.pipeline.run import run_plan
from alignlab.runs import directory as run_dir
from alignlab.runs.directory import RunDir
from alignlab.sweep.launchers.vectorized import VectorizedLauncher
from alignlab.tracking.sinks.jsonl import read_rows
from alignlab.vectorized.answer_table import AnswerTable
from alignlab.vectorized.eligibility import balanced, groups, overhead_bound, refuse_ineligible, worth_vectorizing
from alignlab.vectorized.fit import run_vectorized
from alignlab.vectorized.module import VectorizedModule

# A lab of 40 completions and a Llama of 2,700 parameters with random weights: a run takes one second.
LAB = [
    "tracking=none", "trainer.progress=false", "model.parent=[]", "model.hidden_size=16", "model.heads=2",
    "model.intermediate_size=32", "data.alphabet=abc", "data.length=3", "data.prompts=3", "data.prompt_length=1",
    "data.pair_count=60", "data.demonstrations=60", "data.eval_limit=20", "trainer.batch_size=6", "trainer.max_steps=8",
    "optim.lr=3e-3",
]  # fmt: skip
BANDIT = ["tracking=none", "trainer.progress=false", "experiment=bandit_ipo", "trainer.log_every=20"]

# Metrics of time. A vectorized run records its share of the time of the vectorized fit.
TIMES = ("train/step_seconds", "train/tokens/per_second", "time/train_seconds")

pytestmark = pytest.mark.usefixtures("hydra_conf")


@functools.cache
def composer() -> Composer:
    """One composer for all tests of this file, so that each choice of groups is composed once."""
    return Composer(GlobalHydra.instance().config_loader(), "train")


def plans_of(root: Path, base: Sequence[str], *points: Sequence[str]) -> list[Plan]:
    return plan_points(composer(), [[*base, *point, f"output_root={root}"] for point in points])


def result(root: Path, run_id: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], dict[str, Any]]:
    """(metrics, weights, record) of a run, without metrics of time."""
    run = RunDir.of(root, run_id)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run.metrics)]
    record = run.record()
    record["summary"] = {k: v for k, v in record["summary"].items() if k not in TIMES}
    return rows, load_file(run.policy / "model.safetensors"), record


def assert_same_runs(tmp_path: Path, base: Sequence[str], *points: Sequence[str]) -> list[Plan]:
    """Train all points vectorized and each on its own: losses, other metrics, weights and summary agree to 1e-5."""
    together = plans_of(tmp_path / "vectorized", base, *points)
    alone = plans_of(tmp_path / "alone", base, *points)
    found, refused = groups(together)
    assert not refused
    assert [len(group) for group in found] == [len(points)], "one group with all points"
    if (parent := together[0].parent) is not None:
        run_plan(parent)
    assert run_vectorized(found[0]) == {point.id: None for point in together}
    for point in alone:
        run_plan(point)
        rows, weights, record = result(tmp_path / "vectorized", point.id)
        rows_alone, weights_alone, record_alone = result(tmp_path / "alone", point.id)
        assert len(rows) == len(rows_alone)
        for row, row_alone in zip(rows, rows_alone, strict=True):
            assert row == pytest.approx(row_alone, rel=1e-5, abs=1e-5), row["train/global_step"]
        assert weights.keys() == weights_alone.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, weights_alone[name], rtol=1e-5, atol=1e-5, msg=name)
        assert record["summary"] == pytest.approx(record_alone["summary"], rel=1e-5, abs=1e-5)
        assert (record["status"], record["stacked"]) == ("done", len(points))
        for key in ("objective", "data", "model", "parent"):
            assert record[key] == record_alone[key], key
    return together


# Numbers in which points may differ besides the strength, all at once.
OWN = [
    ["seed=1", "optim.lr=3e-3", "trainer.gradient_clip=0.05"],
    ["seed=2", "optim.lr=1e-3", "trainer.gradient_clip=0", "optim.warmup_steps=3"],
    ["seed=3", "optim.lr=5e-3", "trainer.gradient_clip=0.5", "optim.weight_decay=0.1", "optim.beta2=0.9"],
]


@pytest.mark.parametrize(
    ("objective", "key"), [("dpo", "objective.beta"), ("ipo", "objective.tau"), ("kto", "objective.beta")]
)
def test_points_with_numbers_of_their_own(objective: str, key: str, tmp_path: Path) -> None:
    points = [[*own, f"{key}={strength}"] for own, strength in zip(OWN, (0.1, 0.5, 2.0), strict=True)]
    base = [*LAB, f"objective={objective}", "optim.schedule=cosine", "trainer.eval_every=5"]
    plans = assert_same_runs(tmp_path, base, *points)
    norms = [
        [row["train/grad_norm"] for row in result(tmp_path / "vectorized", p.id)[0] if "train/loss" in row]
        for p in plans
    ]
    assert min(norms[0]) > 0.05, "clipping is active"


@pytest.mark.parametrize("objective", ["sft", "kto"])
def test_points_are_measured_on_the_pairs_of_a_file(objective: str, tmp_path: Path) -> None:
    """Neither objective trains on the pairs. SFT needs its reference only for them."""
    answers = [("ab"[i % 2] * (i % 4 + 1), f"c{'abc'[i % 3]}") for i in range(24)]
    rows = [{"prompt": "abc"[i % 3], "chosen": good, "rejected": bad} for i, (good, bad) in enumerate(answers)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = [
        f"objective={objective}", "model=tiny", "model.hidden_size=32", "data=pairs",
        f"data.path={tmp_path}/pairs.jsonl", f"data.eval_path={tmp_path}/pairs.jsonl", "trainer.batch_size=8",
        "trainer.max_steps=6", "trainer.eval_every=3", "tracking=none",
    ]  # fmt: skip
    plans = assert_same_runs(tmp_path, base, ["optim.lr=1e-2"], ["optim.lr=3e-3"])
    for plan in plans:
        summary = result(tmp_path / "vectorized", plan.id)[2]["summary"]
        assert summary["eval/pairs/n"] == 24
        assert abs(summary["eval/pairs/margin"]) > 0.01
        assert summary["eval/pairs/distance"] >= abs(summary["eval/pairs/margin"])


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        ("dpo", "beta"),
        ("kto", "beta"),
        ("ld_dpo", "alpha"),
        *(
            pytest.param(*two, marks=pytest.mark.slow)
            for two in (("ipo", "tau"), ("orpo", "odds_weight"), ("wpo", "beta"))
        ),
    ],
)
def test_points_that_are_given_the_same_batches(
    objective: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are laid out once for all points, with answers side by side."""
    rows_at, shared = AnswerTable.rows_at, []

    def watched(table: AnswerTable, places: torch.Tensor, layout: Layout) -> Rows:
        shared.append(layout.shared)
        return rows_at(table, places, layout)

    monkeypatch.setattr(AnswerTable, "rows_at", watched)
    points = [[f"objective.{key}={strength}", f"optim.lr={rate}"] for strength, rate in ((0.1, 1e-3), (0.6, 4e-3))]
    base = [*LAB, f"objective={objective}", "trainer.eval_every=5"]
    assert_same_runs(tmp_path, base, *points, ["optim.weight_decay=0.1", "trainer.gradient_clip=0.02"])
    assert len(shared) > 8, "one for each update, and those of evaluations"
    assert all(shared)


def test_models_that_fail_side_by_side_are_not_vectorized_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose attention reaches beyond its own answer. Rows with one answer each do not show the fault."""

    def beyond(config: Any, rows: Rows, dtype: torch.dtype) -> Any:
        ends = torch.where(rows.visible_until > 0, rows.ids.shape[1], 0)
        return attention_mask(config, replace(rows, visible_until=ends), dtype)

    monkeypatch.setattr("alignlab.vectorized.policy.attention_mask", beyond)
    short = [*LAB, "trainer.max_steps=2"]
    with pytest.raises(NotVectorizableError, match=r"its log-probabilities differ by up to .* when vectorized"):
        run_vectorized(plans_of(tmp_path / "shared", short, ["strength=0.1"], ["strength=0.2"]))
    assert set(run_vectorized(plans_of(tmp_path / "own", short, ["seed=1"], ["seed=2"])).values()) == {None}


def test_where_nothing_is_left_to_do_nothing_is_prepared(tmp_path: Path) -> None:
    base = [*LAB, 'model.parent=["objective=sft","trainer.max_steps=5"]']
    plans = plans_of(tmp_path, base, ["strength=0.1"], ["strength=0.2"])
    for point in plans:
        RunDir.of(tmp_path, point.id).end("done")
    assert run_vectorized(plans) == {point.id: None for point in plans}
    assert not list(tmp_path.glob("runs/sft-*"))


# One number of each objective. The numbers of a mix are nested, so that it is computed point by point.
NUMBERS = {
    "aot": "beta", "apo_down": "beta", "apo_zero": "beta", "apo_zero_unpaired": "beta", "bco": "beta", "cpo": "beta",
    "discopop": "beta", "exo": "beta", "hinge": "beta", "ld_dpo": "alpha", "length_dpo": "beta",
    "nca": "beta", "orpo": "odds_weight", "r_dpo": "alpha", "robust_dpo": "label_smoothing", "rpo": "nll_weight",
    "simpo": "gamma", "slic": "delta", "sppo": "beta", "unlikelihood": "alpha", "wpo": "beta",
}  # fmt: skip
ELSEWHERE = {"dpo", "ipo", "kto", "sft", "mix"}
ONLINE = {name for name, cls in schemas()["objective"].items() if issubclass(cls, Online)}
NOT_VECTORIZED = {"tdpo", "reward_model", "dpop"} | ONLINE


def test_every_objective_is_vectorized_here_or_refused() -> None:
    assert NUMBERS.keys() | ELSEWHERE | NOT_VECTORIZED == schemas()["objective"].keys()


# Objectives whose losses differ in kind from each other. The slow tests have the others.
OF_EACH_KIND = ("aot", "bco", "cpo", "exo", "orpo", "rpo", "simpo", "sppo", "unlikelihood", "wpo")


@pytest.mark.parametrize(
    "objective", [name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in NUMBERS]
)
def test_objectives(objective: str, tmp_path: Path) -> None:
    points = [[f"objective.{NUMBERS[objective]}={value}", f"seed={seed}"] for seed, value in ((1, 0.1), (2, 0.4))]
    assert_same_runs(tmp_path, [*LAB, f"objective={objective}", "trainer.max_steps=4"], *points)


def test_single_answers_and_mixes(tmp_path: Path) -> None:
    short = [*LAB, "trainer.max_steps=4"]
    assert_same_runs(tmp_path / "sft", [*short, "objective=sft"], ["optim.lr=1e-3"], ["seed=2"])
    parts = "objective.parts=[{{name:dpo,beta:0.1}},{{name:cpo,beta:0.3,weight:{}}},{{name:sft,weight:0.2}}]"
    assert_same_runs(tmp_path / "mix", [*short, "objective=mix"], [parts.format(0.5)], [parts.format(2.0), "seed=2"])


def test_rmsprop_and_a_trained_parent(tmp_path: Path) -> None:
    base = [
        *LAB, "optim=rmsprop", "optim.lr=1e-3", "optim.warmup_steps=2", "optim.schedule=linear",
        'model.parent=["objective=sft","trainer.max_steps=5","optim.lr=1e-2"]',
    ]  # fmt: skip
    assert_same_runs(tmp_path, base, ["optim.alpha=0.9"], ["seed=2", "optim.eps=1e-4"], ["optim.weight_decay=0.01"])


def test_bandits(tmp_path: Path) -> None:
    """The table of answers is smaller than a batch, and each point has its own comparisons.

    All actions are compared. The gradient of an action without a comparison would be rounding noise, which Adam scales
    up to whole steps.
    """
    points = [
        ["objective.tau=0.1", "seed=1"],
        ["objective.tau=1.0", "seed=2", "data.comparisons=[ab,bc,ca]"],
        ["objective.tau=0.5", "seed=3", "data.comparisons=[ab,ba,ac]"],
    ]
    assert_same_runs(tmp_path, [*BANDIT, "trainer.max_steps=100"], *points)


@pytest.mark.parametrize(
    ("objective", "key"), [("dpo", "objective.beta"), ("sft", "optim.lr"), ("apo_zero_unpaired", "objective.beta")]
)
def test_bandits_of_every_shape(objective: str, key: str, tmp_path: Path) -> None:
    base = [*BANDIT, f"objective={objective}", "trainer.max_steps=40", "data.comparisons=[ab,bc,ac]"]
    assert_same_runs(tmp_path, base, [f"{key}=0.1", "seed=1"], [f"{key}=0.3", "seed=4"])


@pytest.mark.parametrize("objective", ["kto", "wpo"])
def test_bandits_of_objectives_that_see_a_batch_or_a_distribution(objective: str, tmp_path: Path) -> None:
    """KTO's loss of a row depends on its batch, and WPO's token weights depend on whole distributions."""
    base = [*BANDIT, f"objective={objective}", "trainer.max_steps=5"]
    assert_same_runs(tmp_path, base, ["objective.beta=0.1", "seed=1"], ["objective.beta=0.3", "seed=4"])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=hub", "model.name=org/model", "data=pairs", "data.path=org/data"], "its size is not known"),
        (["model.dtype=bfloat16"], "rounds differently"),
        (["peft=lora"], "an adapter's base"),
        (["objective=reward_model"], "a reward model's head"),
        (["objective=tdpo"], "whole distributions"),
        (["objective=dpop"], "gradient jumps where training begins"),
        (["objective=mix", "objective.parts=[{name:dpo,beta:0.1},{name:dpop,beta:0.1}]"], "gradient jumps"),
        (["reference=copy"], "reference=copy runs a model"),
        (["optim=adamw_8bit"], "rounds its state"),
        (["trainer.compile=always"], "compiles the layers of one model"),
        (["trainer.gradient_checkpointing=true"], "hardly fits"),
    ],
)
def test_reasons(overrides: list[str], reason: str, tmp_path: Path) -> None:
    plans = plans_of(tmp_path, LAB if "model=hub" not in overrides else ["tracking=none"], [], overrides)[-1:]
    found, refused = groups(plans)
    assert found == []
    assert reason in refused[plans[0].id]
    with pytest.raises(ConfigError, match=r"\[point 0\]"):
        refuse_ineligible(plans, refused)


def test_only_numbers_may_differ(tmp_path: Path) -> None:
    numbers = [["seed=2"], ["optim.lr=1e-2"], ["objective.beta=1"], ["trainer.gradient_clip=0"], ["data.seed=2"]]
    words = [
        ["objective.divergence=js"], ["trainer.max_steps=9"], ["trainer.batch_size=4"], ["optim.schedule=linear"],
        ["model.hidden_size=32"], ["model.init_seed=1"], ["optim=rmsprop", "optim.warmup_steps=0"], ["objective=hinge"],
    ]  # fmt: skip
    plans = plans_of(tmp_path, LAB, [], *numbers, *words)
    found, refused = groups([*plans, plans[1]])
    assert not refused
    assert [len(group) for group in found] == [1 + len(numbers), *[1] * len(words)], "a run is in its group once"
    assert found[0] == plans[: 1 + len(numbers)]


def test_when_vectorizing_is_worth_it(tmp_path: Path) -> None:
    sizes = ["model.hidden_size=8"], [], ["model.hidden_size=512"]
    small, lab, large = plans_of(tmp_path, ["tracking=none", "experiment=lab_dpo"], *sizes)
    bandit = plans_of(tmp_path, BANDIT, [])[0]
    for point, faster, in_this_process in (
        (bandit, True, True), (small, True, True), (lab, True, False), (large, False, False)
    ):  # fmt: skip
        assert worth_vectorizing([point, point]) is faster
        assert overhead_bound([point, point]) is in_this_process
    assert not worth_vectorizing([bandit])
    assert not overhead_bound([bandit])


def test_larger_models_are_vectorized_if_they_get_the_same_batches(tmp_path: Path) -> None:
    points = [[f"seed={seed}", f"strength={strength}"] for seed in (1, 2) for strength in range(1, 12)]
    plans = plans_of(tmp_path, ["tracking=none", "experiment=lab_dpo"], *points, ["data.flipped=0.1"])
    found, refused = groups(plans)
    assert not refused
    assert found == [plans[:5], plans[5:11], plans[11:16], plans[16:22], plans[22:]], (
        "at most 8 in a group, groups of about the same size"
    )


@pytest.mark.parametrize(
    ("sizes", "processes", "expected"),
    [
        ([8, 8], 2, [8, 8]),
        ([8, 8, 8], 2, [8, 8, 4, 4]),
        ([8], 1, [8]),
        ([8], 3, [2, 3, 3]),
        ([8, 3], 4, [4, 4, 1, 2]),
        ([3], 16, [1, 1, 1]),
        ([], 2, []),
    ],
)
def test_groups_are_split_for_processes(sizes: list[int], processes: int, expected: list[int]) -> None:
    numbers = iter(range(100))
    before: Any = [list(itertools.islice(numbers, size)) for size in sizes]
    found = balanced(before, processes)
    assert [len(part) for part in found] == expected
    assert [point for part in found for point in part] == list(range(sum(sizes)))


def test_a_group_is_as_large_as_memory_allows(tmp_path: Path) -> None:
    base = ["tracking=none", "experiment=lab_dpo", "model.hidden_size=128", "trainer.batch_size=512"]
    plans = plans_of(tmp_path, base, *[[f"seed={seed}"] for seed in range(12)])
    found, _ = groups(plans)
    assert len(found) > 1
    assert [point for group in found for point in group] == plans


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[VectorizedModule], None]) -> None:
    """Call `act` at the beginning of update `step` (counted from 0)."""
    train = VectorizedModule.training_step

    def training_step(module: VectorizedModule, *args: Any) -> None:
        if module.step == step:
            act(module)
        train(module, *args)

    monkeypatch.setattr(VectorizedModule, "training_step", training_step)


def same(one: Path, two: Path, run_id: str) -> None:
    """Assert that metrics, weights and summary of a run are equal, to the last digit."""
    rows, weights, record = result(one, run_id)
    rows_two, weights_two, record_two = result(two, run_id)
    assert rows == rows_two
    assert all(torch.equal(weights[name], weights_two[name]) for name in weights)
    assert record["summary"] == record_two["summary"]


@pytest.mark.parametrize("objective", ["dpo", "bco"])
def test_stopped_and_resumed_is_uninterrupted(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = [*LAB, f"objective={objective}", "optim.schedule=cosine", "trainer.eval_every=3"]
    points = (["seed=1"], ["seed=2", "objective.beta=0.5"])
    whole, plans = plans_of(tmp_path / "whole", base, *points), plans_of(tmp_path / "stopped", base, *points)
    run_vectorized(whole)
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda module: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run_vectorized(plans)
    for point in plans:
        record = RunDir.of(tmp_path / "stopped", point.id).record()
        assert (record["status"], record["reason"]) == ("interrupted", "stopped by a signal")
    monkeypatch.setattr(run_dir, "git_revision", lambda: "another")
    assert run_vectorized(plans) == {point.id: None for point in plans}
    for point in plans:
        said = RunDir.of(tmp_path / "stopped", point.id).log.read_text()
        assert f"{point.id}: was begun by another version of the code: alignlab's revision" in said
        same(tmp_path / "stopped", tmp_path / "whole", point.id)
        assert RunDir.of(tmp_path / "stopped", point.id).record()["attempt"] == 2


def test_a_crash_resumes_from_the_last_checkpoint_and_done_points_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(module: VectorizedModule) -> None:
        raise RuntimeError("power cut")

    base = [*LAB, "trainer.checkpoint_every=3"]
    points = (["seed=1"], ["seed=2"], ["seed=3"])
    whole, plans = plans_of(tmp_path / "whole", base, *points), plans_of(tmp_path / "crashed", base, *points)
    run_vectorized(whole)
    run_vectorized(plans[:1])
    with monkeypatch.context() as patched:
        at_step(patched, 5, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_vectorized(plans)
    records = [RunDir.of(tmp_path / "crashed", point.id).record() for point in plans]
    assert [record["status"] for record in records] == ["done", "failed", "failed"]
    assert records[1]["reason"] == "RuntimeError: power cut"
    assert run_vectorized(plans) == {point.id: None for point in plans}
    assert RunDir.of(tmp_path / "crashed", plans[0].id).record()["attempt"] == 1
    for point in plans[1:]:
        same(tmp_path / "crashed", tmp_path / "whole", point.id)


def test_a_point_that_diverges_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = (["seed=1"], ["seed=2"], ["seed=3"])
    whole, plans = plans_of(tmp_path / "whole", LAB, *points), plans_of(tmp_path / "nan", LAB, *points)
    run_vectorized(whole)

    def diverge(module: VectorizedModule) -> None:
        module.policy.weights.data[1, 7] = float("nan")

    with monkeypatch.context() as patched:
        at_step(patched, 4, diverge)
        outcome = run_vectorized(plans)
    assert isinstance(outcome[plans[1].id], NonFiniteError)
    assert [outcome[plans[i].id] for i in (0, 2)] == [None, None]
    run = RunDir.of(tmp_path / "nan", plans[1].id)
    assert run.record()["status"] == "diverged"
    assert run.record()["reason"].startswith("log-probabilities or loss are not finite at step 4 for ")
    assert [row["train/global_step"] for row in read_rows(run.metrics)] == [1, 2, 3, 4]
    assert not run.policy.exists()
    saved = read_rows(run.nonfinite)
    assert [row["step"] for row in saved] == [4] * plans[1].train.trainer.batch_size
    assert {len(row["answers"]) for row in saved} == {2}
    assert all(row["prompt_ids"] and all(row["answer_ids"]) for row in saved)
    rejected = {row["row"] for row in saved}
    named = re.search(r"for (\d+) rows? \(([\d, ]+)", run.record()["reason"])
    assert named is not None
    assert {int(number) for number in named[2].split(",") if number.strip()} <= rejected
    assert not RunDir.of(tmp_path / "nan", plans[0].id).nonfinite.exists()
    for i in (0, 2):
        same(tmp_path / "nan", tmp_path / "whole", plans[i].id)


@pytest.mark.parametrize("weight", [float("nan"), 1e25], ids=["not a number", "its gradient's norm overflows"])
def test_so_does_a_bandit_that_diverges(weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, points = [*BANDIT, "trainer.max_steps=12"], (["seed=1"], ["seed=2"], ["seed=3"])
    whole, plans = plans_of(tmp_path / "whole", base, *points), plans_of(tmp_path / "diverged", base, *points)
    run_vectorized(whole)

    def diverge(module: VectorizedModule) -> None:
        module.policy.weights.data[1, 0] = weight

    with monkeypatch.context() as patched:
        at_step(patched, 5, diverge)
        outcome = run_vectorized(plans)
    assert isinstance(outcome[plans[1].id], NonFiniteError)
    assert RunDir.of(tmp_path / "diverged", plans[1].id).record()["status"] == "diverged"
    for i in (0, 2):
        rows, weights, _ = result(tmp_path / "diverged", plans[i].id)
        rows_whole, weights_whole, _ = result(tmp_path / "whole", plans[i].id)
        assert rows[-1] == pytest.approx(rows_whole[-1], rel=1e-5, abs=1e-5)
        torch.testing.assert_close(weights, weights_whole, rtol=1e-5, atol=1e-5)


def test_stopped_while_vectorized_and_resumed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = (["seed=1"], ["seed=2"])
    whole, plans = plans_of(tmp_path / "whole", LAB, *points), plans_of(tmp_path / "stopped", LAB, *points)
    run_vectorized(whole)
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda module: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run_vectorized(plans)
    assert run_plan(plans[1])["status"] == "done"
    run = RunDir.of(tmp_path / "stopped", plans[1].id)
    assert run.record()["attempt"] == 2
    assert [row["train/global_step"] for row in read_rows(run.metrics) if "train/loss" in row][:6] == [1, 2, 3, 4, 5, 6]
    losses, expected = (
        [row["train/loss"] for row in read_rows(RunDir.of(root, plans[1].id).metrics) if "train/loss" in row]
        for root in (tmp_path / "stopped", tmp_path / "whole")
    )
    assert losses == pytest.approx(expected, rel=1e-5)


def test_points_of_a_vectorized_run_that_fails_are_run_one_by_one(
    alignlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(module: VectorizedModule) -> None:
        raise MemoryError("too little for all of them")

    GlobalHydra.instance().clear()
    at_step(monkeypatch, 3, full)
    command = ["train", *BANDIT, "trainer.max_steps=5", "sweep.name=b", "hydra/launcher=vectorized", "-m", "seed=1,2"]
    found = alignlab(*command)
    assert found.code == 0, found.err
    assert "are run one by one: too little for all of them" in found.err
    records = [json.loads(file.read_text()) for file in Path("outputs/runs").glob("*/run.json")]
    assert [(r["status"], r["attempt"]) for r in records] == [("done", 2), ("done", 2)]


def test_a_run_in_other_hands_or_begun_alone_is_passed_over(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, LAB, ["seed=1"], ["seed=2"], ["seed=3"])
    begun = RunDir.of(tmp_path, plans[1].id)
    begun.checkpoint.parent.mkdir(parents=True)
    begun.checkpoint.write_bytes(b"")
    with RunDir.of(tmp_path, plans[0].id).lock():
        assert run_vectorized(plans) == {plans[2].id: None}


def test_points_are_tracked_apart(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, [*LAB, "tracking=wandb", "trainer.max_steps=2"], ["seed=1"], ["seed=2"])
    assert run_vectorized(plans) == {point.id: None for point in plans}
    for point in plans:
        (folder,) = RunDir.of(tmp_path, point.id).path.glob("wandb/offline-run-*")
        assert folder.name.endswith(point.id)


def test_from_the_command_line(alignlab: Any) -> None:
    """A sweep with `hydra/launcher=vectorized`: its runs, table and groups, and a refusal before anything starts."""
    GlobalHydra.instance().clear()  # the command line makes its own
    command = ["train", *BANDIT, "trainer.max_steps=20", "sweep.name=b", "hydra/launcher=vectorized", "-m"]
    found = alignlab(*command, "objective.tau=0.1,0.5", "seed=1,2")
    assert found.code == 0, found.err
    records = [json.loads(file.read_text()) for file in Path("outputs/runs").glob("*/run.json")]
    assert {(r["status"], r["sweep"], r["stacked"]) for r in records} == {("done", "b", 4)}
    assert any("objective.tau=0.5" in r["overrides"] for r in records)
    assert Path("outputs/sweeps/b/table.md").read_text().count("| done | ipo-") == 4
    assert all(f"; {r['id']}): done" in found.out for r in records), "each point is printed when it ends"
    for run in (RunDir.of("outputs", r["id"]) for r in records):
        ends = [line for line in run.log.read_text().splitlines() if ": done, in " in line]
        assert len(ends) == 1, "a log has only its own run"
        assert run.id in ends[0]
        assert "4 points as one model: starting" in run.log.read_text()
    refused = alignlab(*command, "output_root=other", "objective.tau=0.1,0.5", "model.dtype=float32,bfloat16")
    assert refused.code == 2
    assert "rounds differently when vectorized [point 1, 3]" in refused.err
    assert not list(Path("other").glob("runs/*"))


@pytest.mark.slow  # 15 s, because the processes import all libraries
def test_on_two_cores(alignlab: Any) -> None:
    """The only group is split between two processes. Each point ends as in one process."""
    GlobalHydra.instance().clear()  # the command line makes its own
    command = ["train", *BANDIT, "trainer.max_steps=20", "sweep.name=b", "launcher=vectorized"]
    points = ["-m", "objective.tau=0.1,0.5", "seed=1,2"]
    losses = {}
    for at_once, points_together in ((1, 4), (2, 2)):
        found = alignlab(*command, f"launcher.at_once={at_once}", f"output_root=on{at_once}", *points)
        assert found.code == 0, found.err
        records = [json.loads(file.read_text()) for file in Path(f"on{at_once}/runs").glob("*/run.json")]
        assert {(r["status"], r["stacked"]) for r in records} == {("done", points_together)}
        assert len({r["pid"] for r in records}) == at_once
        losses[at_once] = {r["id"]: r["summary"]["train/loss"] for r in records}
    assert losses[1] == pytest.approx(losses[2], abs=1e-6)


def test_processes_are_counted_from_nothing() -> None:
    with pytest.raises(ConfigError, match=r"launcher.at_once = -1\n +must be at least 0"):
        VectorizedLauncher(at_once=-1)
