"""Sampling: answers do not depend on the batch and follow the model's distribution; ends, cuts and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

from alignlab.data.template import Template
from alignlab.errors import ConfigError, DataError, NotEnoughMemoryError
from alignlab.evaluation.exact import completion_logps
from alignlab.lab.world import World
from alignlab.models.adapters.lora import LoRA
from alignlab.models.sources.tiny import Tiny
from alignlab.rollout.sampling import Draw, Sample, draw, uniforms
from alignlab.rollout.settings import Sampling

FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
WORLD = World(alphabet="abc", length=3, prompts=2, prompt_length=2)
SMALL = {"vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
CONFIGS: list[PretrainedConfig] = [
    GPT2Config(vocab_size=12, n_embd=16, n_head=2, n_layer=2, n_positions=64),
    MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=1, sliding_window=4),
    OPTConfig(**SMALL, ffn_dim=32, max_position_embeddings=64, word_embed_proj_dim=16),
    Qwen3Config(**SMALL, intermediate_size=32, num_key_value_heads=1, head_dim=8),
]


def sharp(model: Any) -> Any:
    """The model with large weights, so that it has preferences and attends to distant tokens."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    return model.eval()


def numbers(count: int, tokens: int, seed: int = 0) -> list[Any]:
    return [uniforms(seed, f"prompt {i}", 0, tokens) for i in range(count)]


def by_hand(model: Any, prompt: Sequence[int], draws: Any, end: int) -> list[int]:
    """Sample with a full forward pass per token, without cache or batch."""
    answer: list[int] = []
    for u in draws:
        with torch.no_grad():
            probability = model(torch.tensor([[*prompt, *answer]])).logits[0, -1].double().softmax(-1)
        token = int((probability.cumsum(-1) <= u * float(probability.sum())).sum())
        answer.append(token)
        if token == end:
            break
    return answer


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_batched_is_one_by_one(config: PretrainedConfig) -> None:
    """Prompts have different lengths, answers end at different times, and some windows are shorter than the rows."""
    model = sharp(AutoModelForCausalLM.from_config(config))
    prompts = [[3], [4, 5, 6, 7, 8, 9], [1, 2, 3], [5, 5], [9, 8, 7, 6, 5, 4, 3, 2]]
    draws = numbers(5, 12)
    end = by_hand(model, prompts[0], draws[0], end=-1)[3]  # a token that occurs early
    expected = [by_hand(model, prompt, u, end) for prompt, u in zip(prompts, draws, strict=True)]
    assert len({len(answer) for answer in expected}) > 1, "they end at different times"
    for size in (1, 2, 5):
        found = draw(model, prompts, draws, Sampling(max_new_tokens=12, batch_size=size), [end])
        assert [answer.ids for answer in found] == expected
        assert [answer.ended for answer in found] == [answer[-1] == end for answer in expected]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_a_prompt_that_is_asked_for_several_answers_goes_through_once(config: PretrainedConfig) -> None:
    """Equal prompts in any order give the same answers as one by one, but the model gets two rows instead of five."""
    model = sharp(AutoModelForCausalLM.from_config(config))
    prompts = [[4, 5, 6], [1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]]
    draws = numbers(5, 8)
    widths: list[int] = []
    hook = model.register_forward_hook(lambda m, args, out: widths.append(len(out.logits)))
    found = draw(model, prompts, draws, Sampling(max_new_tokens=8), ends=[-1])
    hook.remove()
    assert widths == [2, *[5] * 7]
    assert [answer.ids for answer in found] == [by_hand(model, p, u, -1) for p, u in zip(prompts, draws, strict=True)]


