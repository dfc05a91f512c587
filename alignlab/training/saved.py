"""Checks a saved policy: it is loaded again, and must score answers as the trained policy does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignlab.data.collate import to_device
from alignlab.data.layout import PLAIN, collate_rows
from alignlab.data.tokenize import PromptAndAnswer, Tokens
from alignlab.errors import SavedPolicyError
from alignlab.models.forward import precision
from alignlab.models.heads import answer_rewards, load_scorer
from alignlab.models.memory import out_of_memory
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.models.sources.base import ModelSource
from alignlab.models.tolerances import tolerance_of
from alignlab.spelling import counted

log = logging.getLogger(__name__)

# The shortest _MAX_ANSWERS answers among the first _FIRST_ROWS training rows are scored.
_MAX_ANSWERS, _FIRST_ROWS = 4, 64


def check_saved(policy: Any, folder: Path, source: ModelSource, rows: Sequence[Tokens], offset: Tensor | None) -> None:
    """Load a saved policy as `alignlab evaluate` does, and compare its scores of a few answers with the policy's.

    Scores are the mean log-probabilities of the answers' tokens (nats), or the rewards of a reward model.

    source: loads policies from `folder`.
    offset: [N] rewards whose mean the saved reward model subtracts; None for policies.
    Raises SavedPolicyError if the scores differ by more than rounding. If memory is too small for a second copy of the
    weights, a warning says that nothing was compared.
    """
    answers, scores = _shortest_answers(rows), _rewards if offset is not None else _logps
    device, tolerance = next(policy.parameters()).device, tolerance_of(policy).reloaded
    trained = scores(policy, answers, device)
    if offset is not None:
        trained = trained - float(offset.mean())
    try:
        loaded, _ = source.load_from(str(folder)) if offset is None else load_scorer(str(folder))
        found = scores(loaded, answers, device)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        log.warning("the saved policy was not loaded again and compared: too little memory for a second copy of it")
        return
    if not torch.isclose(found, trained, rtol=tolerance, atol=tolerance, equal_nan=True).all():
        far = float((found - trained).abs().max())
        unit = "in reward" if offset is not None else "nats per token"
        raise SavedPolicyError(
            f"the saved policy, loaded again, is not the one that was trained: it is off by up to {far:.3g} {unit} on "
            f"{counted(len(answers), 'answer')}; {precision(policy)} allows {tolerance:g}\n"
            f"  the weights that training started from have changed since then, or can't be loaded as they were"
        )


def _shortest_answers(rows: Sequence[Tokens]) -> list[PromptAndAnswer]:
    """A few short answers with their prompts."""
    answers = [answer for row in rows[:_FIRST_ROWS] for answer in row.answers() if answer[1]]
    return sorted(answers, key=lambda one: len(one[0]) + len(one[1]))[:_MAX_ANSWERS]


def _logps(policy: Any, answers: Sequence[PromptAndAnswer], device: torch.device) -> Tensor:
    """[N] mean log-probability of the tokens of each answer, nats."""
    how = ScoringOptions(PLAIN, _MAX_ANSWERS, sys.maxsize, device, lambda parts, word: parts)
    with _uncompiled():
        return torch.tensor([tokens.mean() for tokens in token_logps(policy, answers, how)])


def _rewards(policy: Any, answers: Sequence[PromptAndAnswer], device: torch.device) -> Tensor:
    """[N] reward of each answer."""
    with torch.no_grad(), _uncompiled():
        return answer_rewards(policy.to(device).eval(), to_device(collate_rows(answers, PLAIN), device)).cpu()


def _uncompiled() -> Any:
    """Run compiled layers without compiling: compiling them again for a few short rows would take too long."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
