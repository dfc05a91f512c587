"""`alignlab test-plugin` composes every option of a plug-in and runs the contracts on its parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_plugins import TEMPLATE

CLI = Callable[..., Any]


@pytest.mark.slow
def test_the_template_keeps_all_contracts(alignlab: CLI) -> None:
    shutil.copytree(TEMPLATE / "my_parts", "my_parts")
    found = alignlab("test-plugin", "./my_parts")
    assert found.code == 0, found.out
    lines = found.out.splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "benchmark=additions", "callback=weight_norm", "data=sums", "experiment=lab_squared_hinge", "judge=shorter",
        "metric=margin_spread", "objective=squared_hinge", "reward=shorter", "tracking=lines", "sweep=hinge_beta",
        "optim.schedule=half",
    ]  # fmt: skip
    assert "  objective=squared_hinge: 18 contracts kept" in lines


def test_what_is_broken_is_told(alignlab: CLI) -> None:
    """A loss that forgets the mask, an option that can't be chosen, a part without a YAML file, a value of the user."""
    for name in ("objectives", "conf/objective", "conf/experiment", "conf/data", "judges"):
        Path("broken", name).mkdir(parents=True)
    code = (TEMPLATE / "my_parts/objectives/squared_hinge.py").read_text()
    wrong = "return batch.chosen.tokens.float().mean(1)"  # it also has the wrong sign
    Path("broken/objectives/squared_hinge.py").write_text(
        code.replace("return squared_hinge_loss(*self.scores(batch), beta=self.beta)", wrong)
    )
    shutil.copy(TEMPLATE / "my_parts/conf/objective/squared_hinge.yaml", "broken/conf/objective/squared_hinge.yaml")
    shutil.copy(TEMPLATE / "my_parts/judges/shorter.py", "broken/judges/shorter.py")
    bare = "from alignlab.objectives.base import WithReference\n\nclass Bare(WithReference):\n    pass\n"
    Path("broken/objectives/bare.py").write_text(bare)
    Path("broken/conf/objective/bare.yaml").write_text("defaults:\n  - /schema/objective/bare@_here_\n")
    Path("broken/conf/experiment/wrong.yaml").write_text("# @package _global_\nobjective:\n  beta: -1\n")
    Path("broken/conf/data/mine.yaml").write_text("defaults:\n  - /schema/data/pairs@_here_\n  - _self_\npath: ???\n")
    found = alignlab("test-plugin", "broken")
    assert found.code == 1
    assert "data=mine: can be chosen; its contracts were not tested, because it needs data.path=..." in found.out
    assert "objective=squared_hinge: Padding, which is NaN here, changes nothing" in found.out
    assert "if bad ones do: is a sign wrong?" in found.out
    assert "address" not in found.out, "an objective of one's own needs no paper"
    assert "  objective=bare: can't be chosen\n    plugins = " in found.out, "the other parts are tested all the same"
    assert "objectives/bare.py: class Bare lacks the class attribute requires" in found.out
    assert "experiment=wrong: can't be chosen" in found.out
    assert "must be greater than 0" in found.out
    assert "broken.judges.shorter can't be chosen: there is no conf/judge/shorter.yaml" in found.out


def test_a_wrong_command_line(alignlab: CLI) -> None:
    assert alignlab("test-plugin").code == 2
    assert "usage: alignlab test-plugin" in alignlab("test-plugin", "--help").out
    missing = alignlab("test-plugin", "./nowhere")
    assert missing.code == 2
    assert "there is no such folder" in missing.err
    Path("single").touch()
    for name in ("single", "./single"):
        found = alignlab("test-plugin", name)
        assert (found.code, "is a file; a plug-in is a folder, or an installed package" in found.err) == (2, True)
    assert "The gradient is the finite difference of the loss" in alignlab("test-plugin", "--list").out
