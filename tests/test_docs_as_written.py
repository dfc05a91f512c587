"""The commands of README and docs, run as they are written by a reader who has the files and runs that they name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_docs_commands import PAGES, commands, run

# Commands that need what a machine without a network, GPUs and a cluster has not, or a person, or an hour.
# Two sweeps in the folder of these tests begin with `dpo_beta`, so commands with that name are left out too:
# tests/test_docs_commands.py runs one of them.
ELSEWHERE = re.compile(
    r"<|org/|hub|gpt-4o|judge=human|hh_rlhf|model=(qwen|llama|smollm|hub)|=\[?smollm|hh_(dpo|ppo)|support_desk_dpo|"
    r"my-model|engine=|slurm|launcher=ray|sweep=datasets|experiment=(large|first)|plugins=|test-plugin|my_package|lm_eval|"
    r"--wandb|--sync|tensorboard|model=./|exports/|--repo|adapter my|my_gguf|chat |papers run all|no-never-smollm2|"
    r"reward-bench|optuna|unpack|import-trl|run=reward_model|--drift|runs --watch|records=|papers compare|small-4e21|"
    r"(report|frontier) dpo_beta$"
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


@dataclass(frozen=True)
class Reader:
    """A folder in which a reader has files and runs. ids: the ids that the pages show -> those in the folder."""

    folder: Path
    ids: dict[str, str]

    def types(self, command: str) -> str:
        """The command with the reader's own ids."""
        for shown, own in self.ids.items():
            command = re.sub(rf"(?<![\w-]){re.escape(shown)}(?!\w)", own, command)
        return command


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("reader")
    files_of_the_reader(folder)
    run("alignlab train experiment=lab_dpo trainer.keep=state", folder)
    run("alignlab train experiment=lab_dpo objective=kto", folder)
    dpo, kto = (next((folder / "outputs/runs").glob(f"{kind}-*")).name for kind in ("dpo", "kto"))
    for name, seed in (("dpo_beta-7c897c", 1), ("dpo_beta-1822df", 2)):
        run(f"alignlab train experiment=lab_dpo sweep=dpo_beta sweep.name={name} seed={seed}", folder)
    ids = {"dpo-3c90": dpo, "kto-af40": kto, "3c90": dpo, "af40": kto, "dpo_beta-a41": "dpo_beta-7c897c"}
    return Reader(folder, ids)


@pytest.mark.slow
@pytest.mark.parametrize("command", written())
def test_a_command_runs(command: str, reader: Reader) -> None:
    run(reader.types(command), reader.folder, answer="y\n")
