"""A small transformer that writes strings of letters, and the log-probabilities and hidden states of whole strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.lab.enumerable import SYMBOLS
from alignlab.models.sources.tiny import Tiny
from alignlab.papers.tabular import Array


def of_strings(strings: NDArray[np.int64], prior: Array, *, seed: int, updates: int = 200) -> Any:
    """A transformer with one layer of width 32, after SFT on strings that are drawn from a prior.

    strings: [N, L] indices of letters. prior: [N] log-probabilities, nats.
    """
    letters = int(strings.max()) + 1
    source = Tiny(name="tiny", alphabet=SYMBOLS[:letters], hidden_size=32, layers=1, heads=2, intermediate_size=64,
                  init_seed=seed)  # fmt: skip
    model, _ = source.load()
    rng = np.random.default_rng([seed, 7])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    probability = np.exp(prior) / np.exp(prior).sum()
    for _ in range(updates):
        batch = torch.as_tensor(strings[rng.choice(len(strings), 64, p=probability)])
        optimizer.zero_grad()
        (-read(model, batch)[0].sum(dim=1).mean()).backward()
        optimizer.step()
    return model


def read(model: Any, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """([B, L] log-probability of each letter, nats; [B, L, D] the last hidden state that predicts it).

    answers: [B, L] indices of letters.
    """
    end = model.config.eos_token_id  # also begins every text
    before = torch.cat([torch.full((len(answers), 1), end), answers[:, :-1]], dim=1)
    hidden = model.model(input_ids=before).last_hidden_state
    logps = torch.log_softmax(model.lm_head(hidden), dim=2)
    return logps.gather(2, answers[:, :, None])[:, :, 0], hidden
