"""alignlab in Python does what the command line does, and leaves the process as it was."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from scipy import stats

import alignlab as package
from alignlab.api import _as_choice
from alignlab.errors import ConfigError
from tests.lab_runs import LAB, records

CLI = Callable[..., Any]
TINY = ["model=bandit", "data=bandit", "tracking=none", "evaluation=off"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_import_is_light_and_names_are_found() -> None:
    code = (
        "import sys, alignlab; print(sorted({'torch', 'hydra', 'pandas', 'numpy'} & set(sys.modules)), dir(alignlab))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("[] ")
    assert all(f"'{name}'" in out for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trane'"):
        _ = package.trane


def test_no_public_name_is_hidden_by_a_room() -> None:
    """Importing a submodule sets an attribute of the package, which would replace a function of the same name."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"alignlab.{module.name}")
    assert all(callable(getattr(package, name)) for name in package.__all__ if name != "plot")
    assert callable(package.plot.frontier)


@pytest.mark.usefixtures("sft_parent")
def test_a_run_is_the_run_of_the_command_line(alignlab: CLI) -> None:
    words = ["experiment=lab_dpo", *LAB, "trainer.max_steps=3", "objective.beta=0.3"]
    run = package.train(*words)
    assert (run.status, run.config["objective"]["beta"]) == ("done", 0.3)
    before = run.record
    assert alignlab("train", *words).code == 0
    assert run.record == before, "the command line found the same run, finished"
    assert run.metrics["train/loss"].dropna().iloc[0] == pytest.approx(np.log(2), abs=1e-6)
    model, tokenizer = run.policy()
    ids = tokenizer("ab", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        assert model(ids).logits.shape[:2] == (1, 2)
    assert [found.id for found in package.find_runs("objective=dpo", "objective.beta<=0.3")] == [run.id]
    assert package.find_runs("objective.beta>0.3") == []
    (row,) = package.evaluate(run, "evaluation.prompts=2").to_dict("records")
    assert row["eval/kl_ref/sequence_k1"] == run.summary["eval/kl_ref/sequence_k1"]
    assert Path(row["folder"]).is_dir()


def test_a_sweep_is_a_table_of_settings(alignlab: CLI) -> None:
    axes = {"objective": ["dpo", "ipo"], "strength": [0.1, 0.5], "seed": [1, 2, 3]}
    table = package.run_sweep(*TINY, "trainer.max_steps=5", axes=axes)
    assert list(zip(table["objective"], table["strength"], table["done"], strict=True)) == [
        ("dpo", 0.1, 3), ("dpo", 0.5, 3), ("ipo", 0.1, 3), ("ipo", 0.5, 3),
    ]  # fmt: skip
    own = [
        found["summary"]["exact/kl"]
        for name, found in records().items()
        if name.startswith("ipo") and found["config"]["objective"]["tau"] == 0.5
    ]
    low, high = stats.t.interval(0.95, 2, np.mean(own), stats.sem(own))
    last = table.iloc[3]
    assert [last["exact/kl"], last["exact/kl low"], last["exact/kl high"]] == pytest.approx([np.mean(own), low, high])
    assert table.attrs["answer"]
    assert package.read_sweep(table.attrs["name"]).equals(table)
    assert len(package.plot.strength(table.attrs["folder"], metric="exact/kl").axes) == 1
    assert alignlab("runs", f"sweep={table.attrs['name']}").out.count("done") == 12


def test_everything_wrong_is_raised_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        package.train(*TINY, "objective.beta=-1", "trainer.max_step=3")
    assert {problem.key for problem in raised.value.problems} == {"objective.beta", "trainer.max_step"}
    assert len(raised.traceback) <= 3, "a notebook shows the message, not the frames of Hydra"
    with pytest.raises(ConfigError, match=r"alignlab\.run_sweep"):
        package.train(*TINY, "sweep=dpo_beta")
    axes: Any
    for axes in ({"seed": []}, {"seed": "12"}, {"seed": 1}, {"seed": None}, ["seed"], "seed=1,2"):
        with pytest.raises(ConfigError, match=r"must (be a list of at least one value|map keys to lists of values)"):
            package.run_sweep(*TINY, axes=axes)
    with pytest.raises(ConfigError, match="is no text such as"):
        package.find_runs(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'"objective\.beta=0\.3"'):
        package.train({"objective.beta": 0.3})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be greater than 0"):
        package.run_sweep(*TINY, axes={"objective.beta": [0.1, -1]})
    for flag in ("--help", "-c", "--cfg=job", "--version", "hydra.mode=MULTIRUN"):
        for function in (package.train, package.run_sweep):
            with pytest.raises(ConfigError, match="is for the command line only"):
                function(*TINY, flag)
    with pytest.raises(ConfigError, match="is for the command line only"):
        package.run_sweep(*TINY, axes={"-m": [1]})
    with pytest.raises(ConfigError, match="is the same for all runs of a sweep"):
        package.run_sweep(*TINY, axes={"output_root": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"type find_runs\(..., output_root=...\)"):
        package.find_runs("status=done", "output_root=elsewhere")
    with pytest.raises(ConfigError, match="is no path"):
        package.find_runs(output_root="a\0b")
    with pytest.raises(ConfigError, match="there is no such run"):
        package.evaluate("a,b/ä#;~/runs/dpo-0")
    with pytest.raises(ConfigError, match="there is none below outputs"):
        package.read_sweep("a" * 300)
    assert not Path("outputs").exists(), "nothing was started"


def test_threads_take_turns() -> None:
    """Hydra keeps its state for the whole process. Signals are handled by the main thread only."""
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda seed: package.train(*TINY, "trainer.max_steps=2", f"seed={seed}"), (1, 2, 3)))
    assert [(run.status, run.config["seed"]) for run in runs] == [("done", 1), ("done", 2), ("done", 3)]


def test_the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook", "--its=own"])
    with hydra.initialize(version_base="1.3", config_path=None):
        mine = GlobalHydra.instance().hydra
        assert package.train(*TINY, "trainer.max_steps=1").status == "done"
        assert GlobalHydra.instance().hydra is mine
        assert sys.argv == ["notebook", "--its=own"]


@pytest.mark.parametrize("value", ["plain", "a,b", "it's", "[x]", "a=b", "back\\slash", "end\\", "x\\'y", "ä#;"])
def test_texts_of_axes_are_quoted_for_hydra(value: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={_as_choice(value)},other"])
    assert [getattr(part, "text", part) for part in override.sweep_iterator(Transformer.identity)] == [value, "other"]
