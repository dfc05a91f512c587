"""Where a run starts: the policy as loaded, and the reference that it is held to, which is that same policy."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alignlab.config.plan import Plan
from alignlab.data.layout import Layout
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import DamagedError, ModelError
from alignlab.evaluation.exact import Array, completion_logps
from alignlab.integrity import TELLS_OF_DAMAGE, is_sealed, seal_folder, set_aside, verify_folder
from alignlab.lab.world import World
from alignlab.ledger.run_dir import RunDir
from alignlab.models.economy import flush_denormals
from alignlab.models.heads import with_scalar_head
from alignlab.models.reference import (
    Cached,
    Live,
    Pass,
    Reference,
    adapter_off,
    frozen_copy,
    stored_reference,
    weights_digest,
)
from alignlab.models.sources.base import ModelSource
from alignlab.training.progress import bars_wanted, progress_bar

log = logging.getLogger(__name__)


# Of the last policy that was started from: most points of a sweep start from the same one.
_exact: dict[tuple[str, World], Array] = {}


@dataclass(frozen=True)
class Start:
    """The policy before training, with the digest of its weights."""

    plan: Plan
    model: Any
    tokenizer: Any
    weights: str

    @cached_property
    def exact_logps(self) -> Array:
        """[X, N] log-probability of every completion of the lab's world; taken before anything is trained."""
        world = self.plan.train.data.world
        assert world is not None
        if (self.weights, world) not in _exact:
            _exact.clear()
            _exact[self.weights, world] = completion_logps(self.model, self.tokenizer, world)
        return _exact[self.weights, world]


def load_start(plan: Plan) -> Start:
    """The parent's trained policy, or the weights that the config names."""
    flush_denormals()
    if plan.parent is not None:
        parent = RunDir.of(plan.train.output_root, plan.parent.id)
        model, tokenizer = plan.train.model.load_from(_full_policy(parent, plan.train.model))
        if not plan.train.model.trainable:
            log.info("the policy of %s is rounded to 4 bits: start and reference are near it, not equal", parent.id)
    else:
        model, tokenizer = plan.train.model.load()
    _refuse_non_finite(model, plan)
    return Start(plan, model, tokenizer, weights_digest(model))


def _refuse_non_finite(model: Any, plan: Plan) -> None:
    """Raise ModelError naming the first weights that are NaN or infinite: no run can start from them."""
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not (finite := torch.isfinite(weights)).all():
            where = f"the policy of {plan.parent.id}" if plan.parent else f"model {plan.train.model.name}"
            raise ModelError(f"{where}: {int((~finite).sum())} weights of {name} are not finite (NaN or infinite)")


def name_base(start: Start, run: RunDir) -> None:
    """Save the model that an adapter will name as its base, where it came from no folder or hub and has no name."""
    if start.plan.train.peft.can_switch_off and not start.model.name_or_path:
        _write_model(run.base, start.model)
        start.model.name_or_path = str(run.base.resolve())


def _write_model(folder: Path, *parts: Any) -> None:
    """A model, and its tokenizer where there is one, with their checksums; whole or not at all."""
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    for part in parts:
        part.save_pretrained(scratch)
    seal_folder(scratch)
    if folder.is_dir():  # of an earlier attempt or an older version
        shutil.rmtree(folder)
    scratch.rename(folder)


def device_of(asked: str) -> torch.device:
    """What an accelerator of the config (auto, cpu, gpu, mps) comes to on this machine."""
    if asked in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if asked in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps", 0)
    return torch.device("cpu")


def policy_and_start(start: Start) -> tuple[Any, Live]:
    """The policy to train, and the start as a model that runs beside it, at the temperature of the rollouts."""
    train, model, temperature = start.plan.train, start.model, start.plan.train.rollout.temperature
    if train.reference_kind == "adapter_off":
        log.info("reference: the start, which is the policy with its adapter switched off")
        policy = train.peft.wrap(model)
        return policy, adapter_off(policy, temperature)
    log.info("reference: the start, a frozen copy beside the policy")
    reference = frozen_copy(model, temperature)
    return train.peft.wrap(model), reference


def policy_and_reference(
    start: Start, answers: Callable[[], Iterable[PromptAndAnswer]], layout: Layout, device: torch.device
) -> tuple[Any, Reference | None]:
    """The policy to train, and the reference as the config names it; `answers` are all that will be asked for."""
    train, model = start.plan.train, start.model
    if train.objective.requires.data == "rankings":
        return train.peft.wrap(with_scalar_head(model, train.seed)), None
    kind = train.reference_kind
    if kind == "none":
        return train.peft.wrap(model), None
    if kind == "adapter_off":
        log.info("reference: the start, which is the policy with its adapter switched off")
        policy = train.peft.wrap(model)
        return policy, adapter_off(policy)
    if kind == "copy":
        log.info("reference: the start, a frozen copy beside the policy")
        reference = frozen_copy(model)
        return train.peft.wrap(model), reference
    by_token = train.objective.requires.reference_tokens
    return train.peft.wrap(model), reference_pass(start, answers(), layout, device, by_token=by_token)


def reference_pass(
    start: Start, answers: Iterable[PromptAndAnswer], layout: Layout, device: torch.device, *, by_token: bool
) -> Cached:
    """Reference log-probabilities of `answers` under the policy as loaded: from the store, or computed and stored."""
    trainer = start.plan.train.trainer
    how = Pass(
        layout=layout,
        rows=2 * trainer.micro_batch_size,  # as many answers as a micro-batch of pairs has
        tokens=trainer.micro_batch_tokens,
        device=device,
        progress=progress_bar(bars_wanted(trainer.progress)),
    )
    return stored_reference(
        start.model,
        answers,
        Path(start.plan.train.output_root) / "reference",
        how,
        weights=start.weights,
        by_token=by_token,
    )


def _full_policy(parent: RunDir, source: ModelSource) -> str:
    """Folder of the parent's policy as a full model.

    An adapter is merged into its base and written out once: what is trained on top of it then names a base that holds
    the parent's training too, and switching the new adapter off gives the parent back, not the base below it.
    """
    if not (parent.policy / "adapter_config.json").is_file():
        return str(parent.policy.resolve())
    with parent.lock():
        try:
            verify_folder(parent.merged)
        except DamagedError as error:
            found = DamagedError(parent.merged, f"is damaged ({error.file.name} {error.why})")
            log.warning("%s", set_aside(found, "it is made anew"), extra=TELLS_OF_DAMAGE)
        if not is_sealed(parent.merged):
            log.info("merging the adapter of %s into its base once", parent.id)
            _write_model(parent.merged, *source.load_from(str(parent.policy)))
    return str(parent.merged.resolve())
