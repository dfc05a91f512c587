"""Sentences for a report on whether the runs of a sweep are comparable: data, updates, learning rates and starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignlab.spelling import counted

_LR = "optim.lr"


def fairness(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines on the budgets of all runs, and on what was not equal or not tuned.

    records: of the runs of one data set. Records of older versions may lack entries.
    """
    known = [record for record in records if _has_budget(record)]
    if not known:
        return
    yield from _budgets(known)
    yield from _learning_rates(known)
    yield from _starts(known)


def _has_budget(record: Mapping[str, Any]) -> bool:
    trainer = (record.get("config") or {}).get("trainer") or {}
    return "name" in (record.get("objective") or {}) and {"max_steps", "batch_size"} <= trainer.keys()


def _budgets(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found: dict[str, dict[str, None]] = {}
    for record in records:
        found.setdefault(record["objective"]["name"], {})[_budget(record)] = None
    budgets = {budget for of in found.values() for budget in of}
    if len(budgets) == 1:
        yield f"Budget of every run: {next(iter(budgets))}."
    else:
        shown = "; ".join(f"{name}: {' | '.join(of)}" for name, of in found.items())
        yield f"Budgets differ. {shown}."


def _budget(record: Mapping[str, Any]) -> str:
    """Updates, rows of each, and the rows that they come from."""
    trainer, train = record["config"]["trainer"], (record.get("data") or {}).get("train") or {}
    kind = "pair" if "mean_chosen_tokens" in train else "answer" if "mean_completion_tokens" in train else "prompt"
    kind = kind if train else "row"
    samples = record["objective"].get("samples", 1)
    each = f" with {samples} sampled answers each" if kind == "prompt" and samples > 1 else ""
    total = f", from {counted(train['rows'], kind)}" if "rows" in train else ""
    return f"{counted(trainer['max_steps'], 'update')} of {counted(trainer['batch_size'], kind)}{each}{total}"


def _learning_rates(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line if several objectives are compared at one learning rate each."""
    rates: dict[str, set[Any]] = {}
    for record in records:
        rates.setdefault(record["objective"]["name"], set()).add(record["config"].get("optim", {}).get("lr"))
    untuned = [name for name, of in rates.items() if len(of) == 1]
    if len(rates) > 1 and untuned:
        shown = ", ".join(f"{name} {next(iter(rates[name])):g}" for name in untuned if None not in rates[name])
        yield (
            f"Learning rates were not tuned for each objective ({_LR}: {shown}), so another rate may change their "
            "order. sweep=objectives_lr tunes them."
        )


def _starts(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line if runs start from different policies. KLs and log-ratios are relative to a run's own start."""
    starts = {weights for record in records if (weights := (record.get("model") or {}).get("reference_weights"))}
    if len(starts) > 1:
        yield (
            f"The runs start from {len(starts)} different policies. KLs and log-ratios are relative to a run's own "
            "start, so they are not on one scale."
        )
