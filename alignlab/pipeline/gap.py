"""Where the gap to the frontier of a finished run comes from: the loss, the finite data, and the training.

The gap of a policy is the reward that the frontier has at the policy's KL minus the policy's reward. Three policies are
compared:

1. the minimum of the loss over all pairs that the data could have (the population), as a table,
2. the minimum of the loss over the run's own training pairs, as a table,
3. the run's policy.

The parts are the gap of 1, the gap of 2 minus that of 1, and the gap of 3 minus that of 2. They add up to the run's
gap. A part may be negative. If the policy itself is a table (`model=bandit`), the last part is optimisation: the run
stopped before its minimum. For other models it is function class and optimisation together.

Tables are minimised by L-BFGS from the reference, until the largest gradient is at most 1e-6 or 500 iterations are
made. A loss without a minimum (DPO on labels without noise) does not reach this. Its parts then are those of the policy
where the search stopped, and `unbounded` names the searches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.config.from_record import recorded_plan
from alignlab.config.plan import Plan
from alignlab.data.template import Template
from alignlab.data.tokenize import Tokens
from alignlab.errors import DataError
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.integrity import read_sealed, write_sealed
from alignlab.lab.world import World
from alignlab.models.sources.bandit import Bandit
from alignlab.pipeline.requested_runs import only_a_record
from alignlab.pipeline.tree_policy import TreePolicy
from alignlab.runs.directory import RunDir
from alignlab.training.dataset import load_starts

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

PARTS = ("population optimum", "finite data", "optimisation", "function class and optimisation")
STEPS, SMALL = 500, 1e-6
STOPPING = f"L-BFGS from the reference until the largest gradient is at most {SMALL:g} or {STEPS} iterations are made"

# Most pairs of answers over all prompts.
_MOST_PAIRS = 4_000_000


def write_gap(run: RunDir) -> dict[str, Any]:
    """The parts of a finished run's gap, from `gap.json` in its directory, which is written first if it is missing.

    Raises DataError if the run can't be decomposed, with the reason.
    """
    if run.gap.is_file():
        return read_sealed(run.gap)
    plan = recorded_plan(str(run.path.parents[1]), run.id, trust_remote_code=False)
    if problem := why_not(plan):
        raise DataError(f"{run.id}: its gap can't be decomposed: {problem}")
    log.info("%s: decomposing its gap to the frontier", run.id)
    found = decompose(plan)
    write_sealed(run.gap, found)
    return found


def why_not(plan: Plan) -> str:
    """Why the gap of a run can't be decomposed; empty if it can."""
    world, needs = plan.train.data.world, plan.train.objective.requires
    if world is None or not world.is_whole:
        return "only the lab and bandits have an exact frontier"
    if needs.online or needs.data != "pairs":
        return "only objectives on pairs have a loss over all pairs of answers"
    if needs.reference_tokens or needs.reference_kl or needs.collision or needs.margin or needs.couples_batch:
        return "its objective needs more than the log-probabilities of single pairs"
    if (pairs := world.prompts * world.leaves**2) > _MOST_PAIRS:
        most = f"at most {_MOST_PAIRS:,} can be enumerated"
        return f"its world has {pairs:,} pairs of answers, but {most}. Shorter answers have fewer: data.length=3"
    return only_a_record(plan.run) if plan.run.lacks_policy else ""


def decompose(plan: Plan) -> dict[str, Any]:
    """The parts of the gap of a finished run, the gaps that they are made of, and how the searches ended."""
    world, objective = plan.train.data.world, plan.train.objective
    assert world is not None
    ((start, rows),) = load_starts([plan])
    reference = start.exact_logps
    model, tokenizer = plan.train.model.load_from(str(plan.run.policy))
    tables: dict[str, Array] = {}
    unbounded: list[str] = []
    weights = {
        "population": plan.train.data.pair_weights(reference),
        "data": counts(rows.train, Template(tokenizer), world),
    }
    for name, own in weights.items():
        tables[name], converged = minimum(world, reference, objective, own)
        unbounded += [] if converged else [name]
    tables["run"] = completion_logps(model, tokenizer, world)
    gaps = {name: exact_metrics(table, reference, world)["exact/frontier_gap"] for name, table in tables.items()}
    last = PARTS[2] if isinstance(plan.train.model, Bandit) else PARTS[3]
    return {
        "parts": {
            PARTS[0]: gaps["population"], PARTS[1]: gaps["data"] - gaps["population"], last: gaps["run"] - gaps["data"],
        },
        "gaps": gaps,
        "unbounded": unbounded,
        "stopping": STOPPING,
    }  # fmt: skip


def minimum(world: World, reference: Array, loss: Callable[..., torch.Tensor], weights: Array) -> tuple[Array, bool]:
    """([X, N] log-probabilities where the search for the minimum stopped, whether it reached a minimum)."""
    policy = TreePolicy(world, reference)
    gradient, _ = policy.minimise(loss, weights, steps=STEPS)
    return policy.table(), gradient <= SMALL


def counts(rows: Sequence[Tokens], template: Template, world: World) -> Array:
    """[X, N, N] shares of the training pairs: prompt, preferred answer, dispreferred answer."""
    prompts = {tuple(template.prompt_ids(text)): x for x, text in enumerate(world.prompt_texts)}
    encoded = (
        template.encode(world.prompt_texts[0], [(text, world.ended(text))]).answers[0]
        for text in world.completion_texts
    )
    answers = {tuple(ids): y for y, ids in enumerate(encoded)}
    table = np.zeros((world.prompts, world.leaves, world.leaves))
    for row in rows:
        (prompt, better), (_, worse) = row.answers()
        table[prompts[tuple(prompt)], answers[tuple(better)], answers[tuple(worse)]] += 1
    return table / table.sum()


def write_gaps(root: Path, runs: Sequence[str]) -> dict[str, list[str]]:
    """Write the parts of the gaps of finished runs. Returns reason -> runs that have none for this reason."""
    reasons: dict[str, list[str]] = {}
    for run_id in runs:
        try:
            write_gap(RunDir.of(root, run_id))
        except DataError as error:
            reasons.setdefault(str(error).removeprefix(f"{run_id}: "), []).append(run_id)
    return reasons
