"""Code that comes with a model runs only if the command line allows it, no matter who wrote the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ConfigError
from alignlab.models.sources.tiny import Tiny

Run = Callable[..., Any]

# A model class that writes a file when it is created.
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

class OwnConfig(LlamaConfig):
    model_type = "own_code"

    def __init__(self, **fields):
        Path({mark!r}).touch()
        super().__init__(**fields)

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

class OwnForSequenceClassification(LlamaForSequenceClassification):
    config_class = OwnConfig
"""
MAP = {
    "AutoConfig": "own_code.OwnConfig",
    "AutoModelForCausalLM": "own_code.OwnForCausalLM",
    "AutoModelForSequenceClassification": "own_code.OwnForSequenceClassification",
}
PAIRS = [
    "data=pairs",
    "evaluation=off",
    "data.path=pairs.jsonl",
    "trainer.max_steps=1",
    "trainer.batch_size=2",
    "tracking=none",
]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once the code of a model has run. A file with training pairs is in the same folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "the code has run"


def model_folder(folder: Path) -> Path:
    """A tiny Llama with a tokenizer, without code."""
    model, tokenizer = Tiny(name="t").load()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_code(folder: Path, mark: Path, *, model_type: str = "own_code") -> Path:
    """Put Python code into a model folder, and name it in its config."""
    (folder / "own_code.py").write_text(CODE.format(mark=str(mark)))
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": model_type, "auto_map": MAP}))
    return folder


def the_run() -> Path:
    """The only finished run of DPO."""
    runs = Path("outputs/runs").glob("dpo-*[0-9a-f]")
    (found,) = (run for run in runs if json.loads((run / "run.json").read_text())["status"] == "done")
    return found


def claim_trust(run: Path) -> None:
    """Change the record of a run so that it claims that its model's code was allowed."""
    record = json.loads((run / "run.json").read_text())
    record["config"]["model"]["trust_remote_code"] = True
    (run / "run.json").write_text(json.dumps(record))


def test_typed_for_the_run_and_again_for_its_evaluation(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark)
    train = ["train", "model=hub", f"model.name={own}", *PAIRS]
    found = alignlab(*train)
    assert (found.code, mark.exists()) == (2, False)
    assert "model.trust_remote_code=true" in found.err
    assert "Traceback" not in found.err

    assert alignlab(*train, "model.trust_remote_code=true").code == 0
    assert mark.exists()

    mark.unlink()
    evaluate = ["evaluate", f"run={the_run()}", "evaluation.prompts=2"]
    found = alignlab(*evaluate)
    assert (found.code, mark.exists()) == (2, False)
    assert "type: trust_remote_code=true" in found.err
    assert alignlab(*evaluate, "trust_remote_code=true").code == 0
    assert mark.exists()


@pytest.mark.parametrize("model_type", ["own_code", "llama"])
def test_a_record_allows_nothing(model_type: str, alignlab: Run, tmp_path: Path, mark: Path) -> None:
    plain = model_folder(tmp_path / "plain")
    assert alignlab("train", "model=hub", f"model.name={plain}", *PAIRS).code == 0
    add_code(the_run() / "policy", mark, model_type=model_type)
    claim_trust(the_run())
    for more in ([], ["evaluation.baselines=[" + the_run().name + "]"]):
        found = alignlab("evaluate", f"run={the_run()}", "evaluation.prompts=2", *more)
        assert (found.code, mark.exists()) == (2, False)
        assert "type: trust_remote_code=true" in found.err


def test_a_folder_that_transformers_can_read_by_itself_is_read_without_its_code(
    alignlab: Run, tmp_path: Path, mark: Path
) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark, model_type="llama")
    assert alignlab("train", "model=hub", f"model.name={own}", *PAIRS).code == 0
    assert not mark.exists()


PARENT = "[objective=sft, model=hub, model.name=own, model.trust_remote_code=true]"


