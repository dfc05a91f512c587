"""Where the gap to the frontier of a finished run comes from: the loss, the finite data, the model, and the training.

The gap of a policy is the reward that the frontier has at the policy's KL minus the policy's reward. Four policies are
compared:

1. the minimum of the loss over all pairs that the data could have (the population), as a table,
2. the minimum of the loss over the run's own training pairs, as a table,
3. the minimum over these pairs that the model reaches from the run's policy,
4. the run's policy.

The parts are the gap of 1, and what each of the others adds to the one before. They add up to the run's gap. A part may
be negative. A policy that is a table itself (`model=bandit`) has no function class: 3 is 2.

All searches are L-BFGS. Tables start at the reference, and 500 iterations are the most. They are at a minimum if the
largest gradient is at most 1e-6. A loss without a minimum (DPO on labels without noise) does not get there. Its parts
then are those of the policy where the search stopped, and `unbounded` names the searches.

Every answer is in the population, so table 1 has a number for each answer. Most answers are in none of the run's own
pairs. Table 2 has a number for each token after each prefix, so that they learn from answers which begin alike, as they
do in a model.

The model starts at the run's policy. Its search has reached a minimum when 50 iterations lower the loss by less than
1e-5 nats, and it stops after 500 iterations. If it does not get there, or if it is not tried (adapters, and worlds with
more than 2,000 prefixes, where an iteration takes a second), function class and optimisation are one part.

If there are more than 4 million pairs of answers, 100,000 of them or more stand for the population: every answer to
every prompt with others that are drawn from the reference, each pair in both orders with the probabilities of its
labels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.config.from_record import recorded_plan
from alignlab.config.plan import Plan
from alignlab.data.sources.base import Source
from alignlab.data.template import Template
from alignlab.data.tokenize import Tokens
from alignlab.errors import DataError
from alignlab.evaluation.exact import completion_logps, exact_metrics
from alignlab.integrity import read_sealed, write_sealed
from alignlab.lab.weighted_pairs import WeightedPairs
from alignlab.lab.world import World
from alignlab.models.sources.bandit import Bandit
from alignlab.pipeline.requested_runs import only_a_record
from alignlab.pipeline.tree_policy import AnswerPolicy, ExactPolicy, ModelPolicy, TreePolicy
from alignlab.runs.directory import RunDir
from alignlab.training.dataset import load_starts

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

PARTS = ("population optimum", "finite data", "function class", "optimisation", "function class and optimisation")
STEPS, SMALL = 500, 1e-6
STOPPING = (
    f"L-BFGS from the reference, at most {STEPS} iterations; a largest gradient of at most {SMALL:g} is a minimum"
)

# A model has reached its minimum when so many iterations lower the loss by less than so many nats.
_CHUNK, _SETTLED = 50, 1e-5
# Most prefixes over all prompts with which a model is minimised.
_MOST_PREFIXES = 2000


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
    if type(plan.train.data).population is Source.population:
        return "its data does not know all pairs that it could have"
    return only_a_record(plan.run) if plan.run.lacks_policy else ""


def decompose(plan: Plan) -> dict[str, Any]:
    """The parts of the gap of a finished run, the gaps that they are made of, and how the searches ended."""
    world, objective = plan.train.data.world, plan.train.objective
    assert world is not None
    ((start, rows),) = load_starts([plan])
    reference = start.exact_logps
    model, tokenizer = plan.train.model.load_from(str(plan.run.policy))
    population = plan.train.data.population(reference)
    assert population is not None
    own = counts(rows.train, Template(tokenizer), world)
    tables: dict[str, Array] = {}
    unbounded: list[str] = []
    searched = {
        "population": (AnswerPolicy(world, reference, population), population),
        "data": (TreePolicy(world, reference), own),
    }
    for name, (policy, pairs) in searched.items():
        tables[name], converged = minimum(policy, objective, pairs)
        unbounded += [] if converged else [name]
    run = completion_logps(model, tokenizer, world)
    is_table = isinstance(plan.train.model, Bandit)
    last = PARTS[3]
    if not is_table:
        best = None
        if not plan.train.peft.can_switch_off and world.prompts * world.symbols ** (world.length - 1) <= _MOST_PREFIXES:
            best = model_minimum(ModelPolicy(world, reference, model, tokenizer), objective, own)
        if best is None:
            last = PARTS[4]
        else:
            tables["model"] = best
    tables["run"] = run
    gaps = {name: exact_metrics(table, reference, world)["exact/frontier_gap"] for name, table in tables.items()}
    names = dict(zip(("population", "data", "model"), PARTS, strict=False)) | {"run": last}
    before = [0.0, *gaps.values()]
    return {
        "parts": {names[name]: gap - before[k] for k, (name, gap) in enumerate(gaps.items())},
        "gaps": gaps,
        "unbounded": unbounded,
        "sampled": not population.whole,
        "stopping": STOPPING,
    }


def minimum(policy: ExactPolicy, loss: Callable[..., torch.Tensor], pairs: WeightedPairs) -> tuple[Array, bool]:
    """([X, N] log-probabilities where the search for the minimum stopped, whether it reached a minimum)."""
    found = policy.minimise(loss, pairs, steps=STEPS)
    return policy.table(), found.gradient <= SMALL


def model_minimum(policy: ExactPolicy, loss: Callable[..., torch.Tensor], pairs: WeightedPairs) -> Array | None:
    """[X, N] log-probabilities at the minimum that a model reaches; None if it reaches none in time."""
    before = math.inf
    for _ in range(STEPS // _CHUNK):
        found = policy.minimise(loss, pairs, steps=_CHUNK).loss
        if before - found < _SETTLED:
            return policy.table()
        before = found
    return None


def counts(rows: Sequence[Tokens], template: Template, world: World) -> WeightedPairs:
    """The training pairs with their shares."""
    prompts = {tuple(template.prompt_ids(text)): x for x, text in enumerate(world.prompt_texts)}
    encoded = (
        template.encode(world.prompt_texts[0], [(text, world.ended(text))]).answers[0]
        for text in world.completion_texts
    )
    answers = {tuple(ids): y for y, ids in enumerate(encoded)}
    places = []
    for row in rows:
        (prompt, better), (_, worse) = row.answers()
        places.append((prompts[tuple(prompt)], answers[tuple(better)], answers[tuple(worse)]))
    return WeightedPairs.of_rows(*np.array(places, dtype=np.int64).T)


def write_gaps(root: Path, runs: Sequence[str]) -> dict[str, list[str]]:
    """Write the parts of the gaps of finished runs. Returns reason -> runs that have none for this reason."""
    reasons: dict[str, list[str]] = {}
    for run_id in runs:
        try:
            write_gap(RunDir.of(root, run_id))
        except DataError as error:
            reasons.setdefault(str(error).removeprefix(f"{run_id}: "), []).append(run_id)
    return reasons
