"""Compares shared rows with plain rows, for every architecture that is known to support them, and for some others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows
from alignlab.data.tokenize import CompletionTokens, PairTokens, PromptAndAnswer
from alignlab.models import forward
from alignlab.models.heads import answer_rewards, with_scalar_head
from alignlab.models.layout_check import _KNOWN, choose_layout, rows_to_look_at
from alignlab.models.logps import answer_logps

SIZES = {"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MLP = {**SIZES, **IDS, "intermediate_size": 48}
KV = {**MLP, "num_key_value_heads": 2}
MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}
NEAR = {"sliding_window": 4}

# A small model of each known class. Some classes come in several variants.
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaConfig(**KV),
    "llama_eager": lambda: t.LlamaConfig(**KV, attn_implementation="eager"),
    "mistral": lambda: t.MistralConfig(**KV, **NEAR),
    "mistral_full": lambda: t.MistralConfig(**KV, sliding_window=None),
    "mixtral": lambda: t.MixtralConfig(**KV, **MOE, **NEAR),
    "qwen2": lambda: t.Qwen2Config(**KV, **NEAR),  # a window that is not in use
    "qwen2_window": lambda: t.Qwen2Config(**KV, **NEAR, use_sliding_window=True, max_window_layers=1),
    "qwen3": lambda: t.Qwen3Config(**KV, head_dim=8),
    "gemma": lambda: t.GemmaConfig(**KV, head_dim=8),
    "gemma2": lambda: t.Gemma2Config(**KV, **NEAR, head_dim=8, final_logit_softcapping=3.0),
    "gemma3": lambda: t.Gemma3TextConfig(
        **KV, **NEAR, head_dim=8, layer_types=["sliding_attention", "full_attention"], final_logit_softcapping=3.0
    ),
    "phi": lambda: t.PhiConfig(**MLP),
    "phi3": lambda: t.Phi3Config(**KV, **NEAR),
    "gpt_neox": lambda: t.GPTNeoXConfig(**MLP),
    "opt": lambda: t.OPTConfig(**SIZES, **IDS, ffn_dim=48, word_embed_proj_dim=16),
    "gpt2": lambda: t.GPT2Config(vocab_size=37, n_embd=32, n_layer=2, n_head=4, **IDS),
    "olmo": lambda: t.OlmoConfig(**KV),
    "olmo2": lambda: t.Olmo2Config(**KV),
    "granite": lambda: t.GraniteConfig(**KV, logits_scaling=3.0),
    "smollm3": lambda: t.SmolLM3Config(**KV, no_rope_layers=[1, 0]),
    "falcon": lambda: t.FalconConfig(**SIZES, **IDS, alibi=False),
    "gpt_oss": lambda: t.GptOssConfig(**KV, **MOE, **NEAR, head_dim=8),
    "cohere": lambda: t.CohereConfig(**KV, logit_scale=0.5),
    "starcoder2": lambda: t.Starcoder2Config(**KV, **NEAR),
}
WINDOWED = ["mistral", "mixtral", "qwen2_window", "gemma2", "gemma3", "phi3", "gpt_oss", "starcoder2"]
SCALED = {"granite": 1 / 3, "cohere": 0.5}
SHARED = Layout(shared=True, split=True, width=32)
# At this width the answers fill several sequences, some of which are padded.
NARROW = Layout(shared=True, split=True, width=5)

# Two prompts have three answers each, of which two begin alike in one case, and two prompts have one answer. They fill
# one sequence or several. Most rows are longer than the sliding windows.
ANSWERS: list[PromptAndAnswer] = [
    ([1, 2, 3, 4, 5], [10, 11, 12, 13]),
    ([7, 8, 9], [1, 2]),
    ([1, 2, 3, 4, 5], [12, 13, 14, 15, 16, 17]),
    ([6], [16]),
    ([7, 8, 9], [5, 6, 7]),
    ([1, 2, 3, 4, 5], [20]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14]),
    ([7, 8, 9], [5, 6, 11, 12]),
]


def build(name: str) -> Any:
    """A small model. Its matrices are scaled by 8, so that it matters which tokens a token attends to."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    model = t.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 8
    return model


