"""Prompts and answers as tables of token ids: plain rows, or several answers to a prompt in one sequence.

Padding is known from lengths alone (never from token values: pad and end-of-sequence are often the same id).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alignlab.data.fingerprint import row_key
from alignlab.data.tokenize import PromptAndAnswer

# Sequences are tried at these multiples of the longest group's length.
_CAPACITIES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Layout:
    """How answers go through a model; a matter of time and memory, not of results.

    shared: a prompt stands once, before all answers to it, and sequences are filled with several prompts. Needs a model
            that takes a mask of its own (alignlab/models/layout.py decides).
    split:  the vocabulary is projected onto by us, in pieces, where answer tokens are predicted; else by the model.
    width:  hidden size of the model: it weighs what a longer sequence costs against what padding costs.
    """

    shared: bool = False
    split: bool = False
    width: int = 1

    def cost(self, length: int) -> float:
        """Of a sequence, in arbitrary units: per layer and token about 24 width^2 operations, and 4 width length."""
        return length * (6 * self.width + length)


PLAIN = Layout()


@dataclass(frozen=True, eq=False)
class Rows:
    """R answers in S sequences of L tokens. Plain rows have S = R, prompts end at one column and answers begin there.

    ids:         int64[S, L], 0 on padding.
    positions:   int64[S, L]; an answer counts on from its prompt.
    prompt:      int64[S, L], which prompt of its sequence a token belongs to, from 1; 0 on padding.
    branch:      int64[S, L], 0 on a prompt, k on the k-th answer to it.
    places:      int64[R, T + 1], index into the flattened sequences of the prompt's last token, then of the answer's.
    answer_mask: bool[R, T], True on answer tokens.
    lengths:     int64[R], tokens of the prompt and the answer.
    keys:        one for each answer, the same for the same prompt and answer (row_key).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    prompt: torch.Tensor
    branch: torch.Tensor
    places: torch.Tensor
    answer_mask: torch.Tensor
    lengths: torch.Tensor
    keys: tuple[bytes, ...]
    layout: Layout = PLAIN

    @property
    def attention(self) -> torch.Tensor:
        """int64[S, L], 1 on real tokens."""
        return (self.prompt > 0).long()

    @property
    def targets(self) -> torch.Tensor:
        """int64[N] ids of all answer tokens, row by row."""
        return self.ids.flatten()[self.places[:, 1:][self.answer_mask]]

    @property
    def predicted_at(self) -> torch.Tensor:
        """int64[N] index into the flattened sequences of the tokens that predict `targets`."""
        return self.places[:, :-1][self.answer_mask]

    @property
    def last(self) -> torch.Tensor:
        """int64[R] index into the flattened sequences of every answer's last token."""
        return self.places.gather(1, self.answer_mask.sum(dim=1, keepdim=True)).squeeze(1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """[N] values of answer tokens -> [R, T], 0 (False) off the answers."""
        return values.new_zeros(self.answer_mask.shape).masked_scatter(self.answer_mask, values)


@dataclass
class _Group:
    """A prompt and the answers to it that share it; `rows` are their places among all answers."""

    prompt: list[int]
    answers: list[list[int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    length: int = 0


def collate_rows(answers: Sequence[PromptAndAnswer], layout: Layout = PLAIN) -> Rows:
    """Lay out R prompts and answers. Raises ValueError naming rows without a prompt token or an answer token."""
    for what, empty in (
        ("prompts", [i for i, (prompt, _) in enumerate(answers) if not prompt]),
        ("answers", [i for i, (_, answer) in enumerate(answers) if not answer]),
    ):
        if empty:
            raise ValueError(f"{what} without a token in rows {empty}")
    if layout.shared:
        sequences = _fill(_share(answers, layout), layout)
        left = [0] * len(sequences)
    else:
        sequences = [[_Group(prompt, [answer], [i])] for i, (prompt, answer) in enumerate(answers)]
        longest = max(len(prompt) for prompt, _ in answers)
        left = [longest - len(prompt) for prompt, _ in answers]
    return _table(answers, sequences, left, layout)


def portions(sizes: Sequence[int], rows: int, tokens: int) -> Iterator[range]:
    """Items in order, at most `rows` at a time and at most `tokens` of their sizes together; never less than one."""
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == rows or total + size > tokens):
            yield range(start, i)
            start, total = i, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def _share(answers: Sequence[PromptAndAnswer], layout: Layout) -> list[_Group]:
    """Answers to the same prompt together, as long as that is cheaper than writing the prompt once more."""
    groups: list[_Group] = []
    open_group: dict[tuple[int, ...], _Group] = {}
    for row, (prompt, answer) in enumerate(answers):
        key = tuple(prompt)
        group, alone = open_group.get(key), len(prompt) + len(answer)
        if group is None or layout.cost(group.length + len(answer)) > layout.cost(group.length) + layout.cost(alone):
            group = open_group[key] = _Group(prompt, length=len(prompt))
            groups.append(group)
        group.answers.append(answer)
        group.rows.append(row)
        group.length += len(answer)
    return groups


def _fill(groups: list[_Group], layout: Layout) -> list[list[_Group]]:
    """Groups in sequences, first fit with the longest first, at the capacity that makes the table cheapest."""
    groups = sorted(groups, key=lambda group: -group.length)
    best: list[list[_Group]] = []
    least = float("inf")
    for factor in _CAPACITIES:
        capacity = int(factor * groups[0].length)
        sequences: list[list[_Group]] = []
        filled: list[int] = []
        for group in groups:
            place = next((i for i, used in enumerate(filled) if used + group.length <= capacity), None)
            if place is None:
                sequences.append([group])
                filled.append(group.length)
            else:
                sequences[place].append(group)
                filled[place] += group.length
        cost = len(filled) * layout.cost(max(filled))
        if cost < least:
            best, least = sequences, cost
        if len(filled) == 1:
            break
    return best


def _table(answers: Sequence[PromptAndAnswer], sequences: list[list[_Group]], left: list[int], layout: Layout) -> Rows:
    """Sequences, each with so many columns of padding before it, as tensors."""
    ids: list[list[int]] = [[0] * pad for pad in left]
    positions: list[list[int]] = [[0] * pad for pad in left]
    prompts: list[list[int]] = [[0] * pad for pad in left]
    branches: list[list[int]] = [[0] * pad for pad in left]
    places: list[tuple[int, int, int]] = [(0, 0, 0)] * len(answers)  # sequence, prompt's last column, answer's first
    for s, groups in enumerate(sequences):
        for number, group in enumerate(groups, start=1):
            size = len(group.prompt)
            ids[s] += group.prompt
            positions[s] += range(size)
            branches[s] += [0] * size
            last = len(ids[s]) - 1
            for branch, (row, answer) in enumerate(zip(group.rows, group.answers, strict=True), start=1):
                places[row] = (s, last, len(ids[s]))
                ids[s] += answer
                positions[s] += range(size, size + len(answer))
                branches[s] += [branch] * len(answer)
            prompts[s] += [number] * (len(ids[s]) - len(prompts[s]))
    length = max(map(len, ids))
    longest = max(len(answer) for _, answer in answers)
    where = [
        [s * length + column for column in (last, *range(first, first + len(answer)))] + [0] * (longest - len(answer))
        for (s, last, first), (_, answer) in zip(places, answers, strict=True)
    ]
    counts = torch.tensor([len(answer) for _, answer in answers])
    return Rows(
        _padded(ids, length),
        _padded(positions, length),
        _padded(prompts, length),
        _padded(branches, length),
        torch.from_numpy(np.array(where)),
        torch.arange(longest) < counts[:, None],
        torch.tensor([len(prompt) + len(answer) for prompt, answer in answers]),
        tuple(row_key(prompt, answer) for prompt, answer in answers),
        layout,
    )


def _padded(values: list[list[int]], length: int) -> torch.Tensor:
    return torch.from_numpy(np.array([row + [0] * (length - len(row)) for row in values]))  # quicker than torch's own
