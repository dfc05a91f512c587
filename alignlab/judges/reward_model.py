"""A reward model as judge: one that alignlab trained, or any Hugging Face sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from alignlab.checks import at_least, model_problems, names_a_run
from alignlab.data.template import Template
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import Problem
from alignlab.judges.base import Answer, Score, ScoreJudge
from alignlab.models.lineage import adapter_faults, weights_fingerprint

if TYPE_CHECKING:
    from alignlab.data.layout import Layout


@dataclass(kw_only=True)
class RewardModel(ScoreJudge):
    """The answer with the higher reward wins. Rewards compare answers to the same prompt; their zero has no meaning.

    model:      folder of a trained reward model (`outputs/runs/<id>/policy`), or a hub name.
    run:        the run that makes the reward model, instead of `model`: the name of a stage (conf/stage), or a list of
                stages and overrides of `alignlab train`. It is trained once and shared.
    max_length: maximum number of tokens of prompt and answer together. Longer prompts are cut on the left. With `run`,
                the run's own setting is used.
    max_prompt_length: maximum number of tokens of the prompt; 0 means as many as the answer leaves. With `run`, the
                run's own setting is used.
    batch_size: number of answers that are scored at a time.
    trust_remote_code: run code that comes with the model. It has an effect only if you type it on the command line.
    """

    model: str = ""
    run: Any = field(default_factory=list)
    max_length: int = 1024
    max_prompt_length: int = 0
    batch_size: int = 16
    trust_remote_code: bool = False

    cosmetic: ClassVar[tuple[str, ...]] = ("batch_size", "trust_remote_code")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if bool(self.model) == bool(self.run):
            text = "must be a folder or a hub name, unless run is given (set exactly one of model and run)"
            yield Problem("model", self.model or None, text, "model=outputs/runs/<id>/policy")
        yield from names_a_run("run", self.run, example="reward_model")
        yield from at_least("max_length", self.max_length, 2, example=1024)
        yield from at_least("max_prompt_length", self.max_prompt_length, 0, example=512)
        yield from at_least("batch_size", self.batch_size, 1, example=16)

    def required_run(self) -> str | Sequence[str]:
        return cast("str | Sequence[str]", self.run)

    def from_run(self, policy: Path, *, max_length: int, max_prompt_length: int) -> RewardModel:
        return replace(self, model=str(policy), run=[], max_length=max_length, max_prompt_length=max_prompt_length)

    def with_remote_code(self) -> RewardModel:
        return replace(self, trust_remote_code=True)

    @property
    def weights(self) -> str:
        return self.model

    @property
    def allows_remote_code(self) -> bool:
        return self.trust_remote_code

    def content(self) -> str:
        # Path("") counts as a folder
        return weights_fingerprint(self.model) if self.model and Path(self.model).is_dir() else ""

    def missing(self) -> Iterator[Problem]:
        if self.run:
            return
        folder = Path(self.model)
        if folder.is_dir() and not any((folder / f).is_file() for f in ("config.json", "adapter_config.json")):
            yield Problem("model", self.model, "is a folder without config.json or adapter_config.json")
        elif not folder.is_dir() and (self.model.startswith((".", "/", "~")) or self.model.count("/") > 1):
            text = f"no such folder (looked in {Path.cwd()})"
            yield Problem("model", self.model, text, "model=<a folder, or a hub name such as org/model>")
        for fault in adapter_faults(self.model):
            yield Problem("model", self.model, fault)
            return
        if any((folder / f).is_file() for f in ("config.json", "adapter_config.json")):
            from alignlab.models.heads import check_scorer  # imports torch

            yield from model_problems(
                "model", self.model, partial(check_scorer, trust_remote_code=self.trust_remote_code)
            )

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return self.ready()(rows)

    def ready(self) -> Score:
        """Load the model. Raises ModelError if it can't be loaded, has several outputs, or has no trained head."""
        import torch

        from alignlab.data.collate import to_device
        from alignlab.data.layout import PLAIN, collate_rows
        from alignlab.models.generation import template_of
        from alignlab.models.heads import answer_rewards, load_scorer
        from alignlab.models.layout_check import choose_layout

        model, tokenizer = load_scorer(self.model, trust_remote_code=self.trust_remote_code)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        template = template_of(model, tokenizer)
        layout: Layout | None = None

        def score(rows: Sequence[Answer]) -> Sequence[float]:
            nonlocal layout
            if not rows:
                return []
            tokens = [self._ids(template, row) for row in rows]
            keys = [(tuple(prompt), tuple(answer)) for prompt, answer in tokens]
            # Equal answers are scored once, so that rounding can't give them different scores. In the order, answers to
            # one prompt are neighbours and share it, and so are prompts of similar length, which need little padding.
            distinct = dict(zip(keys, tokens, strict=True))
            order = sorted(distinct, key=lambda key: (len(key[0]), key[0], len(key[1])))
            if layout is None and len(distinct) > 1:  # a single answer can't be compared between layouts
                layout = choose_layout(model, _to_look_at(list(distinct.values())))
            scores: dict[object, float] = {}
            with torch.no_grad():
                for start in range(0, len(order), self.batch_size):
                    batch = order[start : start + self.batch_size]
                    table = collate_rows([distinct[key] for key in batch], layout or PLAIN)
                    rewards = answer_rewards(model, to_device(table, device))
                    scores |= dict(zip(batch, rewards.tolist(), strict=True))
            return [scores[key] for key in keys]

        return score

    def _ids(self, template: Template, row: Answer) -> tuple[list[int], list[int]]:
        """Token ids of prompt and answer, as in training.

        An answer that ended has its end token. An empty answer also has one.
        """
        prompt = row.prompt[-1] if row.conversation is None else row.conversation
        encoded = template.encode(prompt, [(row.answer[-1], row.ended)])
        answer = encoded.answers[0][: self.max_length - 1]
        room = self.max_length - len(answer)
        return encoded.prompt[-min(room, self.max_prompt_length or room) :], answer or [template.end_id]


def _to_look_at(rows: Sequence[PromptAndAnswer]) -> list[PromptAndAnswer]:
    """Rows to compare layouts on: two answers to each of two prompts, among them the longest row.

    The answers are exchanged between the prompts, since any answer will do.
    """
    longest, short = max(rows, key=lambda row: len(row[0]) + len(row[1])), min(rows, key=lambda row: len(row[1]))
    return [longest, (longest[0], short[1]), short, (short[0], longest[1])]
