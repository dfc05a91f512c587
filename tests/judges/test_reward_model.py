"""Reward models as judges: they give the saved model's rewards, whole or as an adapter; other models are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignlab.data.layout import Rows
from alignlab.data.template import Template
from alignlab.errors import ModelError
from alignlab.judges.base import Answer, Comparison, Verdict
from alignlab.judges.reward_model import RewardModel
from alignlab.models.adapters.lora import LoRA
from alignlab.models.forward import hidden_states
from alignlab.models.heads import with_scalar_head
from alignlab.models.sources.tiny import Tiny

ROWS = [Answer("1", ("ab",), ("c",)), Answer("2", ("b",), ("abcab",)), Answer("3", ("ab",), ("",))]


def saved(folder: Path, *, lora: bool = False) -> tuple[Path, list[float]]:
    """(folder of a reward model, rewards of ROWS one by one)."""
    torch.manual_seed(0)  # also fixes an adapter's matrices; with some seeds, sums differ in the fifth digit
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    if lora:
        model.save_pretrained(folder / "base")
        model.name_or_path = str(folder / "base")
    scorer = with_scalar_head(model, 3)
    policy = LoRA(r=2).wrap(scorer) if lora else scorer
    if lora:
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    policy.save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "rm")
    template = Template(tokenizer)
    rewards = []
    for row in ROWS:
        encoded = template.encode(row.prompt[0], [(row.answer[0], True)])
        ids = [*encoded.prompt, *encoded.answers[0]]
        with torch.no_grad():
            hidden = policy.get_base_model().model if lora else scorer.model
            last = hidden(torch.tensor([ids])).last_hidden_state[0, -1]
            head = policy.get_base_model().score if lora else scorer.score
            rewards.append(float(head(last)))
    return folder / "rm", rewards


@pytest.mark.parametrize("lora", [False, True])
def test_rewards_of_the_saved_model(lora: bool, tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, lora=lora)
    judge = RewardModel(model=str(folder), batch_size=2)
    assert judge.score(ROWS) == pytest.approx(expected, abs=1e-5)
    assert len({round(reward, 4) for reward in expected}) == 3
    comparison = Comparison("x", ("ab",), ("c",), ("",))
    (judgement,) = judge.compare([comparison], tmp_path).judgements
    assert judgement.verdict is (Verdict.A if expected[0] > expected[2] else Verdict.B)
    assert list(judge.missing()) == []


def test_answers_share_their_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignlab.models import heads

    folder, _ = saved(tmp_path)
    rows = [Answer(str(i), ("ababab" if i % 2 else "b",), (text,)) for i, text in enumerate(("c", "a", "cc", "b"))]
    alone = RewardModel(model=str(folder), batch_size=1).score(rows)
    seen: list[Rows] = []
    monkeypatch.setattr(heads, "hidden_states", lambda base, rows: seen.append(rows) or hidden_states(base, rows))
    score = RewardModel(model=str(folder), batch_size=4).ready()
    assert score(rows) == pytest.approx(alone, abs=1e-5)
    plain, sharing, batch = seen  # the first two compare the layouts
    assert (plain.layout.shared, sharing.layout.shared, batch.layout.shared) == (False, True, True)
    assert batch.attention.sum() < plain.attention.sum() - 6, "a long prompt occurs once"
    seen.clear()
    score(rows)
    assert len(seen) == 1
    later = RewardModel(model=str(folder), batch_size=4).ready()
    assert later(rows[:1]) == pytest.approx(alone[:1], abs=1e-5)  # a single answer can't be compared
    seen.clear()
    assert later(rows) == pytest.approx(alone, abs=1e-5)
    assert [one.layout.shared for one in seen] == [False, True, True]


def test_equal_answers_have_one_score(tmp_path: Path) -> None:
    """Scores are equal to the last bit wherever the answers stand, so an unchanged policy ties with its reference."""
    folder, _ = saved(tmp_path)
    score = RewardModel(model=str(folder), batch_size=3).ready()
    texts = ["abc", "b", "abc", "cc", "abc", "b"]
    scores = score([Answer(str(i), ("ababab",), (text,)) for i, text in enumerate(texts)])
    assert (scores[0], scores[1]) == (scores[2], scores[5])
    assert scores[0] == scores[4] != scores[1]
    assert score([]) == []


def test_conversations_keep_their_roles(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    judge = RewardModel(model=str(folder))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    flat, kept = judge.score(
        [Answer("1", ("c",), ("a",)), Answer("1", ("c",), ("a",), conversation=turns)]  # type: ignore[arg-type]
    )
    assert flat != pytest.approx(kept, abs=1e-4)


def test_long_rows_are_cut(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    long = Answer("1", ("abc" * 20,), ("abc" * 20,))
    judge = RewardModel(model=str(folder), max_length=10)
    assert judge.score([long]) == pytest.approx(judge.score([Answer("1", ("c",), ("abc" * 3,), ended=False)]))
    ended, cut = judge.score([Answer("1", ("c",), ("abc",)), Answer("1", ("c",), ("abc",), ended=False)])
    assert ended != pytest.approx(cut, abs=1e-4), "an answer that was cut off has no end"


def test_what_is_no_reward_model(tmp_path: Path) -> None:
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    with pytest.raises(ModelError, match="saved without a head"):
        RewardModel(model=str(tmp_path / "lm")).score(ROWS)
    (tmp_path / "empty").mkdir()
    for name, reason in (("empty", "without config.json"), ("nowhere/at/all", "no such folder")):
        (problem,) = RewardModel(model=str(tmp_path / name)).missing()
        assert reason in problem.allowed
