"""Compares answer log-probabilities with one plain forward pass per row, for several architectures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers

from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows
from alignlab.models.forward import predict
from alignlab.models.logps import answer_logps, score_answers, score_predictions, summed
from alignlab.models.reference import frozen_copy

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
    """Log-probabilities by definition: a softmax at all positions of one unpadded row, with labels shifted by one."""
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
    """-sum_v pi log pi, whether the token was the likeliest, and the mean logit: 0 on padding, and without gradient."""
    model = build("llama")
    model.lm_head.weight.data *= 10
    with torch.no_grad():  # makes one answer the likeliest
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
    """The same rows with more padding, which has the id of a real token."""
    pad, length = torch.nn.functional.pad, rows.ids.shape[1]
    sequence, column = rows.token_indices // length, rows.token_indices % length
    return dataclasses.replace(
        rows,
        ids=pad(rows.ids, (left, right), value=3),
        positions=pad(rows.positions, (left, right)),
        visible_until=pad(torch.where(rows.visible_until > 0, rows.visible_until + left, 0), (left, right)),
        token_indices=pad(sequence * (length + left + right) + column + left, (0, right)),
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
    """The log-softmax is computed in float32. So the error is that of bf16 logits, not of a bf16 softmax."""
    model = build("llama")
    rows = collate_rows(list(zip(PROMPTS, ANSWERS, strict=True)))
    exact = answer_logps(model, rows)
    rough = answer_logps(model.to(torch.bfloat16), rows)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02
    assert not torch.equal(rough, rough.bfloat16().float())


# Vocabulary for logits in pieces. N x V is larger than everything else that a tiny model keeps.
VOCABULARY = 307
BY_US = Layout(split=True)
SIDE_BY_SIDE = Layout(shared=True, split=True, width=32)


def wordy(tied: bool = False, seed: int = 0) -> Any:
    """A model with a large vocabulary, whose distributions are far from uniform."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **{**SIZES, "vocab_size": VOCABULARY}, num_key_value_heads=2, tie_word_embeddings=tied
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 8
    return model


