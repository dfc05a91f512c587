"""Errors, warnings and facts about the rows of a run, from what their texts and tokens show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alignlab.data.audit.texts import Found, Texts
from alignlab.data.audit.tokens import TokenCounts
from alignlab.data.filters import REASONS, Reason, are_among, count_different
from alignlab.data.rows import Place, Split
from alignlab.data.sources.base import Source
from alignlab.data.tokenize import IDENTICAL
from alignlab.spelling import counted, for_shell
from alignlab.types import Requires

# The preferred answers count as longer (or shorter) if this share of pairs says so, and 1/2 is outside the interval.
_BIAS = 0.6

_SPLITS: dict[Split, str] = {"train": "training", "eval": "held-out"}

# Words of a reason -> name of its finding. Other reasons that have no name in `Reason` are named by their words.
_NAMES = {reason.value: reason.key for reason in Reason} | {
    "transcripts differ before the last answer": "differing_prompts",
    "the last turn is not the assistant's": "last_turn_of_user",
}

_PARTS = {"prompt": "prompts", "completion": "answers", "chosen": "chosen answers", "rejected": "rejected answers"}

_SEAMS = {
    "boundary_moved": "have a token that spans prompt and answer; it counts as the answer's",
    "answer_rewritten": "have an answer that the chat template changes",
    "prompt_rewritten": "have a turn before the answer that the chat template changes",
    "dated": "are rendered with today's date by the chat template: they have other tokens on another day",
    "opens_otherwise": (
        "begin the answer with another text than a prompt with add_generation_prompt does: a program that uses it "
        "gives the policy other prompts than training"
    ),
    "rendered_before": "hold tokens that begin or end a text; they are used as they are (data.template=none)",
    "holds_header": "hold the text that the chat template writes before an answer: they may have been rendered before",
    "holds_special": "hold a special token as text, which the model reads as that token",
    "holds_other_marks": (
        "hold marks of another model's chat template, such as [INST] or <|im_start|>: they were rendered before, and "
        "this model reads the marks as ordinary text. Use the rows as they were before that"
    ),
    "respelled": "hold characters that the tokenizer does not know or changes: the model reads another text",
}

# Name of a finding about seams -> what to type.
_SEAM_CURES = {"holds_header": "data.template=none, if they were"}

# Findings that are known of the compared rows only.
_OF_COMPARED = ("respelled",)

_TEXTS = {
    Reason.TIE: "have answers of equal grade",
    Reason.NEGATIVE_MARGIN: "have a margin below 0, which says that the rejected answer is the better one",
    Reason.SWAPPED: "prefer the opposite of another row with the same answers",
    Reason.CONTRADICTORY: "have the same answer labelled good and bad",
    Reason.DUPLICATE: "are the same as an earlier row",
    Reason.EMPTY: "have an empty answer",
    Reason.EMPTY_PROMPT: "have an empty prompt, or a turn without text",
    Reason.NULL_TEXT: "have a text that only says that there is none (None, null, nan)",
    Reason.IDENTICAL: "have identical answers",
    Reason.LEAKED: "have a prompt that training uses too: they do not measure how the policy generalises",
}

# What to type if all answers are good: imitate them, or make bad ones.
_BAD_ANSWERS = (
    "objective=sft, or label the policy's samples as bad answers first: "
    "alignlab synthesize model=<the policy> data=<this data> synthesis.form=labels synthesis.preferred=data"
)


@dataclass(frozen=True)
class Finding:
    """Something that an audit found.

    name:     its name for programs, such as `duplicate`.
    text:     one sentence for people, with numbers.
    split:    train or eval; empty if it is not about one split.
    count:    number of rows.
    share:    `count` divided by the number of rows that were looked at.
    cure:     what to type; empty if nothing needs to be done.
    examples: where up to five of the rows come from.
    """

    name: str
    text: str
    split: str = ""
    count: int = 0
    share: float = 0.0
    cure: str = ""
    examples: tuple[Place, ...] = ()

    def __str__(self) -> str:
        rows: dict[str, list[str]] = {}
        for place in self.examples:
            rows.setdefault(place.file, []).append(str(place.row))
        files = [f"{file}, row{'s' * (len(of_file) > 1)} {', '.join(of_file)}" for file, of_file in rows.items()]
        places = f" ({'; '.join(files)})" if files else ""
        cure = f"\n  type: {for_shell(self.cure)}" if self.cure else ""
        return f"{self.text}{places}{cure}"


@dataclass(frozen=True)
class Look:
    """What one split shows. A part that was not looked at is None."""

    texts: Texts | None = None
    tokens: TokenCounts | None = None

    @property
    def good(self) -> int | None:
        """Number of rows that are labelled good; None if rows have no labels."""
        if self.texts is not None:
            return self.texts.good
        return None if self.tokens is None else self.tokens.good

    @property
    def rows(self) -> int:
        """Number of rows that the run would use, as far as they were looked at."""
        if self.texts is None:
            return 0 if self.tokens is None else self.tokens.kept
        return self.texts.count - (0 if self.tokens is None else self.tokens.rows - self.tokens.kept)


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    errors:    rows from which a run can't learn, or would learn something else than the data says.
    warnings:  rows that a run can use, but that its user should know of.
    unchecked: what was not looked at, and why.
    facts:     numbers of both splits.
    """

    errors: Sequence[Finding] = ()
    warnings: Sequence[Finding] = ()
    unchecked: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The audit in plain containers, for JSON."""
        return {
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "unchecked": list(self.unchecked),
            "facts": dict(self.facts),
        }


def audit(
    source: Source,
    looks: Mapping[Split, Look],
    *,
    positions: int | None = None,
    vocabulary: int | None = None,
    unchecked: Sequence[str] = (),
) -> Audit:
    """Errors, warnings and facts that do not depend on the objective.

    source:    configures the rows; its fields are named in cures.
    looks:     what each split shows.
    positions: most tokens that the model can read; None if there is no limit, or if the limit is not known.
    vocabulary: number of tokens that the model has embeddings of; None if it is not known.
    unchecked: what was not looked at, and why.
    """
    errors: list[Finding] = []
    warnings: list[Finding] = []
    for split, look in looks.items():
        if not look.rows and (look.texts or look.tokens):
            errors.append(_nothing_left(split, look))
        if look.texts is not None:
            warnings += _of_texts(source, split, look.texts)
        if look.tokens is not None:
            errors += _too_large(split, look.tokens, positions, vocabulary)
            warnings += _of_tokens(source, split, look.tokens)
    if looks["train"].texts is not None:  # pairs of a world have no texts
        warnings += _length_bias(looks["train"].tokens)
    warnings += _one_sided(looks["train"])
    train, held_out = (looks[split].texts for split in ("train", "eval"))
    if train is not None and held_out is not None:
        warnings += _leaks(source, train, held_out)
    facts: dict[str, Any] = {split: _facts(look) for split, look in looks.items()}
    return Audit(errors, warnings, unchecked, facts)


def errors_for(needs: Requires, looks: Mapping[Split, Look]) -> Iterator[Finding]:
    """Yield errors of rows that an objective with these needs can't use."""
    for split, look in looks.items():
        if needs.mismatched and look.rows == 1:
            text = f"one {_SPLITS[split]} row is left, but this objective estimates a KL from the answers of other rows"
            yield Finding("one_row", text, split, 1, 1.0)
        if look.tokens is not None and needs.margin and (count := look.tokens.without_margin):
            kept = look.tokens.kept
            text = f"objective.margins: not all {_SPLITS[split]} rows have a margin ({count} of {kept} have none)"
            yield Finding("no_margin", text, split, count, count / kept, "objective.margins=false")


