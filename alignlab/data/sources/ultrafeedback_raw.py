"""UltraFeedback, Cui et al. 2023, https://arxiv.org/abs/2310.01377: four answers to a prompt, rated by aspects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import Record
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.rankings import Rankings


@dataclass(kw_only=True)
class UltraFeedbackRaw(Rankings):
    """Rows of openbmb/UltraFeedback. The grade of an answer is the mean of its ratings (1 to 5).

    An answer without a rating is not compared. Prompts with fewer than two rated answers are left out.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction",), ("completions",))
    reads: ClassVar[tuple[str, ...]] = ("instruction", "completions")

    def convert(self, record: Record) -> Record:
        answers = record.get("completions")
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            raise UnusableRowError("completions must be a list of {response, annotations}")
        graded = [(answer.get("response"), _mean_rating(answer.get("annotations"))) for answer in answers]
        kept = [(text, grade) for text, grade in graded if grade is not None and isinstance(text, str) and text.strip()]
        if len(kept) < 2:
            raise LeftOutError("fewer than two rated answers")
        texts, grades = zip(*kept, strict=True)
        return {"prompt": record.get("instruction"), "completions": list(texts), "grades": list(grades)}


def _mean_rating(annotations: Any) -> float | None:
    """Mean of the ratings of all aspects; None if there is none. "N/A" is no rating."""
    aspects = annotations.values() if isinstance(annotations, dict) else []
    texts = [str(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, dict)]
    ratings = [float(text) for text in texts if text.replace(".", "", 1).isdecimal()]
    return sum(ratings) / len(ratings) if ratings else None
