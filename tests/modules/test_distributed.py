"""Two processes with half of every batch each are one process with the whole of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from alignlab.data.collate import collate_pairs
from alignlab.data.datamodule import AlignmentData
from tests.modules.test_modules import PAIRS, comparable, dpo


class Write(pl.Callback):
    """Every step's and the evaluation's metrics, written by the first process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, trainer: Any, row: dict[str, float]) -> None:
        if trainer.is_global_zero:
            with self.file.open("a") as handle:
                handle.write(json.dumps(comparable(row)) + "\n")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.write(trainer, pl_module.last_metrics)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        self.write(trainer, pl_module.evaluate(data.collate(batch) for batch in data.held_out_batches()))
        if trainer.is_global_zero:
            torch.save(pl_module.policy.state_dict(), self.file.with_suffix(".pt"))


@pytest.mark.parametrize("micro", [8, 3])
def test_two_processes_are_one(micro: int, tmp_path: Path) -> None:
    for devices in (1, 2):
        data = AlignmentData(PAIRS, PAIRS, collate_pairs, batch_size=8, micro_batch_size=micro, steps=3, seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_steps=3, accelerator="cpu", devices=devices, strategy="ddp_fork" if devices == 2 else "auto",
                callbacks=[Write(tmp_path / f"{devices}.jsonl")], logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
                use_distributed_sampler=False, default_root_dir=tmp_path,
            )  # fmt: skip
            trainer.fit(dpo(), datamodule=data)
    one, two = ([json.loads(r) for r in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in (1, 2))
    assert len(one) == 4
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=2e-5, abs=2e-6)
    weights = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-5, rtol=0)