@pytest.mark.parametrize(
    ("model", "axis", "key"),
    [
        ("trust_remote_code: true", "seed: 1,2", "model"),
        ("revision: ''", "model.trust_remote_code: true,false", "model"),
        ("revision: ''", "++model.trust_remote_code: true,true", "model"),
        (f"parent: {PARENT}", "seed: 1,2", "parent.model"),
    ],
)
def test_a_sweep_file_allows_nothing(
    model: str, axis: str, key: str, alignlab: Run, tmp_path: Path, mark: Path
) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        f"# @package _global_\nmodel:\n  {model}\nhydra:\n  sweeper:\n    params:\n      {axis}\n"
    )
    found = alignlab("train", "sweep=mine", "model=hub", f"model.name={own}", *PAIRS)
    assert (found.code, mark.exists()) == (2, False)
    assert f"{key}.trust_remote_code" in found.err
    assert "only if the command line allows it" in found.err


def test_parents_take_it_from_the_command_line(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark)
    parent = 'model.parent=["objective=sft","trainer.max_steps=1","trainer.batch_size=2"{}]'
    train = ["train", "model=hub", f"model.name={own}", *PAIRS]
    assert alignlab(*train, parent.format("")).code == 2
    assert not mark.exists()
    assert alignlab(*train, parent.format(""), "model.trust_remote_code=true").code == 0
    mark.unlink()
    (tmp_path / "outputs").rename(tmp_path / "before")
    plain = model_folder(tmp_path / "plain")
    of_parent = parent.format(f',"model=hub","model.name={own}","model.trust_remote_code=true"')
    assert alignlab("train", "model=hub", f"model.name={plain}", *PAIRS, of_parent).code == 2, "its child may not"
    assert mark.exists(), "typed within the parent's overrides"
    mark.unlink()
    assert alignlab("check", *train[1:], "model.trust_remote_code=true").code == 0
    assert not mark.exists(), "checking runs nothing"


def test_the_base_of_an_adapter_and_reward_models(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    plain = model_folder(tmp_path / "plain")
    assert alignlab("train", "model=hub", f"model.name={plain}", "peft=lora", *PAIRS).code == 0
    adapter = the_run() / "policy"
    own = add_code(model_folder(tmp_path / "own"), mark)
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(own), "trust_remote_code": True}))
    sources: list[list[str]] = [
        ["evaluate", f"run={the_run()}"],
        ["evaluate", f"run={the_run()}", f"evaluation.baselines=[{adapter}]"],
        ["train", "model=hub", f"model.name={adapter}", *PAIRS],
        ["train", "model=hub", f"model.name={plain}", *PAIRS, "evaluation.at_end=true", "evaluation.prompts=2",
         "judge=reward_model", f"judge.reward_model.model={own}"],
    ]  # fmt: skip
    for arguments in sources:
        found = alignlab(*arguments)
        assert (found.code, mark.exists()) == (2, False), arguments
        assert "trust_remote_code=true" in found.err
        assert "Traceback" not in found.err


