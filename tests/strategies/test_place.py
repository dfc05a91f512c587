"""Where torchrun and SLURM say that this process stands."""

from __future__ import annotations

import pytest

from alignlab.strategies.place import ALONE, Place, given_place

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
}  # fmt: skip
SRUN = {
    "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3", "SLURM_PROCID": "4", "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "6",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, ALONE),
        (TORCHRUN, Place(rank=5, world=8, local=1, each=4)),
        (SRUN, Place(rank=4, world=6, local=0, each=2)),
        ({"SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ALONE),  # a script of sbatch, without srun
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ALONE),  # as submitit starts a job
        ({"RANK": "1", "WORLD_SIZE": "2"}, ALONE),  # of another program
    ],
)
def test_the_place_of_this_process(variables: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert given_place() == place


def test_nodes() -> None:
    assert (Place(5, 8, 1, 4).node, Place(5, 8, 1, 4).nodes) == (1, 2)
    assert (ALONE.node, ALONE.nodes) == (0, 1)
