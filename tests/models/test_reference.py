"""The three references agree and equal the initial policy, and a stored reference is computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alignlab.data.collate import collate_pairs
from alignlab.data.fingerprint import row_key
from alignlab.data.layout import PLAIN, Layout
from alignlab.data.tokenize import PairTokens
from alignlab.errors import DivergedError, NonFiniteError, StoredReferenceError
from alignlab.integrity import sha256_of
from alignlab.models import reference
from alignlab.models.adapters.lora import LoRA
from alignlab.models.logps import answer_logps, summed
from alignlab.models.reference import (
    CachedReference,
    LiveReference,
    ScoringOptions,
    adapter_off,
    frozen_copy,
    stored_reference,
    weights_digest,
)
from alignlab.models.reference_store import ReferenceStore
from alignlab.models.sources.tiny import Tiny

PAIRS = [
    PairTokens(0, [6, 0, 1], [2, 3, 6], [4, 6]),
    PairTokens(1, [6, 5], [1, 6], [0, 0, 0, 0, 6]),
    PairTokens(3, [6, 2, 2], [2], [3, 6]),
]


def stored(
    model: Any, folder: Path, pairs: list[PairTokens] = PAIRS, layout: Layout = PLAIN, *, by_token: bool = False
) -> CachedReference:
    return stored_reference(
        model,
        [answer for pair in pairs for answer in pair.answers()],
        folder,
        ScoringOptions(layout, rows=2, tokens=100, device=torch.device("cpu"), progress=lambda items, what: items),
        weights=weights_digest(model),
        by_token=by_token,
    )


@pytest.fixture(autouse=True)
def a_process_that_has_opened_no_store() -> None:
    reference._verified.clear()


@pytest.fixture
def model() -> Any:
    return Tiny(name="t", alphabet="abcdef", hidden_size=32).load()[0].eval()


def test_all_three_are_the_starting_policy(model: Any, tmp_path: Path) -> None:
    batch = collate_pairs(PAIRS)
    start = summed(answer_logps(model, batch.rows), batch.rows.answer_mask).detach()
    kept, copied = stored(model, tmp_path, by_token=True), frozen_copy(model)
    policy = LoRA(r=4).wrap(model)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    moved = summed(answer_logps(policy, batch.rows), batch.rows.answer_mask)
    assert (moved - start).abs().min() > 1e-3, "the policy has moved"
    for one in (kept, copied, adapter_off(policy)):
        torch.testing.assert_close(one.sums(batch.rows), start, atol=1e-5, rtol=0)
        torch.testing.assert_close(summed(one.tokens(batch.rows), batch.rows.answer_mask), start, atol=1e-5, rtol=0)
    live = adapter_off(policy)
    whole = live.predictions(batch.rows)
    expected = copied.predictions(batch.rows)
    torch.testing.assert_close(whole.project(whole.hidden), expected.project(expected.hidden), atol=1e-5, rtol=0)
    assert not live.sums(batch.rows).requires_grad
    torch.testing.assert_close(summed(answer_logps(policy, batch.rows), batch.rows.answer_mask), moved)


def test_a_second_pass_reads_what_the_first_wrote(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored(model, tmp_path).table
    monkeypatch.setattr("alignlab.models.reference._fill", lambda *args: pytest.fail("computed again"))
    assert stored(model, tmp_path, list(reversed(PAIRS))).table == first
    assert len(first) == 6


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_only_new_answers_are_computed(model: Any, tmp_path: Path) -> None:
    stored(model, tmp_path, PAIRS[:2])
    assert len(shards(tmp_path)) == 1
    stored(model, tmp_path)
    assert sorted(len(load_file(file)["keys"]) for file in shards(tmp_path)) == [2, 4]


def test_single_tokens_are_stored_on_request(model: Any, tmp_path: Path) -> None:
    """Entries without tokens do not count if tokens are requested. Entries with tokens also serve requests for sums."""
    batch = collate_pairs(PAIRS)
    sums = stored(model, tmp_path)
    with pytest.raises(ValueError, match=r"rows \[0, 1, 2, 3, 4, 5\]"):
        sums.tokens(batch.rows)
    kept = stored(model, tmp_path, by_token=True)
    torch.testing.assert_close(kept.tokens(batch.rows), answer_logps(model, batch.rows).detach(), atol=1e-5, rtol=0)
    assert [set(load_file(file)) >= {"tokens"} for file in shards(tmp_path)].count(True) == 1
    shards_before = shards(tmp_path)
    torch.testing.assert_close(stored(model, tmp_path).sums(batch.rows), kept.sums(batch.rows))
    assert shards(tmp_path) == shards_before


@pytest.mark.parametrize("layout", [PLAIN, Layout(shared=True, split=True, width=32)], ids=["plain", "shared"])
def test_a_layout_is_not_part_of_what_is_stored(model: Any, tmp_path: Path, layout: Layout) -> None:
    expected = {key: pytest.approx(value, abs=1e-5) for key, value in stored(model, tmp_path / "a").table.items()}
    assert stored(model, tmp_path / "b", layout=layout).table == expected


def with_other_numbers(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a shard and correct its checksum, as if other software had written it."""
    shard = load_file(file)
    change(shard)
    file.unlink()
    tokens = np.split(shard["tokens"], np.cumsum(shard["counts"])[:-1])
    ReferenceStore(file.parent).add(shard["keys"].view("S32").ravel(), tokens, keep_tokens=True)


