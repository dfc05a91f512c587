"""Turning rows into tensors: templates, cuts, padding, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignlab.data.collate import (
    collate_completions,
    collate_labelled,
    collate_pairs,
    collate_rankings,
)
from alignlab.data.datamodule import BatchStream, MicroBatches
from alignlab.data.fingerprint import row_key
from alignlab.data.layout import collate_rows
from alignlab.data.order import batch_indices, indices_of, rows_of_run, rows_used
from alignlab.data.rows import Completion, Labelled, Pair, Ranking
from alignlab.data.template import Encoded, Template, plain_transcript
from alignlab.data.tokenize import (
    CompletionTokens,
    Cutter,
    LabelledTokens,
    PairTokens,
    RankingTokens,
    mismatched,
    tokenize_completions,
    tokenize_labelled,
    tokenize_pairs,
    tokenize_rankings,
)
from alignlab.errors import DataError
from alignlab.models.sources.tiny import letters, raw_bytes

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_letters() -> None:
    tokenizer = letters("abc")
    template = Template(tokenizer)
    assert template.prompt_ids("cab") == [3, 2, 0, 1]
    assert template.encode("cab", [("ba", True), ("ba", False)]) == Encoded([3, 2, 0, 1], [[1, 0, 3], [1, 0]])


def test_an_empty_prompt_still_begins() -> None:
    assert Template(letters("abc")).prompt_ids("") == [3]
    assert Template(raw_bytes()).prompt_ids("") == [256]


def test_pairs_that_cutting_makes_equal_are_left_out_and_counted() -> None:
    rows = [Pair("a", "abcab", "abcac"), Pair("a", "b", "c")]
    tokens, report = tokenize_pairs(rows, Template(letters("abc")), Cutter(6, 2))
    assert tokens == [PairTokens(0, [3, 0], [1, 3], [2, 3])]
    assert dict(report.dropped) == {"identical after cutting": 1}


def test_pairs_whose_texts_differ_but_not_their_tokens() -> None:
    """Not a limit makes them equal here, but a tokenizer that reads capitals as small letters."""
    from tokenizers import normalizers

    tokenizer = letters("abc")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = [Pair("a", "bb", "BB"), Pair("a", "b", "c"), Pair("a", "bcabc", "BCabb")]
    tokens, report = tokenize_pairs(rows, Template(tokenizer), Cutter(6, 2))
    assert len(tokens) == 1
    assert dict(report.dropped) == {"identical as tokens": 1, "identical after cutting": 1}
    ranking = Ranking("a", ["b", "B"], [1.0, 0.0], [True] * 2)
    assert dict(tokenize_rankings([ranking], Template(tokenizer), Cutter(6, 2))[1].dropped) == {
        "identical as tokens": 1
    }


def test_bytes_round_trip() -> None:
    tokenizer = raw_bytes()
    text = "naïve 你好\n\nAssistant: ok"
    (ids,) = Template(tokenizer).encode("p", [(text, True)]).answers
    assert len(ids) == len(text.encode()) + 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_conversations_without_a_chat_template() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "A"},
    ]
    assert plain_transcript(messages) == "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: A\n\nAssistant:"
    tokenizer = raw_bytes()
    assert tokenizer.decode(*Template(tokenizer).encode(messages, [("B", False)]).answers) == " B"


def test_chat_template_and_its_end_of_turn() -> None:
    tokenizer = raw_bytes()
    tokenizer.chat_template = CHAT
    template = Template(tokenizer)
    assert tokenizer.decode(template.prompt_ids("Hi")) == "<user>Hi</s>\n<assistant>"
    assert template.end_id == tokenizer.eos_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = CHAT.replace("{{ eos_token }}", "<turn>")
    assert Template(tokenizer).end_id == tokenizer.convert_tokens_to_ids("<turn>") != tokenizer.eos_token_id


def test_cuts_are_counted() -> None:
    """A prompt of 5 tokens and a begin token is cut on the left to 4. That leaves 8 - 4 = 4 tokens for an answer."""
    rows = [Pair("abcab", "ab", "abcabc"), Pair("a", "abc", "b")]
    tokens, report = tokenize_pairs(rows, Template(letters("abc")), Cutter(8, 4))
    assert tokens[0] == PairTokens(0, [1, 2, 0, 1], [0, 1, 3], [0, 1, 2, 0])
    assert report.summary() == {
        "truncated_frac": 0.5,
        "mean_chosen_tokens": 3.5,
        "mean_prompt_tokens": 3.0,
        "mean_rejected_tokens": 3.0,
        "truncated_chosen_frac": 0.0,
        "truncated_prompt_frac": 0.5,
        "truncated_rejected_frac": 0.5,
    }
    answers, _ = tokenize_completions([Completion("a", "b", ended=False)], Template(letters("abc")), Cutter(8, 4))
    assert answers == [CompletionTokens(0, [3, 0], [1])]


def test_layout() -> None:
    batch = collate_pairs([PairTokens(7, [5], [1, 2, 3], [4]), PairTokens(9, [5, 6], [1], [2, 2])])
    assert batch.rows.ids.tolist() == [[0, 5, 1, 2, 3], [5, 6, 1, 0, 0], [0, 5, 4, 0, 0], [5, 6, 2, 2, 0]]
    assert batch.rows.attention.tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert batch.rows.positions.tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 0, 0], [0, 0, 1, 0, 0], [0, 1, 2, 3, 0]]
    assert batch.rows.token_indices.tolist() == [[1, 2, 3, 4], [6, 7, 0, 0], [11, 12, 0, 0], [16, 17, 18, 0]]
    assert batch.rows.targets.tolist() == [1, 2, 3, 1, 4, 2, 2]
    assert batch.rows.predicted_at.tolist() == [1, 2, 3, 6, 11, 16, 17]
    assert batch.rows.last.tolist() == [4, 7, 12, 18]
    assert batch.rows.answer_mask.tolist() == [
        [True, True, True],
        [True, False, False],
        [True, False, False],
        [True, True, False],
    ]
    assert batch.index.tolist() == [7, 9]
    assert (len(batch), batch.imitated_tokens, batch.all_tokens) == (2, 3 + 1, 4 + 3 + 2 + 4)


def test_token_values_never_decide_what_is_padding() -> None:
    """0 is a real token here. The mask depends on lengths only."""
    rows = collate_rows([([0], [0, 0])])
    assert rows.attention.tolist() == [[1, 1, 1]]
    assert rows.answer_mask.tolist() == [[True, True]]


def test_a_prompt_without_tokens_is_named() -> None:
    with pytest.raises(ValueError, match=r"prompts without a token in rows \[1\]"):
        collate_rows([([0], [1]), ([], [1])])


def test_an_answer_without_tokens_is_named() -> None:
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        collate_completions([CompletionTokens(0, [1], [1]), CompletionTokens(1, [1], [])])


def test_epochs_are_permutations_laid_end_to_end() -> None:
    seen = np.concatenate([batch_indices(10, 4, 3, step) for step in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert list(batch_indices(10, 4, 4, 0)) != list(batch_indices(10, 4, 3, 0))
    assert len(batch_indices(3, 8, 0, 1)) == 8


def test_draws_with_replacement() -> None:
    """The rows are a pure function of the step, also across blocks of steps; all rows are equally likely."""
    whole = indices_of(5, 4, 3, range(3000), "replacement")
    assert whole.shape == (3000, 4)
    for step in (0, 1023, 1024, 2999):
        assert list(batch_indices(5, 4, 3, step, "replacement")) == list(whole[step])
    assert list(indices_of(5, 4, 3, range(1000, 1100), "replacement").ravel()) == list(whole[1000:1100].ravel())
    share = np.bincount(whole.ravel()) / whole.size
    assert np.abs(share - 0.2).max() < 4 * (0.2 * 0.8 / whole.size) ** 0.5
    assert not np.array_equal(whole, indices_of(5, 4, 4, range(3000), "replacement"))
    assert rows_used(5, 4, 3, 2, "replacement") == sorted(set(whole[:2].ravel()))


def test_rows_used() -> None:
    assert rows_used(10, 4, 3, 2) == sorted(set(batch_indices(10, 4, 3, 0)) | set(batch_indices(10, 4, 3, 1)))
    assert rows_used(10, 4, 3, 3) == list(range(10))


def stream(**changes: int) -> BatchStream[int]:
    return BatchStream(range(10), batch_size=4, steps=5, seed=3, **changes)  # type: ignore[arg-type]


def test_two_processes_share_the_batches_of_one() -> None:
    whole = list(stream())
    parts = [list(stream(rank=r, world=2)) for r in (0, 1)]
    for one, a, b in zip(whole, *parts, strict=True):
        assert sorted(one) == sorted(a + b)
        assert len(a) == len(b) == 2


def test_a_resumed_stream_goes_on_where_it_stopped() -> None:
    late = stream()
    late.start = 3
    assert list(late) == list(stream())[3:]
    assert len(next(iter(late))) == 4


def test_micro_batches_end_before_they_have_too_many_rows_or_tokens() -> None:
    """Rows of 2, 4, 3, 9, 2, 2, 2 tokens, at most 3 rows and 7 tokens at once. The row of 9 tokens is alone."""
    rows = [CompletionTokens(i, [0], [0] * (size - 1)) for i, size in enumerate([2, 4, 3, 9, 2, 2, 2])]

    def indices(batch: list[CompletionTokens]) -> list[int]:
        return [row.index for row in batch]

    cut = MicroBatches(indices, rows=3, tokens=7)
    assert list(cut.of(rows)) == [[0, 1], [2], [3], [4, 5, 6]]
    assert list(cut.of([])) == []
    assert list(cut.halved(3).of(rows)) == [[0], [1], [2], [3], [4], [5], [6]]
    assert cut.halved(1).rows == 1
    pairs = [PairTokens(i, [0] * 3, [1], [2]) for i in range(3)]
    assert list(MicroBatches(indices, rows=9, tokens=16).of(pairs)) == [[0, 1], [2]], "a prompt counts for each answer"


def test_collated_tensors_are_integers() -> None:
    batch = collate_completions([CompletionTokens(0, [1, 2], [3])])
    assert batch.rows.ids.dtype == torch.int64
    assert batch.rows.answer_mask.dtype == torch.bool


def test_labelled_and_ranked_rows() -> None:
    template, cut = Template(letters("abc")), Cutter(8, 4)
    labelled, report = tokenize_labelled([Labelled("a", "b", True), Labelled("a", "abcabc", False)], template, cut)
    assert labelled[0] == LabelledTokens(0, [3, 0], [1, 3], True)
    assert labelled[1] == LabelledTokens(1, [3, 0], [0, 1, 2, 0, 1, 2], False)
    assert report.summary()["truncated_completion_frac"] == 0.5
    rows = [
        Ranking("a", ["b", "c", "b"], [2.0, 1.0, 1.0], [True] * 3),
        Ranking("a", ["b", "b"], [1.0, 0.0], [True] * 2),
    ]
    ranked, report = tokenize_rankings(rows, template, cut)
    assert ranked == [RankingTokens(0, [3, 0], [[1, 3], [2, 3], [1, 3]], [2.0, 1.0, 1.0])]
    assert dict(report.dropped) == {"identical as tokens": 1}


def test_an_answer_of_no_tokens_is_named_where_it_stands() -> None:
    rows = [Completion("a", "b"), Completion("a", "", ended=False)]
    with pytest.raises(DataError, match="row 2: completion has no token"):
        tokenize_completions(rows, Template(letters("abc")), Cutter(8, 4))


LABELLED = [LabelledTokens(i, [i], [i, i], i % 2 == 0) for i in range(5)]


def test_mismatched_answers_are_a_rotation_without_fixed_points() -> None:
    """A rotation by one row also works for an odd number of rows: no row gets its own answer, all answers are used."""
    rows = mismatched(LABELLED)
    assert [row.mismatched for row in rows] == [[4, 4], [0, 0], [1, 1], [2, 2], [3, 3]]
    assert [row.completion for row in rows] == [row.completion for row in LABELLED]
    for alone in (LABELLED[:1], LABELLED[:1] * 3):
        with pytest.raises(DataError, match="only one row"):
            mismatched(alone)


def test_mismatched_answers_are_to_other_prompts() -> None:
    """No row gets an answer to its own prompt, also with halves of pairs, repeated prompts and repeated rows."""
    halves = [LabelledTokens(2 * i + j, [i], [i, j], j == 0) for i in range(5) for j in (0, 1)]
    found = mismatched(halves)
    assert all(row.mismatched is not None and row.mismatched[0] != row.prompt[0] for row in found)
    used = sorted(map(tuple, (row.mismatched or [] for row in found)))
    assert used == sorted(tuple(row.completion) for row in halves), "a rotation: every answer once"
    for seed in range(50):  # so many rows of a few prompts that no rotation works
        some = np.random.default_rng(seed).integers(0, 3, size=9).tolist()
        rows = [LabelledTokens(i, [prompt % 2], [prompt % 2, i], True) for i, prompt in enumerate(some)]
        if len(set(some)) > 1 and {p % 2 for p in some} == {0, 1}:
            assert all(row.mismatched is not None and row.mismatched[0] != row.prompt[0] for row in mismatched(rows))
    one_prompt = [LabelledTokens(i % 3, [7], [i % 3], True) for i in range(7)]
    assert all(row.mismatched != row.completion for row in mismatched(one_prompt))


def test_mismatched_answers_do_not_depend_on_processes() -> None:
    """The reference pass knows all mismatched answers before training, for every seed and step."""

    def rows(rank: int, world: int) -> list[LabelledTokens]:
        stream = BatchStream(LABELLED, 4, steps=3, seed=3, batch_transform=mismatched, rank=rank, world=world)
        return [row for batch in stream for row in batch]

    def key(row: LabelledTokens) -> str:
        return repr(row)

    whole = sorted(rows(0, 1), key=key)
    assert sorted(rows(0, 2) + rows(1, 2), key=key) == whole
    assert sorted(rows_of_run(LABELLED, 4, 3, 3, mismatched), key=key) == whole


def test_labelled_batches() -> None:
    batch = collate_labelled(mismatched(LABELLED)[:3])
    assert batch.desirable.tolist() == [True, False, True]
    assert batch.mismatched is not None
    assert batch.mismatched.ids.tolist() == [[0, 4, 4], [1, 0, 0], [2, 1, 1]]
    assert batch.mismatched.keys[0] == row_key([0], [4, 4])
    assert batch.imitated_tokens == 6
    assert collate_labelled(LABELLED).mismatched is None


def test_ranking_batches() -> None:
    """Each answer is one row, ordered by prompt. Shorter rankings are masked."""
    rows = [RankingTokens(3, [1], [[2], [3, 3]], [1.0, 0.0], 0.5), RankingTokens(4, [1], [[4]] * 3, [0.0, 2.0, 2.0])]
    batch = collate_rankings(rows)
    assert batch.rows.ids.tolist() == [[1, 2, 0], [1, 3, 3], [1, 4, 0], [1, 4, 0], [1, 4, 0]]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.grades.tolist() == [[1.0, 0.0, 0.0], [0.0, 2.0, 2.0]]
    assert batch.margin.nan_to_num(-1).tolist() == [0.5, -1.0], "one of them has none"
