"""Prints the result of a run that has ended, and evaluates it if its config asks for it."""

from __future__ import annotations

from typing import Any

from alignlab.config.plan import Plan
from alignlab.errors import DivergedError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.reports.tables import headline


def finish(planned: Plan, record: dict[str, Any]) -> None:
    """Print the result of a run, and evaluate it if its config asks for it. Raises DivergedError if it diverged."""
    from alignlab.reports.evaluation import end_line, stored_text

    if record.get("status") == "diverged":
        raise DivergedError(f"{record['id']} diverged: {record.get('reason')}")
    print(headline(record), flush=True)
    if planned.is_evaluated_at_end:
        from alignlab.pipeline.evaluate import evaluate_at_end  # takes seconds to import

        if folder := evaluate_at_end(planned):
            asked_for = planned.train.evaluation.at_end
            text = stored_text(folder) if asked_for else end_line(folder, planned.run.record())
            print(visible(text, MOST_OF_OUTPUT), flush=True)