def test_stored_values_that_are_not_the_models_are_refused(model: Any, tmp_path: Path) -> None:
    """A few entries are computed again when a store is opened, because other software may have written them."""
    stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)

    def change(shard: dict[str, Any]) -> None:
        shard["tokens"] += 0.5

    with_other_numbers(file, change)
    with pytest.raises(
        StoredReferenceError,
        match=r"differ by up to 0\.\d+ nats per token \(6 answers computed again\).*\n.*type: rm -r",
    ):
        stored(model, tmp_path)


def test_single_tokens_are_compared_too(model: Any, tmp_path: Path) -> None:
    stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)

    def change(shard: dict[str, Any]) -> None:
        for part in np.split(shard["tokens"], np.cumsum(shard["counts"])[:-1]):
            part[:] = part[::-1].copy()  # the sums do not change

    with_other_numbers(file, change)
    stored(model, tmp_path)
    reference._verified.clear()
    with pytest.raises(StoredReferenceError, match="are not those of this model"):
        stored(model, tmp_path, by_token=True)


def test_a_shard_that_comes_later_is_looked_at_when_it_comes(model: Any, tmp_path: Path) -> None:
    """Another process adds a shard with wrong numbers after this process opened the store."""
    stored(model, tmp_path, PAIRS[:2])
    store = ReferenceStore(shards(tmp_path)[0].parent)
    keys = np.array([row_key(prompt, answer) for prompt, answer in PAIRS[2].answers()])
    store.add(keys, [np.full(3, -9.0, dtype=np.float32)] * 2, keep_tokens=False)
    with pytest.raises(StoredReferenceError, match="are not those of this model"):
        stored(model, tmp_path)


def assert_recomputed(model: Any, folder: Path, expected: CachedReference, damaged: Path) -> None:
    """Assert that the values equal those before the damage, and that the damaged file is kept but not used."""
    reference._verified.clear()
    found = stored(model, folder, by_token=True)
    assert found.table == expected.table
    assert all(np.array_equal(found.by_token[key], expected.by_token[key]) for key in expected.by_token)
    kept = [file for file in folder.rglob("*.damaged*") if file.name.startswith(damaged.name)]
    assert len(kept) == 1
    assert len(shards(folder)) == 1


def test_a_flipped_bit_anywhere_in_a_shard_is_never_used(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """60 bytes, including the first and the last, get one flipped bit. Most of the flips change a stored number."""
    expected = stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)
    good = file.read_bytes()
    store = ReferenceStore(file.parent)
    keys = np.array(list(expected.table))
    random = np.random.default_rng(0)
    for place in [0, 8, len(good) - 1, *random.choice(len(good), 57, replace=False)]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(bad))
        caplog.clear()
        assert np.isnan(store.find(keys, tokens=False).sums).all()
        assert f"{file} is damaged (its name is not the checksum of its content), and its entries" in caplog.text
        file.with_name(f"{file.name}.damaged").unlink()
    file.write_bytes(bytes(bad))
    assert_recomputed(model, tmp_path, expected, file)


