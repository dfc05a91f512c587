"""A person as judge, on a local web page that hides which answer is whose."""

from __future__ import annotations

import logging
import math
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from alignlab.checks import within
from alignlab.errors import Problem
from alignlab.judges.base import Comparison, Judge, Judged, Judgement, JudgingCost, Verdict
from alignlab.judges.web_page import Session, serve
from alignlab.spelling import counted

log = logging.getLogger(__name__)

_SCORES = {Verdict.A: 1.0, Verdict.B: 0.0, Verdict.TIE: 0.5}


@dataclass(kw_only=True)
class Human(Judge):
    """Shows every pair once, with random sides and in random order, on a page that only this machine can open.

    It waits until the person finishes on the page. Pairs without a verdict are then unjudged, and are shown again the
    next time. If all pairs have a verdict, no page is opened.

    port:         port of the page; 0 takes a free one.
    seed:         seed of the sides and the order.
    open_browser: open the page in a browser. Its address is printed in any case.
    """

    asks_a_person: ClassVar[bool] = True
    cosmetic: ClassVar[tuple[str, ...]] = ("port", "open_browser")

    port: int = 0
    seed: int = 1
    open_browser: bool = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("port", self.port, 0, 65535, example=0, hint="0 takes a free one")

    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        session = Session(rows, store / "human.jsonl", seed=self.seed)
        state = session.state()
        done = state["done"]
        if state["row"] is not None:
            with serve(session, port=self.port) as address:
                log.info(
                    "%d of %s still to judge, waiting for you at %s",
                    len(rows) - done,
                    counted(len(rows), "pair"),
                    address,
                )
                if self.open_browser:
                    webbrowser.open(address)
                session.over.wait()
        judgements = []
        for row in rows:
            verdict = session.verdict(row)
            judgements.append(Judgement(row.id, False, verdict, _SCORES.get(verdict, math.nan), ""))
        return Judged(judgements, JudgingCost(cached=done))