def many_rows(layout: Layout) -> Rows:
    """8 answers of 3 to 17 tokens. Two answers share each prompt."""
    generator = torch.Generator().manual_seed(0)

    def drawn(size: int) -> list[int]:
        return torch.randint(0, VOCABULARY, (size,), generator=generator).tolist()

    prompts = [drawn(n) for n in (1, 2, 3, 4)]
    return collate_rows([(prompts[k // 2], drawn(3 + 2 * k)) for k in range(8)], layout)


TRAINED = {
    "inner": lambda model: [layer.self_attn.q_proj.weight for layer in model.model.layers],  # gradients are kept
    "all": lambda model: list(model.parameters()),
    "projection": lambda model: [model.lm_head.weight],  # if it is not tied, hidden states have no gradient
}


def train_only(model: Any, trained: str) -> None:
    model.requires_grad_(False)
    for parameter in TRAINED[trained](model):
        parameter.requires_grad_()


@pytest.mark.parametrize("layout", [BY_US, SIDE_BY_SIDE], ids=["plain", "shared"])
@pytest.mark.parametrize("kl", [False, True], ids=["", "kl"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("trained", TRAINED)
def test_logits_in_pieces_are_those_in_one(trained: str, tied: bool, kl: bool, layout: Layout) -> None:
    """Values and gradients equal those of the model's own head, with 80 tokens at once, 7 at a time, and one by one."""
    reference = frozen_copy(wordy(seed=1)) if kl else None
    found = []
    for one, at_once in ((PLAIN, 1), (layout, 2**24), (layout, 7 * VOCABULARY + 5), (layout, 1)):
        model, rows = wordy(tied), many_rows(one)
        train_only(model, trained)
        seen = score_answers(
            model,
            rows,
            collision=True,
            reference=reference.predictions(rows) if reference else None,
            stats=True,
            logits_at_once=at_once,
        )
        weights = torch.linspace(-1.0, 2.0, seen.tokens.numel()).view_as(seen.tokens)
        loss = (weights * seen.tokens).sum()
        if seen.reference_kl is not None:
            loss = loss + (torch.linspace(1.0, -2.0, 8) * seen.reference_kl).sum()
        loss.backward()
        assert seen.stats is not None
        assert seen.collision is not None
        assert not any(one.requires_grad for one in (seen.collision, seen.stats.entropy, seen.stats.mean_logit))
        values = [seen.tokens.detach(), seen.collision, seen.stats.entropy, seen.stats.mean_logit]
        values += [] if seen.reference_kl is None else [seen.reference_kl.detach()]
        found.append((values, seen.stats.correct, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    values, correct, gradients = found[0]
    assert gradients
    for other_values, other_correct, other_gradients in found[1:]:
        for one_value, other in zip(values, other_values, strict=True):
            torch.testing.assert_close(other, one_value, atol=5e-5, rtol=1e-5)
        assert torch.equal(other_correct, correct)
        for name, gradient in gradients.items():
            assert gradient is not None
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(other_gradients[name], gradient, atol=float(gradient.abs().max()) * 1e-4, rtol=0)


def test_gradient_through_the_kl_alone() -> None:
    """The log-probabilities get no gradient, although both come from the same pieces."""
    reference, found = frozen_copy(wordy(seed=1)), []
    for at_once in (2**24, 5 * VOCABULARY):
        model, rows = wordy(), many_rows(BY_US)
        kl = score_answers(model, rows, reference=reference.predictions(rows), logits_at_once=at_once).reference_kl
        assert kl is not None
        kl.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).abs().max() < 1e-5 * found[0].abs().max()


def test_the_entropy_has_a_gradient_where_that_is_asked() -> None:
    """Whole and in pieces, values equal those without a gradient, and the gradient equals a finite difference."""
    found = []
    for at_once in (2**24, 5 * VOCABULARY):
        model, rows = wordy(), many_rows(BY_US)
        seen = score_predictions(predict(model, rows), rows, stats=True, entropy=True, logits_at_once=at_once)
        assert seen.entropy is not None
        assert seen.stats is not None
        torch.testing.assert_close(seen.entropy.detach(), seen.stats.entropy)
        (seen.entropy.sum() + 0.3 * seen.tokens.sum()).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).abs().max() < 1e-5 * found[0].abs().max()
    model, rows = wordy().double(), many_rows(BY_US)
    weight = model.get_output_embeddings().weight

    def total() -> torch.Tensor:
        seen = score_predictions(predict(model, rows), rows, entropy=True)
        assert seen.entropy is not None
        return seen.entropy.sum()

    (slope,) = torch.autograd.grad(total(), weight)
    with torch.no_grad():
        at, step = weight[3, 2].item(), 1e-4
        values = []
        for moved in (at + step, at - step):
            weight[3, 2] = moved
            values.append(total().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope[3, 2].item(), rel=1e-3)


def test_a_temperature_divides_the_logits_everywhere() -> None:
    """N+ (Huang et al. 2024), detail 2. Log-probabilities and statistics follow the temperature, also in pieces."""
    model, rows = wordy(), many_rows(BY_US)
    with torch.no_grad():
        plain = predict(model, rows)
        logits = plain.project(plain.hidden) / 0.7
        for at_once in (2**24, 5 * VOCABULARY):
            seen = score_answers(model, rows, temperature=0.7, stats=True, logits_at_once=at_once)
            exact = logits.log_softmax(-1).gather(1, rows.targets[:, None]).squeeze(1)
            torch.testing.assert_close(seen.tokens[rows.answer_mask], exact, atol=1e-5, rtol=1e-5)
            assert seen.stats is not None
            entropy = torch.distributions.Categorical(logits=logits).entropy()
            torch.testing.assert_close(seen.stats.entropy[rows.answer_mask], entropy, atol=1e-5, rtol=1e-5)


def largest_kept(model: Any, rows: Rows, **how: Any) -> int:
    """Number of elements of the largest tensor that is kept for the backward pass."""
    sizes = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score_answers(model, rows, **how)
    return max(sizes)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("kl", [False, True], ids=["", "kl"])
def test_no_logits_of_all_tokens_are_kept(trained: str, kl: bool) -> None:
    model, rows = wordy(), many_rows(BY_US)
    train_only(model, trained)
    reference = frozen_copy(wordy(seed=1)).predictions(rows) if kl else None
    all_logits = int(rows.answer_mask.sum()) * VOCABULARY
    assert largest_kept(model, rows, reference=reference) >= all_logits
    assert largest_kept(model, rows, reference=reference, logits_at_once=7 * VOCABULARY) < all_logits // 2


@pytest.mark.parametrize(("trained", "again"), [("inner", 0), ("all", 12), ("projection", 12)])
def test_a_frozen_projection_is_not_computed_again(trained: str, again: int) -> None:
    """80 tokens, 7 at a time, make 12 pieces. If only hidden states need a gradient, their gradients are kept."""
    model, rows = wordy(), many_rows(BY_US)
    train_only(model, trained)
    calls: list[int] = []
    model.lm_head.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    tokens = score_answers(model, rows, logits_at_once=7 * VOCABULARY).tokens
    assert len(calls) == 12
    assert max(calls) <= 7
    tokens.sum().backward()
    assert len(calls) == 12 + again


@pytest.mark.parametrize("layout", [BY_US, SIDE_BY_SIDE], ids=["plain", "shared"])
def test_bfloat16_in_pieces_is_near_float32(layout: Layout) -> None:
    """The error is below 0.06 nats per token, the rounding error of these logits in bfloat16. The sums are float32."""
    model, rows = wordy(), many_rows(layout)
    exact = answer_logps(model, rows)
    rough = score_answers(model.bfloat16(), rows, stats=True, logits_at_once=7 * VOCABULARY)
    assert rough.tokens.dtype == rough.stats.entropy.dtype == torch.float32  # type: ignore[union-attr]
    assert (rough.tokens - exact).abs().max() < 0.06
    assert not torch.equal(rough.tokens, rough.tokens.bfloat16().float())
