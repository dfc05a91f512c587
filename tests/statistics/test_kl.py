"""KL estimators: values by hand, no bias in simulation, correct standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.kl import forward_kl, kl_estimates, per_token


def test_by_hand() -> None:
    """Two answers: log-ratios (0.5, -0.2) and (1.0)."""
    policy, reference = [[-1.0, -1.0], [-0.5]], [[-1.5, -0.8], [-1.5]]
    found = {name: estimate.value for name, estimate in kl_estimates(policy, reference).items()}
    x = np.array([0.3, 1.0])
    assert found["sequence_k1"] == pytest.approx(x.mean())
    assert found["sequence_k2"] == pytest.approx((x**2 / 2).mean())
    assert found["sequence_k3"] == pytest.approx((np.exp(-x) - 1 + x).mean())
    tokens = [np.exp(-0.5) - 0.5 + np.exp(0.2) - 1.2, np.exp(-1.0)]
    assert found["token_k3"] == pytest.approx(np.mean(tokens))
    assert found["per_token"] == pytest.approx(1.3 / 3)
    assert forward_kl(policy, reference).value == pytest.approx(-x.mean())


def draws(count: int, seed: int) -> tuple[list[list[float]], list[list[float]], float, list[int]]:
    """Two-token answers from chains over three letters; KL by enumeration."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(7)
    p = fixed.dirichlet(np.full(3, 3.0), (4,))  # row 3 is for the first token
    q = 0.5 * p + 0.5 * fixed.dirichlet(np.full(3, 3.0), (4,))
    kl = float((p[3] * np.log(p[3] / q[3])).sum() + (p[3][:, None] * p[:3] * np.log(p[:3] / q[:3])).sum())
    first = rng.choice(3, size=count, p=p[3])
    second = np.array([rng.choice(3, p=p[letter]) for letter in first])
    policy = np.log(np.stack([p[3][first], p[first, second]], axis=1))
    reference = np.log(np.stack([q[3][first], q[first, second]], axis=1))
    return policy.tolist(), reference.tolist(), kl, list(range(count))


def test_unbiased_with_honest_errors() -> None:
    """Over 400 sets of 50 answers, 95 % intervals have their coverage, and token_k3 has the smallest spread."""
    held: dict[str, list[bool]] = {}
    values: dict[str, list[float]] = {}
    for seed in range(400):
        policy, reference, kl, _ = draws(50, seed)
        for name, estimate in kl_estimates(policy, reference).items():
            held.setdefault(name, []).append(estimate.low <= kl <= estimate.high)
            values.setdefault(name, []).append(estimate.value)
    for name in ("sequence_k1", "sequence_k3", "token_k3"):
        spread = np.std(values[name]) / 20
        assert np.mean(values[name]) == pytest.approx(kl, abs=3.5 * spread), name
        assert 0.9 < np.mean(held[name]) <= 0.985, name
    assert np.std(values["token_k3"]) < np.std(values["sequence_k3"])
    assert np.std(values["token_k3"]) < np.std(values["sequence_k1"])
    assert np.std(values["sequence_k2"]) < np.std(values["sequence_k1"])


def test_answers_to_one_prompt_count_once() -> None:
    policy, reference, _, _ = draws(40, 0)
    alone = kl_estimates(policy, reference)["sequence_k1"]
    doubled = kl_estimates(policy * 2, reference * 2, [*range(40), *range(40)])["sequence_k1"]
    assert doubled.value == pytest.approx(alone.value)
    assert doubled.standard_error == pytest.approx(alone.standard_error)
    assert doubled.n == 40


def test_error_of_a_ratio() -> None:
    """The standard error equals the spread of 500 such ratios."""
    rng = np.random.default_rng(0)

    def ratio(count: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = rng.integers(5, 50, size=count).astype(float)
        return 0.1 * tokens + rng.normal(0, 1, count), tokens

    seen = [per_token(*ratio(60)) for _ in range(500)]
    assert np.std([e.value for e in seen]) == pytest.approx(np.mean([e.standard_error for e in seen]), rel=0.08)
    assert np.mean([e.low <= 0.1 <= e.high for e in seen]) == pytest.approx(0.95, abs=0.03)


def test_other_numbers_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"answers \[1\]"):
        kl_estimates([[0.1], [0.1, 0.2]], [[0.1], [0.1]])
