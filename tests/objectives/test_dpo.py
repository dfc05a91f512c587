"""DPO and cDPO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import json
import math

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.dpo import DPO, dpo_loss
from alignlab.types import Logps, PairLogps
from tests.conftest import SHARED


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


# h = 2 - (-5) = 7 at beta 0.1: softplus(-0.7) = 0.4031860489 (10 decimals, by mpmath); gradient -0.1 * sigmoid(-0.7)
@pytest.mark.parametrize(
    ("smoothing", "loss", "gradient"),
    [(0.0, 0.4031860488854578, -0.0331812227831832), (0.1, 0.4731860488854578, -0.0231812227831832)],
)
def test_value_and_gradient(smoothing: float, loss: float, gradient: float) -> None:
    chosen, rejected = scalar(2.0), scalar(-5.0)
    out = dpo_loss(chosen, rejected, beta=0.1, label_smoothing=smoothing)
    out.backward()
    assert out.item() == pytest.approx(loss, abs=1e-10)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(gradient, abs=1e-10)
    assert rejected.grad.item() == pytest.approx(-gradient, abs=1e-10)


def test_ln_2_and_half_beta_where_policy_is_reference() -> None:
    chosen, rejected = scalar(0.0), scalar(0.0)
    out = dpo_loss(chosen, rejected, beta=0.3)
    out.backward()
    assert out.item() == pytest.approx(math.log(2), abs=1e-15)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.15, abs=1e-15)


def test_smoothed_optimum_is_the_logit_of_the_noise() -> None:
    """cDPO's minimum in beta h is logit(1 - e): 2.19722458 at e = 0.1."""
    chosen = scalar(math.log(9.0) / 0.1)
    dpo_loss(chosen, torch.zeros(1, dtype=torch.float64), beta=0.1, label_smoothing=0.1).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_far_from_the_reference() -> None:
    """At h = +-1e4 and beta 0.1 the loss is 0 or 1000, exactly in float32."""
    far = torch.tensor([1e4, -1e4])
    assert dpo_loss(far, torch.zeros(2), beta=0.1).tolist() == [0.0, 1000.0]


def test_sums_end_token_and_masks() -> None:
    """Answers of 2 and 3 tokens: sums -3 and -6 against references -4 and -5, so h = 1 - (-1) = 2."""
    chosen = Logps(
        torch.tensor([[-1.0, -2.0, -99.0]]), torch.tensor([[True, True, False]]), reference=torch.tensor([-4.0])
    )
    rejected = Logps(torch.tensor([[-1.0, -2.0, -3.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([-5.0]))
    loss = DPO(beta=0.5)(PairLogps(chosen, rejected))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.0)), abs=1e-7)


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        dpo_loss(torch.zeros(3), torch.zeros(1), beta=0.1)
    with pytest.raises(ValueError, match="rank 1"):
        dpo_loss(torch.zeros(3, 2), torch.zeros(3, 2), beta=0.1)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"beta": math.inf}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"beta": 0.1, "label_smoothing": 0.5}, "label_smoothing"),
        ({"beta": 0.1, "label_smoothing": -0.01}, "label_smoothing"),
    ],
)
def test_out_of_range_is_refused(fields: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DPO(**fields)
    assert [p.key for p in caught.value.problems] == [key]


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        DPO(beta=-1.0, label_smoothing=0.7)
    assert [p.key for p in caught.value.problems] == ["beta", "label_smoothing"]


@pytest.mark.skipif(not (SHARED / "golden.json").is_file(), reason="no ../shared/golden.json beside the checkout")
@pytest.mark.parametrize(("name", "smoothing"), [("dpo b=.1", 0.0), ("cdpo b=.1 eps=.1", 0.1)])
@pytest.mark.parametrize(("case", "logps"), [("G0", (-42.0, -50.0)), ("G1", (-40.0, -55.0)), ("G3", (-52.0, -45.0))])
def test_golden_table(name: str, smoothing: float, case: str, logps: tuple[float, float]) -> None:
    golden = json.loads((SHARED / "golden.json").read_text())["values"][name][case]
    chosen, rejected = scalar(logps[0]), scalar(logps[1])
    out = dpo_loss(chosen + 42, rejected + 50, beta=0.1, label_smoothing=smoothing)
    out.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    found = [out.item(), chosen.grad.item(), rejected.grad.item()]
    assert found == pytest.approx(golden, abs=1e-7)
