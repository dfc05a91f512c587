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
    yield from _held_out(known)


def cautions(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sentences for the answer about a sweep, on differences between its runs that may explain which one is best.

    records: as for `fairness`, whose lines have the details.
    """
    known = [record for record in records if _has_budget(record)]
    if len({_budget(record) for record in known}) > 1:
        yield "The runs had different budgets of training, which the report lists."
    if len(_different_starts(known)) > 1:
        yield "The runs start from different policies, so their KLs are not on one scale."
    if _held_out_sets(known) > 1:
        yield "The held-out pairs were not the same for all runs, which may explain a difference."


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
    starts = _different_starts(records)
    if len(starts) > 1:
        yield (
            f"The runs start from {len(starts)} different policies. KLs and log-ratios are relative to a run's own "
            "start, so they are not on one scale."
        )


def _different_starts(records: Sequence[Mapping[str, Any]]) -> set[str]:
    return {weights for record in records if (weights := (record.get("model") or {}).get("reference_weights"))}


def _held_out(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line if runs of the same seed measured their accuracies on different pairs."""
    if (sets := _held_out_sets(records)) > 1:
        yield (
            f"The held-out pairs are not the same for all runs ({sets} different sets), so accuracies and margins on "
            "them can't be compared."
        )


def _held_out_sets(records: Sequence[Mapping[str, Any]]) -> int:
    """The largest number of different sets of held-out pairs that runs of one seed have."""
    by_seed: dict[Any, set[str]] = {}
    for record in records:
        pairs = (record.get("data") or {}).get("pairs")
        if isinstance(pairs, Mapping) and pairs.get("digest"):
            by_seed.setdefault(record["config"].get("seed"), set()).add(str(pairs["digest"]))
    return max(map(len, by_seed.values()), default=0)