def _too_large(split: Split, tokens: TokenCounts, positions: int | None, vocabulary: int | None) -> Iterator[Finding]:
    if positions is not None and tokens.longest > positions:
        text = f"a row has {tokens.longest} tokens, but the model has {counted(positions, 'position')}"
        yield Finding("too_long", text, split, 1, 1 / tokens.kept, f"data.max_length={positions}")
    if vocabulary is not None and tokens.largest_id >= vocabulary:
        text = f"a row has a token with the id {tokens.largest_id}, but the model has {vocabulary} embeddings"
        yield Finding("no_embedding", text, split, 1, 1 / tokens.kept)


def _nothing_left(split: Split, look: Look) -> Finding:
    dropped = dict(look.texts.left_out) if look.texts else {}
    after = look.tokens.dropped if look.tokens else {}
    why = [f"{found.count} left out: {reason}" for reason, found in dropped.items()]
    why += [f"{count} left out: {reason}" for reason, count in after.items()]
    return Finding("no_rows", f"no {_SPLITS[split]} rows are left ({', '.join(why) or 'there were none'})", split)


def _of_texts(source: Source, split: Split, texts: Texts) -> Iterator[Finding]:
    loaded = texts.count + texts.beyond + sum(found.count for found in texts.left_out.values())
    for reason, found in texts.left_out.items():
        yield _finding(_name(reason), f"were left out: {reason}", split, found, loaded)
    for kind, found in texts.found.items():
        yield _finding(kind.key, _TEXTS[kind], split, found, texts.count, _drop(source, kind))


