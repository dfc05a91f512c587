"""The files of a run may be somebody else's: no command that reads them runs code that they name or hold.

Each test changes one file of a finished run, so that it would create a file if its code ran, and calls every verb.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import MANIFEST, write_sealed
from alignlab.runs.directory import RunDir
from alignlab.runs.query import runs_of
from tests.config.test_remote_code import PAIRS, model_folder

Run = Callable[..., Any]

# A module that creates a file when it is imported, and when any of its functions or classes is used.
CODE = """
from pathlib import Path
Path({mark!r}).touch()
def score(prompt, answer):
    return 1.0
class Anything:
    def __init__(self, *args, **named):
        pass
    from_pretrained = from_config = classmethod(lambda cls, *args, **named: cls())
generate = score
"""


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (self.file,)


def _json(file: Path, **values: Any) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **values}))


def _record(run: RunDir, **values: Any) -> None:
    write_sealed(run.record_file, {**json.loads(run.record_file.read_text()), **values})


def _config(run: RunDir, **groups: Any) -> None:
    _record(run, config={**run.record()["config"], **groups})


def model_code(run: RunDir, mark: Path) -> None:
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    _json(run.policy / "config.json", auto_map=dict.fromkeys(names, "own_code.Anything"), model_type="own_code")


def tokenizer_code(run: RunDir, mark: Path) -> None:
    code = {"AutoTokenizer": ["own_code.Anything", "own_code.Anything"]}
    _json(run.policy / "tokenizer_config.json", auto_map=code, tokenizer_class="Anything")


def generation_code(run: RunDir, mark: Path) -> None:
    (run.policy / "custom_generate").mkdir()
    shutil.copy(run.policy / "own_code.py", run.policy / "custom_generate" / "generate.py")
    _json(run.policy / "generation_config.json", custom_generate=str(run.policy))


def adapter_code(run: RunDir, mark: Path) -> None:
    shutil.copytree(run.policy, run.path / "base")
    auto = {"base_model_class": "Anything", "parent_library": "own_code"}
    _json(run.policy / "adapter_config.json", peft_type="LORA", auto_mapping=auto, base_model_name_or_path=str(
        run.path / "base"), target_modules=["q_proj"], r=1, task_type=None)  # fmt: skip


def pickled_weights(run: RunDir, mark: Path) -> None:
    (run.policy / "model.safetensors").unlink()
    (run.policy / "pytorch_model.bin").write_bytes(pickle.dumps({"a": _Touch(str(mark))}))


def pickled_state(run: RunDir, mark: Path) -> None:
    run.checkpoint.parent.mkdir(exist_ok=True)
    run.checkpoint.write_bytes(pickle.dumps({"a": _Touch(str(mark))}))


def chat_template(run: RunDir, mark: Path) -> None:
    escape = "{{ cycler.__init__.__globals__.os.mknod('" + str(mark) + "') }}"
    escape += "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    _json(run.policy / "tokenizer_config.json", chat_template=escape)
    (run.policy / "chat_template.jinja").write_text(escape)


def reward_function(run: RunDir, mark: Path) -> None:
    _config(run, reward={"tie_margin": 0.0, "function": "own_code:score"})
    _record(run, kinds={**run.record()["kinds"], "reward": "gold"})


def judge_function(run: RunDir, mark: Path) -> None:
    gold = {"gold": {"tie_margin": 0.0, "function": "own_code:score"}}
    _config(run, judge=gold, evaluation={**run.record()["config"]["evaluation"], "at_end": True, "proxy": "gold"})
    _record(run, kinds={**run.record()["kinds"], "judge": "gold"})


def plugin(run: RunDir, mark: Path) -> None:
    source = {"source": "own_code", "version": "1", "digest": "abc"}
    _record(run, plugins={"own_code": source})
    _config(run, plugins=["own_code"])


def target(run: RunDir, mark: Path) -> None:
    named = {"_target_": "own_code.score", "prompt": "a", "answer": "b"}
    _config(run, model={**run.record()["config"]["model"], **named}, metric={"own": named}, callback={"own": named})
    run.config.write_text(f"a: !!python/object/apply:os.mknod ['{mark}']\nmodel:\n  _target_: own_code.score\n")


def tracker(run: RunDir, mark: Path) -> None:
    named = {"_target_": "own_code.Anything", "function": "own_code:score", "module": "own_code"}
    _config(run, tracking={"own_code": named, "wandb": named, "csv": named})
    kinds = {**run.record()["kinds"], "tracking": "own_code", "callback": "own_code", "metric": "own_code"}
    _record(run, kinds=kinds)


def hydra_of_the_record(run: RunDir, mark: Path) -> None:
    called = {"_target_": "own_code.Anything"}
    hydra = {"callbacks": {"a": called}, "launcher": called, "sweeper": called, "searchpath": ["pkg://own_code"]}
    _config(run, hydra=hydra)
    _record(
        run, overrides=["+hydra.callbacks.a._target_=own_code.Anything", "plugins=[./own_code]", "launcher=own_code"]
    )
    run.config.write_text(f"hydra:\n  callbacks:\n    a: {{_target_: os.mknod, path: {mark}}}\n")


def allowed_by_the_record(run: RunDir, mark: Path) -> None:
    model_code(run, mark)
    _config(run, model={**run.record()["config"]["model"], "trust_remote_code": True}, trust_remote_code=True)


def reward_model_code(run: RunDir, mark: Path) -> None:
    model_code(run, mark)
    _config(run, reward={"model": str(run.policy), "trust_remote_code": True})
    _record(run, kinds={**run.record()["kinds"], "reward": "reward_model"})


PLACES = [
    model_code, tokenizer_code, generation_code, adapter_code, pickled_weights, pickled_state, chat_template,
    reward_function, judge_function, plugin, target, tracker, hydra_of_the_record, allowed_by_the_record,
    reward_model_code,
]  # fmt: skip


def verbs(run: str) -> list[list[str]]:
    short = "evaluation.max_new_tokens=2"
    return [
        ["runs"], ["runs", "show", run], ["runs", "show", "--full", run], ["runs", "compare", run, run],
        ["runs", "table", "all.csv"], ["runs", "pack", run, "packed.tar"], ["report", run],
        ["evaluate", f"run={run}", "evaluation.prompts=2", short],
        ["evaluate", "model=tiny", "data=pairs", "data.path=pairs.jsonl", "evaluation.prompts=2", short,
         f"evaluation.baselines=[{run}]"],
        ["generate", run, "pairs.jsonl", "max_new_tokens=1", "batch_size=32"], ["chat", run, "max_new_tokens=2"],
        ["export", run, "--to", "merged", "merged"], ["export", run, "--to", "adapter", "adapter", "--base", "a/b"],
        ["export", run, "--to", "gguf", "gguf"], ["export", run, "--to", "hub", "--repo", "a/b", "--dry-run"],
        ["chat", run, "max_new_tokens=2", "--against", "reference"],
        ["train", f"run={run}", "trainer.max_steps=2"],
        ["train", "model=hub", f"model.name=outputs/runs/{run}/policy", *PAIRS],
        ["synthesize", f"run={run}", "data=pairs", "data.path=pairs.jsonl", "synthesis.prompts=2",
         "synthesis.max_new_tokens=2", "synthesis.judge=", "out=made.jsonl"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of a model in a folder, and its rows."""
    from alignlab.cli.main import main

    folder = tmp_path_factory.mktemp("finished")
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model_folder(folder / "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["alignlab"])
        assert main(["train", "model=hub", f"model.name={folder / 'plain'}", *PAIRS]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.__name__))
