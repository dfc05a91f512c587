"""AdamW with 8-bit moments: the first update in closed form, the rounding of moments, the distance to AdamW."""

from __future__ import annotations

import copy
import importlib.util
import sys

import pytest
import torch
from torch import Tensor, nn

from alignlab.optim.adamw import AdamW
from alignlab.optim.adamw_8bit import AdamW8bit
from alignlab.optim.base import Optim

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"),
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
]

BLOCK = 256
# Half of the widest gap between two neighbouring 8-bit values. A value is a share of the largest one of its block: 64
# signed values lie in [0.1, 1], 128 unsigned ones. (bitsandbytes finds the nearest one to within 1 % of the gap.)
SIGNED, UNSIGNED = 0.45 / 64, 0.45 / 128


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_first_update(paged: bool, decay: float) -> None:
    """The first update is AdamW's: (1 - ηλ) θ - η sign(g). The stored moments are rounded by at most half a gap."""
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(2, 64, BLOCK, generator=generator).unbind()
    parameter = nn.Parameter(start.clone())
    parameter.grad = gradient.clone()
    optimizer = AdamW8bit(lr=0.01, beta1=0.8, beta2=0.95, weight_decay=decay, paged=paged).build([parameter])
    optimizer.step()
    expected = (1 - 0.01 * decay) * start - 0.01 * gradient.sign()
    torch.testing.assert_close(parameter.data, expected, atol=1e-6, rtol=0)
    for i, moment, bound in ((1, 0.2 * gradient, SIGNED), (2, 0.05 * gradient**2, UNSIGNED)):
        state = optimizer.state[parameter]
        assert state[f"state{i}"].dtype == torch.uint8
        assert state[f"state{i}"].nbytes == start.numel()
        largest = moment.abs().amax(1, keepdim=True)
        kept = state[f"qmap{i}"][state[f"state{i}"].long()] * state[f"absmax{i}"].view(-1, 1)
        far = ((kept - moment) / largest).abs().max()
        assert 0 < far < 1.01 * bound


def test_small_tensors_keep_32_bits() -> None:
    """The smallest tensor with rounded moments has 4096 elements."""
    small, large = nn.Parameter(torch.ones(4095)), nn.Parameter(torch.ones(4096))
    optimizer = AdamW8bit(lr=0.01).build([small, large])
    for parameter in (small, large):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [optimizer.state[p]["state1"].dtype for p in (small, large)] == [torch.float32, torch.uint8]


def fitted(optim: Optim, *, stop_and_resume: bool = False) -> tuple[Tensor, list[float]]:
    """(learnt map, losses): a linear map of 4096 elements, learnt from noise-free data in 200 updates."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 64, generator=generator)
    targets = inputs @ torch.randn(64, 64, generator=generator)
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer, losses = optim.build([weight]), []
    for step in range(200):
        if stop_and_resume and step == 100:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = optim.build([weight])
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        loss = ((inputs @ weight - targets) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return weight.detach(), losses


def test_it_learns_as_adamw_does() -> None:
    """The loss falls from 64 to 0.1. Every loss is within 15 % of AdamW's, and the weights are within 2 %."""
    weight, losses = fitted(AdamW8bit(lr=0.02))
    exact, expected = fitted(AdamW(lr=0.02))
    assert expected[0] > 60
    assert expected[-1] < 0.2
    assert losses == pytest.approx(expected, rel=0.15)
    assert losses != pytest.approx(expected, rel=1e-3), "the moments are rounded"
    assert 1e-3 < (weight - exact).norm() / exact.norm() < 0.02


def test_a_resumed_one_goes_on_as_if_nothing_had_happened() -> None:
    for paged in (False, True):
        whole, resumed = (fitted(AdamW8bit(lr=0.02, paged=paged), stop_and_resume=s) for s in (False, True))
        assert torch.equal(whole[0], resumed[0])
        assert whole[1] == resumed[1]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(AdamW8bit(lr=0.01).missing())
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    (problem,) = AdamW8bit(lr=0.01).missing()
    assert problem.under("optim").key == "optim"
    assert problem.type_this == 'pip install "alignlab[gpu]"'
