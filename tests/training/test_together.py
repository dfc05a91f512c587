"""Several processes train a run as one process does, and end together."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from alignlab.errors import ConfigError, DivergedError, ProcessError
from alignlab.models.parts import put_together
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows
from alignlab.training.state import read_state
from alignlab.training.team import _pickled, address_of_slurm, is_of_connection
from alignlab.training.together import _refuse_too_few, devices_of
from tests.training.test_training import at_step

CLI = Callable[..., Any]
WORDS = ["good", "bad", "nice", "sad", "red", "blue", "cat", "dog", "sun", "moon"]
TINY = [
    "model=tiny", "data=pairs", "data.path=pairs.jsonl", "tracking=none", "evaluation=off", "trainer.batch_size=8",
    "trainer.micro_batch_size=3", "trainer.accelerator=cpu", "optim.lr=3e-3",
]  # fmt: skip
SHORT = [*TINY, "trainer.max_steps=4", "trainer.eval_every=2"]
LONG = [*TINY, "objective=dpo", "objective.beta=0.5", "trainer.max_steps=12", "trainer.checkpoint_every=3"]
EXACT = [
    "objective=dpo", "model=lab", "data=lab", "model.parent=null", "data.prompts=2", "data.pair_count=100",
    "data.eval_limit=20", "tracking=none", "evaluation=off", "trainer.batch_size=8", "trainer.accelerator=cpu",
    "trainer.max_steps=4", "trainer.eval_every=2",
]  # fmt: skip
PPO = ["objective=ppo", "objective.samples=2", "reward=gold", "reward.function=rules:score", "rollout.max_new_tokens=6"]
LORA = ["objective=dpo", "objective.beta=0.5", "peft=lora"]
# One of each way to make and use batches. With epochs and minibatches, an update has rows of other processes' answers.
RUNS = {
    "exact metrics": EXACT,
    "sft": ["objective=sft"],
    "dpo": ["objective=dpo", "objective.beta=0.5"],
    "kto": ["objective=kto", "objective.beta=0.5"],
    "reward_model": ["objective=reward_model"],
    "ppo": PPO,
    "ppo in minibatches": [*PPO, "rollout.epochs=2", "rollout.minibatches=2"],
    "grpo in epochs": ["objective=grpo", *PPO[1:], "objective.samples=4", "rollout.epochs=2"],
    "lora": [*LORA, "reference=adapter_off"],
    "lora, cached": [*LORA, "reference=cached"],
}
# With sharded weights, all processes make equally many passes, also if their rows need different numbers of them.
SHARDED = {
    **RUNS,
    "copy": ["objective=dpo", "objective.beta=0.5", "reference=copy", "trainer.micro_batch_tokens=40"],
    "kto in small pieces": [*RUNS["kto"], "trainer.micro_batch_tokens=40"],
    "gradient checkpointing": [*LORA, "reference=adapter_off", "trainer.gradient_checkpointing=true"],
    "ppo, lora": [*PPO, "peft=lora", "objective.critic=network"],
    "best of n": ["objective=best_of_n", *PPO[1:]],
    "the best policy": [*RUNS["dpo"], "trainer.keep_best=eval/loss"],
    "sampled evaluations": [*RUNS["lora"], "evaluation.every=2", "evaluation.at_end=true", "evaluation.prompts=2"],
}
STRATEGIES = {"ddp": RUNS, "fsdp": SHARDED}
ZERO = {f"deepspeed strategy.stage={stage}": SHARDED for stage in (2, 3)}
OFFLOAD = {
    f"deepspeed strategy.stage=3 strategy.offload={what}": {name: SHARDED[name] for name in ("copy", "ppo, lora")}
    for what in ("optimizer", "all")
}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
# Rank 0 trains the runs of a file, one after another. The other process follows it.
DRIVER = """
import json, sys
from pathlib import Path
from alignlab.cli.main import main
from alignlab.strategies.place import given_place
if given_place().rank:
    sys.exit(main(["train"]))