def logps_and_gradient(model: Any, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """([R, T] log-probabilities, gradient of a weighted sum of them with respect to all parameters)."""
    model.zero_grad(set_to_none=True)
    logps = answer_logps(model, rows)
    weights = torch.linspace(-1.0, 2.0, logps.numel()).view_as(logps)
    (weights * logps).sum().backward()
    none = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return logps.detach(), torch.cat([gradient.flatten() for gradient in none])


def off(model: Any, rows: Rows) -> float:
    """Largest difference between a token's log-probability and that of plain rows with the model's own head."""
    with torch.no_grad():
        return float((answer_logps(model, rows) - answer_logps(model, collate_rows(ANSWERS))).abs().max())


def together(rows: Rows) -> torch.Tensor:
    """`Rows.visible_until` changed so that each answer sees the answers before it."""
    return rows.visible_until.cummax(dim=1).values


def test_every_known_class_has_its_small_model() -> None:
    classes = t.AutoModelForCausalLM._model_mapping
    assert {classes[type(config())].__name__ for config in CONFIGS.values()} == _KNOWN


def test_answers_are_really_side_by_side() -> None:
    """All three answers follow their prompt, some sequence holds several prompts, and some prompt has one answer."""
    rows = collate_rows(ANSWERS, NARROW)
    assert rows.attention.sum() == 5 + 3 + 1 + 9 + sum(len(answer) for _, answer in ANSWERS) - 2, "5, 6 stands once"
    assert (rows.positions == 0).sum() - (rows.attention == 0).sum() == 4, "prompts"
    assert 2 <= len(rows.ids) <= 3
    assert (rows.attention == 0).any()


def test_padding_sees_itself_and_nothing_else() -> None:
    """So each row of a mask has a column. Some attention implementations return NaN for rows without one."""
    rows = collate_rows(ANSWERS, NARROW)
    mask = forward.attention_mask(build("llama").config, rows, torch.float32)
    assert isinstance(mask, torch.Tensor)
    seen, padding = mask[:, 0] == 0, rows.attention == 0
    assert seen.any(dim=2).all()
    assert (seen[padding].sum(dim=1) == 1).all()
    assert not seen.transpose(1, 2)[padding].sum(dim=1).gt(1).any()


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_and_gradients_of_plain_rows(name: str) -> None:
    model = build(name)
    plain, gradient = logps_and_gradient(model, collate_rows(ANSWERS))
    shared, other = logps_and_gradient(model, collate_rows(ANSWERS, NARROW))
    assert plain.std() > 0.1, "a model that says something"
    assert (shared - plain).abs().max() < 2e-5
    assert (other - gradient).abs().max() < 1e-4 * gradient.abs().max()
    assert choose_layout(model, ANSWERS) == SHARED


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build(name), collate_rows(ANSWERS, NARROW)
    assert forward.window_of(model.config) == 4
    monkeypatch.setattr(forward, "window_of", lambda config: 1000)
    assert off(model, rows) > 0.05


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - set(WINDOWED)))
def test_no_window_where_no_layer_has_one(name: str) -> None:
    assert forward.window_of(build(name).config) is None


def test_a_window_that_is_not_in_use() -> None:
    """Some configs switch the window off by `use_sliding_window` and have no `layer_types`."""
    assert forward.window_of(SimpleNamespace(sliding_window=4, use_sliding_window=False)) is None
    assert forward.window_of(SimpleNamespace(sliding_window=4, use_sliding_window=True)) == 4


@pytest.mark.parametrize("name", ["llama", "llama_eager", "gpt2", "opt", "gemma3", "gpt_oss"])
def test_what_keeps_answers_apart_is_needed(name: str) -> None:
    """Without it, answers see earlier answers or other prompts, or have wrong positions."""
    model, rows = build(name), collate_rows(ANSWERS, SHARED)
    columns = torch.arange(rows.ids.shape[1]).expand_as(rows.ids)
    for broken in (
        {"visible_until": together(rows)},
        {"visible_until": torch.full_like(rows.visible_until, rows.ids.shape[1])},
        {"positions": columns},
    ):
        assert off(model, dataclasses.replace(rows, **broken)) > 0.05, broken.keys()


@pytest.mark.parametrize("name", ["granite", "cohere", "gemma2", "gemma3"])
def test_scales_and_caps_of_logits_are_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build(name), collate_rows(ANSWERS, NARROW)
    assert forward._scale_and_cap(model.config) == (
        pytest.approx(SCALED[name]) if name in SCALED else 1.0,
        (None if name in SCALED else 3.0),
    )
    monkeypatch.setattr(forward, "_scale_and_cap", lambda config: (1.0, None))
    assert off(model, rows) > 0.05


