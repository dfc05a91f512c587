"""Trackio: a local database of runs, and a dashboard for it: `trackio show --project alignlab`."""

from __future__ import annotations

import contextvars
import io
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.checks import installed
from alignlab.errors import Problem, TrackingError
from alignlab.inert import MOST, markdown
from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import STEP, log_again

log = logging.getLogger(__name__)

# Variables of Trackio that send runs to another machine.
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


@dataclass(kw_only=True)
class Trackio(TrackingWithFigures):
    """Trackio: runs in its local folder, TRACKIO_DIR or else `trackio` in the cache of Hugging Face.

    If TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set, Trackio sends the runs there.

    project: name of the project.
    samples: log prompts and answers as tables. null: only if the runs stay on this machine.
    figures: log the figures of a run, or of a sweep, as images.
    """

    project: str = "alignlab"
    samples: bool | None = None

    def problems(self) -> Iterator[Problem]:
        yield from installed("", None, "trackio", extra="trackio")
        if not re.search(r"\w", self.project):
            yield Problem("project", self.project, "must have a letter or a digit", "tracking.trackio.project=alignlab")

    def open(self, run: RunIdentity) -> Sink:
        return TrackioSink(self, run)


class TrackioSink:
    """One Trackio run, named by the run's readable name and its id.

    In the local folder, a further attempt replaces the earlier one and logs its rows again. On another machine it
    continues the earlier one.

    Raises TrackingError if Trackio can't start.
    """

    def __init__(self, config: Trackio, run: RunIdentity) -> None:
        import trackio

        place = next((os.environ[name] for name in _REMOTE if os.environ.get(name)), "")
        self.anew = not place
        self._samples = not place if config.samples is None else config.samples
        self._with_figures = config.figures
        self._step, self._logged = 0, set[str]()
        name = re.sub(r"[^\w.=+ ()-]", "_", f"{run.name} ({run.id})" if run.name else run.id)
        try:
            if self.anew:
                _remove(config.project, name)
            self._run = _quietly(
                trackio.init,
                project=config.project,
                name=name,
                group=run.group,
                config={**run.config, "tags": list(run.tags), "notes": run.notes, "job_type": run.job_type},
                resume="never" if self.anew else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        except Exception as error:  # of a database, a server or a name; their types are not documented
            raise TrackingError(f"Trackio can't start: {error}\n  type: tracking=none") from error
        if self.anew:
            where = f"the folder {trackio.TRACKIO_DIR}; nothing leaves this machine"
            log_again(self, run.directory)
        else:
            hint = "" if self._samples else "; no prompts or answers (tracking.trackio.samples=true sends them)"
            where = f"{place}: sends config and metrics{', prompts and answers' if self._samples else ''}{hint}"
        log.info("trackio: project %s in %s", config.project, where)

    def log(self, row: Mapping[str, float]) -> None:
        self._step = int(row.get(STEP, self._step))
        self._logged.update(row)
        self._run.log({name: value for name, value in row.items() if name != STEP}, step=self._step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Log the rows. Marks of Markdown and HTML in them stay text, which Trackio's dashboard would render."""
        import trackio

        if rows and (self._samples or not private):
            columns = list(rows[0])
            cells = [[_cell(row[column]) for column in columns] for row in rows]
            self._run.log({name: trackio.Table(columns, cells)}, step=int(rows[0].get("step", self._step)))

    def figures(self, files: Sequence[Path]) -> None:
        import trackio

        for file in files if self._with_figures else ():
            self._run.log({f"figures/{file.stem}": trackio.Image(str(file))}, step=self._step)

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        """Log the ending, and the numbers of the summary that no row has."""
        numbers = {
            name: value
            for name, value in summary.items()
            if name not in self._logged and isinstance(value, int | float) and math.isfinite(value)
        }
        self._run.log({**numbers, "job/status": ending}, step=self._step)
        _quietly(self._run.finish)


def _remove(project: str, name: str) -> None:
    """Remove the runs with this name from the local folder."""
    import trackio

    try:
        runs = list(trackio.Api().runs(project))
    except ValueError:  # there is no such project yet
        return
    for run in runs:
        if run.name == name:
            run.delete()


def _quietly(function: Callable[..., Any], **options: Any) -> Any:
    """Call a function of Trackio without its messages on the terminal.

    Each call has a context of its own. In a shared one, `trackio.init` would end the run that was opened before, but
    the runs of a vectorized group are open at the same time.
    """
    with redirect_stdout(io.StringIO()):
        return contextvars.Context().run(function, **options)


def _cell(value: Any) -> Any:
    return markdown(value, MOST) if isinstance(value, str) else value
