"""The plan of one round of iterative training: a run on rows that were made from samples of the round before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignlab.config.plan import Plan, plan, starting_from
from alignlab.data.sources.base import Source
from alignlab.synthesis.settings import READ_BY, Synthesis


def round_plan(config: DictConfig, first: Plan, rows: Path, before: Plan | None, typed: Sequence[str]) -> Plan:
    """The plan of the run that trains on the rows of a round. Raises ConfigError with all problems.

    config: of the command.
    first:  plan of `config`. Settings that all data sources have, such as lengths and limits, are those of its data.
    rows:   file of the rows.
    before: plan of the run that was sampled; None if the weights of the model were.
    typed:  overrides of the command.
    """
    common = {f.name: getattr(first.train.data, f.name) for f in fields(Source)}
    source = READ_BY[first.train.synthesis.form](path=str(rows), **common)
    own = config.copy()
    OmegaConf.update(own, "data", OmegaConf.structured(source), merge=False)
    OmegaConf.update(own, "synthesis", OmegaConf.structured(Synthesis()), merge=False)
    own.rounds, own.model.parent = 0, []
    return starting_from(plan(own, typed), before)