@pytest.mark.parametrize(
    "config",
    [
        t.BloomConfig(vocab_size=37, hidden_size=32, n_layer=2, n_head=4),
        t.MptConfig(vocab_size=37, d_model=32, n_layers=2, n_heads=4),
        t.Mamba2Config(
            vocab_size=37, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=8, n_groups=1
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_unknown_classes_have_plain_rows(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = t.AutoModelForCausalLM.from_config(config)
    with caplog.at_level(logging.INFO):
        assert choose_layout(model, ANSWERS) == PLAIN
    assert f"plain rows, because {type(model).__name__} is not known to be exact" in caplog.text


def test_a_known_class_with_alibi_has_plain_rows(caplog: pytest.LogCaptureFixture) -> None:
    """Falcon is a known class. With ALiBi it computes positions from a mask of two dimensions and fails with others."""
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(t.FalconConfig(**SIZES, **IDS, alibi=True)).train()
    assert choose_layout(model, ANSWERS) == PLAIN
    assert [(r.levelname, r.message) for r in caplog.records if r.name.startswith("alignlab")] == [
        ("WARNING", "layout: plain rows, because this FalconForCausalLM fails with several answers in a row")
    ]
    assert model.training


@pytest.mark.parametrize("broken", ["mask", "nan"])
def test_a_model_that_is_off_has_plain_rows(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = forward.attention_mask

    def wrong(config: Any, rows: Rows, dtype: torch.dtype) -> Any:
        mask: Any = right(config, dataclasses.replace(rows, visible_until=together(rows)), dtype)
        return mask * float("nan") if broken == "nan" and mask.ndim == 4 else mask

    monkeypatch.setattr(forward, "attention_mask", wrong)
    assert choose_layout(build("llama"), ANSWERS) == PLAIN
    (record,) = (r for r in caplog.records if r.name.startswith("alignlab"))
    assert record.levelname == "WARNING"
    assert "plain rows, because LlamaForCausalLM is off by " + ("nan" if broken == "nan" else "") in record.message


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_a_reward_model_is_compared_by_its_rewards(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = with_scalar_head(build(kind), 0)
    with caplog.at_level(logging.INFO):
        layout = choose_layout(scorer, ANSWERS)
    assert layout.shared
    assert "answers share their prompt" in caplog.text
    assert "per reward" in caplog.text
    with torch.no_grad():
        shared, plain = (answer_rewards(scorer, collate_rows(ANSWERS, how)) for how in (layout, PLAIN))
    assert shared == pytest.approx(plain, abs=1e-5)
    right = forward.attention_mask
    monkeypatch.setattr(
        forward,
        "attention_mask",
        lambda config, rows, dtype: right(config, dataclasses.replace(rows, visible_until=together(rows)), dtype),
    )
    assert choose_layout(scorer, ANSWERS) == PLAIN


def test_memory_that_does_not_suffice_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(config: Any, rows: Rows, dtype: torch.dtype) -> Any:
        if rows.layout.shared:
            raise torch.OutOfMemoryError("too little")
        return rows.attention

    monkeypatch.setattr(forward, "attention_mask", full)
    with pytest.raises(torch.OutOfMemoryError, match="too little"):
        choose_layout(build("llama"), ANSWERS)


def test_other_attention_has_plain_rows_and_our_projection(caplog: pytest.LogCaptureFixture) -> None:
    """An attention implementation with an unknown name may not add a given mask to its scores."""
    t.AttentionInterface.register("ours", sdpa_attention_forward)
    t.AttentionMaskInterface.register("ours", sdpa_mask)
    model = build("llama")
    model.set_attn_implementation("ours")
    with caplog.at_level(logging.INFO):
        layout = choose_layout(model, ANSWERS)
    assert layout == Layout(shared=False, split=True, width=32)
    assert "layout: plain rows, because ours attention accepts no custom mask" in caplog.text
    assert off(model, collate_rows(ANSWERS, layout)) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_rounding_of_no_dtype_is_taken_for_an_error(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(CONFIGS["gpt2"]()).to(dtype)
    with caplog.at_level(logging.INFO):
        assert choose_layout(model, ANSWERS) == SHARED
    assert "layout: answers share their prompt (off by " in caplog.text


def test_plain_rows_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    monkeypatch.setattr(model, "forward", lambda **_: pytest.fail("nothing to look at"))
    assert choose_layout(model, ANSWERS, "plain") == PLAIN


def test_rows_beyond_a_window_are_looked_at() -> None:
    """The longer answer of a pair counts. A row that just fills the window of 4 tokens is not beyond it."""
    pairs = [PairTokens(0, [1], [2], [3]), PairTokens(1, [1], [2], [4]), PairTokens(2, [1], [5], [6])]
    first = [*pairs[0].answers(), *pairs[1].answers()]
    full, beyond = PairTokens(3, [1, 2], [3, 4], [5]), PairTokens(4, [1, 2], [3], [4, 5, 6])
    mistral = build("mistral")
    assert rows_to_look_at(mistral, [*pairs, full]) == first
    assert rows_to_look_at(mistral, [*pairs, full, beyond]) == [*first, *beyond.answers()]
    assert rows_to_look_at(build("llama"), [*pairs, full, beyond]) == first
    assert rows_to_look_at(mistral, [CompletionTokens(0, [1], [2])]) == [([1], [2])]
    singles = [CompletionTokens(0, [1], [3, 4]), CompletionTokens(1, [2], [5, 6])]
    looked_at = rows_to_look_at(mistral, singles)
    assert looked_at == [([1], [3, 4]), ([1], [3, 5]), ([2], [5, 6]), ([2], [5, 3])], "none longer than it was"


def test_what_is_looked_at_has_answers_that_could_be_disturbed() -> None:
    """Answers of one token are avoided, because nothing can disturb their first token."""
    rows = [
        PairTokens(0, [1], [2], [3, 4, 5]),
        PairTokens(1, [1], [2, 3], [4, 5]),
        PairTokens(2, [6], [7] * 3, [8] * 3),
    ]
    model = SimpleNamespace(config=SimpleNamespace(sliding_window=None))
    assert rows_to_look_at(model, rows) == [([6], [7, 7, 7]), ([6], [8, 8, 8]), ([1], [2, 3]), ([1], [4, 5])]
