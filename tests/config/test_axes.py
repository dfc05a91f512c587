"""The points of a sweep, and that all of them are checked before the first one starts, and quickly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from alignlab.config.axes import Grid, grid
from alignlab.config.composer import Composer, without_hydra
from alignlab.config.plan import plan
from alignlab.config.points import plan_points
from alignlab.config.registry import schemas
from alignlab.errors import ConfigError

Run = Callable[..., Any]


def asked(texts: Sequence[str], zipped: Any = (), excluded: Any = ()) -> Grid:
    return grid(OverridesParser.create().parse_overrides(list(texts)), zipped, excluded)


def points(found: Grid) -> list[str]:
    return [" ".join(text.split("=", 1)[1] for text in job) for job in found.jobs]


def test_all_combinations_the_last_axis_fastest() -> None:
    found = asked(["a=1,2", "b=x", "c=range(3)"])
    assert points(found) == ["1 x 0", "1 x 1", "1 x 2", "2 x 0", "2 x 1", "2 x 2"]
    assert found.axes == ["a", "c"]


def test_of_two_settings_of_a_key_the_later_one_counts() -> None:
    found = asked(["a=1,2", "b=1,2", "a=7"])
    assert found.axes == ["b"]
    assert [sorted(job) for job in found.jobs] == [["a=7", "b=1"], ["a=7", "b=2"]]


def test_a_range_has_the_numbers_that_would_be_typed() -> None:
    assert points(asked(["a=range(0.1,0.5,0.1)"])) == ["0.1", "0.2", "0.3", "0.4"], "0.1 + 0.1 + 0.1 is not 0.3"
    assert points(asked(["a=range(1e-5,4e-5,1e-5)"])) == ["1e-05", "2e-05", "3e-05"]
    assert points(asked(["a=range(3,0,-1)"])) == ["3", "2", "1"]
    assert points(asked(["a=range(-0.9,0,0.3)"])) == ["-0.9", "-0.6", "-0.3"], "and not -5.6e-17"
    assert points(asked(["a=range(-0.2,0.3,0.1)"])) == ["-0.2", "-0.1", "0.0", "0.1", "0.2"]
    assert sorted(points(asked(["a=shuffle(range(4))"]))) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a=range(3,1)", "has no values"), ("a=range(1,3),7", "a range can't be combined with other values")],
)
def test_an_axis_without_a_list_of_values(text: str, said: str) -> None:
    found = asked([text, "b=1,2"])
    assert [(p.key, p.value, said in p.allowed) for p in found.problems] == [("a", text[2:], True)]
    assert points(found) == ["1", "2"]


def test_zipped_axes_walk_together() -> None:
    found = asked(["a=1,2", "s=5,6", "b=x,y"], [["b", "a"]])
    assert points(found) == ["1 5 x", "1 6 x", "2 5 y", "2 6 y"]
    assert not found.problems


def test_excluded_combinations_are_left_out_by_what_their_values_mean() -> None:
    found = asked(["o=dpo,ipo", "s=0.1,1.0,10"], (), [{"o": "ipo", "s": [1, "1e1"]}, {"o": "dpo", "s": 0.10}])
    assert points(found) == ["dpo 1.0", "dpo 10", "ipo 0.1"]
    assert not found.problems


@pytest.mark.parametrize(
    ("zipped", "excluded", "key", "text"),
    [
        ([["a", "c"]], [], "sweep.zip", "zipped axes must have equal numbers of values; these have: a 2, c 3"),
        ([["a", "bb"]], [], "sweep.zip", "is not an axis of this sweep; there are: a, b, c"),
        ([["a"]], [], "sweep.zip", "at least two axes"),
        ([["a", "b"], ["c", "b"]], [], "sweep.zip", "names b a second time"),
        ([], [{"x": 1}], "sweep.exclude", "is not an axis"),
        ([], [{}], "sweep.exclude", "must name an axis"),
        ([], [{"a": 1, "b": [2, 7]}], "sweep.exclude", "b has no such value in this sweep; it has: 1, 2"),
        ([], [{"a": [1, 2]}], "sweep.exclude", "leaves nothing of 12 points"),
    ],
)
def test_what_can_not_be(zipped: Any, excluded: Any, key: str, text: str) -> None:
    found = asked(["a=1,2", "b=1,2", "c=1,2,3"], zipped, excluded)
    assert [p.key for p in found.problems] == [key]
    assert text in found.problems[0].allowed


def test_an_exclusion_without_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(asked(["a=1,2", "b=x,y"], [["a", "b"]], [{"a": 1, "b": "y"}]).jobs) == 2
    assert "sweep.exclude: {a:1,b:y} leaves out no point" in caplog.text


COMMANDS = [
    ["experiment=lab_dpo", "objective.beta=0.3", "seed=3"],
    ["objective=ipo", "objective.tau=0.5", "experiment=lab_dpo", "trainer.max_steps=7", "peft=lora"],
    ["experiment=lab_dpo", "sweep=noise", "data.flipped=0.1", "++trainer.batch_size=8", "optim=rmsprop"],
    ["objective=mix", "objective.parts=[{name:dpo,beta:0.1}]", "model.parent=[]", "~debug"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_composes_what_hydra_composes(command: list[str], hydra_conf: None) -> None:
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    found, problems = composer.compose(command)
    assert problems == []
    assert found == without_hydra(compose("train", command))
    again, _ = composer.compose(command)
    again.trainer.max_steps = 12345
    assert composer.compose(command)[0].trainer.max_steps != 12345, "a config of one's own"


def test_points_checked_together_have_the_ids_that_each_has_alone(hydra_conf: None) -> None:
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    jobs = [["experiment=lab_dpo", f"objective={o}", f"seed={s}"] for o in ("dpo", "kto", "sft") for s in (1, 2)]
    together = [point.id for point in plan_points(composer, jobs)]
    assert together == [plan(compose("train", job)).id for job in jobs]
    assert len(set(together)) == 6


@pytest.mark.slow  # 7 s
def test_hydra_composes_500_points_once_for_each_choice_of_groups(
    hydra_conf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they are checked in 3 to 8 s on 2 cores. If Hydra composed each of them, it would take 200 s."""
    composed: list[list[str]] = []
    load = Composer.load

    def counted(self: Composer, overrides: Sequence[str]) -> DictConfig:
        composed.append(list(overrides))
        return load(self, overrides)

    monkeypatch.setattr(Composer, "load", counted)
    betas, seeds = [0.01 * i for i in range(1, 26)], range(1, 11)
    jobs = [
        ["experiment=lab_dpo", f"objective={o}", f"strength={b:.2f}", f"seed={s}"]
        for o in ("dpo", "ipo")
        for b in betas
        for s in seeds
    ]
    plans = plan_points(Composer(GlobalHydra.instance().config_loader(), "train"), jobs)
    assert len({point.id for point in plans}) == 500
    assert len(composed) <= 3, "each objective, and the parent of all unless another test has had it composed"


