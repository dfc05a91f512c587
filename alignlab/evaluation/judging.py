"""Lets judges compare and score sampled answers, and adds their verdicts to the examples as columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignlab.data.rows import Message, Prompt
from alignlab.evaluation.examples import Examples
from alignlab.judges.base import Answer, Comparison, Judge, Judged, JudgingCost, ScoreJudge, Turns, Verdict


def judged(examples: Examples, name: str, judge: Judge, store: Path) -> tuple[Examples, JudgingCost]:
    """(examples with the columns of one judge, cost of judging).

    The judge compares the policy's answers with those of every baseline. A judge that scores also scores all answers.
    store: folder for the judge's replies.
    """
    columns, bill = examples.without(name), JudgingCost()
    ids = [_id(examples, row) for row in range(len(examples))]
    facts = {**examples.facts, f"judge/{name}": judge.fingerprint()}
    if isinstance(judge, ScoreJudge):
        scores = judge.score([answer for side in examples.sides for answer in _answers(examples, side)])
        for i, side in enumerate(examples.sides):
            columns[f"{side}/score/{name}"] = list(scores[i * len(ids) : (i + 1) * len(ids)])
    for baseline in examples.baselines:
        if isinstance(judge, ScoreJudge):
            own, other = (columns[f"{side}/score/{name}"] for side in ("policy", baseline))
            verdicts = judge.compare_scores(ids, own, other)
        else:
            verdicts = judge.compare(_comparisons(examples, baseline), store)
        bill += verdicts.bill
        facts[f"disagreement/{name}"] = verdicts.disagreement
        columns |= _verdicts(ids, baseline, name, verdicts)
    return Examples(columns, facts), bill


def _verdicts(ids: Sequence[str], baseline: str, name: str, verdicts: Judged) -> dict[str, list[Any]]:
    """Columns of a judge's comparisons with one baseline."""
    by_place = {(j.id, j.swapped): j for j in verdicts.judgements}
    if not any((id_, False) in by_place and (id_, True) in by_place for id_ in ids):
        by_place = {(id_, False): judgement for (id_, _), judgement in by_place.items()}  # each pair has one order
    columns: dict[str, list[Any]] = {}
    for column, swapped in (("first", False), ("second", True)):
        judgements = [by_place.get((id_, swapped)) for id_ in ids]
        if any(judgements) or column == "first":
            columns[f"{baseline}/{column}/{name}"] = [
                None if j is None or j.verdict is Verdict.UNJUDGED else j.score for j in judgements
            ]
    both = [[by_place[key].reply for key in ((id_, False), (id_, True)) if key in by_place] for id_ in ids]
    return columns | {f"{baseline}/said/{name}": ["\n---\n".join(said) for said in both]}


def _answers(examples: Examples, side: str) -> list[Answer]:
    return [
        Answer(
            _id(examples, row),
            _turns(examples, "prompt", row),
            _turns(examples, f"{side}/answer", row),
            conversation=_conversation(examples, row, side),
            ended=examples[f"{side}/ended"][row],
        )
        for row in range(len(examples))
    ]


def _comparisons(examples: Examples, baseline: str) -> list[Comparison]:
    return [
        Comparison(
            _id(examples, row),
            _turns(examples, "prompt", row),
            _turns(examples, "policy/answer", row),
            _turns(examples, f"{baseline}/answer", row),
            conversation=None if _is_second(examples, row) else _conversation(examples, row, "policy"),
        )
        for row in range(len(examples))
    ]


def _is_second(examples: Examples, row: int) -> bool:
    """Whether a row is the second turn of the row before it."""
    return "turn" in examples and examples["turn"][row] == 2


def _turns(examples: Examples, column: str, row: int) -> Turns:
    """The text of the row's turn, after that of the first turn if the row is a second turn."""
    first = (examples[column][row - 1],) if _is_second(examples, row) else ()
    return (*first, examples[column][row])


def _id(examples: Examples, row: int) -> str:
    second = "-2" if _is_second(examples, row) else ""
    return f"{examples['prompt_id'][row]}-{examples['sample'][row]}{second}"


def _conversation(examples: Examples, row: int, side: str) -> Prompt | None:
    """The prompt's messages, or None if it has none. In a second turn, they include the side's first answer."""
    if _is_second(examples, row):
        before = _conversation(examples, row - 1, side)
        first = before if isinstance(before, list) else [Message(role="user", content=examples["prompt"][row - 1])]
        answer = Message(role="assistant", content=examples[f"{side}/answer"][row - 1])
        return [*first, answer, Message(role="user", content=examples["prompt"][row])]
    messages = examples["conversation"][row]
    return None if messages is None else json.loads(messages)
