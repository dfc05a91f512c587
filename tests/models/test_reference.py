"""The three references agree, follow the starting policy, and the stored one is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignlab.data.collate import collate_pairs
from alignlab.data.fingerprint import row_key
from alignlab.data.tokenize import PairTokens
from alignlab.models.adapters.lora import LoRA
from alignlab.models.logps import answer_logps, summed
from alignlab.models.reference import Cached, Live, adapter_off, frozen_copy, reference_sums, weights_digest
from alignlab.models.reference_store import ReferenceStore
from alignlab.models.sources.tiny import Tiny

PAIRS = [
    PairTokens(0, [6, 0, 1], [2, 3, 6], [4, 6]),
    PairTokens(1, [6, 5], [1, 6], [0, 0, 0, 0, 6]),
    PairTokens(3, [6, 2, 2], [2], [3, 6]),
]


def sums(model: Any, folder: Path, pairs: list[PairTokens] = PAIRS) -> dict[bytes, float]:
    return reference_sums(
        model,
        [answer for pair in pairs for answer in pair.answers()],
        folder,
        weights=weights_digest(model),
        micro_batch_size=2,
        device=torch.device("cpu"),
        progress=lambda items, what: items,
    )


@pytest.fixture
def model() -> Any:
    return Tiny(name="t", alphabet="abcdef", hidden_size=32).load()[0].eval()


def test_all_three_are_the_starting_policy(model: Any, tmp_path: Path) -> None:
    batch = collate_pairs(PAIRS)
    start = summed(answer_logps(model, batch.rows), batch.rows.answer_mask).detach()
    table, copied = sums(model, tmp_path), frozen_copy(model)
    policy = LoRA(r=4).wrap(model)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    moved = summed(answer_logps(policy, batch.rows), batch.rows.answer_mask)
    assert (moved - start).abs().min() > 1e-3, "the policy has moved"
    for reference in (Cached(table), copied, adapter_off(policy)):
        torch.testing.assert_close(reference.sums(batch.rows), start, atol=1e-5, rtol=0)
    live = adapter_off(policy)
    torch.testing.assert_close(summed(live.tokens(batch.rows), batch.rows.answer_mask), start, atol=1e-5, rtol=0)
    torch.testing.assert_close(live.logits(batch.rows), copied.logits(batch.rows), atol=1e-5, rtol=0)
    assert not live.sums(batch.rows).requires_grad
    torch.testing.assert_close(summed(answer_logps(policy, batch.rows), batch.rows.answer_mask), moved)


def test_a_second_pass_reads_what_the_first_wrote(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sums(model, tmp_path)
    monkeypatch.setattr("alignlab.models.reference._compute", lambda *args: pytest.fail("computed again"))
    assert sums(model, tmp_path, list(reversed(PAIRS))) == first
    assert len(first) == 6


def test_only_new_answers_are_computed(model: Any, tmp_path: Path) -> None:
    sums(model, tmp_path, PAIRS[:2])
    store = next(tmp_path.iterdir())
    assert len(list(store.glob("*.npz"))) == 1
    sums(model, tmp_path)
    shards = sorted(len(np.load(f)["keys"]) for f in store.glob("*.npz"))
    assert shards == [2, 4]


def test_other_weights_have_another_store(model: Any, tmp_path: Path) -> None:
    one = sums(model, tmp_path)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    other = sums(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert any(abs(one[key] - other[key]) > 1e-6 for key in one)


def test_a_missing_row_is_an_error_not_a_zero() -> None:
    rows = collate_pairs(PAIRS).rows
    table = dict.fromkeys(rows.keys, -3.0)
    del table[rows.keys[4]]
    with pytest.raises(ValueError, match=r"rows \[4\]"):
        Cached(table).sums(rows)


def test_a_reference_has_no_dropout_and_leaves_the_policy_as_it_was() -> None:
    model = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()[0]
    policy = LoRA(r=4, dropout=0.5).wrap(model).train()
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    rows = collate_pairs(PAIRS).rows
    dropping = Live(policy)  # the adapter stays on: its dropout would show
    assert torch.equal(dropping.sums(rows), dropping.sums(rows))
    assert policy.training
    assert not dropping.tokens(rows).requires_grad
    policy.eval()
    adapter_off(policy).sums(rows)
    assert not policy.training


def test_the_store_does_not_pretend_to_know_single_tokens() -> None:
    reference = Cached({})
    for ask in (reference.tokens, reference.logits):
        with pytest.raises(ValueError, match="sums"):
            ask(collate_pairs(PAIRS).rows)


def test_keys_tell_prompt_from_answer() -> None:
    assert row_key([1, 2], [3]) != row_key([1], [2, 3])
    assert row_key([1, 2], [3]) == row_key([1, 2], [3])


def test_store_finds_what_it_holds(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path)
    keys = np.array([row_key([i], [i]) for i in range(50)])
    store.add(keys[:30], np.arange(30, dtype=np.float32))
    store.add(keys[25:40], np.arange(25, 40, dtype=np.float32))
    found = store.find(keys)
    np.testing.assert_array_equal(found[:40], np.arange(40))
    assert np.isnan(found[40:]).all()


def test_digest_sees_every_bit_and_the_dtype(model: Any) -> None:
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nextafter(model.lm_head.weight[0, 0], torch.tensor(9.0))
    assert weights_digest(model) != before
    assert weights_digest(model.to(torch.bfloat16)) != before


def test_digest_sees_what_the_config_does_to_the_function() -> None:
    """The same weights with another number of heads, or another rope base, are another policy."""
    one, two = (Tiny(name="t", alphabet="abc", hidden_size=32, heads=h).load()[0] for h in (4, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert weights_digest(one) != weights_digest(two)
    before = weights_digest(one)
    one.config.name_or_path = "elsewhere"
    assert weights_digest(one) == before