def test_answers_come_with_their_log_probabilities() -> None:
    """The log-probabilities are those at the sampling temperature, and equal those of one forward pass."""
    model = sharp(AutoModelForCausalLM.from_config(CONFIGS[3]))
    prompts = [[1, 2, 3], [4], [1, 2, 3]]
    for answer, prompt in zip(
        draw(model, prompts, numbers(3, 6), Sampling(max_new_tokens=6, temperature=0.7), [11]), prompts, strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer.ids]])).logits[0].double() / 0.7
        exact = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer.ids)[:, None])
        assert answer.logps == pytest.approx(exact.flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_answers_come_with_what_is_made_of_their_states(config: PretrainedConfig) -> None:
    """There is a value before each token, also if rows are padded, repeated, or end at different times."""
    model = sharp(AutoModelForCausalLM.from_config(config))
    prompts, draws = [[1, 2, 3], [4], [1, 2, 3], [5, 6, 7, 8]], numbers(4, 6)
    weight = torch.linspace(-1, 1, 16)
    end = by_hand(model, prompts[0], draws[0], end=-1)[2]
    found = draw(model, prompts, draws, Sampling(max_new_tokens=6), [end], value=lambda states: states @ weight)
    assert len({len(answer.ids) for answer in found}) > 1
    for prompt, answer in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = model.base_model(torch.tensor([[*prompt, *answer.ids]])).last_hidden_state[0]
        expected = (states @ weight)[len(prompt) - 1 : -1]
        assert answer.values == pytest.approx(expected.tolist(), abs=1e-5)
    assert draw(model, prompts, draws, Sampling(max_new_tokens=6), [end])[0].values == []
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_answers_have_the_policy_s_probabilities() -> None:
    """Frequencies in 6,000 samples of each prompt match the exact probability of every completion."""
    model, tokenizer = Tiny(name="t", alphabet="abc", hidden_size=32).load()
    with torch.no_grad():
        model.lm_head.weight *= 20
    exact = np.exp(completion_logps(model, tokenizer, WORLD))
    template, count = Template(tokenizer), 6000
    how = Sampling(max_new_tokens=3, batch_size=3000)
    for x, text in enumerate(WORLD.prompt_texts):
        prompts = [template.prompt_ids(text)] * count
        found = draw(model, prompts, [uniforms(0, text, n, 3) for n in range(count)], how, template.ends)
        texts = [tokenizer.decode([i for i in answer.ids if i != template.end_id]) for answer in found]
        seen = np.array([texts.count(answer) for answer in WORLD.completion_texts])
        assert seen.sum() == count
        spread = np.sqrt(count * exact[x] * (1 - exact[x])) + 0.5
        assert np.abs(seen - count * exact[x]).max() < 4.5 * spread.max()
        assert (np.abs(seen - count * exact[x]) / spread).max() < 4.5


def test_temperature_and_seeds() -> None:
    model = sharp(AutoModelForCausalLM.from_config(CONFIGS[3]))
    prompts = [[1, 2, 3]] * 200
    cold = Sampling(max_new_tokens=4, temperature=1e-4, batch_size=200)
    draws = [uniforms(0, "p", n, 4) for n in range(200)]
    assert len({tuple(answer.ids) for answer in draw(model, prompts, draws, cold, [11])}) == 1, "nearly greedy"
    warm = draw(model, prompts, draws, Sampling(max_new_tokens=4, batch_size=200), [11])
    assert len({tuple(answer.ids) for answer in warm}) > 20
    other = draw(model, prompts, [uniforms(1, "p", n, 4) for n in range(200)], Sampling(max_new_tokens=4), [11])
    assert warm != other
    assert not np.array_equal(uniforms(0, "p", 0, 4), uniforms(0, "q", 0, 4))
    np.testing.assert_array_equal(uniforms(0, "p", 0, 4), uniforms(0, "p", 0, 8)[:4])


def test_an_adapter_and_the_mode_it_was_in() -> None:
    model = Tiny(name="t", alphabet="abc", hidden_size=32).load()[0]
    model.name_or_path = "base"
    policy = LoRA(r=2).wrap(model)
    policy.train()
    found = draw(policy, [[0, 1]], numbers(1, 3), Sampling(max_new_tokens=3), [3])
    assert isinstance(found[0], Sample)
    assert policy.training


def test_refusals() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[0])
    with pytest.raises(DataError, match=r"60 tokens, an answer up to 5, .* 64 positions\n.*max_new_tokens=4"):
        draw(model, [[1] * 60], numbers(1, 5), Sampling(max_new_tokens=5), [11])
    with pytest.raises(ConfigError, match="3 problems"):
        Sampling(max_new_tokens=0, temperature=0, batch_size=0)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_where_memory_ends_a_batch_is_halved(most: int, caplog: pytest.LogCaptureFixture) -> None:
    """A smaller batch gives the same answers as one with enough memory, and the smaller size is kept."""
    model = sharp(AutoModelForCausalLM.from_config(CONFIGS[0]))
    prompts, draws = [[3], [4, 5, 6], [1, 2, 3], [5, 5], [9, 8, 7, 6, 5]], numbers(5, 6)
    expected = draw(model, prompts, draws, Sampling(max_new_tokens=6, batch_size=5), [11])

    def full(module: Any, args: Any, given: dict[str, Any]) -> None:
        if len(given["input_ids"]) > most:
            raise FULL

    hook = model.register_forward_pre_hook(full, with_kwargs=True)
    assert draw(model, prompts, draws, Sampling(max_new_tokens=6, batch_size=5), [11]) == expected
    assert "for 5 answers at a time; continuing with 3" in caplog.text
    assert len(caplog.records) == {1: 3, 2: 2, 3: 1}[most]
    hook.remove()


