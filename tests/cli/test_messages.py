"""Messages after a user's mistake: all problems, each with its key and what to type. Exit code 2, and nothing starts."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alignlab.runs.directory import RunDir

Run = Callable[..., Any]

CASES = {
    "unknown verb": (["trian"], ["no such verb: trian", "did you mean: alignlab train"]),
    "unknown option": (["train", "objective=dpoo"], ["objective = dpoo", "there are: aot, apo_down", "wpo", "type: objective=dpo"]),
    "unknown key": (["train", "objective.bta=0.2"], ["objective.bta", "beta, dialect, divergence", "type: objective.beta=0.2"]),
    "unknown top key": (["train", "outptu_root=x"], ["outptu_root", "type: output_root=x"]),
    "added key": (["train", "+objective.nope=1"], ["objective.nope = 1", "no such key"]),
    "forced key": (["train", "++trainer.steps=1"], ["trainer.steps = 1", "no such key"]),
    "type": (["train", "optim.lr=fast"], ["optim.lr = fast", "must be a number"]),
    "whole number": (["train", "trainer.max_steps=1.5"], ["trainer.max_steps = 1.5", "must be a whole number"]),
    "range": (["train", "objective.beta=-1"], ["objective.beta = -1.0", "greater than 0", "type: objective.beta=0.1"]),
    "null": (["train", "trainer.max_steps=null"], ["trainer.max_steps = null", "can't be null: it needs a value"]),
    "strength beyond rounding": (["train", "objective.beta=1e30"], ["objective.beta = 1e+30", "must lie between 1e-06 and 1e+06", "rounding decides the loss"]),
    "range without an end": (["check", "-m", "seed=range(1,1000000000,1)"], ["has 999,999,999 values, and a sweep has at most 10,000 points"]),
    "too many points": (["check", "-m", "seed=range(1,200)", "optim.lr=range(1,200)"], ["these axes have 39,601 points, and a sweep has at most 10,000"]),
    "negative seed": (["check", "data.seed=-1", "data.world_seed=-1", "model.init_seed=-1"], ["data.seed = -1", "data.world_seed = -1", "model.init_seed = -1", "must be at least 0"]),
    "absurd lengths": (["check", "data.length=99999999999", "data.prompt_length=9999999", "data.prompts=99999999"], ["data.length = 99999999999", "must not exceed", "must lie in [1, 100000], which fit into memory"]),
    "absurd sizes": (["check", "model.hidden_size=8000000", "data.pair_count=99999999999", "trainer.batch_size=99999999999"], ["model.hidden_size = 8000000", "this machine has", "data.pair_count", "must lie in [1, 10000000]", "must be at most 4,294,967,295"]),
    "combination": (["train", "reference=adapter_off"], ["reference = adapter_off", "type: peft=lora"]),
    "letters and text": (["train", "data=hh_rlhf"], ["model = lab", "type: model=tiny"]),
    "text model in the lab": (["train", "model=tiny"], ["model = tiny", "type: model=lab"]),
    "missing value": (["train", "model=hub", "data=hh_rlhf"], ["model.name", "needs a value"]),
    "missing file": (["train", "data=pairs", "model=tiny", "data.path=my.jsonl"], ["data.path = my.jsonl", "no such file"]),
    "file as data": (["train", "model=tiny", "data=my.csv"], ["data = my.csv", "is a file, not the kind of its rows", "type: data=pairs data.path=my.csv"]),
    "folder as model": (["train", "model=./my/model", "peft=qlora"], ["1 problem", "model = ./my/model", "is a folder or a name on the hub", "type: model=hub model.name=./my/model"]),
    "name as data": (["train", "model=tiny", "data=org/set"], ["data = org/set", "is a folder or a name on the hub", "type: data=pairs data.path=org/set"]),
    "file of the lab": (["train", "model=tiny", "data.path=my.csv"], ["this data reads no files; rows come from data=pairs, "]),
    "option with fields": (["check", "reward=gold", "reward.gold.function=m:f"], ["reward has the fields of its option", "type: reward=gold reward.function=m:f"]),
    "pattern": (["train", "data=pairs", "model=tiny", "data.path=d/*.jsonl"], ["a pattern is not a path: name the folder", "type: 'data.path=[a.jsonl,b.jsonl]'"]),
    "missing folder": (["train", "model=hub", "data=hh_rlhf", "model.name=./here"], ["model.name = ./here", "no such folder"]),
    "unreadable": (["train", "objective.beta=[1"], ["objective.beta=[1", "can't be read: [ is not closed", "type: 'objective.beta=[1]'"]),
    "list without quotes": (["check", "model.parent=[lab_sft,seed=3]"], ["entries that hold = need quotes", "type: 'model.parent=[lab_sft,\"seed=3\"]'"]),
    "nested list without quotes": (["check", 'model.parent=["model.parent=[sft,seed=3]"]'], ["model.parent = model.parent=[sft,seed=3]", "entries that hold = need quotes"]),
    "zip of one list": (["check", "-m", "seed=1,2", "sweep.zip=[seed,objective]"], ["sweep.zip = [seed,objective]", "must be a list of lists", "type: 'sweep.zip=[[objective,seed]]'"]),
    "exclude without values": (["check", "-m", "seed=1,2", "sweep.exclude=[seed]"], ["sweep.exclude = [seed]", "must be a list of mappings", "type: 'sweep.exclude=[{objective:ipo}]'"]),
    "reward of a policy": (["check", "experiment=lab_ppo", "reward.run=lab_sft"], ["reward.run = lab_sft", "must train a reward model; this run's objective is sft", "type: reward.run=reward_model"]),
    "judge of a policy": (["check", "judge=reward_model", "judge.reward_model.run=sft"], ["judge.reward_model.run = sft", "must train a reward model"]),
    "no config folder": (["check", "--config-dir", "nowhere"], ["--config-dir = ", "no such folder"]),
    "sweep preset": (["train", "sweep=dpo_bta"], ["sweep = dpo_bta", "there are: datasets_beta, dpo_beta, kto_imbalance, noise, objectives_beta, objectives_lr, online_beta, ppo_kl, seeds, worlds_beta", "type: sweep=dpo_beta"]),
    "parent": (["train", 'model.parent=["objective=sft","optim.lr=-1"]'], ["parent.optim.lr = -1.0", "greater than 0"]),
    "accelerator": (["train", "trainer.accelerator=mps"], ["trainer.accelerator = mps", "this machine has none", "type: trainer.accelerator=auto"]),
    "no group": (["train", "~optim"], ["optim\n", "can't be removed", "type: the same without ~optim"]),
    "options that are no names": (["check", "launcher=[1,2]"], ["launcher = [1,2]", "must be a list of names of options; not 1, 2"]),
    "an option that is no name": (["check", "tracking=[csv,{a:1}]"], ["tracking = [csv,{a:1}]", "must be a list of names of options; "]),
    "options that are no names, and more": (["check", "launcher=[1,2]", "trainer.eval_every=choice(1)"], ["not 1, 2", "several values need -m"]),
    "removed key": (["train", "~seed"], ["seed\n", "can't be removed", "type: the same without ~seed"]),
    "removed setting": (["train", "~objective.beta"], ["can't be removed", "type: the same without ~objective.beta"]),
    "axis without values": (["train", "-m", "trainer.gradient_clip=glob(*)"], ["has no values"]),
    "flag that needs another": (["check", "--resolve"], ["type: --cfg job --resolve"]),
    "flags that exclude each other": (["check", "--run", "--info"], ["exclude each other"]),
    "a plug-in with a very long name": (["check", f"plugins={'a' * 300}"], ["can't be looked for: File name too long"]),
    "null group": (["train", "objective=null"], ["objective", "no such option", "type: objective=<one of these>"]),
    "null judge": (["train", "judge=null"], ["judge = null", "an empty list chooses nothing", "type: 'judge=[]'"]),
    "another method": (["train", "objective=dapo"], ["there are: aot", "type: objective=<one of these>   or, if it is a part of your own: plugins=<package or folder>"]),
    "another optimizer": (["train", "optim=sgd"], ["there are: adamw, adamw_8bit, rmsprop", "type: optim=<one of these>"]),
    "misspelt word": (["train", "optim.schedule=cosin"], ["optim.schedule = cosin", "type: optim.schedule=cosine"]),
    "another word": (["train", "optim.schedule=exponential"], ["constant, cosine, linear", "type: optim.schedule=<one of these>"]),
    "setting with dashes": (["train", "--max-steps", "5", "seed=1", "--lr=1e-4"], ["2 problems", "--max-steps\n", "without dashes", "type: max_steps=5", "type: lr=1e-4"]),
    "another preset": (["train", "model=qwen3_8b_instruct"], ["the nearest are: qwen3_8b, qwen3_8b_base, ", "`alignlab train --help` shows all", "type: model=<one of these>"]),
    "key of another launcher": (["check", "launcher.partition=gpu"], ["launcher.partition is a setting of launcher=slurm, and not of the launcher of this run"]),
    "key of another engine": (["check", "engine.cache_gb=2"], ["engine.cache_gb is a setting of engine=vllm"]),
    "two letters missing": (["check", "launcher=slurm", "launcher.partion=gpu"], ["launcher has: account, ", "type: launcher.partition=gpu"]),
    "strategy of Lightning": (["train", "strategy=ddp_find_unused_parameters_true"], ["there are: auto, ", "type: strategy=ddp strategy.find_unused=true"]),
    "judge not chosen": (["train", "judge.llm.model=m"], ["judge=llm is not chosen", "type: judge=llm judge.llm.model=m"]),
    "second judge not chosen": (["train", "judge=human", "judge.llm.model=m"], ["type: 'judge=[human,llm]' judge.llm.model=m"]),
    "experiment of one objective": (["check", "experiment=hh_ppo_smollm2", "objective=grpo"], ["can't be used: experiment/hh_ppo_smollm2 sets objective.lam, which does not exist"]),
    "misspelt key of an evaluation": (["evaluate", "run=x", "evaluation.sampels=4"], ["evaluation has: baselines, batch_size", "type: evaluation.samples=4"]),
    "unknown key of an evaluation": (["evaluate", "run=x", "max_new_tokens=4"], ["type: evaluation.max_new_tokens=4"]),
    "several values": (["train", "objective.beta=0.1,0.3"], ["objective.beta", "several values need -m", "type: -m objective.beta=0.1,0.3"]),
    "a mapping that the shell split at its spaces": (["train", "data=pairs", "data.columns={chosen:", "good,", "rejected:", "bad}", "optim.lr=-1"], ["data.columns\n      was split by the shell", "type: 'data.columns={chosen: good, rejected: bad}'", "optim.lr = -1"]),
    "a mapping of which the shell made two words": (["train", "data=pairs", "data.columns=chosen:good", "data.columns=rejected:bad"], ["was split by the shell", "type: 'data.columns={chosen:good,rejected:bad}'"]),
    "a file as data, and another mistake": (["train", "data=rows.jsonl", "model=tiny", "objective.beta=-1"], ["2 problems", "type: data=pairs data.path=rows.jsonl", "objective.beta = -1"]),
    "a decimal comma": (["train", "objective.beta=0,1"], ["several values need -m", "type: objective.beta=0.1   or   -m objective.beta=0,1"]),
    "a name that nothing is loaded from": (["train", "model=tiny", "model.name=gpt2", "data=support_desk"], ["is only a name here", "type: model=hub model.name=gpt2"]),
    "TRL's beta of IPO": (["train", "objective=ipo", "objective.beta=0.2"], ["the strength of this objective is objective.tau", "type: objective.tau=0.2"]),
    "TRL's loss_type": (["train", "objective.loss_type=ipo"], ["the loss is chosen by objective=<name>", "type: objective=ipo"]),
    "an option in capitals": (["train", "peft=LoRA"], ["type: peft=lora"]),
    "spaces": (["train", "objective.beta", "=", "0.3"], ["without spaces around ="]),
    "added twice": (["train", "+objective.beta=0.2"], ["is in the config already", "type: objective.beta=0.2"]),
    "no folder": (["train", "output_root="], ["output_root", "needs the name of a folder"]),
    "nothing to set": (["train", "objective=sft", "objective.beta=1"], ["this objective has no settings; objective.beta is a setting of"]),
    "output": (["train", "output_root=/proc/none"], ["output_root"]),
    "KL batch of one": (["train", "objective=kto", "trainer.batch_size=1"], ["trainer.batch_size = 1", "at least 2", "type: trainer.batch_size=16"]),
    "no reference": (["train", "reference=none"], ["reference = none", "compares with a reference", "type: reference=auto"]),
    "sums are not enough": (["train", "objective=tdpo", "reference=cached"], ["reference = cached", "distributions", "type: reference=auto"]),
    "economy": (["train", "trainer.layout=packed", "trainer.compile=true", "trainer.micro_batch_tokens=0"], ["trainer.layout = packed", "trainer.compile = True", "auto, always, never", "trainer.micro_batch_tokens = 0", "3 problems"]),
    "dialect": (["train", "objective=ipo", "objective.dialect=trl"], ["objective.dialect = trl", "paper, dpo_repo, openrlhf, trl1, trl0, halos"]),
    "smoothing in trl1": (["train", "objective.dialect=trl1", "objective.label_smoothing=0.1"], ["objective.label_smoothing = 0.1", "TRL 1.x ignores", "type: objective.label_smoothing=0"]),
    "unread option": (["train", "objective.divergence_alpha=0.3"], ["objective.divergence_alpha = 0.3", "is read with divergence=alpha only"]),
    "empty mix": (["train", "objective=mix"], ["objective.parts", "at least one objective", "type: 'objective.parts=[{name:dpo,beta:0.1}"]),
    "bad mix": (["train", "objective=mix", "objective.parts=[{name:dpo,beta:-1},{name:kto,beta:1},{nam:x}]"], ["objective.parts.0.beta = -1", "objective.parts.2"]),
    "single answers for pairs": (["train", "data=unpaired", "model=tiny", "data.path=org/rows"], ["data = unpaired", "this objective works on pairs"]),
    "a reward nobody asks": (["train", "experiment=lab_ppo", "objective=spin"], ["reward = reward_model", "remove it if an experiment sets it", "type: '~reward'"]),
    "4 bits trained": (["train", "model=hub", "data=hh_rlhf", "model.name=org/model", "model.quantize=nf4"], ["model.quantize = nf4", "can't be trained", "type: peft=lora"]),
    "other bits": (["train", "model=hub", "data=hh_rlhf", "model.name=org/model", "model.quantize=int8"], ["model.quantize = int8", "must be one of: none, nf4"]),
    "4 bits of a model that has none": (["train", "model=tiny", "peft=qlora", "data=hh_rlhf"], ["peft = qlora", "only models from the hub or a folder", "such as model=smollm2_135m", "type: model=hub model.name=<name or folder>   or   peft=lora"]),
    "another choice that is wrong, beside 4 bits": (["train", "peft=qlora", "model=smollm2_135m", "data=hh_rlhf", "objective=dop"], ["1 problem", "objective = dop", "type: objective=dpo"]),
    "below null": (["train", "experiment=lab_ppo", "reward=lab_gold", "reward.run=[]"], ["reward.run = []", "reward is null", "type: reward=<one of gold"]),
    "below a list": (["train", "evaluation.baselines.reference=1"], ["evaluation.baselines.reference = 1", "evaluation.baselines is a list"]),
    "below a name": (["train", "model.parent.objective=sft"], ["model.parent.objective = sft", "model.parent is lab_sft"]),
    "unknown stage": (["train", "model.parent=lab_stf"], ["  model.parent = lab_stf", "no such stage: lab_stf; there are: hh_reward_model_smollm2, hh_sft_smollm2, imdb_sft, lab_reward_model, lab_sft, ", "type: model.parent=lab_sft"]),
    "unknown stage of a reward model": (["check", "experiment=lab_ppo", "reward.run=[lab_rm]"], ["  reward.run = [lab_rm]", "no such stage: lab_rm; there are: ", "type: reward.run=<one of these>"]),
    "no stage": (["train", "model.parent=3"], ["model.parent = 3", "must be the name of a stage, or a list of stages and overrides", "type: model.parent=sft"]),
    "a stage as the run itself": (["train", "stage=lab_sft"], ["stage = lab_sft", "can't be chosen for a run itself", "type: model.parent=lab_sft"]),
    "a stage added to the run": (["train", "+stage=lab_sft"], ["stage = lab_sft", "can't be chosen for a run itself", "type: model.parent=lab_sft"]),
    "below a number": (["train", "objective.beta.x=1"], ["objective.beta.x = 1", "objective.beta is 0.1"]),
    "unset variable": (["train", "output_root=${oc.env:NOT_SET_HERE}"], ["alignlab: 1 problem", "output_root = ${oc.env:NOT_SET_HERE}", "environment variable NOT_SET_HERE, which is not set", "type: export NOT_SET_HERE=<its value>"]),
    "sweep name": (["train", "sweep.name=a/b", "-m", "seed=1,2"], ["sweep.name = a/b", "the name of one folder"]),
    "sweep name as a flag": (["check", "sweep.name=-rf", "-m", "seed=1,2"], ["sweep.name = -rf", "like a flag"]),
    "sweep name too long": (["check", f"sweep.name={'a' * 300}", "-m", "seed=1,2"], ["sweep.name = aaa", "is too long"]),
    "sweep name above": (["check", "sweep.name=..", "-m", "seed=1,2"], ["sweep.name = ..", "the name of one folder"]),
    "launcher": (["train", "launcher=locl", "-m", "seed=1,2"], ["  launcher = locl", "there are: auto, basic, local, ray, serial", "type: launcher=local"]),
    "option of a launcher": (["train", "launcher.atonce=2", "launcher=local", "-m", "seed=1,2"], ["  launcher.atonce = 2", "launcher has: at_once, per_gpu, retries", "type: launcher.at_once=2"]),
    "type of a launcher's option": (["check", "launcher=local", "launcher.at_once=x", "-m", "seed=1,2"], ["  launcher.at_once = x", "must be a whole number", "type: launcher.at_once=..."]),
    "hydra's own": (["train", "hydra.rnu=1"], ["hydra.rnu = 1", "no such key; hydra has: callbacks, "]),
    "no list": (["train", "sweep.zip=seed", "-m", "seed=1,2"], ["sweep.zip = seed", "must be a list"]),
    "robust at a half": (["train", "objective=robust_dpo", "objective.label_smoothing=0.5"], ["objective.label_smoothing = 0.5", "[0.0, 0.5)"]),
    "a value that refers to itself": (["train", "output_root=${output_root}"], ["alignlab: 1 problem", "output_root = ${output_root}", "refers to itself", "type: output_root=<a value>"]),
    "values that refer to each other": (["train", "seed=${trainer.batch_size}", "trainer.batch_size=${seed}"], ["alignlab: 2 problems", "seed = ${trainer.batch_size}", "trainer.batch_size = ${seed}", "refers to itself, directly or through other keys"]),
    "references of all kinds": (["check", "seed=${output_root}", "trainer.max_steps=${foo:1}", "optim.lr=${nope}"], ["3 problems", "seed = ${output_root}\n      refers to 'outputs', and must be a whole number", "refers to foo:, which reads nothing", "optim.lr = ${nope}\n      refers to nope, which does not exist"]),
    "a reference of an evaluation": (["evaluate", "run=x", "evaluation.samples=${foo}"], ["evaluation.samples = ${foo}\n      refers to foo, which does not exist"]),
    "a reference of a launcher": (["check", "launcher=local", "launcher.at_once=${nope}", "-m", "seed=1,2"], ["launcher.at_once = ${nope}\n      refers to nope, which does not exist"]),
    "removed groups": (["check", "~trainer", "~evaluation", "~sweep"], ["3 problems", "trainer\n      can't be removed\n      type: the same without ~trainer", "evaluation\n      can't be removed\n      type: evaluation=off", "sweep\n      can't be removed\n      type: the same without ~sweep"]),
    "a removed option that is not chosen": (["check", "~peft=lora"], ["peft = lora\n      can't be removed: it has another value\n      type: the same without ~peft=lora"]),
    "a removed value that is another one": (["check", "~seed=2"], ["seed = 2\n      can't be removed: it has another value\n      type: the same without ~seed=2"]),
    "an excluded value that the axis does not have": (["check", "-m", "seed=1,2", "sweep.exclude=[{seed:7}]"], ["1 problem", "sweep.exclude = {seed:7}\n      seed has no such value in this sweep; it has: 1, 2"]),
    "a list of seeds": (["check", "seed=[1,2]"], ["1 problem", "seed = [1,2]\n      must be a whole number; several values need -m\n      type: seed=...   or   -m seed=1,2"]),
    "an axis with an empty value": (["check", "-m", "seed=1,,2", "optim.lr=0.1,"], ["2 problems", "seed=1,,2\n      can't be read: a value is missing beside a comma\n      type: seed=1,2\n", "type: optim.lr=0.1\n"]),
    "a list with an empty value": (["check", "judge=[human,,gold]"], ["a value is missing beside a comma\n      type: 'judge=[human,gold]'"]),
    "several output folders": (["check", "-m", "seed=1,2", "output_root=a,b"], ["1 problem", "output_root = a,b\n      is the same for all runs of a sweep\n      type: output_root=<one folder>"]),
    "output folders as an axis": (["check", "-m", "output_root='a','b'"], ["output_root = 'a','b'\n      is the same for all runs of a sweep"]),
    "another primary config": (["check", "--config-name", "foo"], ["1 problem", "--config-name = foo\n      can't be replaced: each command has its own config\n      type: experiment=foo"]),
    "a package that nothing prints": (["check", "--package", "optim"], ["--package = optim\n      changes what --cfg prints\n      type: --cfg job --package optim"]),
    "callbacks of Hydra": (["check", "hydra.callbacks={a:{b:c}}"], ["1 problem", "hydra.callbacks = {a:{b:c}}\n      can't be set: Hydra would call what it names"]),
    "an added callback of Hydra": (["check", "+hydra.callbacks.a._target_=x"], ["hydra.callbacks.a._target_ = x\n      can't be set: Hydra would call what it names\n      type: plugins=<your folder> callback=<name>"]),
    "folders of Hydra": (["check", "hydra.sweep.dir=zzz", "hydra.run.dir=zzz", "hydra.output_subdir=zzz", "optim.lr=x"], ["4 problems", "hydra.sweep.dir = zzz\n      can't be set: results go to output_root\n      type: output_root=<folder>", "hydra.run.dir", "hydra.output_subdir", "optim.lr = x"]),
    "too few updates": (["verify-resume", "--updates", "-4"], ["--updates = -4\n      must be at least 3"]),
    "a key that a token is read into": (["check", "tracking=wandb", "tracking.wandb.project=hf_" + "a" * 34], ["tracking.wandb.project = (hidden)", "type: wandb login   or   export WANDB_API_KEY=<your key>"]),
    "an output folder with a very long name": (["check", f"output_root=x/{'a' * 300}"], ["alignlab: 1 problem", "output_root = aaaaaaaaaaaaaaaaaaaa...\n      is too long for the name of a folder\n      type: output_root=outputs"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, alignlab: Run, tmp_path: Path) -> None:
    args, expected = CASES[case]
    result = alignlab(*args)
    assert result.code == 2, result.err
    for text in expected:
        assert text in result.err
    assert "Traceback" not in result.err
    assert "Error executing job" not in result.err
    assert list(tmp_path.iterdir()) == [], "nothing may be written"


@pytest.mark.slow
def test_a_limit_of_file_sizes_says_what_to_do(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: Any, **facts: Any) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(RunDir, "start", start)
    result = alignlab("train", "experiment=lab_dpo", "model.parent=null", "trainer.max_steps=2", "tracking=none")
    assert result.code == 2
    assert "Error executing job" not in result.err
    assert result.err.startswith("alignlab: outputs/runs/dpo-")
    assert (
        "can't be written: a file would be larger than the limit of this shell\n  type: ulimit -f unlimited"
        in result.err
    )


def test_everything_wrong_at_once(alignlab: Run, tmp_path: Path) -> None:
    result = alignlab(
        "train", "objective.beta=-1", "optim.lr=x", "trainer.max_steps=0", "+foo=1", "data=pairs", "model=tiny",
        "data.path=no.csv",
    )  # fmt: skip
    assert result.code == 2
    assert "5 problems" in result.err
    for key in ("objective.beta", "optim.lr", "trainer.max_steps", "foo", "data.path"):
        assert f"  {key} = " in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (["launcher=local", "launcher.at_once=-1"], [("launcher.at_once = -1", "must be at least 0")]),
        (["launcher=slurm", "launcher.cluster=nope"], [("launcher.cluster = nope", "must be one of: slurm, local")]),
        (["launcher=slurm"], [("launcher = slurm", "there is no SLURM here")]),
        (["launcher=ray"], [("launcher = ray", "needs the package ray")]),
        (["sweeper=optuna"], [("sweeper = optuna", "needs the package optuna")]),
        (
            ["launcher=local", "launcher.per_gpu=0", "launcher.retries=-1", "optim.lr=-1"],
            [
                ("optim.lr = -1", "greater than 0"),
                ("launcher.per_gpu = 0", "at least 1"),
                ("launcher.retries", "at least 0"),
            ],
        ),
    ],
)
def test_problems_of_a_launcher_are_shown_like_all_others(
    options: list[str], problems: list[tuple[str, str]], alignlab: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("ray", "optuna"):
        monkeypatch.setitem(sys.modules, package, None)
    submitit = ModuleType("submitit")
    submitit.__spec__ = ModuleSpec("submitit", None)
    monkeypatch.setitem(sys.modules, "submitit", submitit)
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = alignlab("check", *options, "-m", "seed=1,2")
    assert result.code == 2
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    assert result.err.startswith(f"alignlab: {count} in the config; nothing was started\n  {problems[0][0]}")
    for key, text in problems:
        assert f"\n  {key}" in result.err
        assert text in result.err
    for word in ("Error in call", "ConfigError", "full_key", "hydra"):
        assert word not in result.err


def test_missing_packages_are_told_together(alignlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    hub = ["model=hub", "model.name=org/model", "model.quantize=nf4", "peft=lora", "data=hh_rlhf"]
    result = alignlab("train", *hub, "optim=adamw_8bit")
    assert result.code == 2
    assert "2 problems" in result.err
    for key in ("optim = adamw_8bit", "model.quantize = nf4"):
        assert f'  {key}\n      needs the package bitsandbytes\n      type: pip install "alignlab[gpu]"' in result.err
    assert list(tmp_path.iterdir()) == []


def test_problems_between_groups_are_told_beside_those_within(alignlab: Run) -> None:
    result = alignlab("train", "objective.beta=-1", "seed=-1", "reference=bogus", "optim.warmup_steps=999")
    assert "4 problems" in result.err
    for key in ("objective.beta", "seed", "reference", "optim.warmup_steps"):
        assert f"  {key} = " in result.err


def test_a_bad_parent_in_a_sweep(alignlab: Run) -> None:
    result = alignlab("check", "-m", "objective.beta=0.1,0.3", 'model.parent=["objective=sfft"]')
    assert result.code == 2
    assert "model.parent" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["experiment=old"], ["experiment = old", "selects reward=planted, which is called lab_gold now"]),
        (["experiment=older"], ["experiment/older selects experiment=lab, which is called lab_dpo now"]),
        (["experiment=mine", "objective.taau=3"], ["objective has: dialect, divergence", "type: objective.tau=3"]),
        (["model.parent=wrong"], ["model.parent = wrong", "stage/wrong sets trainer.max_stps, which does not exist"]),
        (["experiment=relative"], ["overrides objective", "write `override /objective: ...` with the slash"]),
    ],
)
def test_options_of_ones_own_are_known_to_messages(
    words: list[str], texts: list[str], alignlab: Run, tmp_path: Path
) -> None:
    own = {
        "experiment/old": "defaults:\n  - override /reward: planted\n",
        "experiment/older": "defaults:\n  - lab\n",
        "experiment/mine": "defaults:\n  - override /objective: ipo\n",
        "experiment/relative": "defaults:\n  - override objective: ipo\n",
        "stage/wrong": "defaults:\n  - sft\n  - _self_\ntrainer:\n  max_stps: 6\n",
    }
    for name, text in own.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
    result = alignlab("check", *words, "--config-dir", "mine")
    assert result.code == 2
    for text in texts:
        assert text in result.err
    assert "no such option" not in result.err


def test_an_experiment_can_be_added_or_chosen(alignlab: Run) -> None:
    outputs = [alignlab("check", word).out.split()[0] for word in ("+experiment=lab_dpo", "experiment=lab_dpo")]
    assert outputs[0] == outputs[1]
    assert outputs[0] != alignlab("check").out.split()[0]


def test_a_sweep_is_checked_whole_before_its_first_point(alignlab: Run, tmp_path: Path) -> None:
    result = alignlab("train", "-m", "objective.beta=0.1,0.0", "seed=1,-2", "trainer.max_steps=2")
    assert result.code == 2
    assert "2 problems" in result.err
    assert "objective.beta = 0.0" in result.err
    assert "seed = -2" in result.err
    assert "[points 2, 3]" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "empty"),
        ("{not json\n", "line 1: is not JSON"),
        ('{"prompt": "a", "good": "b"}\n', "has no column chosen, rejected; it has: prompt, good"),
        ('{"prompt": "a", "chosen": [{"role": "assistant", "text": "b"}], "rejected": "c"}\n', "row 1"),
    ],
)
def test_bad_rows_are_found_before_anything_starts(content: str, text: str, alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    for command in (["check"], ["train", "-m", "objective.beta=0.1,0.3"]):
        result = alignlab(*command, "model=tiny", "data=pairs", "data.path=mine.jsonl")
        assert result.code == 2
        assert text in result.err
        assert "Traceback" not in result.err
    assert [f.name for f in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_preset_of_ones_own_is_checked_too(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    preset = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      {axis}\n"
    for axis, texts in (
        ("objective.bta: 0.1,0.2", ["objective.bta = 0.1", "type: objective.beta=0.1"]),
        ("objective.beta: 0.1,-0.2", ["objective.beta = -0.2", "greater than 0"]),
        ("objective.beta: [0.1", ["YAML", "can't be read"]),
    ):
        (tmp_path / "sweeps" / "mine.yaml").write_text(preset.format(axis=axis))
        result = alignlab("train", "experiment=lab_dpo", "sweep=mine")
        assert result.code == 2
        assert "Traceback" not in result.err
        for text in texts:
            assert text in result.err
    for content, text in (
        ("sweep:\n  question: Why?\n", "there is nothing to sweep"),
        ("objective:\n  beta: 1\n", "@package _global_"),
    ):
        head = "# @package _global_\n" if "sweep" in text else ""
        (tmp_path / "sweeps" / "mine.yaml").write_text(head + content)
        result = alignlab("check", "experiment=lab_dpo", "sweep=mine")
        assert result.code == 2
        assert text in result.err
    assert [f.name for f in tmp_path.iterdir()] == ["sweeps"]


@pytest.mark.parametrize("mode", ["", "  mode: MULTIRUN\n"])
def test_a_preset_runs_as_a_sweep_whether_or_not_it_says_so(mode: str, alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    content = f"# @package _global_\nhydra:\n{mode}  sweeper:\n    params:\n      seed: 1,2,3\n"
    (tmp_path / "sweeps" / "mine.yaml").write_text(content)
    found = alignlab("check", "sweep=mine")
    assert found.code == 0
    assert [line.split()[1] for line in found.out.splitlines() if line.startswith("dpo-")] == [
        "seed=1",
        "seed=2",
        "seed=3",
    ]
    assert "\nhydra:" not in (shown := alignlab("check", "--cfg", "job", "sweep=mine")).out
    assert shown.code == 0


def test_a_preset_is_refused_where_one_run_is_asked_for(alignlab: Run) -> None:
    found = alignlab("train", "--run", "sweep=seeds")
    assert found.code == 2
    assert (
        "sweep = seeds\n      is a sweep, but --run asks for one run\n      type: the same without --run" in found.err
    )


def test_a_bad_value_in_a_sweep_with_a_bad_type_beside_it(alignlab: Run) -> None:
    result = alignlab("train", "-m", "objective.beta=0.1,abc,-3")
    assert result.code == 2
    assert "objective.beta = abc" in result.err
    assert "objective.beta = -3.0" in result.err


def test_check_tells_points_and_their_state(alignlab: Run, tmp_path: Path) -> None:
    result = alignlab("check", "experiment=lab_dpo", "sweep=dpo_beta")
    assert result.code == 0
    assert result.out.count("starts from sft-") == 4
    assert result.out.count("not run yet") == 8
    assert list(tmp_path.iterdir()) == []


def test_completion_offers_verbs_groups_and_options(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        return alignlab("-sc", "query=bash").out.split()

    assert complete("alignlab tr") == ["train"]
    assert complete("alignlab train objective=d") == ["objective=discopop", "objective=dpo", "objective=dpop"]
    assert complete("alignlab train sweep=dp") == ["sweep=dpo_beta"]
    assert complete("alignlab train objective.b") == ["objective.beta="]


def test_objectives_can_be_looked_up(alignlab: Run) -> None:
    everything = alignlab("objectives")
    assert everything.code == 0
    assert len([line for line in everything.out.splitlines() if line and not line.startswith((" ", "ρ"))]) == 37
    one = alignlab("objectives", "ipo")
    assert one.out.startswith(
        "ipo\n    loss of a row: (h - 1 / (2τ))²\n    from: IPO, Azar et al. 2023, https://arxiv.org/"
    )
    unknown = alignlab("objectives", "dppo")
    assert unknown.code == 2
    assert "no such objective: dppo" in unknown.err
    assert "there are: aot, apo_down" in unknown.err


def test_help_and_config(alignlab: Run) -> None:
    assert "alignlab train" in alignlab("--help").out
    result = alignlab("train", "--cfg", "job", "objective.beta=0.7")
    assert result.code == 0
    assert "beta: 0.7" in result.out


def test_help_shows_each_key_with_its_comment(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    words = [
        "objective=kto",
        "trainer.max_steps=7",
        "tracking=wandb,csv",
        "output_root=a,b",
        "sweep.question=Why, then?",
    ]
    text = alignlab("train", "--help", *words, "-m", "seed=1,2").out
    assert "smollm2_135m" in text
    assert "schema/" not in text
    assert "  stage (for model.parent and reward.run): hh_reward_model_smollm2" in text
    assert re.search(r"^    desirable_weight: 1\.0 +# lambda_D, weight of good answers, > 0\.$", text, re.M)
    assert re.search(r"^    max_steps: 7 +# number of optimizer updates, unless `max_epochs` is set\.$", text, re.M)
    assert re.search(r"^    alphabet: \$\{oc\.select:data\.alphabet,abcdef\} +# letters, each of which", text, re.M)
    assert re.search(r"^  seed: 1 +# seed of the order of rows", text, re.M)
    uncommented = [
        line for line in text.partition("Keys.")[2].splitlines() if re.match(r" +\w+:", line) and "#" not in line
    ]
    empty = ["judge: {}", "reward: null", "engine: {}", "metric: {}", "callback: {}"]
    assert [line.strip() for line in uncommented] == ["peft: {}", "strategy: {}", "tracking:", "csv: {}", *empty]
    assert re.search(r"^  output_root: a,b +# folder for all results\.$", text, re.M), "a comma is no axis there"
    assert re.search(r"^    question: Why, then\? +# printed above", text, re.M)
    assert re.search(r"^    csv:", text, re.M)


@pytest.mark.parametrize(("verb", "key"), [("evaluate", "run: ''"), ("synthesize", "trust_remote_code: false")])
def test_help_of_verbs_that_train_nothing(verb: str, key: str, alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    text = alignlab(verb, "--help").out
    assert text.startswith(f"usage: alignlab {verb} [key=value ...]")
    assert re.search(rf"^  {re.escape(key)} +# ", text, re.M)
    groups = re.findall(r"^  (\w+): ", text.partition("Groups.")[2].partition("\n\n")[0], re.M)
    expected = {
        "evaluate": ["benchmark", "data", "engine", "judge", "model"],
        "synthesize": ["data", "engine", "judge", "model", "peft"],
    }
    assert groups == expected[verb]


def test_help_refuses_what_does_not_exist(alignlab: Run) -> None:
    result = alignlab("train", "--help", "objective=dpoo")
    assert (result.code, result.out) == (2, "")
    assert "type: objective=dpo" in result.err


def test_the_schema_for_editors(alignlab: Run) -> None:
    result = alignlab("schema")
    assert json.loads(result.out)["properties"]["trainer"]["additionalProperties"] is False
    assert '"yaml.schemas": {"./alignlab.schema.json"' in alignlab("schema", "--help").out
    assert alignlab("schema", "train").code == 2


@pytest.mark.parametrize("objective", ["kto", "bco", "apo_zero_unpaired"])
def test_check_warns_of_labels_that_are_all_the_same(objective: str, alignlab: Run, tmp_path: Path) -> None:
    row = '{{"prompt": "a{0}", "completion": "b{0}", "label": {1}}}\n'
    words = ["check", "model=tiny", "data=unpaired", "data.path=rows.jsonl"]
    (tmp_path / "rows.jsonl").write_text("".join(row.format(i, "true") for i in range(20)))
    result = alignlab(*words, f"objective={objective}")
    assert result.code == 0
    assert "all 18 training answers are good, none is bad" in result.out
    assert "alignlab synthesize" in result.out
    assert "answers are good" not in alignlab(*words, "objective=sft").out
    (tmp_path / "rows.jsonl").write_text("".join(row.format(i, ["false", "true"][i % 2]) for i in range(20)))
    assert "none is" not in alignlab(*words, f"objective={objective}").out


def test_check_warns_of_labels_in_a_folder(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    row = '{{"prompt": "a{0}", "completion": "b{0}", "label": false}}\n'
    (tmp_path / "rows/train.jsonl").write_text("".join(map(row.format, range(20))))
    result = alignlab("check", "model=tiny", "data=unpaired", "data.path=rows", "objective=kto")
    assert result.code == 0
    assert "all 18 training answers are bad, none is good" in result.out
