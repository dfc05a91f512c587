"""Reward heads: on the last real token, shared backbone, saved and loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows
from alignlab.errors import ModelError
from alignlab.models.adapters.lora import LoRA
from alignlab.models.forward import predict
from alignlab.models.heads import (
    Critic,
    HeadCritic,
    NetworkCritic,
    answer_rewards,
    load_scorer,
    save_offset,
    with_scalar_head,
)
from alignlab.models.sources.base import load_pretrained
from alignlab.models.sources.tiny import Tiny

# The second answer continues after an end token. The id of padding, 0, is also the id of a letter.
ANSWERS = [([6, 1], [2, 3, 6]), ([6], [1, 6, 0, 0]), ([6, 5, 4], [6])]


def tiny(dtype: str = "float32") -> Any:
    return Tiny(name="t", alphabet="abcdef", hidden_size=32, dtype=dtype).load()[0]


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=9, n_positions=32)).eval()


def rows() -> Rows:
    return collate_rows(ANSWERS)


@pytest.mark.parametrize("make", [tiny, gpt2])
def test_the_reward_is_read_on_the_last_token_of_the_answer(make: Any) -> None:
    """The expected reward of an unpadded row by itself is the backbone's last hidden state times the head's weights."""
    scorer = with_scalar_head(make(), 0)
    backbone = getattr(scorer, scorer.base_model_prefix)
    alone = [
        (backbone(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1] * scorer.score.weight[0]).sum()
        for prompt, answer in ANSWERS
    ]
    torch.testing.assert_close(answer_rewards(scorer, rows()), torch.stack(alone), atol=1e-5, rtol=0)
    assert torch.stack(alone).std() > 0.05


def test_the_backbone_is_shared_and_the_head_follows_the_seed() -> None:
    model = tiny()
    one, two, other = (with_scalar_head(model, seed) for seed in (1, 1, 2))
    assert one.model is model.model
    assert not one.training
    assert torch.equal(one.score.weight, two.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    wide = with_scalar_head(Tiny(name="t", alphabet="ab", hidden_size=512).load()[0], 0)
    assert float(wide.score.weight.detach().std() * 513**0.5) == pytest.approx(1.0, abs=0.1)


def test_half_precision_models_have_float32_rewards() -> None:
    scorer = with_scalar_head(tiny("bfloat16"), 0)
    rewards = answer_rewards(scorer, rows())
    assert rewards.dtype == torch.float32
    assert scorer.model.norm.weight.dtype == torch.bfloat16
    assert not torch.equal(rewards, rewards.bfloat16().float()), "more digits than bfloat16 has"


def test_an_adapter_keeps_its_head(tmp_path: Path) -> None:
    from peft import PeftModel

    base = tiny()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    policy = LoRA(r=4).wrap(with_scalar_head(base, 0))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trained)
    assert any("lora_A" in name for name in trained)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if name in trained:
                p += 0.1
    expected = answer_rewards(policy, rows())
    policy.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    torch.testing.assert_close(answer_rewards(loaded, rows()), expected, atol=1e-5, rtol=0)


def test_what_has_no_classifier_is_refused() -> None:
    config = T5Config(vocab_size=9, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="no reward model can be made of T5ForConditionalGeneration"):
        with_scalar_head(T5ForConditionalGeneration(config), 0)


@pytest.mark.parametrize("make", [tiny, gpt2])
@pytest.mark.parametrize("kind", ["head", "network"])
def test_critics_see_what_stands_before_each_token(make: Any, kind: str) -> None:
    """Expected values are computed row by row: the critic's layer, applied to the state that predicts the token."""
    policy = make()
    if kind == "head":
        critic: Critic = HeadCritic(policy)
        layer, base = critic.layer, getattr(policy, policy.base_model_prefix)
        torch.nn.init.normal_(layer.weight)
    else:
        scorer = with_scalar_head(make(), 0)
        critic = NetworkCritic(scorer)
        layer, base = scorer.score, getattr(scorer, scorer.base_model_prefix)
    for layout in (PLAIN, Layout(shared=True, split=True)):
        laid_out = collate_rows(ANSWERS, layout)
        found = critic(policy, laid_out, predict(policy, laid_out))
        for (prompt, answer), values in zip(ANSWERS, found, strict=True):
            states = base(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(values[: len(answer)], layer(states).squeeze(-1), atol=1e-5, rtol=1e-5)
            assert values[len(answer) :].abs().sum() == 0


def test_a_new_head_expects_nothing() -> None:
    policy = tiny()
    assert HeadCritic(policy)(policy, rows(), predict(policy, rows())).abs().sum() == 0


def test_a_trained_reward_model_counts_from_the_answers_that_are_worth_0(tmp_path: Path) -> None:
    """N+ (Huang et al. 2024), detail 9. Without the offset's file the rewards are those of the bare classifier."""
    scorer = with_scalar_head(tiny(), 0)
    scorer.save_pretrained(tmp_path)
    Tiny(name="t", alphabet="abcdef", hidden_size=32).load()[1].save_pretrained(tmp_path)
    bare = answer_rewards(load_scorer(str(tmp_path))[0], rows())
    kept = save_offset(tmp_path, bare)
    shifted = answer_rewards(load_scorer(str(tmp_path))[0], rows())
    assert kept["mean"] == pytest.approx(float(bare.mean()))
    assert float(shifted.mean()) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(shifted, bare - bare.mean())
    for content in ("", "{}", "[]", '{"mean": "x"}', '{"mean": NaN}', '{"mean": null}', '{"mean": 1e999}'):
        (tmp_path / "reward.json").write_text(content)
        with pytest.raises(ModelError, match=r"reward\.json does not hold the mean reward"):
            load_scorer(str(tmp_path))


def test_an_adapter_is_merged_with_its_head_and_offset(tmp_path: Path) -> None:
    """The rewards are those of base and adapter together, and the loaded model is a plain classifier."""
    base, tokenizer = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    trained = LoRA(r=2).wrap(with_scalar_head(base, 0)).eval()
    plain = answer_rewards(trained, rows()).detach()
    with torch.no_grad():
        for parameter in (p for p in trained.parameters() if p.requires_grad):
            parameter += 0.1
    bare = answer_rewards(trained, rows()).detach()
    assert (bare - plain).abs().max() > 0.1
    trained.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    save_offset(tmp_path / "reward", bare)
    merged = load_scorer(str(tmp_path / "reward"))[0]
    assert type(merged) is LlamaForSequenceClassification
    torch.testing.assert_close(answer_rewards(merged, rows()), bare - bare.mean(), atol=1e-5, rtol=1e-4)


def test_a_critic_fits_states_that_are_projected_before_they_are_predicted_from() -> None:
    """The last hidden states of OPT-350m are narrower than its layers."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=9, hidden_size=32, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    policy = OPTForCausalLM(config).eval()
    critic = HeadCritic(policy)
    torch.nn.init.normal_(critic.layer.weight)
    for layout in (PLAIN, Layout(shared=True, split=True)):
        laid_out = collate_rows(ANSWERS, layout)
        assert critic(policy, laid_out, predict(policy, laid_out)).shape == laid_out.answer_mask.shape
    scorer = with_scalar_head(policy, 0)
    assert NetworkCritic(scorer).of_rows(rows()).abs().sum() > 0


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
def test_an_adapter_without_a_head_is_no_reward_model(task: str | None, tmp_path: Path) -> None:
    """The adapter of a policy has no head. The scores of an untrained head would be random."""
    base, tokenizer = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    policy = LoRA(r=2).wrap(base)
    policy.peft_config["default"].task_type = task
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with pytest.raises(ModelError, match="is not a reward model: it was saved without a head"):
        load_scorer(str(tmp_path / "policy"))


@pytest.mark.parametrize("adapter", [False, True])
def test_a_reward_model_is_no_policy(adapter: bool, tmp_path: Path) -> None:
    """transformers would drop its head and put a new one in its place."""
    base, tokenizer = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    scorer = with_scalar_head(base, 0)
    (LoRA(r=2).wrap(scorer) if adapter else scorer).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    with pytest.raises(ModelError, match="is a reward model"):
        load_pretrained(str(tmp_path / "reward"), dtype="float32")
