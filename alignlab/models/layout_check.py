"""Which layout a model can take: a list of architectures, and a look at real rows before it is believed."""

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

# Causal language models of transformers whose attention is the scores plus the mask they are given, and whose logits
# are their last hidden states times one matrix. Others (ALiBi, local attention by columns, state spaces, linear
# attention) are silently wrong with answers side by side.
_KNOWN = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3", "Phi", "Phi3", "Olmo2", "Granite",
        "SmolLM3", "GPTNeoX", "OPT", "Falcon", "GptOss", "Cohere", "Olmo", "Starcoder2",
    )
) | {"GPT2LMHeadModel"}  # fmt: skip

# Rows among which some are chosen to be looked at.
_FIRST = 8

# Attention implementations that take a mask that is added to the scores.
_WITH_MASK = ("sdpa", "eager")


def choose_layout(model: Any, answers: Sequence[PromptAndAnswer], asked: str = "auto") -> Layout:
    """The fastest layout that gives the model's own log-probabilities on `answers`, or a reward model's own rewards;
    `asked` is one of LAYOUTS.

    Says in the log what was chosen, and why.
    """
    name, width = type(innermost(model)).__name__, int(getattr(model.config, "hidden_size", 0) or 1)
    unit = "deviations per reward" if _gives_rewards(model) else "nats per token"
    attention = str(getattr(model.config, "_attn_implementation", ""))
    if asked == "plain":
        return PLAIN
    if not _is_known(name):
        log.info("layout: plain rows, since %s is not known to be exact with answers side by side", name)
        return PLAIN
    layout = Layout(shared=attention in _WITH_MASK, split=True, width=width)
    far = _distance(model, answers, layout)
    if far is None:
        log.warning("layout: plain rows, since this %s refuses answers side by side", name)
        return PLAIN
    if not far <= tolerance_of(model).rearranged:  # NaN as well
        log.warning("layout: plain rows, since %s is off by %.2g %s with answers side by side", name, far, unit)
        return PLAIN
    if layout.shared:
        log.info("layout: answers share their prompt (off by %.1g %s from plain rows)", far, unit)
    else:
        log.info("layout: plain rows, since %s attention takes no mask of ours", attention)
    return layout


def _is_known(name: str) -> bool:
    """Whether a class is a known language model, or the classifier on the same backbone."""
    stem = name.removesuffix("ForSequenceClassification").removesuffix("Text")
    return bool({name, f"{stem}ForCausalLM", f"{stem}LMHeadModel"} & _KNOWN)


def rows_to_look_at(model: Any, rows: Sequence[Tokens]) -> list[PromptAndAnswer]:
    """Two answers each of two rows; with them two of the longest, where that is longer than a window.

    Of the first few rows those with the longest answers: whether an answer is disturbed by one beside it shows from its
    second token on.
    Rows of one answer lend each other a second one, which begins as the first does: online runs draw several.
    """
    window = window_of(model.config)
    longest = max(rows, key=_longest)
    beyond = [longest] if window is not None and _longest(longest) > window else []
    first = sorted(rows[:_FIRST], key=_second_length, reverse=True)[:2]
    found = [sorted(row.answers(), key=_length)[-2:] for row in (*first, *beyond)]
    if len(found) > 1 and all(len(answers) == 1 for answers in found):
        (prompt, one), (other_prompt, two) = found[0][0], found[1][0]
        found[0].append((prompt, [*one[: len(one) // 2], *two][: len(one)]))  # no longer: models end somewhere
        found[1].append((other_prompt, [*two[: len(two) // 2], *one][: len(two)]))
    return [answer for answers in found for answer in answers]


def _second_length(row: Tokens) -> int:
    """Tokens of the row's second longest answer, or of its only one."""
    return sorted(len(answer) for _, answer in row.answers())[-2:][0]


def _longest(row: Tokens) -> int:
    return max(map(_length, row.answers()))


def _length(answer: PromptAndAnswer) -> int:
    return len(answer[0]) + len(answer[1])


def _distance(model: Any, answers: Sequence[PromptAndAnswer], layout: Layout) -> float | None:
    """Mean absolute difference from plain rows and the model's own head: nats per token, or deviations per reward.

    None where the model does not run with `layout` (Falcon with ALiBi wants a mask of two dimensions).
    """
    training = model.training
    model.eval()
    try:
        plain, _ = _look(model, answers, PLAIN)
        try:
            # A width so large that padding is all that costs: sequences filled with several prompts are looked at, too.
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
    """What is compared between layouts, and what its sum is divided by: log-probabilities of so many tokens, or
    rewards, and their number times their deviation.
    """
    from alignlab.models.heads import answer_rewards  # its classes are torch's: a config is read without them

    rows = to_device(collate_rows(answers, layout), next(model.parameters()).device)
    with torch.no_grad():
        if _gives_rewards(model):
            rewards = answer_rewards(model, rows)
            return rewards, len(answers) * float(rewards.std())
        return answer_logps(model, rows), float(rows.answer_mask.sum())