from alignlab.training.team import given_team
with given_team():
    codes = [main(["train", *words]) for words in json.loads(Path("runs.json").read_text())]
Path("codes.json").write_text(json.dumps(codes))
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    chosen = random.Random(0)

    def words(most: int) -> str:
        return " ".join(chosen.choice(WORDS) for _ in range(chosen.randint(1, most)))

    rows = [{"prompt": words(4), "chosen": words(5), "rejected": f"{words(5)} end"} for _ in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rules.py").write_text("def score(prompt, answer):\n    return sum(map(ord, answer)) % 7 / 7\n")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **more}


def assert_same(one: Path, other: Path) -> None:
    """All metrics are the same but for rounding, at every step. Losses agree to 1e-5."""
    first, second = (read_rows(run / "metrics.jsonl") for run in (one, other))
    assert len(first) == len(second) > 3
    for a, b in zip(first, second, strict=True):
        numbers = {name: value for name, value in a.items() if "second" not in name}
        assert {name: b[name] for name in b if "second" not in name} == pytest.approx(numbers, rel=1e-4, abs=1e-4)
        for name in numbers.keys() & {"train/loss", "eval/loss"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5)


def short(words: list[str]) -> list[str]:
    """A whole command for one of RUNS."""
    return words if words is EXACT else [*SHORT, *words]


def only_run(root: str) -> RunDir:
    (found,) = Path(root, "runs").glob("*-*[0-9a-f]")
    return RunDir(found)


def start_together(folder: Path, command: Sequence[str], variables: dict[int, dict[str, str]]) -> list[int]:
    """Start a command once for each entry of `variables`, as `srun` does. Returns the exit codes."""
    started = [subprocess.Popen(command, cwd=folder, env=environment(**own)) for own in variables.values()]
    return [process.wait(timeout=600) for process in started]


@pytest.mark.slow  # minutes of two cores
@pytest.mark.parametrize("strategies", [STRATEGIES, pytest.param(ZERO | OFFLOAD, marks=needs_deepspeed)])
def test_two_processes_of_torchrun_are_one(
    strategies: dict[str, dict[str, list[str]]], alignlab: CLI, tmp_path: Path
) -> None:
    runs = [
        [*short(words), *f"strategy={strategy}".split(), f"output_root={tmp_path}/{strategy}/{i}"]
        for strategy, own in strategies.items()
        for i, words in enumerate(own.values())
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "driver.py"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, timeout=1800)
    assert json.loads((tmp_path / "codes.json").read_text()) == [0] * len(runs)
    for i, (name, words) in enumerate(SHARDED.items()):
        result = alignlab("train", *short(words), f"output_root=one/{i}")
        assert result.code == 0, f"{name}: {result.err}"
        one = only_run(f"one/{i}")
        assert ("exact/kl" in one.record()["summary"]) == (name == "exact metrics")
        places = {strategy: list(own).index(name) for strategy, own in strategies.items() if name in own}
        for two in (only_run(f"{strategy}/{place}") for strategy, place in places.items()):
            assert one.id == two.id, "devices and strategies do not count in the id"
            assert_same(one.path, two.path)
            assert {file.name for file in two.policy.iterdir()} == {file.name for file in one.policy.iterdir()}
            assert (two.record()["machine"]["processes"], two.record()["status"]) == (2, "done")


@pytest.mark.slow
def test_srun_needs_no_word_of_config(alignlab: CLI, tmp_path: Path) -> None:
    """The variables are those that `srun` sets. A verb other than `train` is run by the first process only."""
    common = {
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "alignlab",
    }  # fmt: skip
    places = {rank: {**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)}
    train = [sys.executable, "-m", "alignlab", "train", *SHORT, *RUNS["dpo"], "output_root=two"]
    assert start_together(tmp_path, train, places) == [0, 0]
    assert only_run("two").record()["machine"]["processes"] == 2
    assert alignlab("train", *SHORT, *RUNS["dpo"], "output_root=one").code == 0
    assert_same(only_run("one").path, only_run("two").path)
    assert start_together(tmp_path, [*train[:4], "trainer.max_step=3"], places) == [2, 0], "the others end too"


def followers(leader: int) -> list[psutil.Process]:
    """The processes that follow a leader."""
    children = psutil.Process(leader).children()
    return [one for one in children if "alignlab.training.follower" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [*STRATEGIES, *(pytest.param(name, marks=needs_deepspeed) for name in ZERO)])
def test_a_follower_is_killed_and_the_run_goes_on_in_one_process(
    strategy: str, alignlab: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader notices it at once, the run has failed, nothing is left, and both kinds of resume are exact."""
    two = ["trainer.devices=2", *f"strategy={strategy}".split()]
    shared = f"2 devices with {strategy.replace('strategy.stage=', 'of stage ')}"
    assert alignlab("train", *LONG, "output_root=whole").code == 0
    began = 0.0

    def kill() -> None:
        nonlocal began
        began = time.monotonic()
        (follower,) = followers(os.getpid())
        follower.send_signal(signal.SIGKILL)

    with monkeypatch.context() as patch:
        at_step(patch, 7, kill)
        result = alignlab("train", *LONG, *two)
    assert time.monotonic() - began < 30
    assert result.code == 1
    record = only_run("outputs").record()
    assert record["status"] == "failed"
    assert "process 2 of 2 ended with signal SIGKILL" in record["reason"]
    assert "the same command resumes" in result.err
    assert not followers(os.getpid())
    with monkeypatch.context() as patch:  # one process goes on after update 6, until it is stopped
        at_step(patch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab("train", *LONG).code == 130
    assert only_run("outputs").record()["resumed_from"] == 6
    result = alignlab("train", *LONG, *two)  # and two go on after update 9
    assert result.code == 0, result.err
    assert only_run("outputs").record()["resumed_from"] == 9
    log = only_run("outputs").log.read_text()
    assert re.findall(r"\(before: (.*); now: (.*)\)", log) == [(shared, "1 device"), ("1 device", shared)]
    assert_same(only_run("whole").path, only_run("outputs").path)


@pytest.mark.parametrize(
    ("kind", "has", "wanted", "fits"),
    [("cuda", 2, 2, True), ("cuda", 2, 4, False), ("mps", 0, 2, False), ("cpu", 0, 9, True)],
)
def test_too_few_devices(kind: str, has: int, wanted: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: has)
    if fits:
        _refuse_too_few(kind, wanted)
    else:
        with pytest.raises(ConfigError, match=f"trainer.devices = {wanted}"):
            _refuse_too_few(kind, wanted)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "1 device"),
        ({"machine": {"processes": 4}, "kinds": {"strategy": "auto"}}, "4 devices with ddp"),
        ({"machine": {"processes": 2}, "kinds": {"strategy": "fsdp"}}, "2 devices with fsdp"),
    ],
)
def test_how_devices_share_a_run(record: dict[str, Any], words: str) -> None:
    assert devices_of(record) == words


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"SLURM_STEP_NODELIST": "node[07-08,12]", "SLURM_JOB_ID": "1234567"}, ("node07", 19_567)),
        ({"SLURM_STEP_NODELIST": "a,b", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "2"}, ("a", 15_207)),
        ({"SLURM_STEP_NODELIST": "a", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, ("10.0.0.1", 29_500)),
    ],
)
def test_where_the_first_process_of_a_job_step_listens(
    variables: dict[str, str], address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert address_of_slurm() == address


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistNetworkError("x"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("NCCL communicator was aborted"), True),
        (RuntimeError("shape mismatch"), False),
        (DivergedError("gloo"), False),
    ],
)
def test_errors_of_the_connection(error: Exception, lost: bool) -> None:
    assert is_of_connection(error) == lost


def test_the_error_of_a_follower_keeps_its_type_and_rows() -> None:
    error = DivergedError("not finite")
    error.rows = [{"row": 3}]  # type: ignore[attr-defined]
    found, trace = pickle.loads(_pickled(error))
    assert (type(found), str(found), found.rows) == (DivergedError, "not finite", [{"row": 3}])
    assert "DivergedError: not finite" in trace
    found, _ = pickle.loads(_pickled(KeyError("x")))
    assert (type(found), str(found)) == (ProcessError, "KeyError: 'x'")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_leader_is_killed(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its followers end by themselves, and the run counts as interrupted."""
    settings = ["trainer.devices=2", "trainer.max_steps=100000", f"strategy={strategy}"]
    command = [sys.executable, "-m", "alignlab", "train", *LONG, *settings]
    leader = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    metrics, until = tmp_path / "outputs/runs", time.monotonic() + 600
    try:
        while not any(len(read_rows(file)) > 3 for file in metrics.glob("*/metrics.jsonl")):
            assert time.monotonic() < until
            time.sleep(0.2)
        (follower,) = followers(leader.pid)
    finally:
        leader.kill()
        leader.wait()
    until = time.monotonic() + 30
    while follower.is_running() and follower.status() != psutil.STATUS_ZOMBIE:  # nobody may collect its exit code
        assert time.monotonic() < until
        time.sleep(0.2)
    monkeypatch.chdir(tmp_path)
    assert only_run("outputs").state()["status"] == "interrupted"


@pytest.mark.slow
def test_a_state_in_parts_is_resumed_by_any_number_of_processes(
    alignlab: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes, of four, and of one. A part that is damaged costs the updates since the state before it."""
    sharded = ["strategy=fsdp", "strategy.state_in_parts=true"]
    assert alignlab("train", *LONG, "output_root=whole").code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab("train", *LONG, *sharded, "trainer.devices=2", "output_root=stopped").code == 130
    states = only_run("stopped").checkpoint.parent
    weights = sum(tensor.numel() for tensor in load_file(only_run("whole").policy / "model.safetensors").values())
    parts = sorted(states.glob("parts-*"), key=lambda folder: folder.stat().st_mtime)
    assert len(parts) == 2, "of the last state and of the one before it"
    for folder in parts:
        sizes = [file.stat().st_size for file in sorted(folder.iterdir())]
        assert len(sizes) == 2
        assert max(sizes) < 0.6 * 3 * 4 * weights, "weights and two moments"
    assert only_run("stopped").checkpoint.stat().st_size < 4 * weights, "no whole weights"
    for name, devices, lost in (("two", 2, 0), ("four", 4, 0), ("one", 1, 0), ("damaged", 2, 1)):
        shutil.copytree("stopped", name)
        if lost:
            (part,) = only_run(name).checkpoint.parent.glob(f"{parts[-1].name}/1.pt")
            part.write_bytes(part.read_bytes()[:-100])
        result = alignlab("train", *LONG, *sharded, f"trainer.devices={devices}", f"output_root={name}")
        assert result.code == 0, result.err
        run = only_run(name)
        assert run.record()["resumed_from"] == (6 if lost else 8)
        assert ("lacks a part" in result.err) == bool(lost)
        assert_same(only_run("whole").path, run.path)
        assert run.states() == [], "a run that is done keeps no state"


@pytest.mark.slow
def test_states_of_adapters_and_critics_in_parts(alignlab: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [*TINY, *SHARDED["ppo, lora"], "trainer.max_steps=8", "trainer.checkpoint_every=2", "trainer.keep=state"]
    sharded = ["strategy=fsdp", "strategy.state_in_parts=true", "trainer.devices=2"]
    assert alignlab("train", *long, "output_root=whole").code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab("train", *long, *sharded).code == 130
    assert alignlab("train", *long, *sharded).code == 0
    assert_same(only_run("whole").path, only_run("outputs").path)
    kept = only_run("outputs").checkpoint
    assert len(list(kept.parent.iterdir())) == 2, "the last state and its parts"
    one, two = (put_together(read_state(run.checkpoint, run)) for run in (only_run("whole"), only_run("outputs")))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=1e-3, atol=1e-5)
    longer = alignlab("train", f"run={only_run('outputs').id}", "trainer.max_steps=10", "reward.function=rules:score")
    assert longer.code == 0, longer.err
