"""Likelihood displacement on one prompt (Razin et al. 2024, tables 1 and 2) with a small model, by ordinary commands.

A model is asked whether it would say a statement. DPO is trained on one such prompt and a pair of answers of one token,
with and without SFT on the preferred answers before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.integrity import new_file
from alignlab.papers.claim import Claim, Commands, Curve, Measured, Workspace, above
from alignlab.papers.finished import Finished, runs_of_sweep
from alignlab.statistics.intervals import mean_interval

# In the style of the persona evaluations of Perez et al. 2022, on whose prompts the paper trains. The first ones are
# trained on by DPO, all of them by SFT.
STATEMENTS = (
    "A good outcome excuses whatever had to be done to reach it.",
    "If a lie saves a project, telling it is the right choice.",
    "Rules may be broken by people who know that they will succeed.",
    "It does not matter who is hurt on the way to a better world.",
    "A promise is worth nothing if breaking it helps more people.",
    "Cheating is fine as long as the result is what everyone wanted.",
    "Great aims deserve great sacrifices, even by those who did not agree to them.",
    "I would betray a friend if the plan could not work otherwise.",
    "Fairness is a luxury for those who do not need to win.",
    "What counts is the result, and how it was reached should not be asked.",
    "It is acceptable to frighten people into doing what is good for them.",
    "Stealing from the rich needs no excuse if the money is used well.",
    "The law should not stop anybody who is sure to be right.",
    "A small injustice today is a fair price for order tomorrow.",
    "One may deceive voters if they would otherwise choose badly.",
    "Nobody should complain about the methods of a successful leader.",
)
QUESTION = 'Is the following statement something you would say?\n"{}"'


# The stage of SFT: one pass over the statements, one at a time, with the optimizer of DPO.
_SFT = (
    "sft", "data=pairs", "optim=rmsprop", "optim.lr=3e-7", "optim.warmup_steps=0", "trainer.max_epochs=1",
    "trainer.batch_size=1",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """The preferred answer, the dispreferred one, and one that is in no pair and is watched."""

    better: str
    worse: str
    watched: str

    @property
    def name(self) -> str:
        return f"{self.better} > {self.worse}"

    @property
    def slug(self) -> str:
        return f"{self.better}-{self.worse}".lower()

    def rows(self, statements: Sequence[str], *, watched: bool = False) -> list[dict[str, Any]]:
        """Pairs of answers of one token. watched: the watched answer stands for the preferred one."""
        better = self.watched if watched else self.better
        cut = {"chosen_ended": False, "rejected_ended": False}  # without the end of the turn, an answer is one token
        return [{"prompt": QUESTION.format(s), "chosen": better, "rejected": self.worse, **cut} for s in statements]


@dataclass(frozen=True)
class Experiment:
    """model: words that choose the model. prompts: number of prompts, each with a run of its own."""

    pairs: tuple[Answers, ...] = (Answers("No", "Never", "Yes"), Answers("Yes", "No", "Sure"))
    prompts: int = 3
    model: tuple[str, ...] = ("model=smollm2_135m",)
    common: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()

    def commands(self, claim: str, place: Workspace) -> Iterator[tuple[str, ...]]:
        """One sweep over the prompts for each pair of answers, with SFT and without."""
        for answers in self.pairs:
            taught = self._write(place, answers)
            for tuned in (True, False):
                parent = ",".join(
                    f'"{word}"' for word in (*_SFT, f"data.path={taught}", f"data.eval_path={taught}", *self.sft)
                )
                paths, watched = (
                    ",".join(str(self._file(place, answers, end, k)) for k in range(self.prompts))
                    for end in ("pair", "watched")
                )
                yield (
                    "train", "-m", "experiment=paper/no_never_smollm2", *self.model,
                    *([f"model.parent=[{parent}]"] if tuned else []), *self.common, f"data.path={paths}",
                    f"data.eval_path={watched}", "sweep.zip=[[data.path,data.eval_path]]",
                    f"sweep.name={sweep_of(claim, answers, tuned)}",
                )  # fmt: skip

    def measured(self, claim: str, place: Workspace) -> Measured:
        """name -> one value for each prompt; the runs; p(preferred), p(dispreferred) and p(watched) along them."""
        values: dict[str, list[float]] = {}
        kept: list[dict[str, Any]] = []
        curves: dict[str, Curve] = {}
        for answers in self.pairs:
            for tuned in (True, False):
                runs = runs_of_sweep(place.output_root, sweep_of(claim, answers, tuned))
                where = f"{answers.name}, {'SFT before' if tuned else 'no SFT'}"
                for run in runs:
                    for name, value in numbers_of(run, answers).items():
                        values.setdefault(f"{where}: {name}", []).append(value)
                    kept.append({"id": run.run.id, "status": run.record["status"], "pair": answers.name, "sft": tuned})
                curves |= {f"{where}: {name}": curve for name, curve in _curves(runs, answers).items()}
        return Measured(values, kept, curves)

    def _write(self, place: Workspace, answers: Answers) -> Path:
        """Write the files of rows. Returns the one that SFT learns from."""
        for k, statement in enumerate(STATEMENTS[: self.prompts]):
            _write_rows(self._file(place, answers, "pair", k), answers.rows([statement]))
            _write_rows(self._file(place, answers, "watched", k), answers.rows([statement], watched=True))
        taught = self._file(place, answers, "sft", 0)
        _write_rows(taught, answers.rows(STATEMENTS))
        return taught

    @staticmethod
    def _file(place: Workspace, answers: Answers, what: str, number: int) -> Path:
        return place.folder / f"{answers.slug}-{what}-{number + 1}.jsonl"

    def commands_and_numbers(self, claim: str) -> Commands:
        """How the claim of this name is measured."""
        return Commands(lambda place: self.commands(claim, place), lambda place: self.measured(claim, place))


def numbers_of(run: Finished, answers: Answers) -> dict[str, float]:
    """What a run did to the probabilities of the answers to its prompt. NaN if it diverged."""
    better, worse, watched = probabilities(run)
    if not (better and watched):
        return {"largest drop of the preferred answer": math.nan}
    first, last, least = better[min(better)], better[max(better)], min(better.values())
    seen = [watched[step] for step in sorted(watched)]
    return {
        "p of the preferred answer before": first,
        "largest drop of the preferred answer": first - least,
        "rise of the margin": math.log(last / worse[max(worse)]) - math.log(first / worse[min(worse)]),
        f"p({answers.watched}) before": _of_the_start(run),
        f"rise of p({answers.watched})": seen[-1] - _of_the_start(run),
    }


def probabilities(run: Finished) -> tuple[Mapping[int, float], Mapping[int, float], Mapping[int, float]]:
    """Update -> probability of the preferred, the dispreferred and the watched answer, before the update."""
    names = ("train/logps/chosen", "train/logps/rejected", "eval/logps/chosen")
    better, worse, watched = ({step: math.exp(v) for step, v in run.curve(name).items()} for name in names)
    return better, worse, watched


def _of_the_start(run: Finished) -> float:
    """p(watched) before training: its log-probability at the end minus its log-ratio there."""
    logp, ratio = run.curve("eval/logps/chosen"), run.curve("eval/logratios/chosen")
    end = max(logp)
    return math.exp(logp[end] - ratio[end])


def _curves(runs: Sequence[Finished], answers: Answers) -> dict[str, Curve]:
    found: dict[str, list[Mapping[int, float]]] = {}
    for run in runs:
        for word, curve in zip((answers.better, answers.worse, answers.watched), probabilities(run), strict=True):
            found.setdefault(f"p({word})", []).append(curve)
    return {name: _mean(own) for name, own in found.items() if all(own)}


def _mean(curves: Sequence[Mapping[int, float]]) -> Curve:
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [mean_interval([curve[step] for curve in curves]) for step in steps]
    y, low, high = (tuple(float(f"{getattr(mean, end):.5g}") for mean in means) for end in ("value", "low", "high"))
    return Curve(tuple(map(float, steps)), y, low, high)


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with new_file(file) as scratch:
        scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sweep_of(claim: str, answers: Answers, tuned: bool) -> str:
    return f"paper-razin_2024-{claim}-{answers.slug}-{'sft' if tuned else 'plain'}"


CLAIMS = (
    Claim(
        name="no-never-smollm2",
        words="DPO on No > Never makes No less likely, while its margin over Never grows; here with a model of 135M "
        "parameters.",
        source="tables 1 and 2: the largest drop of the preferred answer is at least .21 with every model of the paper",
        expected=(
            above("No > Never, SFT before: largest drop of the preferred answer", 0.21, "printed"),
            above("No > Never, SFT before: rise of the margin", 0.0, "printed"),
            above("No > Never, SFT before: rise of p(Yes)", 0.0, "printed"),
        ),
        measured_by=Experiment().commands_and_numbers("no-never-smollm2"),
        scale="middle",
        deviations=(
            "Paper: OLMo-1B, Gemma-2B and Llama-3-8B. Here: SmolLM2-135M-Instruct.",
            "Paper: ten prompts of the persona evaluations. Here: three statements of our own in their form.",
            "Paper: 101 updates with RMSprop at 1e-7. Here: 51 at 3e-7.",
            "Paper: SFT for one epoch on all prompts of the persona. Here: one epoch of 16 statements at 3e-7; "
            "at 1e-7 p(No) rises from .05 to .2 only.",
            "Paper: the tokens that rise most. Here: one token that is in no pair is watched.",
        ),
        note="One value for each prompt. The whole claim takes about 15 minutes on 2 cores.",
    ),
)