BAD = {
    "unknown key": ("objective.bta=0.1,0.2", "objective.bta = 0.2"),
    "type": ("optim.lr=1e-3,fast", "optim.lr = fast"),
    "range": ("objective.beta=0.1,-1", "objective.beta = -1.0"),
    "option": ("objective=ipo,dppo", "objective = dppo"),
    "combination": ("reference=auto,adapter_off", "reference = adapter_off"),
    "contradiction": (
        "strength=0.1,0.2",
        "means objective.beta for this objective, but objective.beta=0.1 was typed too",
    ),
    "no strength": ("objective=sft,dpo", "sft has no strength"),
    "not discrete": ("data.label_scale=interval(1,2)", "is an interval, and a grid needs values"),
    "empty": ("seed=range(1,1)", "has no values"),
    "file": ("data=lab,pairs", "data.path"),
}


@pytest.mark.parametrize("case", BAD)
def test_every_class_of_bad_value_is_refused_before_the_first_point(case: str, alignlab: Run, tmp_path: Path) -> None:
    """Together with another problem of the sweep: both are shown and nothing starts."""
    axis, text = BAD[case]
    more = {"contradiction": ["objective.beta=0.1"], "no strength": ["strength=0.1"]}.get(case, [])
    result = alignlab("train", "experiment=lab_dpo", "-m", axis, "trainer.max_steps=5,0", *more)
    assert result.code == 2
    assert text in result.err
    assert "trainer.max_steps = 0" in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_in_an_axis(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)
    result = alignlab("train", "model=tiny", "data=pairs", "-m", "data.path=a.jsonl,b.jsonl", "seed=1,2")
    assert result.code == 2
    assert "data.path = b.jsonl" in result.err
    assert "no such file" in result.err
    assert "[points 2, 3]" in result.err


def test_points_that_are_one_run_are_told_and_run_once(alignlab: Run) -> None:
    result = alignlab(
        "check", "experiment=lab_dpo", "-m", "objective.beta=0.1,0.10,0.3", "trainer.micro_batch_size=8,16"
    )
    assert result.code == 0
    assert len([line for line in result.out.splitlines() if line.startswith("dpo-")]) == 2
    assert "is the same run as point 0" in result.err


@pytest.mark.parametrize("name", sorted(n for n, cls in schemas()["objective"].items() if cls.strength))
def test_strength_and_the_objectives_own_field_are_one_run(name: str, hydra_conf: None) -> None:
    field = schemas()["objective"][name].strength
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    jobs = [[f"objective={name}", *value] for value in ([f"objective.{field}=0.37"], ["strength=0.37"], [])]
    typed, meant, neither = plan_points(composer, jobs)
    assert meant.id == typed.id
    assert meant.config == typed.config
    assert getattr(meant.train.objective, field) == 0.37
    assert meant.id != neither.id


def test_strength_beside_the_same_value_is_no_contradiction(hydra_conf: None) -> None:
    words = ["strength=0.1", "objective.beta=0.10"]
    assert plan(compose("train", words), words).train.objective.reward_scale == 0.1
    words = ["strength=0.1", "objective.beta=0.2"]
    with pytest.raises(ConfigError, match="leave one of the two out"):
        plan(compose("train", words), words)


def test_a_strength_out_of_range_is_told_by_the_name_that_was_typed(hydra_conf: None) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(compose("train", ["objective=orpo", "strength=-1"]))
    (problem,) = caught.value.problems
    assert problem.key == "strength"
    assert problem.allowed.endswith("strength means objective.odds_weight for this objective")
    assert problem.type_this.startswith("strength=")
