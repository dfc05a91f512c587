"""Searches: suggestions, results of trials, and that an interrupted search ends like an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alignlab.errors import ConfigError
from alignlab.runs.directory import RunDir
from alignlab.training.pruning import PruningThresholds
from tests.lab_runs import LAB

optuna = pytest.importorskip("optuna", reason='pip install "alignlab[search]"')
from alignlab.sweep.search import Axis, Options, Search, _importance, sampler  # noqa: E402

Run = Callable[..., Any]
BETA = "objective.beta=tag(log,interval(0.05,2))"
SHORT = [*LAB, "trainer.max_steps=6", "sweeper=optuna", "sweep.name=s"]
OPTIONS = Options(
    metric="eval/loss", direction="minimize", n_trials=4, at_once=1, startup=2, seed=1, prune=False, prune_after=2,
    storage="",
)  # fmt: skip


def axis(text: str) -> Axis:
    (override,) = OverridesParser.create().parse_overrides([text])
    return Axis.of(override)


def found() -> dict[str, Any]:
    return dict(json.loads(Path("outputs/sweeps/s/search.json").read_text()))


def trials(columns: list[str]) -> list[list[Any]]:
    return [[trial.get(column) for column in columns] for trial in found()["trials"]]


def attempts() -> dict[str, int]:
    return {f.parent.name: json.loads(f.read_text())["attempt"] for f in Path("outputs/runs").glob("dpo-*/run.json")}


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("a=interval(0.5,2)", "FloatDistribution(high=2.0, log=False, low=0.5, step=None)", "a: 0.5 to 2"),
        ("a=tag(log,interval(0.5,2))", "FloatDistribution(high=2.0, log=True, low=0.5, step=None)", "logarithmic"),
        ("a=int(interval(1,8))", "IntDistribution(high=8, log=False, low=1, step=1)", "a: 1 to 8 in steps of 1"),
        ("a=range(1,8,3)", "IntDistribution(high=7, log=False, low=1, step=3)", "a: 1 to 7 in steps of 3"),
        ("a=range(0,1,0.3)", "FloatDistribution(high=0.9, log=False, low=0.0, step=0.3)", "0 to 0.9 in steps"),
        ("a=range(1,0,-0.5)", "FloatDistribution(high=1.0, log=False, low=0.5, step=0.5)", "0.5 to 1 in steps"),
        ("a=range(0,1,0.25)", "FloatDistribution(high=0.75, log=False, low=0.0, step=0.25)", "0.75 in steps of 0.25"),
        ("a=choice(x,0.1,true)", "CategoricalDistribution(choices=('x', '0.1', 'True'))", "a: one of x, 0.1, True"),
        ("a=x,y", "CategoricalDistribution(choices=('x', 'y'))", "a: one of x, y"),
    ],
)
def test_axes_in_hydras_syntax(text: str, values: str, said: str) -> None:
    assert str(axis(text).values) == values
    assert said in str(axis(text))


@pytest.mark.parametrize(
    "text", ["a=tag(log,interval(0,1))", "a=interval(2,1)", "a=tag(sqrt,interval(1,2))", "a=range(5,1)", "a=range(3),7"]
)
def test_axes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="can't be searched over"):
        axis(text)


def test_numbers_are_trained_with_in_six_digits() -> None:
    assert axis("a=interval(0,1)").setting(1 / 3) == "a=0.333333"
    assert axis("a=interval(0,1)").setting(1.23456789e-7) == "a=1.23457e-07"
    assert axis("a=int(interval(1,8))").setting(3) == "a=3"


def test_a_trial_is_drawn_by_its_number_alone() -> None:
    def draw(seed: int, number: int) -> float:
        study = optuna.create_study(sampler=sampler(Options(**{**OPTIONS.__dict__, "seed": seed}), number))
        return float(study.ask({"a": axis("a=interval(0,1)").values}).params["a"])

    assert draw(1, 3) == draw(1, 3)
    assert len({draw(seed, number) for seed in (1, 2) for number in range(4)}) == 8


def test_the_bar_is_the_median_of_enough_runs() -> None:
    earlier = [{5: 0.5, 10: 0.4}, {5: 0.7, 10: 0.3}, {5: 0.6}]
    thresholds = PruningThresholds.of("eval/loss", minimize=True, earlier=earlier, least=3)
    assert thresholds.medians == {5: 0.6}
    assert thresholds.verdict(5, 0.61).startswith(
        "pruned at step 5: eval/loss 0.61, the median of earlier runs there is 0.6"
    )
    assert thresholds.verdict(5, 0.6) == thresholds.verdict(5, 0.1) == thresholds.verdict(10, 9.0) == ""
    turned = PruningThresholds.of("eval/loss", minimize=False, earlier=earlier, least=2)
    assert turned.verdict(10, 0.34)
    assert not turned.verdict(10, 0.36), "the median of two is their mean"


def test_everything_wrong_is_told_before_the_first_trial(alignlab: Run) -> None:
    told = ["sweeper.metric=eval/gain", "sweeper.n_trials=0", "sweeper.direction=up"]
    result = alignlab("train", *SHORT, *told, "-m", "optim.lr=interval(-1,1)", "objective.label_smoothing=0.1,0.7")
    assert result.code == 2
    for said in ("sweeper.metric = eval/gain", "sweeper.n_trials = 0", "sweeper.direction = up", "optim.lr = -1"):
        assert said in result.err
    assert "objective.label_smoothing = 0.7" in result.err
    assert not Path("outputs").exists()
    for name, value in (("zip", "[[objective.beta,seed]]"), ("exclude", "[{seed:1}]")):
        asked = alignlab("check", *SHORT, "-m", BETA, f"sweep.{name}={value}")
        assert (asked.code, f"sweep.{name}" in asked.err, "is for grids" in asked.err) == (2, True, True)
    assert "type an interval" in alignlab("train", *SHORT, "-m", "seed=1").err
    pruned = alignlab("train", *SHORT, "sweeper.prune=true", "-m", BETA)
    assert (pruned.code, "trainer.eval_every=50" in pruned.err) == (2, True)
    stacked = alignlab(
        "check",
        *SHORT,
        "sweeper.prune=true",
        "trainer.eval_every=2",
        "trainer.compile=never",
        "launcher=vectorized",
        "-m",
        BETA,
    )
    assert (stacked.code, "sweeper.prune stops some earlier" in stacked.err) == (2, True)
    checked = alignlab("check", *SHORT, "-m", BETA)
    assert (checked.code, "objective.beta: 0.05 to 2, logarithmic" in checked.out) == (0, True)
    assert not Path("outputs").exists()


def test_what_is_typed_later_counts(alignlab: Run) -> None:
    told = alignlab("check", *SHORT, "objective.beta=0.7", "-m", BETA, "optim.lr=interval(1e-4,1e-3)").out
    assert ("optim.lr: " in told, "objective.beta: 0.05 to 2" in told) == (True, True)
    fixed = alignlab("check", *SHORT, "-m", BETA, "optim.lr=interval(1e-4,1e-3)", "objective.beta=0.7").out
    assert ("optim.lr: " in fixed, "objective.beta" in fixed) == (True, False)


def test_what_is_better_of_a_metric_is_known_or_asked_for(alignlab: Run) -> None:
    def said(*options: str) -> Any:
        return alignlab("check", *SHORT, *options, "-m", BETA)

    assert "maximize eval/rewards/accuracies" in said("sweeper.metric=eval/rewards/accuracies").out
    assert "minimize exact/frontier_gap" in said("sweeper.metric=exact/frontier_gap").out
    unsaid = said("sweeper.metric=exact/kl")
    assert (unsaid.code, "must be minimize or maximize: exact/kl does not have a better direction" in unsaid.err) == (
        2,
        True,
    )
    assert "maximize exact/kl" in said("sweeper.metric=exact/kl", "sweeper.direction=maximize").out
    assert "the other direction is better" in said("sweeper.direction=maximize").err


def at_trial(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the run of a trial end in this way as it begins. Trials of this command are counted from 1."""
    from alignlab.modules.preference import PreferenceModule

    begun: list[int] = []
    compute_logps = PreferenceModule.compute_logps

    def ending(self: PreferenceModule, *args: Any) -> Any:
        if self.global_step == 0:
            begun.append(1)
        if len(begun) == number:
            raise error
        return compute_logps(self, *args)

    monkeypatch.setattr(PreferenceModule, "compute_logps", ending)