def test_an_adapter_that_names_a_python_module(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    plain = model_folder(tmp_path / "plain")
    assert alignlab("train", "model=hub", f"model.name={plain}", "peft=lora", *PAIRS).code == 0
    (tmp_path / "imported_by_peft.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    file = the_run() / "policy" / "adapter_config.json"
    named = {"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "imported_by_peft"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    found = alignlab("evaluate", f"run={the_run()}", "evaluation.prompts=2")
    assert (found.code, mark.exists()) == (2, False)
    assert "Traceback" not in found.err


HYDRA = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,2\n"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("  overrides:\n    task: ['model.trust_remote_code=true']\n", "hydra.overrides"),
        ("  callbacks:\n    mine:\n      _target_: sympy.sympify\n      a: 1\n", "hydra.callbacks"),
        ("  launcher:\n    _target_: sympy.sympify\n", "hydra.launcher._target_"),
    ],
)
def test_a_sweep_file_sets_nothing_that_hydra_calls(
    more: str, key: str, alignlab: Run, tmp_path: Path, mark: Path
) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(HYDRA + more)
    for verb in ("check", "train"):
        found = alignlab(verb, "sweep=mine", "model=hub", f"model.name={own}", *PAIRS)
        assert (found.code, mark.exists()) == (2, False)
        assert f"{key}\n      may not be set by a sweep file" in found.err
        assert "Traceback" not in found.err


CALLS = "a: {_target_: os.mknod, path: MARK}\n"
PACKAGE = "# @package _global_\n"


# Files below a folder of options that set what Hydra would call.
CALLING = [
    {"experiment/own": f"{PACKAGE}hydra:\n  callbacks:\n    {CALLS}"},
    {"experiment/own": f"{PACKAGE}defaults:\n  - override /hydra/callbacks: evil\n", "hydra/callbacks/evil": CALLS},
    {"experiment/own": f"{PACKAGE}defaults:\n  - /evil@hydra.callbacks: evil\n", "evil/evil": CALLS},
    {"experiment/own": f"{PACKAGE}defaults:\n  - ../evil@_global_.hydra.callbacks: evil\n", "evil/evil": CALLS},
    {"experiment/own": f"# @package hydra.callbacks\n{CALLS}"},
    {"experiment/own": f"# @package _global_.hydra.callbacks\n{CALLS}"},
    {"experiment/own": f"{PACKAGE}hydra:\n  sweeper:\n    params:\n      {CALLS}"},
    {"experiment/own": f"{PACKAGE}hydra:\n  launcher:\n    {CALLS}"},
    {"experiment/own": f"{PACKAGE}hydra:\n  launcher: {{_target_: os.mknod, path: MARK}}\n"},
    {
        "experiment/own": f"{PACKAGE}defaults:\n  - override /hydra/launcher: evil\n",
        "hydra/launcher/evil": "_target_: os.mknod\npath: MARK\n",
    },
    {"experiment/own": f"{PACKAGE}own: {{_target_: os.mknod, path: MARK}}\nhydra:\n  launcher: ${{own}}\n"},
    {"experiment/own": f"{PACKAGE}own:\n  callbacks:\n    {CALLS}hydra: ${{own}}\n"},
    {"experiment/own": f"{PACKAGE}hydra:\n  job_logging: {{handlers: {{a: {{(): os.mknod, path: MARK}}}}}}\n"},
]


def write_options(files: dict[str, str], folder: Path, mark: Path) -> None:
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("MARK", str(mark)))


@pytest.mark.parametrize("files", CALLING)
def test_a_source_of_options_refuses_what_hydra_calls(files: dict[str, str], tmp_path: Path, mark: Path) -> None:
    from hydra_plugins.alignlab_plugins.search_path import OwnConfSource

    write_options(files, tmp_path, mark)
    source = OwnConfSource("own conf", f"own-conf://{tmp_path}")
    with pytest.raises(ConfigError, match="nothing was started"):
        [source.load_config(name) for name in files]


