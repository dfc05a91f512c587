"""One reference pass for the points of a sweep that ask it for different answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from alignlab.config.plan import Plan
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.pipeline.reference_requests import different_requests
from alignlab.pipeline.run import run_plan
from alignlab.training.dataset import RunRows, choose_layout_for, load_rows, reference_requests
from alignlab.training.setup import InitialPolicy, device_of, load_initial_policy, reference_pass

log = logging.getLogger(__name__)


def share_reference(plans: Sequence[Plan], group: str) -> None:
    """Compute beforehand what points with the same start and data will look up, where they differ in what they ask.

    Another seed draws other rows, another objective pairs other answers with a prompt: each point would add its own
    part in a pass of its own. Where all ask the same, the first of them computes it. A failure is left to the points.
    """
    for asked in different_requests(plans):
        try:
            _one_pass(asked, group)
        except Exception as error:  # each point meets it again, or does not, and says so in its own record
            log.warning("no common reference pass: %s: %s", type(error).__name__, error)


def _one_pass(plans: Sequence[Plan], group: str) -> None:
    """All answers of all plans, in one pass."""
    first = plans[0]
    if first.parent is not None:
        run_plan(first.parent, group=group)
    start, device = load_initial_policy(first), device_of(first.train.trainer.accelerator)
    start.model.to(device)
    starts = [replace(start, plan=plan) for plan in plans]
    log.info("one reference pass for what the points of the sweep ask")
    layout = choose_layout_for(start, load_rows(start).train)
    by_token = any(plan.train.objective.requires.reference_tokens for plan in plans)
    reference_pass(start, _answers(starts), layout, device, by_token=by_token)


def _answers(starts: Sequence[InitialPolicy]) -> Iterator[PromptAndAnswer]:
    """What each will ask for; rows are read once for each shape of data."""
    rows: dict[str, RunRows] = {}
    for start in starts:
        shape = start.plan.train.objective.requires.data
        if shape not in rows:
            rows[shape] = load_rows(start)
        yield from reference_requests(start.plan.train, rows[shape])
