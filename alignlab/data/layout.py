"""Prompts and answers as tables of token ids: plain rows, or several answers to a prompt in one sequence.

Padding is known from lengths alone (never from token values: pad and end-of-sequence are often the same id).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from alignlab.data.fingerprint import row_key
from alignlab.data.tokenize import PromptAndAnswer

# Sequences are tried at these multiples of the longest group's length.
_CAPACITIES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Layout:
    """How answers go through a model; a matter of time and memory, not of results.

    shared: a prompt stands once, before all answers to it, what several answers begin with stands once, and sequences
            are filled with several prompts. Needs a model that takes a mask of its own (alignlab/models/layout_check.py
            decides).
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
    ends:        int64[S, L], the column behind the last token that sees this one, which all from this one on do; 0 on
                 padding. A token's context is so a path through a tree that is written depth first.
    places:      int64[R, T + 1], index into the flattened sequences of the prompt's last token, then of the answer's.
    answer_mask: bool[R, T], True on answer tokens.
    lengths:     int64[R], tokens of the prompt and the answer.
    keys:        one for each answer, the same for the same prompt and answer (row_key).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    places: torch.Tensor
    answer_mask: torch.Tensor
    lengths: torch.Tensor
    keys: tuple[bytes, ...]
    layout: Layout = PLAIN

    @property
    def attention(self) -> torch.Tensor:
        """int64[S, L], 1 on real tokens."""
        return (self.ends > 0).long()

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

    def repeated(self, times: int) -> Rows:
        """The same rows so many times, one after the other."""
        start = self.ids.numel() * torch.arange(times, device=self.ids.device)
        return replace(
            self,
            ids=self.ids.repeat(times, 1),
            positions=self.positions.repeat(times, 1),
            ends=self.ends.repeat(times, 1),
            places=(self.places + start[:, None, None]).flatten(0, 1),
            answer_mask=self.answer_mask.repeat(times, 1),
            lengths=self.lengths.repeat(times),
            keys=self.keys * times,
        )

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """[N] values of answer tokens -> [R, T], 0 (False) off the answers."""
        return values.new_zeros(self.answer_mask.shape).masked_scatter(self.answer_mask, values)


@dataclass
class _Group:
    """A prompt and the answers to it that share it, by their place among all answers."""

    prompt: list[int]
    answers: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class _Tree:
    """A group as it is written. Columns count from 0; `paths` has those of each answer, by its place among all."""

    ids: list[int]
    positions: list[int]
    ends: list[int]
    prompt: int
    paths: dict[int, list[int]]


def collate_rows(answers: Sequence[PromptAndAnswer], layout: Layout = PLAIN) -> Rows:
    """Lay out R prompts and answers. Raises ValueError naming rows without a prompt token or an answer token."""
    for what, empty in (
        ("prompts", [i for i, (prompt, _) in enumerate(answers) if not prompt]),
        ("answers", [i for i, (_, answer) in enumerate(answers) if not answer]),
    ):
        if empty:
            raise ValueError(f"{what} without a token in rows {empty}")
    if layout.shared:
        sequences = _fill([_tree(group) for group in _share(answers, layout)], layout)
        left = [0] * len(sequences)
    else:
        sequences = [[_tree(_Group(prompt, {i: answer}))] for i, (prompt, answer) in enumerate(answers)]
        longest = max(len(prompt) for prompt, _ in answers)
        left = [longest - len(prompt) for prompt, _ in answers]
    return _table(answers, sequences, left, layout)


def split_by_budget(sizes: Sequence[int], rows: int, tokens: int) -> Iterator[range]:
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
    """Answers to the same prompt together, as long as that is cheaper than writing the prompt once more.

    Answers are counted whole here, though what they begin with may be there already.
    """
    groups: list[_Group] = []
    open_group: dict[tuple[int, ...], tuple[_Group, int]] = {}
    for row, (prompt, answer) in enumerate(answers):
        key, alone = tuple(prompt), len(prompt) + len(answer)
        group, length = open_group.get(key, (None, 0))
        if group is None or layout.cost(length + len(answer)) > layout.cost(length) + layout.cost(alone):
            group, length = _Group(prompt), len(prompt)
            groups.append(group)
        group.answers[row] = answer
        open_group[key] = group, length + len(answer)
    return groups


