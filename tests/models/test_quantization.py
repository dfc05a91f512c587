"""4-bit weights: NF4 by its definition, size in bytes, the same function in training and evaluation, references."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.data.collate import collate_pairs
from alignlab.data.layout import PLAIN
from alignlab.data.tokenize import PairTokens
from alignlab.models.adapters.lora import LoRA
from alignlab.models.heads import with_scalar_head
from alignlab.models.logps import answer_logps, summed
from alignlab.models.quantization import quantization_under, save_quantization
from alignlab.models.reference import ScoringOptions, adapter_off, frozen_copy, stored_reference, weights_digest
from alignlab.models.sources.hub import Hub
from alignlab.models.sources.packaged import Packaged
from alignlab.models.sources.tiny import Tiny

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
)

# Dettmers et al. 2023, appendix E.
NF4 = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip
PAIRS = [PairTokens(i, [256, 70 + i], [80, 81 + i, 256], [90, 256]) for i in range(4)]
IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A Llama whose linear layers have 128 x 128 weights each."""
    model, tokenizer = Tiny(name="t", hidden_size=128, intermediate_size=128).load()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def load(folder: str, quantize: str = "nf4", dtype: str = "float32") -> Any:
    return Hub(name=folder, quantize=quantize, dtype=dtype).load()[0]


def moved(policy: Any) -> Any:
    torch.manual_seed(0)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    return policy


def test_weights_are_the_nearest_of_sixteen(folder: str) -> None:
    """A weight is one of 16 numbers times its block's maximum, which has 8 bits. In all, a weight takes 4.127 bits."""
    from bitsandbytes.functional import dequantize_4bit

    model, exact = load(folder), load(folder, "none")
    rounded = 0
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit":
            continue
        rounded += 1
        weight, state = layer.weight, layer.weight.quant_state
        original = exact.get_submodule(name).weight.detach().view(-1, 64)
        largest = original.abs().amax(1, keepdim=True)
        nearest = NF4[(original / largest).unsqueeze(-1).sub(NF4).abs().argmin(-1)]
        # The maxima are stored as differences from their mean. The error is at most 0.45 / 64 of the largest one.
        slack = 1.001 * 0.45 / 64 * (largest - largest.mean()).abs().max()
        back = dequantize_4bit(weight.data, state).view(-1, 64)
        assert ((back - nearest * largest).abs() <= slack * nearest.abs() + 1e-6).all()
        assert 0.05 < (back - original).norm() / original.norm() < 0.1
        bits = 8 * (weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes) / original.numel()
        assert bits == pytest.approx(4.127, abs=1e-3)
    assert rounded == 2 * 7
    assert type(model.lm_head) is torch.nn.Linear
    assert torch.equal(model.lm_head.weight, exact.lm_head.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_near_the_model_as_it_was(folder: str, dtype: str) -> None:
    """Log-probabilities differ by at most 0.3 nats, and by 0.06 on average. The logits' standard deviation is 0.23."""
    with torch.no_grad():
        one, two = (load(folder, q, dtype)(IDS).logits.float().log_softmax(-1) for q in ("nf4", "none"))
    assert (one - two).abs().max() < 0.3
    assert 1e-3 < (one - two).abs().mean() < 0.06


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluation_leaves_training_as_it_is(folder: str, dtype: str) -> None:
    """The function and its gradient are the same before, during and after an evaluation."""
    policy = moved(LoRA(r=4).wrap(load(folder, dtype=dtype)))

    def gradient() -> tuple[torch.Tensor, list[torch.Tensor]]:
        policy.train().zero_grad()
        logits = policy(IDS).logits
        logits.logsumexp(-1).sum().backward()
        return logits.detach(), [p.grad.clone() for p in policy.parameters() if p.requires_grad]

    before, slopes = gradient()
    with torch.no_grad():
        between = policy.eval()(IDS).logits
    after, again = gradient()
    assert torch.equal(before, between)
    assert torch.equal(before, after)
    assert all(torch.equal(a, b) for a, b in zip(slopes, again, strict=True))
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_only_the_adapter_is_trained_and_it_starts_as_the_identity(folder: str) -> None:
    model = load(folder)
    before = model(IDS).logits.detach()
    policy = LoRA(r=4).wrap(model)
    assert torch.equal(policy(IDS).logits, before)
    assert all("lora_" in name for name, p in policy.named_parameters() if p.requires_grad)
    assert type(policy.get_base_model().model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.bnb"


def test_all_references_are_the_rounded_model(folder: str, tmp_path: Path) -> None:
    batch, model = collate_pairs(PAIRS), load(folder)
    digest = weights_digest(model)
    start = summed(answer_logps(model, batch.rows), batch.rows.answer_mask).detach()
    kept = stored_reference(
        model,
        [answer for pair in PAIRS for answer in pair.answers()],
        tmp_path / "reference",
        ScoringOptions(PLAIN, rows=8, tokens=1000, device=torch.device("cpu"), progress=lambda items, what: items),
        weights=digest,
    )
    assert weights_digest(model) == digest == weights_digest(load(folder)), "evaluated or loaded again"
    assert digest != weights_digest(load(folder, "none"))
    copied = frozen_copy(model)
    policy = moved(LoRA(r=4).wrap(model))
    assert (summed(answer_logps(policy, batch.rows), batch.rows.answer_mask) - start).abs().min() > 1e-3
    for reference in (kept, copied, adapter_off(policy)):
        torch.testing.assert_close(reference.sums(batch.rows), start, atol=1e-5, rtol=0)


def test_an_adapters_folder_loads_merged_into_the_rounded_base(folder: str, tmp_path: Path) -> None:
    policy = moved(LoRA(r=4).wrap(load(folder)))
    adapter = tmp_path / "adapter"
    policy.save_pretrained(adapter)
    save_quantization(policy, adapter)
    Hub(name=folder).load()[1].save_pretrained(adapter)
    merged, _ = Hub(name=str(adapter)).load()
    torch.testing.assert_close(merged(IDS).logits, policy(IDS).logits, atol=1e-4, rtol=0)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert not hasattr(merged.config, "quantization_config")
    (adapter / "quantization_config.json").unlink()
    other, _ = Hub(name=str(adapter)).load()
    assert (other(IDS).logits - policy(IDS).logits).abs().max() > 1e-2, "the base as it was is another one"


def test_an_adapter_on_ordinary_weights_has_nothing_to_tell(folder: str, tmp_path: Path) -> None:
    save_quantization(LoRA(r=4).wrap(load(folder, "none")), tmp_path)
    assert quantization_under(str(tmp_path)) is None


def test_a_reward_model_stands_on_it_too(folder: str, tmp_path: Path) -> None:
    scorer = LoRA(r=4).wrap(with_scalar_head(load(folder), 1))
    assert type(scorer.get_base_model().model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.bnb"
    assert scorer(IDS).logits.shape == (2, 1)
    save_quantization(scorer, tmp_path)
    assert quantization_under(str(tmp_path)).bnb_4bit_quant_type == "nf4"


def test_what_is_missing_is_said(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    (problem,) = Hub(name=str(tmp_path), quantize="nf4").missing()
    assert problem.under("model").type_this == "model.quantize=none"
    assert not list(Hub(name=folder, quantize="nf4").missing())
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for source in (Hub(name=folder, quantize="nf4"), Packaged(name="a/b", package="p", origin="hub", quantize="nf4")):
        (problem,) = source.missing()
        assert problem.type_this == 'pip install "alignlab[gpu]"'
    assert not list(Hub(name=folder).missing())
