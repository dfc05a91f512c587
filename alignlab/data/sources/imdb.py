"""IMDb reviews, Maas et al. 2011, https://aclanthology.org/P11-1015: reviews to continue, with their sentiment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import at_least
from alignlab.data.conversations import read_text
from alignlab.data.files import Record
from alignlab.data.own_files import LeftOutError
from alignlab.data.rows import Completion, Loaded, Split
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import Problem


@dataclass(kw_only=True)
class IMDb(Unpaired):
    """Rows of stanfordnlp/imdb. The first words of a review are the prompt, the rest is the answer.

    Positive reviews are good answers. SFT imitates all reviews, and online objectives continue their first words.

    prompt_words: number of words in the prompt.
    """

    prompt_words: int = 4

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text",), ("label",))
    reads: ClassVar[tuple[str, ...]] = ("text", "label")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("prompt_words", self.prompt_words, 1, example=4)

    def convert(self, record: Record) -> Record:
        text = read_text(record.get("text"), "text")
        start = re.match(rf"\s*\S+(\s+\S+){{{self.prompt_words - 1}}}(?=\s+\S)", text)
        if start is None:
            raise LeftOutError(f"not more than {self.prompt_words} words")
        return {"prompt": start[0], "completion": text[start.end() :], "label": record.get("label")}

    def completions(self, split: Split) -> Loaded[Completion]:
        loaded = self.labelled(split, None)
        rows = [Completion(row.prompt, row.completion, row.ended, row.place) for row in loaded.rows]
        return loaded.with_rows(rows)
