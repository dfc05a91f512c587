"""Lays out prompts and answers as tables of token ids.

A sequence holds one prompt and one answer, or several answers that share their prompt.
Padding is derived from lengths, never from token values: padding and end-of-sequence often have the same id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from alignlab.data.fingerprint import row_key
from alignlab.data.tokenize import PromptAndAnswer

# `_fill` tries these sequence lengths, as multiples of the longest tree's length.
_CAPACITIES = (1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Layout:
    """How answers go through a model. It changes time and memory, not results.

    shared: whether answers share tokens. A prompt is stored once, before all of its answers; a prefix that several
            answers have in common is stored once; and one sequence may hold several prompts. This needs a model that
            accepts an attention mask from the caller (alignlab/models/layout_check.py finds out).
    split:  whether alignlab computes the logits itself, in pieces and only where answer tokens are predicted. If
            False, the model computes them.
    width:  hidden size of the model, for `cost`.
    """

    shared: bool = False
    split: bool = False
    width: int = 1

    def cost(self, length: int) -> float:
        """Cost of a sequence in arbitrary units: per token and layer about 24 width^2 + 4 width length operations."""
        return length * (6 * self.width + length)


PLAIN = Layout()


@dataclass(frozen=True, eq=False)
class Rows:
    """R answers in S sequences of L tokens.

    In the plain layout S = R, and all answers begin at the same column: shorter prompts are padded on the left.

    ids:           int64[S, L] token ids, 0 on padding.
    positions:     int64[S, L] position ids. The positions of an answer continue those of its prompt.
    visible_until: int64[S, L]. The token at column c is visible to the tokens at columns c to visible_until[c] - 1;
                   0 on padding. The prompts and answers of a sequence are trees, stored depth first, and the context
                   of a token is its path from the root.
    token_indices: int64[R, T + 1] indices into the flattened sequences: of the prompt's last token, then of the
                   answer's tokens.
    answer_mask:   bool[R, T], True on answer tokens.
    lengths:       int64[R] number of tokens of the prompt and the answer together.
    keys:          R keys; equal for equal prompt and answer (row_key).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    visible_until: torch.Tensor
    token_indices: torch.Tensor
    answer_mask: torch.Tensor
    lengths: torch.Tensor
    keys: tuple[bytes, ...]
    layout: Layout = PLAIN

    @property
    def attention(self) -> torch.Tensor:
        """int64[S, L], 1 on real tokens."""
        return (self.visible_until > 0).long()

    @property
    def targets(self) -> torch.Tensor:
        """int64[N] ids of all answer tokens, row by row."""
        return self.ids.flatten()[self.token_indices[:, 1:][self.answer_mask]]

    @property
    def predicted_at(self) -> torch.Tensor:
        """int64[N] indices into the flattened sequences: of the tokens whose predictions are for `targets`."""
        return self.token_indices[:, :-1][self.answer_mask]

    @property
    def last(self) -> torch.Tensor:
        """int64[R] indices into the flattened sequences: of each answer's last token."""
        return self.token_indices.gather(1, self.answer_mask.sum(dim=1, keepdim=True)).squeeze(1)

    def repeated(self, times: int) -> Rows:
        """The rows `times` times, one copy after the other."""
        start = self.ids.numel() * torch.arange(times, device=self.ids.device)
        return replace(
            self,
            ids=self.ids.repeat(times, 1),
            positions=self.positions.repeat(times, 1),
            visible_until=self.visible_until.repeat(times, 1),
            token_indices=(self.token_indices + start[:, None, None]).flatten(0, 1),
            answer_mask=self.answer_mask.repeat(times, 1),
            lengths=self.lengths.repeat(times),
            keys=self.keys * times,
        )

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """[N] values of all answer tokens, row by row -> [R, T]; 0 (False) off the answers."""
        return values.new_zeros(self.answer_mask.shape).masked_scatter(self.answer_mask, values)


