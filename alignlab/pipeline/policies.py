"""A policy to sample from: the policy of a run, which is trained first if necessary, or a model as it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from alignlab.config.plan import Plan
from alignlab.data.fingerprint import digest
from alignlab.discovery import module_name
from alignlab.errors import ParentError
from alignlab.evaluation.suite import ModelSide
from alignlab.models.lineage import weights_fingerprint
from alignlab.models.reference import weights_digest
from alignlab.models.sources.base import ModelSource
from alignlab.pipeline.baselines import policy_of
from alignlab.pipeline.requested_runs import only_a_record
from alignlab.pipeline.run import run_for_policy


@dataclass(frozen=True)
class Policy:
    """A policy that is not loaded yet.

    name:    id of its run, or name of its model.
    content: digest of its weights that is known without loading them.
    load:    loads it.
    """

    name: str
    content: str
    load: Callable[[], ModelSide]


def policy_of_run(plan: Plan) -> Policy:
    """The policy of a run. The run is trained first if it is not finished. Raises ParentError if it then has none."""
    run_for_policy(plan)
    return finished_policy(plan)


def finished_policy(plan: Plan) -> Policy:
    """The policy of a run that has ended. Raises ParentError if it has none."""
    record = plan.run.record()
    if record.get("status") != "done":
        raise ParentError(f"{plan.id} has no policy: it is {record.get('status')}: {record.get('reason')}")
    if plan.run.lacks_policy:
        raise ParentError(f"{plan.id} {only_a_record(plan.run)}")
    folder = str(plan.run.policy)
    plan.train.model.restore_base(folder)
    return Policy(plan.id, weights_fingerprint(folder), lambda: policy_of(plan))


def policy_of_model(source: ModelSource) -> Policy:
    """The weights that a model source names."""

    def load() -> ModelSide:
        model, tokenizer = source.load()
        return ModelSide(model, tokenizer, weights_digest(model))

    return Policy(source.name, digest([_deciding(source).encode(), source.fingerprint().encode()]), load)


def _deciding(source: ModelSource) -> str:
    """The settings of a source that decide its weights, besides the content that its fingerprint covers."""
    values: dict[str, Any] = asdict(source)
    for key in (*source.content_fields, "parent"):
        values.pop(key)
    return repr((module_name(type(source)), sorted(values.items())))