@pytest.mark.parametrize("kind", ["cut", "empty", "zeroed", "folder", "another shard", "another store"])
def test_a_damaged_shard_is_computed_again(kind: str, model: Any, tmp_path: Path) -> None:
    expected = stored(model, tmp_path / "store", by_token=True)
    (file,) = shards(tmp_path / "store")
    good = file.read_bytes()
    if kind == "folder":
        file.unlink()
        (file / "inside").mkdir(parents=True)
    elif kind == "another shard":
        stored(model, tmp_path / "other", PAIRS[:1])
        file.write_bytes(shards(tmp_path / "other")[0].read_bytes())
    elif kind == "another store":  # the undamaged shard of a store of other weights
        with torch.no_grad():
            next(model.parameters())[:] *= 1.1
        wrong = stored(model, tmp_path / "store", by_token=True)
        (added,) = (other for other in shards(tmp_path / "store") if other != file)
        file.rename(added.with_name(file.name))
        added.unlink()
        assert_recomputed(model, tmp_path / "store", wrong, file)
        return
    else:
        zeroed = good[:200] + bytes(64) + good[264:]
        file.write_bytes({"cut": good[:100], "empty": b"", "zeroed": zeroed}[kind])
    assert_recomputed(model, tmp_path / "store", expected, file)


def test_a_whole_store_is_left_as_it_is(model: Any, tmp_path: Path) -> None:
    stored(model, tmp_path, by_token=True)
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*") if file.is_file()}
    reference._verified.clear()
    stored(model, tmp_path, by_token=True)
    after = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*") if file.is_file()}
    assert {file for file in before if file.suffix == ".safetensors"} == set(shards(tmp_path))
    assert all(after[file] == before[file] for file in shards(tmp_path))


def test_shards_without_a_checksum_are_not_used(model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shards that older versions named have no checksum, so damage would go unnoticed."""
    expected = stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)
    shard = load_file(file)
    file.unlink()
    shard["sums"] += 1.0
    for name in ("a" * 32, "b" * 32):
        save_file(shard, file.with_name(f"{name}.safetensors"))
    reference._verified.clear()
    assert stored(model, tmp_path, by_token=True).table == expected.table
    assert "because an older version wrote no checksum: 2 files" in caplog.text
    caplog.clear()
    assert stored(model, tmp_path, by_token=True).table == expected.table
    assert "no checksum" not in caplog.text, "the warning appears once"


def test_numbers_that_are_not_finite_are_never_served(model: Any, tmp_path: Path) -> None:
    expected = stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)

    def change(shard: dict[str, Any]) -> None:
        shard["tokens"][:2] = np.inf, np.nan

    with_other_numbers(file, change)
    assert stored(model, tmp_path, by_token=True).table == expected.table
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(NonFiniteError, match="not finite, although nothing was trained yet") as caught:
        stored(model, tmp_path)
    assert not isinstance(caught.value, DivergedError)


@pytest.mark.parametrize("value", [1e30, -1e30, 3.0, -2e5])
def test_a_value_that_no_model_gives_is_computed_again(
    value: float, model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would make the loss infinite, and the run would end as diverged."""
    expected = stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)

    def change(shard: dict[str, Any]) -> None:
        shard["tokens"][-1] = value

    with_other_numbers(file, change)
    (damaged,) = shards(tmp_path)
    for by_token in (False, True):
        caplog.clear()
        reference._verified.clear()
        assert stored(model, tmp_path, by_token=by_token).table == expected.table
        assert f"{damaged} holds values that no model gives (1 answer); these are computed again" in caplog.text


def test_a_sum_that_is_not_that_of_its_tokens_is_computed_again(model: Any, tmp_path: Path) -> None:
    expected = stored(model, tmp_path, by_token=True)
    (file,) = shards(tmp_path)
    shard = load_file(file)
    shard["sums"][0] -= 3.0
    scratch = tmp_path / "scratch"
    save_file(shard, scratch)
    file.unlink()
    scratch.rename(file.with_name(f"{sha256_of(scratch)}.safetensors"))
    assert stored(model, tmp_path).table == expected.table


