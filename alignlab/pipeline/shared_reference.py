"""One reference pass for points of a sweep that need the reference for different answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from alignlab.config.plan import Plan
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.pipeline.reference_requests import different_requests
from alignlab.pipeline.run import run_plan
from alignlab.training.dataset import RunRows, choose_layout_for, load_rows, load_starts, reference_requests
from alignlab.training.setup import InitialPolicy, device_of, reference_pass

log = logging.getLogger(__name__)


def share_reference(plans: Sequence[Plan], group: str) -> None:
    """Compute reference log-probabilities for points with the same start and data before the points run.

    Points with other seeds sample other rows, and other objectives pair other answers with a prompt. Without this
    pass, each such point would compute its own part. If all points need the same answers, nothing is done here: the
    first point computes them.

    group: name of the sweep.
    A failure is only logged, because each point that has the same failure records it.
    """
    for different in different_requests(plans):
        try:
            _one_pass(different, group)
        except Exception as error:  # each point that fails for the same reason records it
            log.warning("the points share no reference pass: %s: %s", type(error).__name__, error)


def _one_pass(plans: Sequence[Plan], group: str) -> None:
    """Compute and store the reference log-probabilities of all answers of all plans."""
    first = plans[0]
    if first.parent is not None:
        run_plan(first.parent, group=group)
    ((start, rows),) = load_starts([first])
    device = device_of(first.train.trainer.accelerator)
    start.model.to(device)
    starts = [replace(start, plan=plan) for plan in plans]
    log.info("one reference pass for %d different sets of answers", len(plans))
    layout = choose_layout_for(start, rows.train)
    by_token = any(plan.train.objective.requires.reference_tokens for plan in plans)
    reference_pass(start, _answers(starts), layout, device, by_token=by_token)


def _answers(starts: Sequence[InitialPolicy]) -> Iterator[PromptAndAnswer]:
    """All answers that the runs need. Rows are read once for each shape of data."""
    rows: dict[str, RunRows] = {}
    for start in starts:
        shape = start.plan.train.objective.requires.data
        if shape not in rows:
            rows[shape] = load_rows(start)
        yield from reference_requests(start.plan.train, rows[shape])
