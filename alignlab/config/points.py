"""Plans of all points of a sweep, or all problems of its points."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from alignlab.config.composer import Composer
from alignlab.config.plan import Plan, PreflightCache, plan
from alignlab.errors import ConfigError, Problem
from alignlab.spelling import counted

log = logging.getLogger(__name__)


def plan_points(composer: Composer, jobs: Sequence[Sequence[str]], problems: Iterable[Problem] = ()) -> list[Plan]:
    """Plans of all points. Raises ConfigError with `problems` and the problems of all points, each listed once."""
    plans, known = [], PreflightCache()
    told: dict[str, Problem] = {}
    points: dict[str, list[int]] = defaultdict(list)
    for index, job in enumerate(jobs):
        config, found = composer.compose(job)
        try:
            plans.append(plan(config, job, known))
        except ConfigError as error:
            found += of_chosen(composer, job, found, error.problems)
        for problem in found:
            told[str(problem)] = problem
            points[str(problem)].append(index)
    if told or problems:
        raise ConfigError([*problems, *(_at(problem, points[text], len(jobs)) for text, problem in told.items())])
    return plans


def of_chosen(
    composer: Composer, overrides: Sequence[str], left_out: Sequence[Problem], found: Sequence[Problem]
) -> Sequence[Problem]:
    """The problems of a config without those that may be due to an option that took the place of a wrong one.

    left_out: problems of overrides that are not in the config.
    found:    problems of the config.
    """
    if not any(composer.is_group(problem.key) for problem in left_out):
        return found
    typed = {text.partition("=")[0].lstrip("+") for text in overrides}
    return [problem for problem in found if "." in problem.key and problem.key in typed]


def unique(
    plans: Sequence[Plan], jobs: Sequence[Sequence[str]], axes: Sequence[str]
) -> tuple[list[Plan], list[list[str]]]:
    """Each run once, with the first of the jobs that ask for it. The log names the other jobs."""

    def shown(index: int) -> str:
        return f"point {index} ({' '.join(text for text in jobs[index] if text.split('=', 1)[0] in axes)})"

    first: dict[str, int] = {}
    again = [(i, kept) for i, point in enumerate(plans) if (kept := first.setdefault(point.id, i)) != i]
    for index, kept in again[:5]:
        log.info("%s is the same run as %s and is run once", shown(index), shown(kept))
    if len(again) > 5:
        log.info("%s more like these; %s in all", counted(len(again) - 5, "point"), counted(len(first), "run"))
    return [plans[i] for i in first.values()], [list(jobs[i]) for i in first.values()]


def _at(problem: Problem, points: list[int], total: int) -> Problem:
    """The problem, with the numbers of the points that have it unless all points have it."""
    if len(points) == total:
        return problem
    shown = ", ".join(map(str, points[:5])) + (", ..." if len(points) > 5 else "")
    return replace(problem, allowed=f"{problem.allowed} [point{'s' * (len(points) > 1)} {shown}]")