def test_an_interrupted_pass_keeps_what_it_stored(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test stores after every forward pass. Real passes store once a minute."""
    expected = stored(model, tmp_path / "whole").table
    tokens, calls = LiveReference.tokens, []

    def stops(self: LiveReference, rows: Any) -> torch.Tensor:
        calls.append(len(rows.keys))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tokens(self, rows)

    monkeypatch.setattr(reference, "_STORE_EVERY", 0.0)
    monkeypatch.setattr(LiveReference, "tokens", stops)
    with pytest.raises(KeyboardInterrupt):
        stored(model, tmp_path / "cut")
    there = sum(len(load_file(file)["keys"]) for file in shards(tmp_path / "cut"))
    assert there == 4, "two forwards of two answers"
    monkeypatch.setattr(LiveReference, "tokens", tokens)
    assert stored(model, tmp_path / "cut").table == pytest.approx(expected, abs=1e-5)


def test_a_pass_halves_what_does_not_fit(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stored(model, tmp_path / "whole").table
    tokens = LiveReference.tokens

    def short(self: LiveReference, rows: Any) -> torch.Tensor:
        if len(rows.keys) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens(self, rows)

    monkeypatch.setattr(LiveReference, "tokens", short)
    assert stored(model, tmp_path / "short").table == pytest.approx(expected, abs=1e-5)


def test_other_weights_have_another_store(model: Any, tmp_path: Path) -> None:
    one = stored(model, tmp_path).table
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    other = stored(model, tmp_path).table
    assert len(list(tmp_path.iterdir())) == 2
    assert any(abs(one[key] - other[key]) > 1e-6 for key in one)


def test_a_missing_row_is_an_error_not_a_zero() -> None:
    rows = collate_pairs(PAIRS).rows
    table = dict.fromkeys(rows.keys, -3.0)
    del table[rows.keys[4]]
    with pytest.raises(ValueError, match=r"rows \[4\]"):
        CachedReference(table).sums(rows)


def test_a_reference_has_no_dropout_and_leaves_the_policy_as_it_was() -> None:
    model = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()[0]
    policy = LoRA(r=4, dropout=0.5).wrap(model).train()
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    rows = collate_pairs(PAIRS).rows
    dropping = LiveReference(policy)  # the adapter stays on, so its dropout would change the result
    assert torch.equal(dropping.sums(rows), dropping.sums(rows))
    assert policy.training
    assert not dropping.tokens(rows).requires_grad
    policy.eval()
    adapter_off(policy).sums(rows)
    assert not policy.training


def test_the_store_does_not_pretend_to_know_distributions() -> None:
    with pytest.raises(ValueError, match="not whole distributions"):
        CachedReference({}).predictions(collate_pairs(PAIRS).rows)


def test_keys_tell_prompt_from_answer() -> None:
    assert row_key([1, 2], [3]) != row_key([1], [2, 3])
    assert row_key([1, 2], [3]) == row_key([1, 2], [3])


def test_store_finds_what_it_holds(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path)
    keys = np.array([row_key([i], [i]) for i in range(50)])
    tokens = [np.full(i % 3 + 1, -i, dtype=np.float32) for i in range(50)]
    store.add(keys[:30], tokens[:30], keep_tokens=True)
    store.add(keys[25:40], tokens[25:40], keep_tokens=False)
    found = store.find(keys, tokens=False)
    np.testing.assert_array_equal(found.sums[:40], [-i * (i % 3 + 1) for i in range(40)])
    assert np.isnan(found.sums[40:]).all()
    assert found.tokens == [None] * 50
    assert sorted(map(len, found.shards.values())) == [15, 30]
    found = store.find(keys, tokens=True)
    assert np.isnan(found.sums[30:]).all()
    for i in range(30):
        np.testing.assert_array_equal(found.tokens[i], tokens[i])
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]
    (tmp_path / "usual").touch()
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1, "others can read shards"


def test_digest_sees_every_bit_and_the_dtype(model: Any) -> None:
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nextafter(model.lm_head.weight[0, 0], torch.tensor(9.0))
    assert weights_digest(model) != before
    assert weights_digest(model.to(torch.bfloat16)) != before


def test_digest_sees_what_the_config_does_to_the_function() -> None:
    """The same weights with another number of heads or another rope base make another policy."""
    one, two = (Tiny(name="t", alphabet="abc", hidden_size=32, heads=h).load()[0] for h in (4, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert weights_digest(one) != weights_digest(two)
    before = weights_digest(one)
    one.config.name_or_path = "elsewhere"
    assert weights_digest(one) == before