@dataclass
class _Group:
    """A prompt and the answers that share it. `answers` maps an answer's index in the batch to its token ids."""

    prompt: list[int]
    answers: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class _Tree:
    """A group as a tree of tokens, stored depth first.

    ids, positions, visible_until: as in `Rows`, with columns counted from 0.
    prompt: number of prompt tokens.
    paths:  an answer's index in the batch -> the columns of its tokens.
    """

    ids: list[int]
    positions: list[int]
    visible_until: list[int]
    prompt: int
    paths: dict[int, list[int]]


def collate_rows(answers: Sequence[PromptAndAnswer], layout: Layout = PLAIN) -> Rows:
    """Lay out R prompts and answers. Raises ValueError if a prompt or an answer has no token, and names the rows."""
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
    """Split items into consecutive ranges. `sizes` are their numbers of tokens.

    A range has at most `rows` items and at most `tokens` tokens. An item with more tokens is a range by itself.
    """
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == rows or total + size > tokens):
            yield range(start, i)
            start, total = i, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def _share(answers: Sequence[PromptAndAnswer], layout: Layout) -> list[_Group]:
    """Group answers by prompt. A prompt starts a new group if that is cheaper than making the group's tree longer.

    The cost counts every answer in full, although answers may share a prefix.
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
    """Build the tree of a group. Answers are sorted by their token ids; each shares the prefix of the one before it."""
    size = len(group.prompt)
    ids, positions, visible_until = list(group.prompt), list(range(size)), [0] * size
    before: list[int] = []
    path: list[int] = []
    paths: dict[int, list[int]] = {}
    for row, answer in sorted(group.answers.items(), key=lambda one: one[1]):
        same = next((i for i, (a, b) in enumerate(zip(before, answer, strict=False)) if a != b), len(before))
        for column in path[same:]:
            visible_until[column] = len(ids)
        paths[row] = path = [*path[:same], *range(len(ids), len(ids) + len(answer) - same)]
        ids += answer[same:]
        positions += range(size + same, size + len(answer))
        visible_until += [0] * (len(answer) - same)
        before = answer
    for column in (*range(size), *path):
        visible_until[column] = len(ids)
    return _Tree(ids, positions, visible_until, size, paths)


def _fill(trees: list[_Tree], layout: Layout) -> list[list[_Tree]]:
    """Pack trees into sequences: first fit, longest tree first, at the sequence length with the lowest total cost."""
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
    """Sequences as tensors. `left` is the number of padding columns before each sequence."""
    ids: list[list[int]] = [[0] * pad for pad in left]
    positions: list[list[int]] = [[0] * pad for pad in left]
    visible_until: list[list[int]] = [[0] * pad for pad in left]
    length = max(pad + sum(len(tree.ids) for tree in trees) for pad, trees in zip(left, sequences, strict=True))
    longest = max(len(answer) for _, answer in answers)
    token_indices: list[list[int]] = [[]] * len(answers)
    for s, trees in enumerate(sequences):
        for tree in trees:
            first = len(ids[s])
            ids[s] += tree.ids
            positions[s] += tree.positions
            visible_until[s] += [first + end for end in tree.visible_until]
            start = s * length + first
            for row, path in tree.paths.items():
                padding = [0] * (longest - len(path))
                token_indices[row] = [start + tree.prompt - 1, *(start + column for column in path), *padding]
    counts = torch.tensor([len(answer) for _, answer in answers])
    return Rows(
        _padded(ids, length),
        _padded(positions, length),
        _padded(visible_until, length),
        torch.from_numpy(np.array(token_indices)),
        torch.arange(longest) < counts[:, None],
        torch.tensor([len(prompt) + len(answer) for prompt, answer in answers]),
        tuple(row_key(prompt, answer) for prompt, answer in answers),
        layout,
    )


def _padded(values: list[list[int]], length: int) -> torch.Tensor:
    return torch.from_numpy(np.array([row + [0] * (length - len(row)) for row in values]))  # faster than torch.tensor
