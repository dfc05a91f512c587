"""Answer log-probabilities against one plain forward per row, for several architectures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from alignlab.data.layout import Rows, collate_rows
from alignlab.models.forward import predict
from alignlab.models.logps import answer_logps, score_answers, summed

SIZES = {"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]
ANSWERS = [[10, 11], [12, 13, 14, 15], [16]]


def build(name: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    configs = {
        "llama": lambda: t.LlamaConfig(**SIZES, num_key_value_heads=2),
        "gpt2": lambda: t.GPT2Config(vocab_size=37, n_embd=32, n_layer=2, n_head=4),
        "qwen2": lambda: t.Qwen2Config(**SIZES, num_key_value_heads=2),
        "gemma2": lambda: t.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
        "gpt_neox": lambda: t.GPTNeoXConfig(**SIZES),
    }
    config = configs[name]()
    return t.AutoModelForCausalLM.from_config(config).eval()


def plain(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The definition: a softmax over all positions of one unpadded row, labels shifted by one."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double()
    logps = torch.log_softmax(logits, -1)
    return torch.stack([logps[len(prompt) - 1 + t, token] for t, token in enumerate(answer)])


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2", "gpt_neox"])
def test_equal_to_plain_rows(name: str) -> None:
    model = build(name)
    rows = collate_rows(list(zip(PROMPTS, ANSWERS, strict=True)))
    logps = answer_logps(model, rows)
    assert logps.dtype == torch.float32
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = plain(model, prompt, answer)
        torch.testing.assert_close(logps[row, : len(answer)].double(), expected, atol=2e-6, rtol=0)
        assert (logps[row, len(answer) :] == 0).all()


def test_vocabulary_sums_are_those_of_plain_rows() -> None:
    """log sum_v pi(v)^2 of every answer token, and sum_t sum_v ref(v) (log ref(v) - log pi(v)), row by row."""
    model, other = build("llama"), build("qwen2")
    for one in (model, other):
        one.lm_head.weight.data *= 10  # far from uniform, where both directions of the KL would be nearly the same
    rows = collate_rows(list(zip(PROMPTS, ANSWERS, strict=True)))
    with torch.no_grad():
        reference = predict(other, rows)
    seen = score_answers(model, rows, collision=True, reference=reference)
    assert seen.collision is not None
    assert seen.reference_kl is not None
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        ids = torch.tensor([[*prompt, *answer]])
        places = slice(len(prompt) - 1, len(prompt) - 1 + len(answer))
        p, q = (m(ids).logits[0, places].double().log_softmax(-1).exp() for m in (model, other))
        torch.testing.assert_close(seen.collision[row, : len(answer)].double(), (p**2).sum(-1).log(), atol=2e-6, rtol=0)
        expected = (q * (q / p).log()).sum()
        assert abs(expected - (p * (p / q).log()).sum()) > 1e-3
        torch.testing.assert_close(seen.reference_kl[row].double(), expected, atol=1e-5, rtol=0)
    assert not seen.collision.requires_grad
    assert seen.reference_kl.requires_grad
    with torch.no_grad():
        itself = predict(model, rows)
    same = score_answers(model, rows, reference=itself).reference_kl
    assert same is not None
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-6, rtol=0)


def test_token_stats_are_those_of_plain_rows() -> None:
    """-sum_v pi log pi, whether the token was the likeliest, and the mean logit; 0 on padding, no gradient."""
    model = build("llama")
    model.lm_head.weight.data *= 10
    with torch.no_grad():  # one answer that is the likeliest by construction
        likeliest = int(model(torch.tensor([PROMPTS[2]])).logits[0, -1].argmax())
    answers = [*ANSWERS[:2], [likeliest]]
    rows = collate_rows(list(zip(PROMPTS, answers, strict=True)))
    stats = score_answers(model, rows, stats=True).stats
    assert stats is not None
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
        p = logits.softmax(-1)
        places = slice(len(answer))
        torch.testing.assert_close(stats.entropy[row, places].double(), -(p * p.log()).sum(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(stats.mean_logit[row, places].double(), logits.mean(-1), atol=1e-5, rtol=0)
        assert stats.correct[row, places].tolist() == (logits.argmax(-1) == torch.tensor(answer)).tolist()
        assert not stats.entropy[row, len(answer) :].any()
        assert not stats.correct[row, len(answer) :].any()
    assert stats.correct[2, 0]
    assert stats.correct.sum() < rows.answer_mask.sum()
    assert not stats.entropy.requires_grad


def wider(rows: Rows, left: int, right: int) -> Rows:
    """The same with more padding, a real token's id on it."""
    pad, length = torch.nn.functional.pad, rows.ids.shape[1]
    return dataclasses.replace(
        rows,
        ids=pad(rows.ids, (left, right), value=3),
        positions=pad(rows.positions, (left, right)),
        prompt=pad(rows.prompt, (left, right)),
        branch=pad(rows.branch, (left, right)),
        places=pad(rows.places // length * (length + left + right) + rows.places % length + left, (0, right)),
        answer_mask=pad(rows.answer_mask, (0, right)),
    )


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 3), (4, 4)])
def test_more_padding_changes_neither_value_nor_gradient(left: int, right: int) -> None:
    model = build("llama")
    results = []
    for rows in (
        collate_rows(list(zip(PROMPTS, ANSWERS, strict=True))),
        wider(collate_rows(list(zip(PROMPTS, ANSWERS, strict=True))), left, right),
    ):
        model.zero_grad()
        total = summed(answer_logps(model, rows), rows.answer_mask)
        total.sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((total.detach(), gradients))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    assert torch.isfinite(results[1][1]).all()
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=1e-4)


def test_bfloat16_model_gives_float32_sums() -> None:
    """The log-softmax is taken in float32: its error is that of bf16 logits, not of a bf16 softmax."""
    model = build("llama")
    rows = collate_rows(list(zip(PROMPTS, ANSWERS, strict=True)))
    exact = answer_logps(model, rows)
    rough = answer_logps(model.to(torch.bfloat16), rows)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02
    assert not torch.equal(rough, rough.bfloat16().float())
