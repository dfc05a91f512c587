"""The commands of README and docs, run as they are written by a reader who has the files and runs that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.test_docs_commands import PAGES, commands, run

# Commands that need what a machine without a network, GPUs and a cluster has not, or a person, or an hour.
ELSEWHERE = re.compile(
    r"<|org/|hub|gpt-4o|judge=human|hh_rlhf|model=(qwen|llama|smollm|hub)|=\[?smollm|hh_(dpo|ppo)|support_desk_dpo|"
    r"my-model|engine=|slurm|launcher=ray|sweep=datasets|experiment=(large|first)|plugins=|test-plugin|my_package|lm_eval|"
    r"--wandb|--sync|tensorboard|model=./|exports/|--repo|adapter my|my_gguf|chat |papers run all|no-never-smollm2|"
    r"reward-bench|optuna|unpack|import-trl|run=reward_model|--drift|runs --watch|records=|papers compare|small-4e21"
)


def written() -> list[str]:
    """The commands of all pages, each once, that a machine without a network can run."""
    typed = dict.fromkeys(command for page in PAGES for command in commands(page))
    return [c for c in typed if c.startswith("alignlab ") and not ELSEWHERE.search(c)]


def files_of_the_reader(folder: Path) -> None:
    """The files that the pages call my_pairs.jsonl, prompts.jsonl, answers.csv and so on."""
    pairs = [{"prompt": f"Say {i}.", "chosen": f"It is {i}.", "rejected": f"No, {i} it is not."} for i in range(60)]
    for name in ("my_pairs", "january", "february"):
        rows = pairs
        if name != "my_pairs":
            rows = [{"prompt": f"{name} {r['prompt']}", "best": r["chosen"], "worst": r["rejected"]} for r in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(4)))
    answers = [f"Say {i}.,It is {i}.,{'helpful' if i % 2 else 'harmful'}" for i in range(60)]
    (folder / "answers.csv").write_text("\n".join(["prompt,completion,label", *answers]) + "\n")
    stars = [f"Say {i // 2}.,It is {i}.,{1 + i % 5}" for i in range(120)]
    (folder / "stars.csv").write_text("\n".join(["query,reply,stars", *stars]) + "\n")
    (folder / "my_rules.py").write_text("def polite(prompt, answer):\n    return float(answer.endswith('.'))\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a reader has followed the page start, and has the sweep and the runs that other pages name."""
    made = tmp_path_factory.mktemp("reader")
    files_of_the_reader(made)
    run("alignlab train experiment=lab_dpo sweep=dpo_beta sweep.name=dpo_beta-7c897c trainer.keep=state", made)
    run("alignlab train experiment=lab_dpo objective=kto", made)
    run("alignlab train experiment=lab_dpo sweep=dpo_beta sweep.name=dpo_beta-1822df seed=2", made)
    return made


def with_ids(command: str, folder: Path) -> str:
    """The command with the ids of runs in the folder in place of those that the pages show."""
    found = sorted((path.name for path in (folder / "outputs/runs").iterdir() if path.name[0] != "."), reverse=True)
    dpo, kto = (next(name for name in found if name.startswith(kind)) for kind in ("dpo-", "kto-"))
    real = {"dpo-3c90": dpo, "kto-af40": kto, "3c90": dpo, "af40": kto, "dpo_beta-a41": "dpo_beta-7c897c"}
    for shown, own in real.items():
        command = re.sub(rf"(?<![\w-]){re.escape(shown)}(?!\w)", own, command)
    return command


@pytest.mark.slow
@pytest.mark.parametrize("command", written())
def test_a_command_runs(command: str, folder: Path) -> None:
    run(with_ids(command, folder), folder)
