"""The words and the columns of a report, explained for somebody who reads one for the first time."""

from __future__ import annotations

from collections.abc import Iterable

from alignlab.reports.series import heading
from alignlab.tracking.metrics import definition

# As in docs/glossary.md, which a page that stands alone can't link to.
WORDS = (
    ("setting", "All runs that differ in their seed only. Tables have one row for each setting."),
    ("method", "All settings that differ in their strength only, such as those of one objective."),
    ("strength", "The parameter that keeps a policy near its reference, such as DPO's beta or IPO's tau."),
    ("start, reference", "The policy before training. It is also what policies are compared with (the reference)."),
    (
        "KL",
        "How far the policy moved from the reference: the mean log-ratio of its own answers, in nats per answer. It "
        "is 0 at the start. More reward at more KL is not better, so settings are compared at equal KL.",
    ),
    ("exact, sampled", "Computed over all possible answers (in the lab), or estimated from sampled answers."),
    ("frontier, gap", "The highest reward that any policy can have at a KL, and how far a policy is below it."),
    (
        "held-out pair accuracy",
        "The share of held-out pairs in which training made the preferred answer more likely, relative to the other "
        "one. It is 1/2 at the start, and it is not a win-rate.",
    ),
    ("win-rate", "The share of prompts on which a judge prefers the policy's answer. A tie counts 1/2."),
    ("[a, b] and ± c", "A 95 % interval, and half of its width. Most are over seeds; the text says if they are not."),
    (
        "tied",
        "Not known to differ: the interval of the difference contains 0. It counts all comparisons of its table, so "
        "two settings may be tied although their own intervals don't overlap. More seeds may tell them apart.",
    ),
)


def columns(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """(heading, name and definition) of the columns of metrics."""
    return [(heading(name), f"{name}: {definition(name)}") for name in metrics]
