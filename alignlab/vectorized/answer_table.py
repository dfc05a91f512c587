"""A table of all different (prompt, answer) rows of one or several runs, from which batches are taken by place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignlab.data.collate import to_device
from alignlab.data.fingerprint import row_key
from alignlab.data.layout import Layout, Rows, collate_rows
from alignlab.data.tokenize import PromptAndAnswer

# Plain rows with an explicit mask. vmap can build that mask, because it is computed from tensors alone.
_PLAIN_MASKED = Layout(shared=True)

# Number of answers among which `longest_answers` looks.
_LOOKED_AT = 256


class AnswerTable:
    """M different (prompt, answer) rows as M plain rows. All prompts end at the same column, where the answers begin.

    The place of an answer is its row in the table, 0 to M - 1.
    """

    def __init__(self, answers: Iterable[PromptAndAnswer], device: torch.device) -> None:
        self.answers = {row_key(prompt, answer): (prompt, answer) for prompt, answer in answers}
        self._answers = list(self.answers.values())
        self._place = {key: place for place, key in enumerate(self.answers)}
        self.rows = to_device(replace(collate_rows(self._answers), layout=_PLAIN_MASKED), device)
        self.counts = self.rows.answer_mask.sum(dim=1)
        self._start = max(len(prompt) for prompt, _ in self._answers)

    def __len__(self) -> int:
        return len(self.answers)

    def answer(self, place: int) -> PromptAndAnswer:
        """The (prompt, answer) at a place, as token ids."""
        return self._answers[place]

    def longest_answers(self) -> list[int]:
        """Places of up to four answers that show whether answers side by side influence each other.

        They are long answers among the first _LOOKED_AT, if possible two to the same prompt.
        """
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for place, (prompt, _) in enumerate(self._answers[:_LOOKED_AT]):
            by_prompt.setdefault(tuple(prompt), []).append(place)
        longest = [sorted(places, key=self._length)[-2:] for places in by_prompt.values()]
        longest.sort(key=lambda places: (len(places), min(map(self._length, places))), reverse=True)
        return [place for places in longest[:2] for place in places]

    def _length(self, place: int) -> int:
        return len(self._answers[place][1])

    def places(self, rows: Sequence[Sequence[PromptAndAnswer]]) -> NDArray[np.int64]:
        """[N, k] places of the k answers of each of N examples."""
        return np.array([[self._place[row_key(*answer)] for answer in row] for row in rows], dtype=np.int64)

    def rows_at(self, places: Tensor, layout: Layout) -> Rows:
        """Rows at int64[n] places, in that order, in the given layout. A shared layout stores common prompts once."""
        if not layout.shared:
            return self.plain_rows_at(places)
        return to_device(collate_rows([self._answers[place] for place in places.tolist()], layout), places.device)

    def plain_rows_at(self, places: Tensor) -> Rows:
        """Plain rows at int64[n] places, in that order. Columns that are padding in all of these rows are dropped."""
        rows = self.rows
        width = rows.ids.shape[1]
        counts = self.counts[places]
        answer = int(counts.max())
        first = self._start - int((rows.lengths[places] - counts).max())
        columns = slice(first, self._start + answer)
        # columns of the prompt's last token and of the answer's tokens, which are the same for all plain rows
        where = rows.token_indices[places, : answer + 1] - places[:, None] * width
        kept = columns.stop - columns.start
        start = torch.arange(len(places), device=places.device)[:, None] * kept
        mask = rows.answer_mask[places, :answer]
        inside = torch.nn.functional.pad(mask, (1, 0), value=True)
        return replace(
            rows,
            ids=rows.ids[places, columns],
            positions=rows.positions[places, columns],
            visible_until=(rows.visible_until[places, columns] - first).clamp(min=0),
            token_indices=torch.where(inside, where - first + start, 0),
            answer_mask=mask,
            lengths=rows.lengths[places],
            keys=(),
        )
