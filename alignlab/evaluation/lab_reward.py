"""The lab's gold reward as a judge. Every answer in the lab has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from alignlab.judges.base import Answer, Score, ScoreJudge
from alignlab.lab.world import World


@dataclass(kw_only=True)
class LabReward(ScoreJudge):
    """Scores answers by the gold reward.

    world: the World that the prompts and answers belong to.
    """

    earlier_name: ClassVar[str] = "WorldGold"

    world: World

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return self.ready()(rows)

    def ready(self) -> Score:
        prompts = {text: x for x, text in enumerate(self.world.prompt_texts)}
        answers = [{text: y for y, text in enumerate(texts)} for texts in self.world.answers]
        gold = self.world.gold_reward

        def score(row: Answer) -> float:
            x = prompts[row.prompt[-1]]
            return float(gold[x, answers[x][row.answer[-1]]])

        return lambda rows: [score(row) for row in rows]
