"""Held-out pairs: metrics computed by hand, and the same metrics for every objective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import mannwhitneyu

from alignlab.data.layout import PLAIN
from alignlab.models.reference import frozen_copy
from alignlab.modules.answer_metrics import label_metrics, preference_metrics
from alignlab.modules.held_out_pairs import HeldOutPairs
from alignlab.objectives.dpo import DPO
from alignlab.objectives.kto import KTO
from alignlab.objectives.orpo import ORPO
from alignlab.objectives.sft import SFT
from alignlab.tracking.metrics import check_known
from alignlab.types import LabelledLogps, Logps, PairLogps
from tests.modules.cases import LABELLED, PAIRS, SHARED, build, data_for, train

OF_PAIRS = ("eval/pairs/accuracy", "eval/pairs/margin", "eval/pairs/distance", "eval/pairs/n")


def side(tokens: list[list[float]], reference: list[float] | None) -> Logps:
    values = torch.tensor(tokens)
    return Logps(values, values != 0, None if reference is None else torch.tensor(reference))


def test_pairs_by_hand() -> None:
    """h = (-3 + 4) - (-2 + 2) = 1; (-5 + 3) - (-1 + 1) = -2; (-1 + 1) - (-2 + 2) = 0; (-2 + 4) - (-6 + 1) = 7."""
    chosen = side([[-1, -2], [-5, 0], [-1, 0], [-1, -1]], [-4.0, -3, -1, -4])
    rejected = side([[-2, 0], [-1, 0], [-1, -1], [-3, -3]], [-2.0, -1, -2, -1])
    found = {name: float(value) for name, value in preference_metrics(PairLogps(chosen, rejected)).items()}
    assert found == {"pairs/accuracy": 2.5 / 4, "pairs/margin": 1.5, "pairs/distance": 2.5, "pairs/n": 4.0}
    check_known(f"eval/{name}" for name in found)


def by_a_plain_loop(policy: torch.nn.Module, reference: torch.nn.Module) -> tuple[float, float, float]:
    """(accuracy, margin, distance) of PAIRS, computed one answer at a time."""
    total, won, distance = 0.0, 0.0, 0.0
    with torch.no_grad():
        for pair in PAIRS:
            h = 0.0
            for sign, answer in ((1, pair.chosen), (-1, pair.rejected)):
                ids = torch.tensor([[*pair.prompt, *answer]])
                for weight, model in ((1, policy), (-1, reference)):
                    logps = model(ids).logits[0].log_softmax(-1)
                    start = len(pair.prompt) - 1
                    h += sign * weight * sum(float(logps[start + t, token]) for t, token in enumerate(answer))
            total, won, distance = total + h, won + (h > 0), distance + abs(h)
    return won / len(PAIRS), total / len(PAIRS), distance / len(PAIRS)


@pytest.mark.parametrize("layout", [PLAIN, SHARED])
@pytest.mark.parametrize("objective", [DPO(beta=0.5), ORPO(odds_weight=0.5), KTO(beta=0.5), SFT()])
def test_every_objective_is_measured_on_the_same_pairs(
    objective: DPO | ORPO | KTO | SFT, layout: object, tmp_path: Path
) -> None:
    """The metrics equal those of a plain loop over policy and start. DPO and ORPO have held-out pairs of their own."""
    module = build(objective, layout=layout, micro=3)  # type: ignore[arg-type]
    start = frozen_copy(module.policy)
    if objective.requires.data != "pairs":
        module.pairs = HeldOutPairs(PAIRS, start, layout)  # type: ignore[arg-type]
    found = train(module, tmp_path, steps=4).held_out
    accuracy, margin, distance = by_a_plain_loop(module.policy.eval(), start.model)
    assert found["eval/pairs/accuracy"] == accuracy
    assert found["eval/pairs/margin"] == pytest.approx(margin, abs=1e-9)
    assert found["eval/pairs/distance"] == pytest.approx(distance, abs=1e-9)
    assert found["eval/pairs/n"] == len(PAIRS)
    assert abs(margin) > 1e-3, "it has moved"


def test_the_start_scores_at_chance(tmp_path: Path) -> None:
    module = build(SFT())
    module.pairs = HeldOutPairs(PAIRS, frozen_copy(module.policy), PLAIN)
    module.optim_config.lr = 0.0
    found = train(module, tmp_path, steps=1).held_out
    assert [found[name] for name in OF_PAIRS] == [0.5, 0.0, 0.0, len(PAIRS)]


def test_labels_by_hand() -> None:
    """Log-ratios 2, -1 of good answers, 0, 2 of bad ones: 2 > 0, 2 = 2, -1 loses twice: 1.5 of 4 couples."""
    answers = side([[-1, -1], [-3, 0], [-1, 0], [-2, 0]], [-4.0, -2, -1, -4])
    found = label_metrics(LabelledLogps(answers, torch.tensor([True, True, False, False])))
    assert {name: float(value) for name, value in found.items()} == {
        "labels/auc": 1.5 / 4, "labels/distance": 1.25, "labels/n_good": 2.0, "labels/n_bad": 2.0,
    }  # fmt: skip
    check_known(f"eval/{name}" for name in found)
    assert label_metrics(LabelledLogps(answers, torch.tensor([True] * 4))) == {}


def test_the_area_under_the_curve_is_that_of_scipy() -> None:
    generator = torch.Generator().manual_seed(3)
    ratios = (4 * torch.randn(60, generator=generator)).round() / 2  # with ties
    good = torch.rand(60, generator=generator) < 0.4
    answers = Logps(-torch.ones(60, 1), torch.ones(60, 1, dtype=torch.bool), -1 - ratios)
    theirs = mannwhitneyu(ratios[good].numpy(), ratios[~good].numpy()).statistic / float(good.sum() * (~good).sum())
    assert float(label_metrics(LabelledLogps(answers, good))["labels/auc"]) == pytest.approx(theirs)


@pytest.mark.parametrize("objective", [KTO(beta=0.5), SFT()])
def test_every_objective_is_measured_on_the_same_labels(objective: KTO | SFT, tmp_path: Path) -> None:
    """SFT, whose own held-out rows have no labels, needs the rows; for KTO they are its own."""
    module = build(objective, micro=3)
    start = frozen_copy(module.policy)
    if objective.requires.data != "labelled":
        module.pairs = HeldOutPairs(LABELLED, start, PLAIN)
    found = train(module, tmp_path, steps=4).held_out
    ratios = []
    with torch.no_grad():
        for row in LABELLED:
            ids = torch.tensor([[*row.prompt, *row.completion]])
            logps = [m(ids).logits[0].log_softmax(-1) for m in (module.policy.eval(), start.model)]
            place = len(row.prompt) - 1
            ratios.append(sum(float((logps[0] - logps[1])[place + t, token]) for t, token in enumerate(row.completion)))
    good = [r for r, row in zip(ratios, LABELLED, strict=True) if row.desirable]
    bad = [r for r, row in zip(ratios, LABELLED, strict=True) if not row.desirable]
    couples = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert found["eval/labels/auc"] == pytest.approx(sum(couples) / len(couples))
    assert found["eval/labels/distance"] == pytest.approx(sum(map(abs, ratios)) / len(ratios), abs=1e-6)
    assert "eval/pairs/accuracy" not in found


def test_without_a_reference_there_is_no_number(tmp_path: Path) -> None:
    module = build(ORPO(odds_weight=0.5))
    module.reference = None
    found = train(module, tmp_path, steps=1, data=data_for(module.objective, 1)).held_out
    assert not any(name in found for name in OF_PAIRS)
    assert "eval/rewards/accuracies" in found
