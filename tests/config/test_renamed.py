"""Old names of options still work. Each is logged once, with its new name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from alignlab.config.renamed import OPTIONS, _log_new_name, with_new_names

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_told_yet() -> Iterator[None]:
    _log_new_name.cache_clear()
    yield
    _log_new_name.cache_clear()


def test_new_names_are_options_and_old_ones_are_not(hydra_conf: None) -> None:
    loader = GlobalHydra.instance().config_loader()
    for group, names in OPTIONS.items():
        options = set(loader.get_group_options(group))
        assert options >= set(names.values()), group
        assert not options & set(names), group


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("experiment=lab", "experiment=lab_dpo"),
        ("+experiment=rlhf", "+experiment=lab_ppo"),
        ("reward=planted,lab_model,gold", "reward=lab_gold,lab_reward_model,gold"),
        ("judge=[support_desk,llm]", "judge=[support_desk_gold,llm]"),
        ("hydra/launcher=here", "hydra/launcher=serial"),
        ("reward=choice(planted,gold)", "reward=choice(lab_gold,gold)"),
        ("model=lab", "model=lab"),
        ("data.path=lab", "data.path=lab"),
        ("experiment=mine/lab", "experiment=mine/lab"),
        ("experiment=my_lab", "experiment=my_lab"),
        ("--help", "--help"),
    ],
)
def test_only_old_names_of_their_own_group_are_replaced(old: str, new: str) -> None:
    assert with_new_names(old) == new


def test_the_command_line_says_each_new_name_once(alignlab: Run) -> None:
    words = ["model.hidden_size=32", "-m", "seed=1,2"]
    new = alignlab("check", "experiment=lab_dpo", "launcher=vectorized", *words)
    old = alignlab("check", "experiment=lab", "launcher=stacked", *words)
    assert (old.code, old.out) == (0, new.out)
    assert new.err == ""
    assert [line[9:] for line in old.err.splitlines()] == [
        "experiment=lab is called lab_dpo now; the old name works until 0.3",
        "launcher=stacked is called vectorized now; the old name works until 0.3",
    ]


def test_an_evaluation_knows_old_names_too(alignlab: Run) -> None:
    found = alignlab("evaluate", "run=x", "judge=support_desk")
    assert "judge=support_desk is called support_desk_gold now" in found.err
    assert "  run = x" in found.err
    assert "  judge" not in found.err


def test_a_sweep_file_of_ones_own_may_hold_old_names(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    text = """# @package _global_
defaults:
  - override /experiment: {experiment}
  - override /hydra/launcher: {launcher}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      reward: {rewards}
"""
    names = {"old": ("rlhf", "here", "planted,lab_model"), "new": ("lab_ppo", "serial", "lab_gold,lab_reward_model")}
    for file, (experiment, launcher, rewards) in names.items():
        filled = text.format(experiment=experiment, launcher=launcher, rewards=rewards)
        (tmp_path / "sweeps" / f"{file}.yaml").write_text(filled)
    old, new = (alignlab("check", f"sweep={file}") for file in ("old", "new"))
    assert (old.code, old.out.replace("sweep=old", "sweep=new")) == (0, new.out)
    assert len(new.out.split("ppo-")) == 5, "two points, each named twice"
    assert len(old.err.splitlines()) == 4
    assert "launcher=here is called serial now" in old.err


def test_an_option_of_ones_own_keeps_an_old_name(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /objective: ipo\n"
    (tmp_path / "mine" / "experiment" / "lab.yaml").write_text(text)
    found = alignlab("check", "experiment=lab", "--config-dir", "mine")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("ipo-")


def test_the_changelog_has_every_old_name() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "CHANGELOG.md").read_text()
    for group, names in OPTIONS.items():
        for old, new in names.items():
            assert f"| `{group.removeprefix('hydra/')}` | `{old}` | `{new}` |" in text
