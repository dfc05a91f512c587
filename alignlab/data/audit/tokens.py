"""What the tokens of one split show: lengths, cuts, and whether the preferred answers are longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alignlab.data.tokenize import LabelledTokens, LengthReport, PairTokens, RankingTokens, Tokens
from alignlab.statistics.intervals import Estimate, share_interval


@dataclass(frozen=True)
class Spread:
    """Lengths of one part of the rows, in tokens: mean, median, 95th percentile and maximum.

    count: number of such parts in all rows, also in rows that were left out after cutting.
    """

    count: int
    mean: float
    median: float
    p95: float
    max: int


@dataclass(frozen=True)
class LengthBias:
    """How many of a number of pairs have a longer (shorter) preferred answer, counted in tokens.

    difference: mean of the preferred answer's length minus the other's, in tokens.
    """

    pairs: int
    longer: int
    shorter: int
    difference: float

    @property
    def share_longer(self) -> Estimate:
        """Share of pairs whose preferred answer is longer, with Wilson's 95 % interval."""
        return share_interval(self.longer, 0, self.pairs - self.longer)

    @property
    def preference(self) -> Estimate:
        """The share in which a pair of equal lengths counts 1/2, with its 95 % interval. 1/2 means no bias."""
        return share_interval(self.longer, self.pairs - self.longer - self.shorter, self.shorter)

    def record(self) -> dict[str, Any]:
        """The numbers in plain containers."""
        share = self.share_longer
        return {
            "chosen_longer": {"count": self.longer, "share": share.value, "low": share.low, "high": share.high},
            "chosen_shorter": {"count": self.shorter, "share": self.shorter / self.pairs},
            "mean_difference": round(self.difference, 3),
        }


@dataclass(frozen=True)
class TokenCounts:
    """What the tokens of R rows show, after cutting.

    rows:      number of rows that were tokenized.
    kept:      number of rows that were not left out after cutting.
    dropped:   reason -> rows that were left out after cutting.
    parts:     part of a row (prompt, completion, chosen, rejected) -> spread of its lengths.
    truncated: part of a row -> how often it was cut.
    per_row:   mean tokens of a row. A prompt counts once for each of its answers.
    longest:   most tokens of a prompt and an answer together.
    largest_id: largest token id.
    seams:     what the tokenizer and the chat template do to the answers -> number of rows (LengthReport.seams).
    compared:  number of rows whose ids were compared with the tokenizer's own rendering.
    without_margin: number of rows that give no margin (Ranking.margin).
    good:      number of rows that are labelled good; None if rows have no labels.
    bias:      of pairs; None for other rows.
    """

    rows: int
    kept: int
    dropped: Mapping[str, int]
    parts: Mapping[str, Spread]
    truncated: Mapping[str, int]
    per_row: float
    longest: int
    largest_id: int
    seams: Mapping[str, int]
    compared: int
    without_margin: int = 0
    good: int | None = None
    bias: LengthBias | None = None

    def record(self) -> dict[str, Any]:
        """The numbers in plain containers."""
        return {
            "rows": self.rows,
            "per_row": round(self.per_row, 2),
            "longest": self.longest,
            "compared": self.compared,
            **self.seams,
            "parts": {name: asdict(spread) for name, spread in self.parts.items()},
            "cut": {name: {"count": n, "share": n / self.parts[name].count} for name, n in self.truncated.items()},
        }


def look_at_tokens(tokens: Sequence[Tokens], report: LengthReport) -> TokenCounts:
    """Look at the tokens of a split, and at the report of their cuts. The rows are read once."""
    lengths: dict[str, list[int]] = {}
    largest = longest = total = without_margin = labelled = good = 0
    for row in tokens:
        for part, ids in _parts(row):
            lengths.setdefault(part, []).append(len(ids))
            largest = max(largest, max(ids))
        sizes = [len(prompt) + len(answer) for prompt, answer in row.answers()]
        longest, total = max(longest, *sizes), total + sum(sizes)
        without_margin += getattr(row, "margin", None) is None
        if isinstance(row, LabelledTokens):
            labelled, good = labelled + 1, good + row.desirable
    share_kept = len(tokens) / max(1, report.rows)
    return TokenCounts(
        rows=report.rows,
        kept=len(tokens),
        dropped=dict(report.dropped),
        parts={part: _spread(counts, round(len(counts) / share_kept)) for part, counts in lengths.items()},
        truncated={part: report.truncated[part] for part in lengths},
        per_row=total / len(tokens) if tokens else 0.0,
        longest=longest,
        largest_id=largest,
        seams=report.seams(),
        compared=report.compared,
        without_margin=without_margin,
        good=good if labelled else None,
        bias=_length_bias(lengths) if "chosen" in lengths else None,
    )


def _parts(row: Tokens) -> Iterator[tuple[str, Sequence[int]]]:
    """(name, ids) of the prompt and of each answer of a row."""
    yield "prompt", row.prompt
    if isinstance(row, PairTokens):
        yield "chosen", row.chosen
        yield "rejected", row.rejected
    elif isinstance(row, RankingTokens):
        yield from (("completion", completion) for completion in row.completions)
    else:
        yield "completion", row.completion


def _spread(lengths: Sequence[int], count: int) -> Spread:
    values = np.asarray(lengths)
    median, p95 = np.percentile(values, [50, 95])
    return Spread(count, round(float(values.mean()), 2), float(median), float(p95), int(values.max()))


def _length_bias(lengths: Mapping[str, Sequence[int]]) -> LengthBias:
    differences = np.asarray(lengths["chosen"]) - np.asarray(lengths["rejected"])
    longer, shorter = int((differences > 0).sum()), int((differences < 0).sum())
    return LengthBias(len(differences), longer, shorter, float(differences.mean()))