def _tree(group: _Group) -> _Tree:
    """Answers in the order of their ids, each from where it leaves the one before."""
    size = len(group.prompt)
    ids, positions, ends = list(group.prompt), list(range(size)), [0] * size
    before: list[int] = []
    path: list[int] = []
    paths: dict[int, list[int]] = {}
    for row, answer in sorted(group.answers.items(), key=lambda one: one[1]):
        same = next((i for i, (a, b) in enumerate(zip(before, answer, strict=False)) if a != b), len(before))
        for column in path[same:]:
            ends[column] = len(ids)
        paths[row] = path = [*path[:same], *range(len(ids), len(ids) + len(answer) - same)]
        ids += answer[same:]
        positions += range(size + same, size + len(answer))
        ends += [0] * (len(answer) - same)
        before = answer
    for column in (*range(size), *path):
        ends[column] = len(ids)
    return _Tree(ids, positions, ends, size, paths)


def _fill(trees: list[_Tree], layout: Layout) -> list[list[_Tree]]:
    """Trees in sequences, first fit with the longest first, at the capacity that makes the table cheapest."""
    trees = sorted(trees, key=lambda tree: -len(tree.ids))
    best: list[list[_Tree]] = []
    least = float("inf")
    for factor in _CAPACITIES:
        capacity = int(factor * len(trees[0].ids))
        sequences: list[list[_Tree]] = []
        filled: list[int] = []
        for tree in trees:
            length = len(tree.ids)
            place = next((i for i, used in enumerate(filled) if used + length <= capacity), None)
            if place is None:
                sequences.append([tree])
                filled.append(length)
            else:
                sequences[place].append(tree)
                filled[place] += length
        cost = len(filled) * layout.cost(max(filled))
        if cost < least:
            best, least = sequences, cost
        if len(filled) == 1:
            break
    return best


def _table(answers: Sequence[PromptAndAnswer], sequences: list[list[_Tree]], left: list[int], layout: Layout) -> Rows:
    """Sequences, each with so many columns of padding before it, as tensors."""
    ids: list[list[int]] = [[0] * pad for pad in left]
    positions: list[list[int]] = [[0] * pad for pad in left]
    ends: list[list[int]] = [[0] * pad for pad in left]
    length = max(pad + sum(len(tree.ids) for tree in trees) for pad, trees in zip(left, sequences, strict=True))
    longest = max(len(answer) for _, answer in answers)
    places: list[list[int]] = [[]] * len(answers)
    for s, trees in enumerate(sequences):
        for tree in trees:
            first = len(ids[s])
            ids[s] += tree.ids
            positions[s] += tree.positions
            ends[s] += [first + end for end in tree.ends]
            start = s * length + first
            for row, path in tree.paths.items():
                padding = [0] * (longest - len(path))
                places[row] = [start + tree.prompt - 1, *(start + column for column in path), *padding]
    counts = torch.tensor([len(answer) for _, answer in answers])
    return Rows(
        _padded(ids, length),
        _padded(positions, length),
        _padded(ends, length),
        torch.from_numpy(np.array(places)),
        torch.arange(longest) < counts[:, None],
        torch.tensor([len(prompt) + len(answer) for prompt, answer in answers]),
        tuple(row_key(prompt, answer) for prompt, answer in answers),
        layout,
    )


def _padded(values: list[list[int]], length: int) -> torch.Tensor:
    return torch.from_numpy(np.array([row + [0] * (length - len(row)) for row in values]))  # quicker than torch's own
