"""Each finding of an audit, on rows made by hand, with exact counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.audit.audit import Audit, Look, audit, errors_for
from alignlab.data.audit.texts import look_at_texts
from alignlab.data.audit.tokens import look_at_tokens
from alignlab.data.filters import drop_unusable
from alignlab.data.rows import Labelled, Loaded, Pair, Place, Split
from alignlab.data.sources.hh_rlhf import HHRLHF
from alignlab.data.sources.pairs import Pairs
from alignlab.data.tokenize import LabelledTokens, LengthReport, PairTokens, RankingTokens, Tokens
from alignlab.types import Requires

SOURCE = Pairs(path="f.jsonl", max_length=10, max_prompt_length=6)


def pair(number: int, prompt: str, chosen: str = "good", rejected: str = "bad") -> Pair:
    return Pair(prompt, chosen, rejected, place=Place("f.jsonl", number))


def audited(train: Sequence[Any], held_out: Sequence[Any] = (Pair("held out", "a", "b"),)) -> Audit:
    """The audit of the texts of both splits."""
    looks = [Look(look_at_texts(drop_unusable(Loaded(list(rows))))) for rows in (train, held_out)]
    return audit(SOURCE, {"train": looks[0], "eval": looks[1]})


def counted(found: Audit) -> dict[str, int]:
    return {f"{finding.split} {finding.name}": finding.count for finding in found.warnings}


def tokenized(tokens: Sequence[Tokens], **report: Any) -> Look:
    return Look(None, look_at_tokens(tokens, LengthReport(rows=len(tokens), **report)))


def test_rows_without_faults_give_no_warnings() -> None:
    found = audited([pair(1, "p"), pair(2, "q")])
    assert (found.errors, found.warnings, found.unchecked) == ([], [], ())
    assert found.facts["train"] == {"rows": 2, "prompts": 2, "left_out": {}, "found": {}}


def test_duplicates_have_a_count_a_share_places_and_a_cure() -> None:
    found = audited([pair(i, "p" if i < 8 else f"q{i}") for i in range(1, 11)])
    (finding,) = found.warnings
    assert (finding.name, finding.split, finding.count, finding.share) == ("duplicate", "train", 6, 0.6)
    assert finding.examples == tuple(Place("f.jsonl", i) for i in (2, 3, 4, 5, 6)), "five of six"
    assert finding.cure == "data.drop=[duplicate]"
    text = "6 of 10 training rows (60.0%) are the same as an earlier row (f.jsonl, rows 2, 3, 4, 5, 6)"
    assert str(finding) == f"{text}\n  type: 'data.drop=[duplicate]'"


def test_a_cure_keeps_what_is_left_out_already() -> None:
    texts = look_at_texts(Loaded([pair(1, "p"), pair(2, "p")]))
    source = Pairs(path="f.jsonl", drop=["swapped"])
    (finding,) = audit(source, {"train": Look(texts), "eval": Look()}).warnings
    assert finding.cure == "data.drop=[swapped,duplicate]"


def test_swapped_left_out_and_tied_rows() -> None:
    rows = [
        pair(1, "p"), pair(2, "p", "bad", "good"), pair(3, "q", "x", "x"), pair(4, "r", "x", "x"), pair(5, "s", ""),
        Pair("t", "a", "b", margin=0.0),
    ]  # fmt: skip
    found = audited(rows)
    assert counted(found) == {"train identical": 2, "train empty": 1, "train tie": 1, "train swapped": 2}
    assert [finding.share for finding in found.warnings] == [2 / 6, 1 / 6, 1 / 3, 2 / 3]
    assert found.facts["train"]["left_out"] == {"identical answers": 2, "empty answer": 1}
    assert found.warnings[0].examples == (Place("f.jsonl", 3), Place("f.jsonl", 4))


def test_leaks_of_prompts_and_of_whole_rows() -> None:
    train = [pair(1, "p"), pair(2, "q")]
    held_out = [pair(1, " p "), pair(2, "p", "other"), pair(3, "r")]
    found = audited(train, held_out)
    assert counted(found) == {"eval leaked": 2, "eval leaked_row": 1}
    assert {finding.cure for finding in found.warnings} == {"data.drop=[leaked]"}


def labelled(good: int, bad: int) -> list[Labelled]:
    return [Labelled(f"p{i}", "a", i < good) for i in range(good + bad)]


MADE = (
    "objective=sft, or label the policy's samples as bad answers first: "
    "alignlab synthesize model=<the policy> data=<this data> synthesis.form=labels synthesis.preferred=data"
)


UP = "pushes the log-ratio of its answer up, and no row pushes it back. So the loss has no minimum"


@pytest.mark.parametrize(
    ("good", "bad", "words", "cure"),
    [
        (5, 0, ["all 5 training answers are good, none is bad", UP], MADE),
        (1, 0, ["the only training answer is good, none is bad", UP], MADE),
        (0, 4, ["all 4 training answers are bad", "of its answer down", "add good ones"], ""),
    ],
)
def test_labels_of_one_kind(good: int, bad: int, words: list[str], cure: str) -> None:
    found = audited(labelled(good, bad))
    (finding,) = found.warnings
    assert (finding.name, finding.count, finding.cure) == ("one_sided", good + bad, cure)
    assert all(text in finding.text for text in words), finding.text
    assert found.facts["train"]["labels"] == {"desirable": good, "undesirable": bad}


def test_labels_of_one_kind_in_rows_of_a_world_which_have_no_texts() -> None:
    rows = [LabelledTokens(i, [0], [1], desirable=False) for i in range(3)]
    found = audit(SOURCE, {"train": tokenized(rows), "eval": Look()})
    assert counted(found) == {"train one_sided": 3}
    both = [*rows, LabelledTokens(3, [0], [1], desirable=True)]
    assert counted(audit(SOURCE, {"train": tokenized(both), "eval": Look()})) == {}


def test_margins_that_contradict_the_preference() -> None:
    rows = [Pair(f"p{i}", "a", "b", margin=margin) for i, margin in enumerate((1.0, -0.5, None, -2.0, 0.0))]
    found = audited(rows)
    assert counted(found) == {"train negative_margin": 2, "train tie": 1}
    assert {finding.cure for finding in found.warnings} == {"data.drop=[tie]", "data.drop=[negative_margin]"}


def test_labels_of_both_kinds_and_a_contradiction() -> None:
    assert counted(audited(labelled(3, 1))) == {}
    twice = [Labelled("p", "a", True), Labelled("p", "a", False), Labelled("q", "a", True)]
    found = audited(twice)
    assert counted(found) == {"train contradictory": 2}
    assert found.facts["train"]["labels"] == {"desirable": 2, "undesirable": 1}


def test_no_rows_left_is_an_error() -> None:
    found = audited([pair(1, "p", "x", "x"), pair(2, "q", "", "y")])
    (error,) = found.errors
    assert error.name == "no_rows"
    assert str(error) == "no training rows are left (1 left out: identical answers, 1 left out: empty answer)"


def pairs_of(*lengths: tuple[int, int]) -> list[PairTokens]:
    """Pairs with these numbers of chosen and rejected tokens, after prompts of four tokens."""
    return [PairTokens(i, [0] * 4, [1] * chosen, [2] * rejected) for i, (chosen, rejected) in enumerate(lengths)]


def test_lengths() -> None:
    tokens = look_at_tokens(pairs_of((1, 2), (2, 2), (6, 2), (3, 10)), LengthReport(rows=4))
    chosen = tokens.parts["chosen"]
    assert (chosen.count, chosen.mean, chosen.median, chosen.p95, chosen.max) == (4, 3.0, 2.5, pytest.approx(5.55), 6)
    assert tokens.longest == 14
    assert tokens.per_row == (4 * 4 * 2 + 12 + 16) / 4
    assert tokens.bias is not None
    assert (tokens.bias.longer, tokens.bias.shorter, tokens.bias.difference) == (1, 2, -1.0)


def test_cuts() -> None:
    report = LengthReport(rows=5, truncated=Counter({"prompt": 2, "chosen": 1}))
    look = Look(None, look_at_tokens(pairs_of(*[(2, 2)] * 5), report))
    found = audit(SOURCE, {"train": look, "eval": Look()})
    assert [(finding.name, finding.count, finding.share) for finding in found.warnings] == [
        ("cut_prompt", 2, 0.4),
        ("cut_chosen", 1, 0.2),
    ]
    text = "2 of 5 training prompts (40.0%) were cut to data.max_prompt_length=6"
    assert str(found.warnings[0]) == f"{text}\n  type: data.max_length=20 data.max_prompt_length=12"


def test_rows_that_are_identical_after_cutting() -> None:
    report = LengthReport(rows=4)
    report.dropped["identical after cutting"] = 3
    found = audit(SOURCE, {"train": Look(None, look_at_tokens(pairs_of((1, 2)), report)), "eval": Look()})
    assert [(finding.name, finding.count, finding.share) for finding in found.warnings] == [
        ("identical_after_cutting", 3, 0.75)
    ]
    assert found.facts["train"]["rows"] == 1
    assert found.warnings[0].cure == "data.max_length=20 data.max_prompt_length=12"
    report.dropped = Counter({"identical as tokens": 3})
    found = audit(SOURCE, {"train": Look(None, look_at_tokens(pairs_of((1, 2)), report)), "eval": Look()})
    assert [(finding.name, finding.cure) for finding in found.warnings] == [("identical_as_tokens", "")]


def biased(longer: int, equal: int, shorter: int) -> list[Any]:
    lengths = [(3, 2)] * longer + [(2, 2)] * equal + [(2, 5)] * shorter
    texts = look_at_texts(Loaded([pair(i, f"p{i}") for i in range(len(lengths))]))
    look = Look(texts, look_at_tokens(pairs_of(*lengths), LengthReport(rows=len(lengths))))
    found = audit(SOURCE, {"train": look, "eval": Look()})
    assert found.facts["train"]["length_bias"]["chosen_longer"]["count"] == longer
    return list(found.warnings)


def test_length_bias() -> None:
    (finding,) = biased(70, 10, 20)
    assert (finding.name, finding.count, finding.share) == ("length_bias", 70, 0.7)
    assert "longer in 70.0% of pairs [60.4%, 78.1%] and shorter in 20.0% (+0.1 tokens on average)" in finding.text
    assert finding.cure == "objective=r_dpo"
    assert biased(20, 10, 70)[0].cure == ""
    assert biased(55, 0, 45) == [], "a small difference"
    assert biased(0, 100, 0) == [], "all lengths are equal"
    assert biased(2, 0, 1) == [], "three pairs say nothing"


def test_errors_that_depend_on_the_objective() -> None:
    one = tokenized([RankingTokens(0, [1], [[1], [2]], [1.0, 0.0], None)])
    two = tokenized([RankingTokens(i, [1], [[1], [2]], [1.0, 0.0], 0.5) for i in range(2)])
    looks: dict[Split, Look] = {"train": two, "eval": one}
    assert list(errors_for(Requires("rankings"), looks)) == []
    (margin,) = errors_for(Requires("rankings", margin=True), looks)
    assert (margin.name, margin.split, margin.count, margin.cure) == ("no_margin", "eval", 1, "objective.margins=false")
    (alone,) = errors_for(Requires("labelled", mismatched=True), looks)
    assert alone.text == "one held-out row is left, but this objective estimates a KL from the answers of other rows"


def test_rows_that_are_longer_than_the_model() -> None:
    look = tokenized(pairs_of((4, 4)))
    assert audit(SOURCE, {"train": look, "eval": Look()}, positions=8).errors == []
    (error,) = audit(SOURCE, {"train": look, "eval": Look()}, positions=7).errors
    assert str(error) == "a row has 8 tokens, but the model has 7 positions\n  type: data.max_length=7"


def test_tokens_without_an_embedding() -> None:
    look = tokenized(pairs_of((1, 1)))  # the rejected tokens have the id 2
    assert audit(SOURCE, {"train": look, "eval": Look()}, vocabulary=3).errors == []
    (error,) = audit(SOURCE, {"train": look, "eval": Look()}, vocabulary=2).errors
    assert error.name == "no_embedding"
    assert error.text == "a row has a token with the id 2, but the model has 2 embeddings"


def test_answers_that_the_tokenizer_or_the_template_changes() -> None:
    look = tokenized(pairs_of((1, 1), (1, 1)), moved=1, rewritten=2)
    found = audit(SOURCE, {"train": look, "eval": Look()})
    assert counted(found) == {"train boundary_moved": 1, "train answer_rewritten": 2}
    assert found.warnings[0].text.startswith("1 of 2 training rows (50.0%) have a token that spans prompt and answer")


def test_what_is_known_of_compared_rows_is_a_share_of_them() -> None:
    look = tokenized(pairs_of((1, 1), (1, 1), (1, 1)), respelled=1, compared=2, with_header=3)
    header, respelled = audit(SOURCE, {"train": look, "eval": Look()}).warnings
    assert (header.name, header.share, header.cure) == ("holds_header", 1.0, "data.template=none, if they were")
    assert respelled.text.startswith("1 of 2 training rows (50.0%) hold characters that the tokenizer does not know")


def test_an_audit_is_json() -> None:
    found = audited([pair(1, "p"), pair(2, "p"), pair(3, "q", "x", "x")])
    record = json.loads(json.dumps(found.record()))
    assert [finding["name"] for finding in record["warnings"]] == ["identical", "duplicate"]
    assert record["warnings"][1]["examples"] == [{"file": "f.jsonl", "row": 2}]
    assert record["facts"]["train"]["found"] == {"duplicate": 1}


def test_real_pairs(shared_data: Path) -> None:
    """HH-RLHF, all four official test splits: 8,552 pairs."""
    subsets = ["helpful-rejection-sampled", "helpful-online", "harmless-base"]
    source = HHRLHF(path=str(shared_data / "hh_rlhf"), subsets=subsets, eval_limit=0)
    splits: tuple[Split, ...] = ("train", "eval")
    loaded = {split: source.pairs(split, None) for split in splits}
    found = audit(source, {split: Look(look_at_texts(rows)) for split, rows in loaded.items()})
    counts: Counter[str] = Counter()
    for finding in found.warnings:
        counts[finding.name] += finding.count
    assert counts.pop("empty_prompt") == 1, "an earlier turn of a row that is kept"
    assert counts == {"identical": 36, "differing_prompts": 17, "empty": 11, "last_turn_of_user": 2}
    assert sum(len(rows.rows) for rows in loaded.values()) == 8552 - counts.total()


def test_shares_of_rows_that_were_left_out_count_rows_beyond_a_limit() -> None:
    rows = [Pair(f"p{i}", "a", "b") for i in range(9)] + [Pair("q", "a", "a")]
    loaded = drop_unusable(Loaded(rows)).first(4)
    assert (len(loaded.rows), loaded.beyond) == (4, 5)
    held_out = Look(look_at_texts(Loaded([Pair("h", "a", "b")])))
    (finding,) = audit(Pairs(path="x.jsonl"), {"train": Look(look_at_texts(loaded)), "eval": held_out}).warnings
    assert finding.text == "1 of 10 training rows (10.0%) were left out: identical answers"
