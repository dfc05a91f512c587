"""The contracts of judges and rewards."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.judges.base import Answer, Comparison, Judge, ScoreJudge

_TEXTS = ("yes", "I do not know, but I can look it up.", "", "No. Eine Antwort mit Umlauten: äöü.", "a b c " * 40)


def _answers(order: Sequence[int]) -> list[Answer]:
    return [Answer(str(i), ("What is the answer?",), (_TEXTS[i],)) for i in order]


def one_score_for_each_answer(judge: ScoreJudge) -> Iterator[str]:
    """A judge that scores gives one number for each answer, also for an empty one; not infinite."""
    if not isinstance(judge, ScoreJudge):
        return
    scores = judge.score(_answers(range(len(_TEXTS))))
    if len(scores) != len(_TEXTS):
        yield f"{len(_TEXTS)} answers got {len(scores)} scores"
    if any(math.isinf(float(score)) for score in scores):
        yield f"a score is infinite: {list(scores)}; NaN stands for no score"


def scores_do_not_depend_on_other_answers(judge: ScoreJudge) -> Iterator[str]:
    """The score of an answer does not depend on the other answers or on their order."""
    if not isinstance(judge, ScoreJudge):
        return
    order = list(range(len(_TEXTS)))
    forward = [float(score) for score in judge.score(_answers(order))]
    backward = [float(score) for score in judge.score(_answers(order[::-1]))][::-1]
    alone = [float(score) for i in order for score in judge.score(_answers([i]))]
    for name, other in (("in another order", backward), ("alone", alone)):
        if any(
            not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) and a == a for a, b in zip(forward, other, strict=True)
        ):
            yield f"the scores are {forward}, and {other} when the answers are scored {name}"


def swapped_answers_swap_the_verdict(judge: Judge) -> Iterator[str]:
    """If the two answers are swapped, the verdict is swapped."""
    pairs = [(0, 1), (1, 3), (2, 4), (0, 0)]
    with tempfile.TemporaryDirectory() as folder:
        verdicts = []
        for swap in (False, True):
            rows = [
                Comparison(str(k), ("What is the answer?",), (_TEXTS[b if swap else a],), (_TEXTS[a if swap else b],))
                for k, (a, b) in enumerate(pairs)
            ]
            ids, scores, _ = judge.compare(rows, Path(folder) / str(swap)).scores()
            verdicts.append(dict(zip(ids, scores.tolist(), strict=True)))
    for k in verdicts[0].keys() & verdicts[1].keys():
        first, second = verdicts[0][k], verdicts[1][k]
        if first == first and second == second and not math.isclose(first, 1 - second, abs_tol=1e-6):
            yield f"the score of a pair is {first:g}, and {second:g} after a swap; they must add up to 1"


def the_fingerprint_tells_settings_apart(judge: Judge) -> Iterator[str]:
    """The fingerprint is the same for the same settings."""
    if judge.fingerprint() != dataclasses.replace(judge).fingerprint():
        yield "the fingerprint of the same settings differs"


CONTRACTS: tuple[Contract, ...] = (
    *EVERY_PART,
    one_score_for_each_answer,
    scores_do_not_depend_on_other_answers,
    swapped_answers_swap_the_verdict,
    the_fingerprint_tells_settings_apart,
)
