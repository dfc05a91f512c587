"""The answers of a suite come from the engine, which is checked, and are stored under its name."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignlab.data.layout import PLAIN
from alignlab.errors import EngineError
from alignlab.evaluation.questions import Question
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import ModelSide, Suite
from alignlab.models.reference import ScoringOptions
from alignlab.models.sources.tiny import Tiny
from alignlab.progress import silent
from tests.rollout.engines.engines import Other


def test_an_engine_answers_for_every_side_with_its_own_weights(tmp_path: Path) -> None:
    model, tokenizer = Tiny(name="t", alphabet="abcdef", hidden_size=16).load()
    with torch.no_grad():
        model.lm_head.weight *= 8
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight *= -1
    policy, start = ModelSide(other, tokenizer, "policy"), ModelSide(model, tokenizer, "start")
    questions = [Question(prompt, "", True) for prompt in ("ab", "cd", "ef")]
    settings = Evaluation(max_new_tokens=4, samples=2)
    how = ScoringOptions(PLAIN, 8, 1000, torch.device("cpu"), silent)
    suite = Suite(settings, questions, 10, how, tmp_path)
    own = [suite.draw(side) for side in (policy, start)]
    assert len(list(tmp_path.glob("*.json"))) == 2
    by_other = replace(suite, engine=Other())
    assert [by_other.draw(side) for side in (policy, start)] == own, "this engine samples with the same numbers"
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert [replace(suite, engine=Other(silent=True)).draw(side) for side in (policy, start)] == own, "they are stored"
    stale = replace(suite, engine=Other(stale=True), kept_in=tmp_path / "anew")
    assert stale.draw(policy) == own[0]
    with pytest.raises(EngineError, match="the engine has other weights"):
        stale.draw(start)
    assert len(list((tmp_path / "anew").glob("*.json"))) == 1, "wrong answers are not stored"
