"""Standard benchmarks through lm-eval, the Language Model Evaluation Harness: IFEval, GSM8K, MMLU and many others.

Gao et al. 2024, https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignlab.checks import at_least, installed
from alignlab.data.fingerprint import path_digest
from alignlab.errors import DataError, Problem
from alignlab.evaluation.benchmarks.base import Benchmark
from alignlab.spelling import correct_option


@dataclass(kw_only=True)
class LmEval(Benchmark):
    """Tasks of lm-eval. Each score of each item counts by itself, such as acc, exact_match or prompt_level_strict_acc.

    tasks:         names of tasks or groups: ifeval, gsm8k, mmlu, or names of your own.
    limit:         number of items of each task; 0 takes all.
    shots:         number of examples before each item; -1 takes the number of the task.
    chat_template: render items with the model's chat template, if it has one.
    include_path:  folder with tasks of your own (YAML files of lm-eval).
    batch_size:    number of items at a time.
    """

    tasks: list[str]
    limit: int = 0
    shots: int = -1
    chat_template: bool = True
    include_path: str = ""
    batch_size: int = 8

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.tasks or not all(isinstance(task, str) for task in self.tasks):
            yield Problem("tasks", self.tasks, "must name at least one task", "tasks=[ifeval,gsm8k]")
        yield from at_least("limit", self.limit, 0, example=100, hint="0 takes all")
        yield from at_least("shots", self.shots, -1, example=5, hint="-1 takes the number of the task")
        yield from at_least("batch_size", self.batch_size, 1, example=8)

    def missing(self) -> Iterator[Problem]:
        without = list(installed("tasks", self.tasks, "lm_eval", extra="benchmarks"))
        yield from without
        if self.include_path and not Path(self.include_path).is_dir():
            yield Problem("include_path", self.include_path, "there is no such folder")
        elif not without:
            known = _manager(self.include_path, self.fingerprint()).all_tasks
            for task in self.tasks:
                if task not in known:
                    guess = correct_option(task, known)
                    cure = f"tasks=[{guess}]" if guess else "lm-eval ls tasks   (shows those that it brings)"
                    yield Problem("tasks", task, "lm-eval has no such task, and include_path has none", cure)

    def fingerprint(self) -> str:
        return path_digest(self.include_path) if self.include_path else ""

    def scores(self, model: Any, tokenizer: Any) -> Mapping[str, Sequence[float]]:
        """Raises DataError if lm-eval can't load the data of a task."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        chat = self.chat_template and getattr(tokenizer, "chat_template", None) is not None
        try:
            with contextlib.redirect_stdout(io.StringIO()), _silent_programs():
                found = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size),
                    tasks=list(self.tasks),
                    num_fewshot=None if self.shots < 0 else self.shots,
                    limit=self.limit or None,
                    apply_chat_template=chat,
                    task_manager=_manager(self.include_path, self.fingerprint()),
                    log_samples=True,
                    bootstrap_iters=0,
                )
        except (ConnectionError, FileNotFoundError, ValueError) as error:
            raise DataError(f"lm-eval can't ask {', '.join(self.tasks)}: {error}") from error
        return scores_of(found["samples"])


@contextlib.contextmanager
def _silent_programs() -> Iterator[None]:
    """Programs that are started within show no errors. What Python writes to standard error is still shown.

    lm-eval asks git for the commit of the working directory, and git writes "fatal" if there is no repository.
    """
    sys.stderr.flush()
    own = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with os.fdopen(os.dup(own), "w", buffering=1) as shown, contextlib.redirect_stderr(shown):
            yield
    finally:
        os.dup2(own, 2)
        os.close(own)


@lru_cache(maxsize=2)  # it reads thousands of files
def _manager(include_path: str, digest: str) -> Any:
    """lm-eval's index of tasks, with those of a folder, whose content has the digest."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path or None)


def scores_of(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """`<task>/<metric>` -> the value of each item, in lm-eval's order of items.

    A metric with several filters has one score for each: `<task>/<metric>/<filter>`. A metric with a list of values for
    an item, such as instruction-level accuracies, counts each value.
    """
    scores: dict[str, list[float]] = {}
    for task, rows in samples.items():
        filters = {row.get("filter", "none") for row in rows}
        for row in sorted(rows, key=lambda row: int(row.get("doc_id", 0))):
            for metric in row.get("metrics", ()):
                values = row.get(metric)
                name = f"{task}/{metric}" + (f"/{row['filter']}" if len(filters) > 1 else "")
                for value in values if isinstance(values, list | tuple) else [values]:
                    if isinstance(value, bool | int | float):
                        scores.setdefault(name, []).append(float(value))
    return scores