def test_memory_for_no_answer_at_all_and_other_faults() -> None:
    model = sharp(AutoModelForCausalLM.from_config(CONFIGS[0]))
    fault = FULL

    def full(*anything: Any) -> None:
        raise fault

    model.register_forward_pre_hook(full)
    with pytest.raises(NotEnoughMemoryError, match=r"prompt of 3 tokens(.|\n)*smaller evaluation.max_new_tokens"):
        draw(model, [[1, 2, 3]], numbers(1, 6), Sampling(max_new_tokens=6), [11])
    fault = RuntimeError("size mismatch")
    with pytest.raises(RuntimeError, match="size mismatch"):
        draw(model, [[1, 2, 3], [4]], numbers(2, 6), Sampling(max_new_tokens=6), [11])


def test_each_of_several_tokens_ends_an_answer() -> None:
    """Batched or one by one, an answer ends with the first token that can end it."""
    model = sharp(AutoModelForCausalLM.from_config(CONFIGS[3]))
    prompts, draws, ends = [[i % 10, 3] for i in range(12)], numbers(12, 8), [4, 9, 11]
    found = draw(model, prompts, draws, Sampling(max_new_tokens=8), ends)
    for prompt, u, answer in zip(prompts, draws, found, strict=True):
        whole = by_hand(model, prompt, u, end=-1)
        first = next((i for i, token in enumerate(whole) if token in ends), len(whole))
        assert answer.ids == whole[: first + 1]
        assert answer.ended == (first < len(whole)) == (answer.ids[-1] in ends)
    assert len({answer.ids[-1] for answer in found if answer.ended}) > 1, "they end with different tokens"


def test_what_decides_an_answer_gives_numbers_and_a_seed() -> None:
    """Equal draws have equal seeds of 63 bits, and draws that differ in one thing have others. Text is its bytes."""
    one = Draw(1, [97, 98], 2)
    assert np.array_equal(one.uniforms(4), uniforms(1, "ab", 2, 4))
    assert one.key == Draw(1, "ab", 2).key == 6961323569502313672
    keys = {draw.key for draw in (one, Draw(2, "ab", 2), Draw(1, "ac", 2), Draw(1, "ab", 3), Draw(1, "", 2))}
    assert len(keys) == 5
    assert all(0 <= key < 2**63 for key in keys)
