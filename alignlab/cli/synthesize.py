"""`alignlab synthesize`: makes preference data from samples of a policy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from alignlab.cli.hydra_app import run_app
from alignlab.errors import ConfigError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.reports.synthesis import synthesis_text
from alignlab.synthesis.output import problems_of_copy


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_app("synthesize", _task, argv)


def _task(config: DictConfig) -> None:
    from alignlab.config.plan import Plan, judge_plans, start_plan
    from alignlab.config.preflight import PreflightCache, to_synthesize
    from alignlab.config.remote_code import keys_of_command_line, problems_of_config
    from alignlab.config.schemas import labelling_judge
    from alignlab.config.sent_keys import problems_of_sent_keys
    from alignlab.pipeline.requested_synthesis import request_of, run_to_sample
    from alignlab.pipeline.synthesize import copied, synthesize
    from alignlab.reports.evaluation import bill_line
    from alignlab.training.attempt import quiet_libraries

    quiet_libraries()
    typed = keys_of_command_line()
    if untyped := [*problems_of_config(config, typed), *problems_of_sent_keys(config, typed)]:
        raise ConfigError(untyped)
    wanted = to_synthesize(config)
    if wanted.to and (problems := list(problems_of_copy(Path(wanted.to)))):
        raise ConfigError(problems)
    if wanted.trust_remote_code:
        wanted = replace(wanted, judge={name: judge.with_remote_code() for name, judge in wanted.judge.items()})
    sampled: Plan | None = None
    if wanted.run:
        sampled = run_to_sample(wanted)
        with open_dict(config):  # runs that train judges inherit it, as in `alignlab train`
            config.peft = OmegaConf.structured(sampled.train.peft)
    elif wanted.model is not None and wanted.model.parent:
        sampled = start_plan(config, wanted.model.parent, typed)
    judges = judge_plans(config, labelling_judge(wanted.synthesis, wanted.judge), PreflightCache(), typed)
    made = synthesize(request_of(wanted, sampled, judges))
    if wanted.to:
        made = copied(made, Path(wanted.to))
    print(visible(synthesis_text(made.file, made.provenance), MOST_OF_OUTPUT))
    if line := bill_line(made.cost):
        print(visible(line))
