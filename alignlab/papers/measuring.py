"""Measures claims and keeps their records."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignlab.errors import AlignlabError
from alignlab.papers.claim import Batched, Claim, Commands, Exact, Paper, Sampled, Trained, Workspace
from alignlab.papers.finished import runs_of_sweep
from alignlab.papers.record import ClaimFile, Row, row_of

# Exit code of a command that was stopped from the keyboard.
STOPPED = 130

# A verb of the command line: its words -> exit code. `train` trains the points of a sweep.
Verb = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Bench:
    """Where claims are measured.

    folder:      where the records are.
    output_root: where trained runs are.
    train:       trains a sweep.
    typed:       further words for `train`, such as `launcher=local`.
    verbs:       name -> verb, for claims that are measured by several commands.
    data:        where the data of such a claim is; empty for the place that the claim names.
    at_once:     number of processes that train vectorized points. 1: this process. 0: one for each core.
    """

    folder: Path
    output_root: Path
    train: Verb
    typed: tuple[str, ...] = ()
    verbs: Mapping[str, Verb] = field(default_factory=dict)
    data: str = ""
    at_once: int = 1

    def measure(self, paper: Paper, claim: Claim, *, again: bool = False) -> Row:
        """The verdict on a claim. The claim is measured first if it has no finished record.

        again: measure even if there is a record.

        If the measurement ends with an error that a user can act on, the verdict is not-run, with the reason.
        """
        row = row_of(self.folder, paper, claim)
        measured_by = claim.measured_by
        if measured_by is None or (row.record.get("status") == "done" and not again):
            return row
        file = ClaimFile(self.folder, paper.name, claim.name)
        name = f"paper-{paper.name}-{claim.name}-v{claim.version}"
        command = self._command(measured_by, name) if isinstance(measured_by, Trained) else ()
        file.begin(paper, claim, command)
        try:
            if isinstance(measured_by, Trained):
                self._trained(file, measured_by, name, command)
            elif isinstance(measured_by, Commands):
                self._by_commands(file, measured_by)
            else:
                file.end(computed(measured_by))
        except AlignlabError as error:
            file.fail(str(error))
        except Exception as error:
            file.fail(f"{type(error).__name__}: {error}")
            raise
        return row_of(self.folder, paper, claim)

    def _command(self, trained: Trained, name: str) -> tuple[str, ...]:
        chosen = any(word.startswith(("launcher=", "hydra/launcher=")) for word in self.typed)
        default: tuple[str, ...] = () if chosen else (f"launcher={trained.launcher}",)
        if default == ("launcher=vectorized",) and self.at_once != 1:  # `auto` decides itself
            default += (f"launcher.at_once={self.at_once}",)
        return ("-m", *trained.overrides, "trainer.keep=record", *default, *self.typed, f"sweep.name={name}")

    def _by_commands(self, file: ClaimFile, chain: Commands) -> None:
        folder = self.folder / file.paper / file.claim
        place = Workspace(self.output_root, folder, self.data or chain.data)
        shown = []
        for verb, *words in chain.run(place):
            own = [*words, *(self.typed if verb == "train" else ())]
            line = shlex.join(["alignlab", verb, *own])
            line_shown = line.replace(str(folder), "<folder>")
            shown.append(line_shown.replace(place.data, "<data>") if place.data else line_shown)
            file.note_commands(shown)
            print(f"\n{line}", flush=True)
            code = self.verbs[verb]([*own, f"output_root={self.output_root}"])
            if code == STOPPED:
                raise KeyboardInterrupt
            if code:
                file.fail(f"alignlab {verb} ended with exit code {code}; its message is above")
                return
        found = chain.read(place)
        file.end(found.values, found.runs, found.curves)

    def _trained(self, file: ClaimFile, trained: Trained, name: str, command: Sequence[str]) -> None:
        code = self.train([*command, f"output_root={self.output_root}"])
        if code == STOPPED:
            raise KeyboardInterrupt
        if code:
            file.fail(f"alignlab train ended with exit code {code}; its message is above")
            return
        runs = runs_of_sweep(self.output_root, name)
        kept = [{"id": run.run.id, "status": run.record["status"], **run.axes} for run in runs]
        file.end(trained.read(runs), kept, trained.curves(runs) if trained.curves else None)


def computed(measured_by: Exact | Sampled | Batched) -> Mapping[str, Sequence[float]]:
    """name -> values: one for a closed form, one for each seed otherwise."""
    if isinstance(measured_by, Exact):
        return {name: [value] for name, value in measured_by.measure().items()}
    if isinstance(measured_by, Batched):
        return measured_by.measure(measured_by.seeds)
    each = [measured_by.measure(seed) for seed in range(measured_by.seeds)]
    return {name: [values[name] for values in each] for name in each[0]}
