"""The small lab that most runs of the tests train on, and how tests find what a run has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# A lab of 40 completions and a model of a few thousand parameters: seconds a run.
LAB = [
    "data.alphabet=abc", "data.length=3", "data.prompts=2", "data.prompt_length=1", "data.demonstrations=400",
    "data.pair_count=400", "data.eval_limit=200", "model.hidden_size=32", "trainer.batch_size=16",
    "optim.lr=3e-3", "tracking=none",
    'model.parent=["objective=sft","optim.lr=1e-2","trainer.max_steps=40"]',
]  # fmt: skip
# A run with peft=lora starts from the parent of LAB, instead of training one with LoRA.
FULL_PARENT = 'model.parent=["objective=sft","peft=none","optim.lr=1e-2","trainer.max_steps=40"]'
REWARD = ["reward=reward_model", 'reward.run=["objective=reward_model","optim.lr=1e-2","trainer.max_steps=30"]']
RUNS = Path("outputs/runs")


def records() -> dict[str, dict[str, Any]]:
    return {f.parent.name: json.loads(f.read_text()) for f in sorted(RUNS.glob("*/run.json"))}


def only(kind: str) -> Path:
    (found,) = RUNS.glob(f"{kind}-*[0-9a-f]")
    return found