def _one_sided(train: Look) -> Iterator[Finding]:
    """A warning if all answers are good or all are bad. Every loss on labels is monotone in each log-ratio."""
    good, count = train.good, train.rows
    if good is None or good not in (0, count) or not count:
        return
    label, other, way, cure = ("good", "bad", "up", _BAD_ANSWERS) if good else ("bad", "good", "down", "")
    every = "the only training answer is" if count == 1 else f"all {count} training answers are"
    text = (
        f"{every} {label}, none is {other}: every row pushes the log-ratio of its answer {way}, and no row pushes it "
        "back. So the loss has no minimum, and the policy moves away from the reference until training ends, even if "
        f"the loss does not show it{'' if good else '. Bad answers do not say what to answer instead: add good ones'}"
    )
    yield Finding("one_sided", text, "train", count, 1.0, cure)


def _of_tokens(source: Source, split: Split, tokens: TokenCounts) -> Iterator[Finding]:
    longer = f"data.max_length={2 * source.max_length} data.max_prompt_length={2 * source.max_prompt_length}"
    for part, count in tokens.truncated.items():
        limit = "max_prompt_length" if part == "prompt" else "max_length"
        if count:
            text = f"were cut to data.{limit}={getattr(source, limit)}"
            found, of, what = Found(count), tokens.parts[part].count, _PARTS[part]
            yield _finding(f"cut_{part}", text, split, found, of, longer, what)
    for name, count in tokens.seams.items():
        if count:
            of = tokens.compared if name in _OF_COMPARED else tokens.rows
            yield _finding(name, _SEAMS[name], split, Found(count), of, _SEAM_CURES.get(name, ""))
    for reason, count in tokens.dropped.items():
        cure = longer if reason == IDENTICAL else ""
        yield _finding(_name(reason), f"were left out: {reason}", split, Found(count), tokens.rows, cure)


def _length_bias(tokens: TokenCounts | None) -> Iterator[Finding]:
    if tokens is None or tokens.bias is None:
        return
    bias, preference = tokens.bias, tokens.bias.preference
    toward_long = preference.value >= _BIAS and preference.low > 0.5
    if toward_long or (preference.value <= 1 - _BIAS and preference.high < 0.5):
        longer = bias.share_longer
        text = (
            f"the chosen answer is longer in {longer.value:.1%} of pairs [{longer.low:.1%}, {longer.high:.1%}] and "
            f"shorter in {bias.shorter / bias.pairs:.1%} ({bias.difference:+.1f} tokens on average): a policy can "
            "learn the length instead of the preference"
        )
        yield Finding("length_bias", text, "train", bias.longer, longer.value, "objective=r_dpo" if toward_long else "")


def _leaks(source: Source, train: Texts, held_out: Texts) -> Iterator[Finding]:
    prompts = held_out.at(are_among(held_out.prompts, train.prompts))
    rows = held_out.at(are_among(held_out.rows, train.rows))
    if prompts.count:
        yield _finding("leaked", _TEXTS[Reason.LEAKED], "eval", prompts, held_out.count, _drop(source, Reason.LEAKED))
    if rows.count:
        text = "are training rows too, with all their answers"
        yield _finding("leaked_row", text, "eval", rows, held_out.count, _drop(source, Reason.LEAKED))


def _finding(name: str, text: str, split: Split, found: Found, of: int, cure: str = "", what: str = "rows") -> Finding:
    share = found.count / of
    words = f"{found.count} of {of} {_SPLITS[split]} {what} ({share:.1%}) {text}"
    return Finding(name, words, split, found.count, share, cure, found.places)


def _name(reason: str) -> str:
    """The name of a finding about rows that were left out for a reason."""
    return _NAMES.get(reason) or re.sub(r"\W+", "_", reason.lower()).strip("_")


def _drop(source: Source, reason: Reason) -> str:
    """What to type to leave out the rows of a reason too."""
    wanted = {*source.drop, reason.key}
    return f"data.drop=[{','.join(key for key in REASONS if key in wanted)}]"


def _facts(look: Look) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": look.rows}
    if (texts := look.texts) is not None:
        facts["prompts"] = count_different(texts.prompts)
        facts["left_out"] = {reason: found.count for reason, found in texts.left_out.items()}
        facts["found"] = {reason.key: found.count for reason, found in texts.found.items()}
        if texts.good is not None:
            facts["labels"] = {"desirable": texts.good, "undesirable": texts.count - texts.good}
    if look.tokens is not None:
        facts["tokens"] = look.tokens.record()
        if look.texts is not None:
            facts["left_out"] |= look.tokens.dropped
        if look.texts is not None and look.tokens.bias is not None:
            facts["length_bias"] = look.tokens.bias.record()
    return facts
