"""The contract of all objectives. They are found by discovery, so a new file in alignlab/objectives is tested too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from alignlab.config.composer import without_hydra
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_train
from alignlab.config.registry import schemas
from alignlab.contracts.base import Contract, promise
from alignlab.contracts.objectives import CONTRACTS, padding_changes_nothing, strength_is_declared
from alignlab.objectives.base import Objective
from alignlab.objectives.dpo import DPO
from tests.config.test_conf_files import NEEDS

OBJECTIVES = sorted(schemas()["objective"])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def composed() -> dict[str, Objective]:
    """Every objective with the values that its YAML chooses."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        asked = {name: [f"objective={name}", *NEEDS.get(f"objective/{name}", [])] for name in OBJECTIVES}
        return {name: to_train(without_hydra(compose("train", words))).objective for name, words in asked.items()}


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest, composed: dict[str, Objective]) -> Objective:
    return composed[request.param]


def test_every_objective_has_a_yaml_and_a_closed_form_test() -> None:
    assert len(OBJECTIVES) >= 36
    for name in OBJECTIVES:
        assert (ROOT / "conf/objective" / f"{name}.yaml").is_file(), name
        test = ROOT / "tests/objectives" / f"test_{name}.py"
        assert test.is_file(), f"{name} has no closed-form test"
        assert f"objectives.{name} import" in test.read_text(), f"{test} does not test {name}"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_objective_keeps_every_contract(contract: Contract, objective: Objective) -> None:
    assert list(contract(objective)) == []
    assert len(promise(contract)) > 20


def test_broken_contracts_are_told() -> None:
    class Unmasked(DPO):
        def __call__(self, batch: object) -> torch.Tensor:
            return batch.chosen.tokens.float().mean(1)  # type: ignore[attr-defined, no-any-return]

    @dataclasses.dataclass
    class Anything(DPO):
        def problems(self):  # type: ignore[no-untyped-def]
            return iter(())

    (told,) = padding_changes_nothing(Unmasked(beta=0.1))
    assert "use the mask" in told
    (told,) = strength_is_declared(Anything(beta=0.1))
    assert told == "beta=-1 is not refused"
