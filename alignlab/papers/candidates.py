"""DPO's frontier for a real language model: a choice among sampled beginnings of answers, which is enumerable.

A small model that was fine-tuned on reviews continues a few of them by four tokens, a hundred times each. These
continuations are the closed set, and the classifier of the sentiment gives their rewards. KL, reward and frontier of
every policy that is trained on pairs from the set are exact (section 4, equation 4 of the paper).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alignlab.integrity import new_file
from alignlab.papers.claim import Claim, Commands, Curve, Measured, Workspace, above, below
from alignlab.papers.finished import Finished, runs_of_sweep
from alignlab.papers.imdb import JUDGE


@dataclass(frozen=True)
class Experiment:
    """The sizes.

    model:   words that choose the model and its adapter.
    sft:     overrides of the stage `imdb_sft`.
    prompts: number of reviews.
    samples: continuations of each; equal ones count once.
    tokens:  of a continuation. Short ones have a larger share of the model's probability.
    betas:   of DPO.
    common:  further words of every training.
    """

    betas: tuple[float, ...] = (0.1, 0.3, 1.0)
    model: tuple[str, ...] = ("model=smollm2_135m", "peft=lora")
    sft: tuple[str, ...] = ()
    prompts: int = 8
    samples: int = 100
    tokens: int = 4
    common: tuple[str, ...] = ()

    def commands(self, claim: str, place: Workspace) -> Iterator[tuple[str, ...]]:
        """The candidates, then DPO with each beta."""
        parent = ",".join(f'"{word}"' for word in ("imdb_sft", f"data.path={place.data}", *self.sft))
        start = (*self.model, f"model.parent=[{parent}]")
        rankings = place.folder / "rankings.jsonl"
        yield (
            "synthesize", *start, "data=imdb", f"data.path={place.data}", "data.template=none",
            "data.max_prompt_length=16", "data.max_length=48", "data.split=test", "data.eval_split=train",
            "data.train_limit=256", f"judge={JUDGE}", f"judge.{JUDGE}.path={place.data}", "synthesis.form=rankings",
            f"synthesis.max_new_tokens={self.tokens}", f"synthesis.samples={self.samples}",
            f"synthesis.prompts={self.prompts}", f"to={rankings}",
        )  # fmt: skip
        candidates = place.folder / "candidates.jsonl"
        write_candidates(rankings, candidates)
        yield (
            "train", "-m", "experiment=paper/candidates_smollm2", *start, f"data.path={candidates}",
            f"objective.beta={','.join(f'{beta:g}' for beta in self.betas)}", "seed=1", *self.common,
            f"sweep.name={sweep_of(claim)}",
        )  # fmt: skip

    def measured(self, claim: str, place: Workspace) -> Measured:
        """KL, reward and gap of every policy, and the optimum for its beta."""
        runs = runs_of_sweep(place.output_root, sweep_of(claim))
        values: dict[str, list[float]] = {}
        for run in runs:
            for name in ("kl", "reward", "frontier_gap", "frontier_strength", "mass"):
                values[f"{_beta(run)}: exact/{name}"] = [run.metric(f"exact/{name}")]
        first = runs[0]
        values["the set's share of the model"] = [first.metric("exact/mass_reference")]
        values["reward of the start"] = [first.metric("exact/reward_reference")]
        ordered = [values[f"{_beta(run)}: exact/kl"][0] for run in runs]
        values["smallest fall of the KL from one beta to the next"] = [
            min(one - other for one, other in itertools.pairwise(ordered))
        ]
        values["largest gap to the frontier"] = [max(values[f"{_beta(run)}: exact/frontier_gap"][0] for run in runs)]
        kept = [{"id": run.run.id, "status": run.record["status"], **run.axes} for run in runs]
        return Measured(values, kept, {"DPO": _points(runs), "frontier": _frontier(first)})

    def commands_and_numbers(self, claim: str) -> Commands:
        """How the claim of this name is measured."""
        return Commands(
            lambda place: self.commands(claim, place), lambda place: self.measured(claim, place), "stanfordnlp/imdb"
        )


def write_candidates(rankings: Path, file: Path) -> None:
    """Turn rankings by `alignlab synthesize` into rows of `data=candidates`."""
    rows = [json.loads(line) for line in rankings.read_text(encoding="utf-8").splitlines()]
    made = [{"prompt": row["prompt"], "candidates": row["completions"], "scores": row["grades"]} for row in rows]
    with new_file(file) as scratch:
        scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")


def _beta(run: Finished) -> str:
    return f"beta {run.axes['objective.beta']}"


def _points(runs: list[Finished]) -> Curve:
    found = sorted((run.metric("exact/kl"), run.metric("exact/reward")) for run in runs)
    x, y = zip(*found, strict=True)
    return Curve(x, y, y, y)


def _frontier(run: Finished) -> Curve:
    curve = json.loads((run.run.path / "frontier.json").read_text(encoding="utf-8"))
    x, y = (tuple(float(f"{value:.5g}") for value in curve[name]) for name in ("kl", "reward"))
    return Curve(x, y, y, y)


def sweep_of(claim: str) -> str:
    return f"paper-dpo_2023-{claim}"


CLAIMS = (
    Claim(
        name="candidates-smollm2",
        words="beta sets the distance from the reference, and the policies are close to the optimum of reward minus "
        "beta KL; here for a model of 135M parameters that chooses among a hundred continuations.",
        source="section 4, equation 4, and figure 2 (left)",
        expected=(
            above("smallest fall of the KL from one beta to the next", 0.0, "derived"),
            below("largest gap to the frontier", 0.3, "derived"),
        ),
        measured_by=Experiment().commands_and_numbers("candidates-smollm2"),
        scale="middle",
        deviations=(
            "Paper: whole answers of GPT-2-large. Here: beginnings of four tokens by SmolLM2-135M, and all "
            "probabilities are divided by that of the set; the set's share of the model is among the numbers.",
            "Paper: a classifier that orders the answers. Here: Bradley-Terry labels by the log-odds of a classifier "
            "of words, so that the optimum is the one of Theorem 1.",
        ),
        note="One seed. Nothing is estimated from samples.",
    ),
)
