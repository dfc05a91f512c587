"""Held-out pairs of a run, with their log-probabilities under the policy that it starts from."""

from __future__ import annotations

from dataclasses import replace

import torch

from alignlab.data.layout import Layout
from alignlab.models.reference import CachedReference, LiveReference, Reference
from alignlab.modules.held_out_pairs import HeldOutPairs
from alignlab.training.dataset import RunRows
from alignlab.training.setup import InitialPolicy, reference_pass


def held_out_pairs(
    start: InitialPolicy, rows: RunRows, layout: Layout, device: torch.device, reference: Reference | None
) -> HeldOutPairs | None:
    """The pairs that a policy is measured on in addition to its own held-out rows; None if there are none.

    Call it before the policy is trained.

    reference: the run's own reference, if it is the start. Without it, log-probabilities come from the store or from
               the start.
    """
    if not rows.pairs:
        return None
    if isinstance(reference, LiveReference):  # online runs use the temperature of their rollouts
        reference = replace(reference, temperature=1.0)
    return HeldOutPairs(rows.pairs, reference or pairs_reference(start, rows, layout, device), layout)


def pairs_reference(start: InitialPolicy, rows: RunRows, layout: Layout, device: torch.device) -> CachedReference:
    """The start's log-probabilities of the pairs' answers, from the store or computed and stored."""
    answers = [answer for row in rows.pairs for answer in row.answers()]
    return reference_pass(start, answers, layout, device, by_token=False)