@pytest.mark.usefixtures("sft_parent")
def test_a_search_that_was_cut_off_ends_as_a_whole_one(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", *SHORT, "sweeper.startup=1", "sweeper.metric=exact/reward", "sweeper.direction=maximize"]
    command += ["-m", BETA, "optim.lr=3e-3,1e-2"]
    assert alignlab(*command, "sweeper.n_trials=3", "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_trial(patched, 2, KeyboardInterrupt())
        assert alignlab(*command, "sweeper.n_trials=2").code == 130
    assert trials(["state"]) == [["complete"], ["running"]]
    before = attempts()
    result = alignlab(*command, "sweeper.n_trials=3")
    assert result.code == 0, result.err
    columns = ["trial", "state", "value", "run", "objective.beta", "optim.lr"]
    whole = json.loads(Path("whole/sweeps/s/search.json").read_text())
    assert trials(columns) == [[trial[c] for c in columns] for trial in whole["trials"]]
    assert len({beta for _, _, _, _, beta, _ in trials(columns)}) == 3
    first = found()["trials"][0]["run"]
    assert attempts()[first] == before[first] == 1
    best = max(found()["trials"], key=lambda t: t["value"])
    assert found()["best"] == best["trial"]
    assert f"({best['run']}), exact/reward {best['value']:.4g}" in result.out
    again = attempts()
    assert alignlab(*command, "sweeper.n_trials=3").code == 0
    assert attempts() == again, "there are enough trials"
    other = alignlab(*command, "sweeper.metric=eval/loss")
    assert (other.code, "which differs in metric" in other.err) == (2, True)
    other = alignlab(*command, "trainer.max_steps=7")
    assert (other.code, "differs in first corner" in other.err) == (2, True)


@pytest.mark.usefixtures("sft_parent")
def test_equal_trials_of_a_batch_have_one_run_and_an_end_each(alignlab: Run) -> None:
    """There is one value to choose from, so all three trials are the same."""
    command = [
        "train",
        *SHORT,
        "sweeper.n_trials=3",
        "sweeper.at_once=2",
        "-m",
        "objective.beta=choice(0.1)",
    ]
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert trials(["state"]) == [["complete"]] * 3
    assert list(attempts().values()) == [1]


@pytest.mark.usefixtures("sft_parent")
def test_a_trial_that_was_cut_off_before_it_had_settings(alignlab: Run) -> None:
    command = ["train", *SHORT, "sweeper.n_trials=1", "-m", BETA]
    assert alignlab(*command).code == 0
    study = optuna.load_study(study_name="s", storage="sqlite:///outputs/sweeps/s/study.db")
    study.ask()
    command[command.index("sweeper.n_trials=1")] = "sweeper.n_trials=2"
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert trials(["state"]) == [["complete"], ["running"], ["complete"]]


@pytest.mark.usefixtures("sft_parent")
def test_what_another_command_has_told_is_left(alignlab: Run) -> None:
    command = ["train", *SHORT, "sweeper.n_trials=1", "-m", BETA]
    assert alignlab(*command).code == 0
    study = optuna.load_study(study_name="s", storage="sqlite:///outputs/sweeps/s/study.db")
    Search._store_result(None, study, 0, None)  # type: ignore[arg-type]
    assert study.trials[0].user_attrs["status"] == "done"


@pytest.mark.usefixtures("sft_parent")
def test_what_failed_is_tried_again_first(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", *SHORT, "sweeper.n_trials=2", "-m", BETA]
    with monkeypatch.context() as patched:
        at_trial(patched, 1, RuntimeError("out of luck"))
        result = alignlab(*command)
    assert result.code == 3
    assert "trial 0: RuntimeError: out of luck" in result.err
    assert trials(["state", "reason"]) == [["fail", "RuntimeError: out of luck"], ["complete", ""]]
    assert alignlab(*command).code == 0
    assert trials(["state"]) == [["fail"], ["complete"], ["complete"]]
    (failed, other, again) = trials(["run", "objective.beta"])
    assert failed == again != other
    table = pd.read_csv("outputs/sweeps/s/table.csv")
    assert table["run"].tolist() == [other[0], again[0]], "a run has one row"
    assert (table["status"] == "done").all()


@pytest.mark.usefixtures("sft_parent")
def test_an_evaluation_that_fails_is_told(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial has its value. The search ends with exit code 3, and the same command evaluates the run."""
    command = ["train", *SHORT, "evaluation.at_end=true", "sweeper.n_trials=1", "-m", BETA]

    def fail(*given: Any) -> Any:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr("alignlab.pipeline.evaluate.evaluate", fail)
        result = alignlab(*command)
    assert result.code == 3
    assert "1 of 1 trial failed" in result.err
    assert "trial 0: its evaluation failed: RuntimeError: out of luck" in result.err
    assert [t["state"] for t in found()["trials"]] == ["complete"]
    again = alignlab(*command)
    assert again.code == 0, again.err
    (record,) = (RunDir.of("outputs", name).record() for name in attempts())
    assert record["evaluated"]
    assert record["attempt"] == 1


def test_what_moved_the_metric_is_said_of_enough_trials() -> None:
    study = optuna.create_study()
    spread = optuna.distributions.FloatDistribution(0.0, 1.0)
    for i in range(20):
        assert _importance(study) == {}
        params = {"moves": i / 20, "idle": (7 * i % 20) / 20}
        study.add_trial(optuna.create_trial(params=params, distributions=dict.fromkeys(params, spread), value=i / 20))
    found = _importance(study)
    assert found["moves"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.usefixtures("sft_parent")
def test_diverged_and_pruned_are_results(alignlab: Run) -> None:
    """Two of four learning rates, in random order, blow up. A run that is behind is stopped and can be continued."""
    command = ["train", *SHORT, "trainer.eval_every=2", "sweeper.n_trials=5", "sweeper.startup=5", "sweeper.seed=3"]
    command += ["sweeper.prune=true", "sweeper.prune_after=1", "-m", "optim.lr=tag(log,interval(1e-4,1e8))"]
    result = alignlab(*command)
    assert result.code == 0, result.err
    states = {t["status"]: t for t in found()["trials"]}
    assert {t["state"] for t in found()["trials"] if t["status"] != "done"} == {"pruned"}
    assert "not finite" in states["diverged"]["reason"]
    assert states["interrupted"]["reason"].startswith("pruned at step")
    run = RunDir.of("outputs", states["interrupted"]["run"])
    assert run.checkpoint.is_file()
    assert found()["importance"] == {}, "two trials tell nothing about an axis"
    assert "importance of the axes" not in result.out
    best = min((t for t in found()["trials"] if t["status"] == "done"), key=lambda t: t["value"])
    assert found()["best"] == best["trial"]
    alone = [o for o in SHORT if not o.startswith("sweeper")]
    lr = f"optim.lr={states['interrupted']['optim.lr']:.6g}"
    assert alignlab("train", *alone, "trainer.eval_every=2", lr).code == 0
    assert (run.state()["status"], run.state()["attempt"]) == ("done", 2), "without the bar it goes on"


@pytest.mark.parametrize("kind", ["bytes", *(pytest.param(k, marks=pytest.mark.slow) for k in ("value", "settings"))])
@pytest.mark.usefixtures("sft_parent")
def test_a_damaged_study_is_begun_anew_and_trains_nothing_twice(kind: str, alignlab: Run) -> None:
    import sqlite3

    command = ["train", *SHORT, "-m", BETA, "sweeper.n_trials=2", "sweeper.seed=1"]
    assert alignlab(*command).code == 0
    before, ran = trials(["value", "run", "objective.beta"]), attempts()
    file = Path("outputs/sweeps/s/study.db")
    if kind == "bytes":
        content = bytearray(file.read_bytes())
        content[1000:9000] = bytes(8000)
        file.write_bytes(bytes(content))
    else:
        table, column = {"value": ("trial_values", "value"), "settings": ("trial_params", "param_value")}[kind]
        with sqlite3.connect(file) as database:
            database.execute(f"update {table} set {column} = {column} * 1.5")
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert "and the search starts anew and reuses finished runs; it is kept as study.db.damaged" in result.err
    assert trials(["value", "run", "objective.beta"]) == before
    assert attempts() == ran
    assert "starts anew" not in alignlab(*command).err
