"""Lines on budgets, learning rates and starts of the runs of a sweep."""

from __future__ import annotations

from typing import Any

from alignlab.reports.fairness import fairness


def record(name: str, *, steps: int = 40, lr: float = 1e-3, start: str = "a", rows: int = 400, **more: Any) -> Any:
    kind = {"dpo": "mean_chosen_tokens", "kto": "mean_completion_tokens"}.get(name, "mean_prompt_tokens")
    return {
        "objective": {"name": name, **more},
        "config": {"trainer": {"max_steps": steps, "batch_size": 16}, "optim": {"lr": lr}},
        "data": {"train": {"rows": rows, kind: 3.0}},
        "model": {"reference_weights": start},
    }


def test_equal_budgets_are_one_line() -> None:
    assert list(fairness([record("dpo"), record("dpo")])) == [
        "Budget of every run: 40 updates of 16 pairs, from 400 pairs."
    ]
    assert list(fairness([{"status": "failed"}])) == []
    assert list(fairness([{**record("dpo"), "config": {"trainer": {"max_steps": 6}}, "data": None}])) == []


def test_what_differs_is_said() -> None:
    records = [record("dpo"), record("dpo", steps=80), record("kto", rows=800), record("ppo", samples=4)]
    assert list(fairness(records)) == [
        "Budgets differ. dpo: 40 updates of 16 pairs, from 400 pairs | 80 updates of 16 pairs, from 400 pairs; "
        "kto: 40 updates of 16 answers, from 800 answers; "
        "ppo: 40 updates of 16 prompts with 4 sampled answers each, from 400 prompts.",
        "Learning rates were not tuned for each objective (optim.lr: dpo 0.001, kto 0.001, ppo 0.001), so another rate "
        "may change their order. sweep=objectives_lr tunes them.",
    ]


def test_tuned_rates_and_other_starts() -> None:
    tuned = [record(name, lr=lr) for name in ("dpo", "kto") for lr in (1e-4, 1e-3)]
    assert not any("Learning rates" in line for line in fairness(tuned))
    one_tuned = [*tuned[:2], record("kto")]
    assert "not tuned for each objective (optim.lr: kto 0.001)" in "\n".join(fairness(one_tuned))
    assert "The runs start from 2 different policies" in "\n".join(fairness([record("dpo"), record("dpo", start="b")]))