@pytest.mark.parametrize("levels", [1, 5])
def test_aliases_that_multiply_are_refused_before_they_are_replaced(levels: int, tmp_path: Path) -> None:
    from hydra_plugins.alignlab_plugins.search_path import OwnConfSource, SweepFolderSource

    lines = ["a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    own, sweeps = OwnConfSource("own", f"own-conf://{tmp_path}"), SweepFolderSource("s", f"sweeps://{tmp_path}")
    for source, name in ((own, "own"), (sweeps, "sweep/own")):
        if levels == 1:
            assert source.load_config(name).config.a0[9] == 9
            continue
        with pytest.raises(ConfigError, match=r"own\.yaml; nothing was started\n.*\n.*its aliases repeat its anchors"):
            source.load_config(name)
    (tmp_path / "own.yaml").write_text("a: &a [*a]")
    with pytest.raises(ConfigError, match="its aliases repeat"):
        own.load_config("own")


@pytest.mark.parametrize("place", ["conf", "mine"])
@pytest.mark.parametrize("files", [CALLING[0], *(pytest.param(one, marks=pytest.mark.slow) for one in CALLING[1:])])
def test_a_file_of_options_sets_nothing_that_hydra_calls(
    files: dict[str, str], place: str, alignlab: Run, tmp_path: Path, mark: Path
) -> None:
    write_options(files, tmp_path / place, mark)
    for mode in ([], ["-m", "seed=1,2"]):
        words = ["experiment=own", *mode, *(["--config-dir", "mine"] if place == "mine" else [])]
        found = alignlab("check", *words)
        assert (found.code, mark.exists()) == (2, False), found.out + found.err
        assert "nothing was started" in found.err, found.err
        assert "Traceback" not in found.err


@pytest.mark.slow
def test_options_of_ones_own_for_a_launcher(alignlab: Run, tmp_path: Path) -> None:
    """What does no harm is still possible: an option of a launcher, and one that an experiment chooses."""
    for folder in ("conf", "mine"):
        (tmp_path / folder / "hydra" / "launcher").mkdir(parents=True)
        (tmp_path / folder / "hydra" / "launcher" / f"two_{folder}.yaml").write_text("defaults: [local]\nat_once: 2\n")
        (tmp_path / folder / "experiment").mkdir()
        text = f"{PACKAGE}defaults:\n  - override /hydra/launcher: two_{folder}\ntrainer: {{max_steps: 3}}\n"
        (tmp_path / folder / "experiment" / f"own_{folder}.yaml").write_text(text)
    for words in (
        ["experiment=own_conf"],
        ["experiment=own_mine", "--config-dir=mine"],
        ["-cd=mine", "launcher=two_mine"],
    ):
        found = alignlab("check", "-m", "experiment=lab_dpo", *words, "seed=1,2")
        assert found.code == 0, found.err
        assert found.out.count("starts from sft-") == 2


def test_the_folder_of_all_configs_is_not_replaced(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "check.yaml").write_text(f"hydra:\n  callbacks:\n    {CALLS.replace('MARK', str(mark))}")
    for words in (["--config-path", str(tmp_path / "mine")], [f"-cp={tmp_path / 'mine'}"], ["--config-di=mine"]):
        found = alignlab("check", *words)
        assert (found.code, mark.exists()) == (2, False), found.out + found.err
    assert "must be written in full" in found.err


@pytest.mark.parametrize("place", ["model", "hydra"])
def test_an_experiment_file_of_ones_own_allows_nothing(place: str, alignlab: Run, tmp_path: Path, mark: Path) -> None:
    own = add_code(model_folder(tmp_path / "own"), mark)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = {
        "model": "model:\n  trust_remote_code: true\n",
        "hydra": "hydra:\n  overrides:\n    task: ['model.trust_remote_code=true']\n",
    }[place]
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}")
    train = [
        "train",
        "model=hub",
        f"model.name={own}",
        *PAIRS,
        "experiment=own",
        "--config-dir",
        str(tmp_path / "mine"),
    ]
    found = alignlab(*train)
    assert (found.code, mark.exists()) == (2, False), found.err


def test_files_allow_nothing_in_an_evaluation_either(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    plain, own = model_folder(tmp_path / "plain"), add_code(model_folder(tmp_path / "own"), mark)
    assert alignlab("train", "model=hub", f"model.name={plain}", *PAIRS).code == 0
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "ev.yaml").write_text("# @package _global_\ntrust_remote_code: true\n")
    asked = ["evaluate", f"run={the_run()}", f"evaluation.baselines=[{own}]", "+sweep@_global_=ev"]
    found = alignlab(*asked)
    assert (found.code, mark.exists()) == (2, False)
    assert "trust_remote_code = true\n      is set by a config file" in found.err


def test_the_key_of_the_model_is_not_that_of_a_judge(alignlab: Run, tmp_path: Path, mark: Path) -> None:
    plain = model_folder(tmp_path / "plain")
    judge = add_code(model_folder(tmp_path / "judge"), mark)
    found = alignlab(
        "train", "model=hub", f"model.name={plain}", *PAIRS, "model.trust_remote_code=true", "evaluation.at_end=true",
        "evaluation.prompts=2", "judge=reward_model", f"judge.reward_model.model={judge}",
    )  # fmt: skip
    assert (found.code, mark.exists()) == (2, False)
    assert "judge.reward_model.trust_remote_code=true" in found.err


def test_a_run_is_evaluated_from_another_folder(alignlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths in a record start at the folder in which the run was started."""
    model_folder(tmp_path / "plain")
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert alignlab("train", "model=hub", "model.name=plain", "peft=lora", *PAIRS).code == 0
    (tmp_path / "elsewhere").mkdir()
    run = the_run().resolve()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = alignlab("evaluate", f"run={run}", "evaluation.prompts=2")
    assert found.code == 0, found.err