def test_nothing_that_a_run_names_or_holds_is_run(
    place: Callable[[RunDir, Path], None],
    finished: Path,
    alignlab: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (name,) = [record["id"] for record in runs_of("outputs")]
    run, mark = RunDir.of(tmp_path / "outputs", name), tmp_path / "the code has run"
    for folder in (tmp_path, run.policy, run.path):
        (folder / "own_code.py").write_text(CODE.format(mark=str(mark)))
    place(run, mark)
    (run.policy / MANIFEST).unlink(missing_ok=True)
    for words in verbs(name):
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/quit\n"))
        found = alignlab(*words)
        assert not mark.exists(), words
        assert found.code in (0, 1, 2), (words, found.err)
        assert "Traceback" not in found.err, words


def test_the_code_of_these_tests_would_create_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(_Touch(str(mark))))
    assert mark.exists()
    mark.unlink()
    exec(CODE.format(mark=str(mark)), {})
    assert mark.exists()


def test_a_function_of_a_record_runs_only_if_it_is_typed(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from alignlab.cli.continue_run import _untyped_function
    from alignlab.judges.gold import Gold

    before: Any = SimpleNamespace(train=SimpleNamespace(reward=Gold(function="own_code:score")))
    for typed, refused in ((None, True), ("other:score", True), ("own_code:score", False)):
        problems = list(_untyped_function(before, typed))
        assert bool(problems) == refused
        assert all(problem.type_this == "reward.function=own_code:score" for problem in problems)
    before.train.reward = None
    assert list(_untyped_function(before, None)) == []
