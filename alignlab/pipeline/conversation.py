"""A conversation with one policy or with two side by side, answer by answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignlab.data.rows import Message
from alignlab.evaluation.suite import ModelSide
from alignlab.rollout.sampling import draw, uniforms
from alignlab.rollout.settings import Sampling
from alignlab.spelling import counted


@dataclass
class Conversation:
    """What was said so far. Each side continues its own answers.

    name:  of the side, shown before its answers.
    turns: messages of the user and of this side.
    """

    name: str
    side: ModelSide
    how: Sampling
    seed: int
    turns: list[Message] = field(default_factory=list)

    def say(self, text: str) -> str:
        """The answer to what the user says. The same conversation with the same seed has the same answers.

        Raises DataError if the conversation and its answer exceed the model's positions; it is then as before.
        """
        turns = [*self.turns, Message(role="user", content=text)]
        template = self.side.template
        prompt = template.prompt_ids(turns)
        numbers = uniforms(self.seed, repr(turns), 0, self.how.max_new_tokens)
        (sample,) = draw(self.side.model, [prompt], [numbers], self.how, template.ends)
        answer = template.text(sample.ids, turns)
        self.turns = [*turns, Message(role="assistant", content=answer)]
        return answer if sample.ended else f"{answer} [cut off after {counted(len(sample.ids), 'token')}]"

    def forget(self) -> None:
        """Begin a new conversation."""
        self.turns.clear()
