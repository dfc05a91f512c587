"""BCO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.bco import BCO, bco_loss
from alignlab.types import LabelledLogps
from tests.objectives.build import logps, scalar


def labelled(good: Sequence[float], bad: Sequence[float], state: torch.Tensor | None = None) -> LabelledLogps:
    """Answers of one token with these log-ratios."""
    answers = logps([[-1.0]] * (len(good) + len(bad)), [-1.0 - value for value in (*good, *bad)])
    return LabelledLogps(answers, torch.arange(len(answers.tokens)) < len(good), state=state)


def delta(state: torch.Tensor) -> float:
    return BCO(beta=0.5).metrics(labelled([0.0], [], state))["bco/delta"].item()


def after(*batches: LabelledLogps) -> torch.Tensor:
    """The state after these batches, at beta 0.5."""
    objective = BCO(beta=0.5)
    state = objective.initial_state()
    assert state is not None
    for batch in batches:
        state = objective.next_state(batch, state)
    return state


def test_value_and_gradient() -> None:
    """beta 0.5, delta 0.5: z is 0.5 * 2 - 0.5 = 0.5 for the good answer, and -(0.5 * -1 - 0.5) = 1 for the bad one.

    softplus(-0.5) = 0.47407698418010668, slope -0.5 sigmoid(-0.5) = -0.5 * 0.37754066879814544; softplus(-1) =
    0.31326168751822283, slope 0.5 sigmoid(-1) = 0.5 * 0.26894142136999512.
    """
    good, bad = scalar(2.0), scalar(-1.0)
    loss = bco_loss(torch.cat([good, bad]), torch.tensor([True, False]), torch.tensor(0.5), beta=0.5)
    slopes = torch.autograd.grad(loss.sum(), (good, bad))
    assert loss.tolist() == pytest.approx([0.47407698418010668, 0.31326168751822283], abs=1e-14)
    assert [s.item() for s in slopes] == pytest.approx([-0.18877033439907272, 0.13447071068499756], abs=1e-14)


def test_delta_runs_over_batches_with_both_classes_weighing_the_same() -> None:
    """beta 0.5. The first batch has rewards 1, 2 (good) and -1 (bad) with means 1.5 and -1, so delta is 0.25. The
    second batch has rewards 3, 4, 5 (good) and -3 (bad).

    Over both: good 15 / 5 = 3, bad -4 / 2 = -2, delta 0.5; not 11 / 7 of all rows, nor (0.25 + 0.5) / 2 of the batches.
    """
    first, second = labelled([2.0, 4.0], [-2.0]), labelled([6.0, 8.0, 10.0], [-6.0])
    assert after(first).tolist() == [3.0, 2.0, -1.0, 1.0]
    assert after(first, second).tolist() == [15.0, 5.0, -4.0, 2.0]
    assert (delta(after(first)), delta(after(first, second))) == (0.25, 0.5)


def test_delta_shifts_the_loss_without_taking_gradient() -> None:
    """The batch's own rows are in delta = 0.5 * (2 + -1) / 2 = 0.25: z = 0.75, slope -+0.5 sigmoid(-0.75)."""
    state = after(labelled([2.0], [-1.0]))
    batch = labelled([2.0], [-1.0], state)
    loss = BCO(beta=0.5)(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.answers.tokens)
    size = 0.5 / (1 + math.exp(0.75))
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-0.75))] * 2, abs=1e-14)
    assert slope.flatten().tolist() == pytest.approx([-size, size], abs=1e-14)
    assert not state.requires_grad


def test_one_sided_batches() -> None:
    """A batch of good rewards 1 and 2 gives delta 1.5. A batch of one bad reward -1 then gives delta 0.25, the value
    that both give in one batch.
    """
    good, bad = labelled([2.0, 4.0], []), labelled([], [-2.0])
    assert delta(after(good)) == 1.5
    assert delta(after(bad)) == -1.0
    assert delta(after(good, bad)) == delta(after(bad, good)) == 0.25


def test_before_the_first_batch_nothing_is_shifted() -> None:
    state = BCO(beta=0.5).initial_state()
    assert state is not None
    batch = labelled([0.0], [0.0], state)
    assert delta(state) == 0.0
    assert BCO(beta=0.5)(batch).tolist() == pytest.approx([math.log(2.0)] * 2, abs=1e-15)


def test_without_shift_there_is_no_state() -> None:
    """z = 0.5 * 2 = 1 for the good answer: softplus(-1)."""
    objective = BCO(beta=0.5, shift="none")
    assert objective.initial_state() is None
    assert objective(labelled([2.0], [])).item() == pytest.approx(0.31326168751822283, abs=1e-14)


def test_dialects_and_needs() -> None:
    assert [BCO(beta=0.1, dialect=d).shift for d in ("paper", "trl1")] == ["running", "none"]
    assert BCO(beta=0.1, dialect="trl1", shift="running").shift == "running"
    needs = BCO(beta=0.1).requires
    assert needs.data == "labelled"
    assert needs.reference
    assert needs.couples_batch
    assert not needs.mismatched


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"beta": 0.0}, ["beta"]),
        ({"beta": 0.1, "shift": "batch"}, ["shift"]),
        ({"beta": math.nan, "shift": "none", "dialect": "halos"}, ["dialect", "beta"]),
    ],
)
def test_out_of_range_is_refused(given: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        BCO(**given)
    assert [problem.key for problem in caught.value.problems] == keys


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        bco_loss(torch.zeros(3), torch.ones(1, dtype=torch.bool), torch.zeros(()), beta=0.1)


def test_a_rare_label_is_warned_of() -> None:
    """The audit of the data warns of labels of one kind."""
    assert list(BCO(beta=0.1).data_warnings({"desirable": 7, "undesirable": 0})) == []
    (rare,) = BCO(beta=0.1).data_warnings({"desirable": 99, "undesirable": 1})
    assert "1 of 100 answers are bad" in rare
    assert list(BCO(beta=0.1).data_warnings({"desirable": 10, "undesirable": 1})) == []
    assert list(BCO(beta=0.1).data_warnings({"rows": 5})) == [], "pairs, split by a mix"
