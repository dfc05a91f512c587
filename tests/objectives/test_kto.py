"""KTO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.apo_zero_unpaired import APOZeroUnpaired
from alignlab.objectives.kto import KTO, kto_loss
from alignlab.types import LabelledLogps, Logps
from tests.objectives.build import logps


def ratios(values: Sequence[float]) -> Logps:
    """Answers of one token with these log-ratios."""
    return logps([[-1.0]] * len(values), [-1.0 - value for value in values])


def labelled(values: Sequence[float], good: Sequence[bool], mismatched: Sequence[float] = (0.0,)) -> LabelledLogps:
    return LabelledLogps(ratios(values), torch.tensor(good), ratios(mismatched))


def test_value_and_gradient() -> None:
    """Mean log-ratio of the mismatched (2 - 1) / 2 = 0.5, beta 0.2: z = 0.2 * 1.5 = 0.3, and 0.2 * -1.5 = -0.3.

    Good: 1 - sigmoid(0.3) = 0.42555748318834101, slope -0.2 sigmoid'(0.3) = -0.2 * 0.24445831169074587. Bad, weighing
    twice: 2 sigmoid(-0.3), which is twice the same number, slope 0.4 sigmoid'(-0.3), which is twice the same too.
    """
    batch = labelled([2.0, -1.0], [True, False], [2.0, -1.0])
    loss = KTO(beta=0.2, undesirable_weight=2.0)(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.answers.tokens)
    assert loss.tolist() == pytest.approx([0.42555748318834101, 0.85111496637668202], abs=1e-14)
    assert slope.flatten().tolist() == pytest.approx([-0.048891662338149174, 0.097783324676298348], abs=1e-14)


def test_tokens_are_summed_on_both_sides() -> None:
    """Answer -1 - 2 against -5: ratio 2; mismatched -3 - 1 - 1 against -5.5: 0.5. As above: 1 - sigmoid(0.3)."""
    mismatched = logps([[-3.0, -1.0, -1.0]], [-5.5])
    batch = LabelledLogps(logps([[-1.0, -2.0]], [-5.0]), torch.tensor([True]), mismatched)
    assert KTO(beta=0.2)(batch).item() == pytest.approx(0.42555748318834101, abs=1e-14)


def test_weights_multiply_their_own_class_only() -> None:
    batch = labelled([2.0, -1.0], [True, False])
    plain = KTO(beta=0.2)(batch)
    weighted = KTO(beta=0.2, desirable_weight=1.5, undesirable_weight=4.0)(batch)
    torch.testing.assert_close(weighted, plain * torch.tensor([1.5, 4.0]), atol=1e-15, rtol=0)


def test_good_and_bad_are_mirror_images_where_the_kl_is_0() -> None:
    batch = labelled([3.0, -3.0], [True, False])
    loss = KTO(beta=0.1)(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.answers.tokens)
    assert loss[0].item() == pytest.approx(loss[1].item(), abs=1e-15)
    assert slope[0].item() == pytest.approx(-slope[1].item(), abs=1e-15)
    assert slope[0].item() < 0


def test_a_negative_estimate_counts_as_0_and_is_reported_as_it_is() -> None:
    """Mismatched log-ratios -3 and 1 have the mean -1, which is replaced by 0: the loss equals that of APO-zero."""
    batch = labelled([2.0, -1.0], [True, False], [-3.0, 1.0])
    assert torch.equal(KTO(beta=0.2)(batch), APOZeroUnpaired(beta=0.2)(batch))
    metrics = KTO(beta=0.2).metrics(batch)
    assert (metrics["kl"].item(), metrics["kto/kl_raw"].item()) == (0.0, -1.0)


def test_the_reference_point_is_their_mean_and_gets_no_gradient() -> None:
    """Log-ratios -1 and 4 have the mean 1.5. If each were replaced by 0 on its own, the mean would be 2."""
    batch = labelled([1.0], [True], [-1.0, 4.0])
    loss = KTO(beta=0.2)(batch)
    assert batch.mismatched is not None
    assert KTO(beta=0.2).metrics(batch)["kl"].item() == 1.5
    leaves = batch.answers.tokens, batch.mismatched.tokens
    own, others = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    assert own.item() < 0
    assert others is None


@pytest.mark.parametrize("ratio", [0.0, 2.5, -40.0])
def test_contradictory_labels_cost_1_an_answer_whatever_the_policy_does(ratio: float) -> None:
    """An answer labelled both good and bad has the loss (1 - v) + v = 1. Two answers that are each preferred once give
    four rows with the loss 2 and no gradient.
    """
    batch = labelled([ratio, ratio, 1.0, 1.0], [True, False, True, False], [0.7])
    loss = KTO(beta=0.1)(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.answers.tokens)
    assert [loss[:2].sum().item(), loss[2:].sum().item()] == pytest.approx([1.0, 1.0], abs=1e-15)
    assert slope.view(2, 2).sum(dim=1).tolist() == pytest.approx([0.0, 0.0], abs=1e-17)


def test_loss_at_reference_is_half_the_weight() -> None:
    assert KTO(beta=0.1, desirable_weight=1.4, undesirable_weight=1.4).loss_at_reference == 0.7
    assert KTO(beta=0.1, undesirable_weight=2.0).loss_at_reference is None, "rows differ"


# lambda_D n_D / (lambda_U n_U): 1, 1.2 and 4/3 by the first version too; 1.5 by the current paper only
@pytest.mark.parametrize(
    ("good", "bad", "weights", "shown", "beyond"),
    [
        (50, 50, (1.0, 1.0), "1.00", False),
        (60, 50, (1.0, 1.0), "1.20", False),
        (40, 30, (1.0, 1.0), "1.33", False),
        (30, 20, (1.0, 1.0), "1.50", True),
        (10, 40, (5.6, 1.0), "1.40", True),
        (40, 10, (1.0, 4.0), "1.00", False),
    ],
)
def test_weights_by_the_rule_are_left_alone(
    good: int, bad: int, weights: tuple[float, float], shown: str, beyond: bool
) -> None:
    objective = KTO(beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1])
    counts, rule = objective.data_warnings({"desirable": good, "undesirable": bad})
    assert counts == f"KTO: {good} good and {bad} bad answers, with weights {weights[0]:g} and {weights[1]:g}"
    assert f"counts is {shown}, within the paper's [1, 3/2]" in rule
    assert ("first version" in rule) is beyond


# The smaller weight is 1, and the other makes the ratio 1: 40/10 = 4 for the rarer class
@pytest.mark.parametrize(
    ("good", "bad", "shown", "suggestion"),
    [
        (10, 40, "0.25", (4.0, 1.0)),
        (40, 10, "4", (1.0, 4.0)),
        (31, 20, "1.55", (1.0, 1.55)),
        (19, 20, "0.95", (1.053, 1.0)),  # 20/19 = 1.0526
    ],
)
def test_weights_outside_the_rule_bring_a_suggestion_that_keeps_it(
    good: int, bad: int, shown: str, suggestion: tuple[float, float]
) -> None:
    found = {"desirable": good, "undesirable": bad}
    _, rule = KTO(beta=0.1).data_warnings(found)
    typed = f"objective.desirable_weight={suggestion[0]:g} objective.undesirable_weight={suggestion[1]:g}"
    assert f"counts is {shown}, outside the paper's [1, 3/2]" in rule
    assert rule.endswith(f"type: {typed}")
    _, after = KTO(beta=0.1, desirable_weight=suggestion[0], undesirable_weight=suggestion[1]).data_warnings(found)
    assert "within the paper's [1, 3/2]" in after


@pytest.mark.parametrize(("good", "bad"), [(3, 7), (3, 4)])
def test_a_suggestion_is_never_refused_when_it_is_typed(good: int, bad: int) -> None:
    counts = {"desirable": good, "undesirable": bad}
    _, rule = KTO(beta=0.1).data_warnings(counts)
    typed = dict(word.removeprefix("objective.").split("=") for word in rule.split("type: ")[1].split())
    _, after = KTO(beta=0.1, **{key: float(value) for key, value in typed.items()}).data_warnings(counts)
    assert "within the paper's [1, 3/2]" in after


@pytest.mark.parametrize(("good", "bad"), [(7, 0), (0, 7)])
def test_labels_of_one_kind_are_counted(good: int, bad: int) -> None:
    """The audit of the data warns of them, and no weights could make up for them."""
    (counts,) = KTO(beta=0.1).data_warnings({"desirable": good, "undesirable": bad})
    assert counts == f"KTO: {good} good and {bad} bad answers, with weights 1 and 1"


def test_good_answers_alone_push_up_at_any_distance_while_the_loss_stays() -> None:
    """z0 equals the log-ratios: at 0, 50 and 240 nats the loss is 1/2 and the slope -beta/4."""
    for far in (0.0, 50.0, 240.0):
        batch = labelled([far, far], [True, True], [far, far])
        loss = KTO(beta=0.1)(batch)
        (slope,) = torch.autograd.grad(loss.sum(), batch.answers.tokens)
        assert loss.tolist() == pytest.approx([0.5, 0.5], abs=1e-12)
        assert slope.flatten().tolist() == pytest.approx([-0.025, -0.025], abs=1e-12)


def test_needs_mismatched_answers_but_not_the_other_rows() -> None:
    needs = KTO(beta=0.1).requires
    assert needs.data == "labelled"
    assert needs.reference
    assert needs.mismatched
    assert not needs.couples_batch
    with pytest.raises(ValueError, match="other rows' answers"):
        KTO(beta=0.1)(LabelledLogps(ratios([1.0]), torch.tensor([True])))


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"beta": 0.0}, ["beta"]),
        ({"beta": 0.1, "desirable_weight": 0.0}, ["desirable_weight"]),
        ({"beta": -1.0, "undesirable_weight": -1.0}, ["beta", "undesirable_weight"]),
    ],
)
def test_out_of_range_is_refused(given: dict[str, float], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        KTO(**given)
    assert [problem.key for problem in caught.value.problems] == keys


def test_shapes_are_never_broadcast() -> None:
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    with pytest.raises(ValueError, match="one shape"):
        kto_loss(torch.zeros(3), torch.ones(1, dtype=torch.bool), torch.zeros(()), beta=0.1, **weights)
