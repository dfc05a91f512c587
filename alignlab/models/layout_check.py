"""Chooses the layout of rows for a model: by a list of architectures, and by a comparison on real rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from alignlab.data.collate import to_device
from alignlab.data.layout import PLAIN, Layout, collate_rows
from alignlab.data.tokenize import PromptAndAnswer, Tokens
from alignlab.models.forward import innermost, window_of
from alignlab.models.logps import answer_logps
from alignlab.models.memory import out_of_memory
from alignlab.models.tolerances import tolerance_of

log = logging.getLogger(__name__)

LAYOUTS = ("auto", "plain")

# Causal language models of transformers that add the given mask to their attention scores, and whose logits are their
# last hidden states times one matrix. Other models (ALiBi, local attention by columns, state spaces, linear attention)
# are silently wrong if several answers share a row.
_KNOWN = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3", "Phi", "Phi3", "Olmo2", "Granite",
        "SmolLM3", "GPTNeoX", "OPT", "Falcon", "GptOss", "Cohere", "Olmo", "Starcoder2",
    )
) | {"GPT2LMHeadModel"}  # fmt: skip

# The rows to compare are chosen among the first so many rows.
_FIRST = 8

# Attention implementations that add a given mask to the scores.
_WITH_MASK = ("sdpa", "eager")


def choose_layout(model: Any, answers: Sequence[PromptAndAnswer], asked: str = "auto") -> Layout:
    """The fastest layout that reproduces the model's own log-probabilities (or a reward model's rewards) on `answers`.

    asked: one of LAYOUTS; "plain" skips the comparison.
    The log names the choice and its reason.
    """
    name, width = type(innermost(model)).__name__, int(getattr(model.config, "hidden_size", 0) or 1)
    unit = "deviations per reward" if _gives_rewards(model) else "nats per token"
    attention = str(getattr(model.config, "_attn_implementation", ""))
    if asked == "plain":
        return PLAIN
    if not is_known(name):
        log.info("layout: plain rows, because %s is not known to be exact with several answers in a row", name)
        return PLAIN
    layout = Layout(shared=attention in _WITH_MASK, split=True, width=width)
    far = _distance(model, answers, layout)
    if far is None:
        log.warning("layout: plain rows, because this %s fails with several answers in a row", name)
        return PLAIN
    if not far <= tolerance_of(model).rearranged:  # also true for NaN
        log.warning("layout: plain rows, because %s is off by %.2g %s with several answers in a row", name, far, unit)
        return PLAIN
    if layout.shared:
        log.info("layout: answers share their prompt (off by %.1g %s from plain rows)", far, unit)
    else:
        log.info("layout: plain rows, because %s attention accepts no custom mask", attention)
    return layout


def is_known(name: str) -> bool:
    """Whether a class is a known language model or a classifier on the backbone of one."""
    stem = name.removesuffix("ForSequenceClassification").removesuffix("Text")
    return bool({name, f"{stem}ForCausalLM", f"{stem}LMHeadModel"} & _KNOWN)


def rows_to_look_at(model: Any, rows: Sequence[Tokens]) -> list[PromptAndAnswer]:
    """The answers on which layouts are compared: two answers from each of two rows.

    - The two rows are those with the longest answers among the first few, because an answer that is disturbed by its
      neighbour shows it only from its second token on.
    - If the longest row exceeds the model's sliding window, two of its answers are added.
    - If all rows have one answer, the first two lend each other a second one that begins like their own, because online
      runs sample several answers per prompt.
    """
    window = window_of(model.config)
    beyond = [] if window is None else [row for row in [max(rows, key=_longest)] if _longest(row) > window]
    first = sorted(rows[:_FIRST], key=_second_length, reverse=True)[:2]
    found = [sorted(row.answers(), key=_length)[-2:] for row in (*first, *beyond)]
    if len(found) > 1 and all(len(answers) == 1 for answers in found):
        (prompt, one), (other_prompt, two) = found[0][0], found[1][0]
        found[0].append((prompt, [*one[: len(one) // 2], *two][: len(one)]))  # not longer: a model has a maximum length
        found[1].append((other_prompt, [*two[: len(two) // 2], *one][: len(two)]))
    return [answer for answers in found for answer in answers]


def _second_length(row: Tokens) -> int:
    """Number of tokens in the row's second longest answer, or in its only one."""
    return sorted(len(answer) for _, answer in row.answers())[-2:][0]


def _longest(row: Tokens) -> int:
    return max(map(_length, row.answers()))


def _length(answer: PromptAndAnswer) -> int:
    return len(answer[0]) + len(answer[1])


def _distance(model: Any, answers: Sequence[PromptAndAnswer], layout: Layout) -> float | None:
    """Mean absolute difference from plain rows and the model's own head: nats per token, or deviations per reward.

    None if the model does not run with `layout` (Falcon with ALiBi needs a mask of two dimensions).
    """
    training = model.training
    model.eval()
    try:
        plain, _ = _look(model, answers, PLAIN)
        try:
            # With such a width only padding counts as a cost, so the comparison includes rows with several prompts.
            found, tokens = _look(model, answers, replace(layout, width=10**6))
        except Exception as error:
            if out_of_memory(error):
                raise
            return None
    finally:
        model.train(training)
    return float((plain - found).abs().sum() / tokens)


def _gives_rewards(model: Any) -> bool:
    return getattr(innermost(model), "score", None) is not None


def _look(model: Any, answers: Sequence[PromptAndAnswer], layout: Layout) -> tuple[torch.Tensor, float]:
    """(values to compare between layouts, divisor of the sum of their differences).

    For a language model these are log-probabilities (nats) and the number of tokens. For a reward model they are
    rewards, and the number of rewards times their standard deviation.
    """
    from alignlab.models.heads import answer_rewards  # imports torch, which is not needed to read a config

    rows = to_device(collate_rows(answers, layout), next(model.parameters()).device)
    with torch.no_grad():
        if _gives_rewards(model):
            rewards = answer_rewards(model, rows)
            return rewards, len(answers) * float(rewards.std())
        return answer_logps(model, rows), float(rows.answer_mask.sum())
