"""TRL's DPOTrainer against ours on conversations, for chat templates that end with the end of a turn.

For other templates TRL also trains on what follows that end, such as a newline, or divides the prompt elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[peers]")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignlab.data.rows import Message, Pair
from alignlab.objectives.dpo import DPO
from tests.data.families import FAMILIES, tokenizer_of
from tests.peers.side_by_side import Models, assert_same, moved, ours, theirs, tokens, trainer

FIRST = [Message(role="user", content="What is it?"), Message(role="assistant", content=" yes. ")]
CONVERSATIONS = [
    Pair([Message(role="user", content="2 + 2?")], "It is 4.", "no, and no\nno"),
    Pair([*FIRST, Message(role="user", content="The answer is what?")], "4", " It is what it is. "),
    Pair([*FIRST, Message(role="user", content="hello")], "hello there", "ü 0, 1 2."),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llama3", "mistral", "command_r", "deepseek", "harmony", "olmo"])
def test_ids_and_loss_are_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == name), words=True)
    tokenizer.pad_token = tokenizer.eos_token
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    torch.manual_seed(0)
    policy = moved(LlamaForCausalLM(config).double(), 0.3, seed=7)
    on = Models(policy, moved(policy, 0.1, seed=1), tokenizer)
    table = [
        SimpleNamespace(
            prompt=pair.prompt,
            **{side: [{"role": "assistant", "content": getattr(pair, side)}] for side in ("chosen", "rejected")},
        )
        for pair in CONVERSATIONS
    ]
    made = trainer("dpo", tmp_path, on, table, beta=0.3)
    for row, pair in zip(made.train_dataset, tokens(DPO(beta=0.3), CONVERSATIONS, tokenizer), strict=True):
        assert (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == (pair.prompt, pair.chosen, pair.rejected)
    assert_same(ours(DPO(beta=0.3), on, CONVERSATIONS), theirs(made))
