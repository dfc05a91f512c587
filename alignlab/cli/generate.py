"""`alignlab generate`: answers of a run's policy, or of a model, to the prompts of a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignlab.checks import Checked, at_least, one_of, positive
from alignlab.cli.refusal import print_error
from alignlab.cli.words import load_named_plugins, settings_of, split_words
from alignlab.errors import AlignlabError, ConfigError, Problem, UnsavedError
from alignlab.integrity import write_text
from alignlab.progress import bar_or_lines
from alignlab.spelling import counted
from alignlab.targets import problems_of_target

_USAGE = """usage: alignlab generate <run or model> <prompts> [<answers.jsonl>] [key=value ...]

Samples an answer to each prompt. Without <answers.jsonl>, the answers are printed, one JSON object a line.

run or model   the id of a run or its beginning, the folder of a run or a model, a name on the hub, or a model of
               `alignlab train --help` (tiny, smollm2_135m)
prompts        a .json or .jsonl file with the column prompt, instruction or turns, as in `alignlab evaluate`
answers.jsonl  a new file
overwrite=false           true replaces a file of answers that is there already
samples=1      answers to each prompt
max_new_tokens=128, temperature=1.0, seed=1, batch_size=16, accelerator=auto, progress=true
output_root=outputs       where the runs are, and where answers are stored as they come
trust_remote_code=false   run code that comes with the model
plugins=...               packages and folders with parts of your own"""


@dataclass(kw_only=True)
class Options(Checked):
    """Options of the command line."""

    samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    seed: int = 1
    batch_size: int = 16
    accelerator: str = "auto"
    progress: bool = True
    output_root: str = "outputs"
    trust_remote_code: bool = False
    overwrite: bool = False

    def problems(self) -> Iterator[Problem]:
        for key in ("samples", "max_new_tokens", "batch_size"):
            yield from at_least(key, getattr(self, key), 1, example=16)
        yield from at_least("seed", self.seed, 0, example=1)
        yield from positive("temperature", self.temperature, example=1.0)
        yield from one_of("accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    names, given = split_words(argv)
    if len(names) not in (2, 3) or any(name.startswith("--") for name in names):
        asked = bool({"--help", "-h"} & set(names))
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        load_named_plugins(given)
        return _generate(names[0], names[1], names[2] if len(names) == 3 else "", settings_of(Options, given))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


def _generate(name: str, prompts: str, file: str, options: Options) -> int:
    from alignlab.evaluation.questions import read_questions
    from alignlab.pipeline.generate import generate
    from alignlab.pipeline.named_policy import named_policy
    from alignlab.synthesis.settings import Synthesis
    from alignlab.training.attempt import quiet_libraries

    if file and (problems := list(_problems_of_answers(file, prompts, options))):
        raise ConfigError(problems)
    read_questions(prompts)  # what is wrong with the file is told before weights are loaded
    quiet_libraries()
    policy, _ = named_policy(name, options.output_root, trust_remote_code=options.trust_remote_code)
    how = Synthesis(
        preferred="data",  # no judge is asked
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    bar = bar_or_lines(options.progress)
    made = generate(policy, prompts, how, root=options.output_root, accelerator=options.accelerator, progress=bar)
    escaped = not file and sys.stdout.isatty()  # characters of answers must not control the terminal
    text = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in made.rows)
    skipped = f"; {counted(made.skipped, 'second turn')} not asked" if made.skipped else ""
    ended = f"{made.ended} ended by {'itself' if made.ended == 1 else 'themselves'}"
    told = f"{policy.name}: {counted(len(made.rows), 'answer')}, {ended}{skipped}"
    if not file:
        print(text, end="")
        print(told, file=sys.stderr)
        return 0
    try:
        write_text(Path(file), text)
    except OSError as error:
        raise UnsavedError(f"{file} can't be written: {error}") from error
    print(f"{told}, in {file}")
    return 0


def _problems_of_answers(file: str, prompts: str, options: Options) -> Iterator[Problem]:
    """The problem of the file for the answers. It is told before anything is sampled."""
    if problems := list(problems_of_target("answers", file)):
        yield from problems
    elif not file.endswith(".jsonl"):
        yield Problem("answers", file, "must end in .jsonl, the format of the answers", "answers.jsonl")
    elif os.path.exists(prompts) and os.path.exists(file) and os.path.samefile(prompts, file):
        text = "is the file of the prompts, which the answers would replace"
        yield Problem("answers", file, text, "another file")
    elif os.path.lexists(file) and not options.overwrite:
        yield Problem("answers", file, "exists already", "overwrite=true, or another file")
