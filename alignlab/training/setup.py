"""The start of a run: the policy before training, and the reference, which has the same weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alignlab.config.plan import Plan
from alignlab.data.layout import Layout
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.evaluation.exact import Array, completion_logps
from alignlab.integrity import is_whole, new_folder, seal_folder
from alignlab.lab.world import World
from alignlab.locks import file_lock
from alignlab.models.efficiency import flush_denormals
from alignlab.models.generation import save_model, stop_ids, template_of
from alignlab.models.heads import with_scalar_head
from alignlab.models.reference import (
    CachedReference,
    LiveReference,
    Reference,
    ScoringOptions,
    adapter_off,
    frozen_copy,
    stored_reference,
    weights_digest,
)
from alignlab.models.sources.base import ModelSource
from alignlab.progress import bars_wanted, progress_bar
from alignlab.runs.directory import RunDir

log = logging.getLogger(__name__)


# Exact log-probabilities of the last start, because most points of a sweep start from the same weights.
_exact: dict[tuple[str, World], Array] = {}


@dataclass(frozen=True)
class InitialPolicy:
    """The policy before training.

    model:   the model; only its configs (ModelConfigs) if the weights are not loaded.
    weights: digest of the weights; empty if they are not loaded.
    """

    plan: Plan
    model: Any
    tokenizer: Any
    weights: str

    @cached_property
    def exact_logps(self) -> Array:
        """[X, N] log-probability (nats) of each of the lab's N completions to each of X prompts, before training."""
        world = self.plan.train.data.world
        assert world is not None
        if (self.weights, world) not in _exact:
            _exact.clear()
            _exact[self.weights, world] = completion_logps(self.model, self.tokenizer, world)
        return _exact[self.weights, world]


def load_initial_policy(plan: Plan) -> InitialPolicy:
    """The parent's trained policy, or the weights that the config names."""
    flush_denormals()
    if plan.parent is not None:
        parent = RunDir.of(plan.train.output_root, plan.parent.id)
        model, tokenizer = plan.train.model.load_from(_full_policy(parent, plan.parent.train.model))
        if not plan.train.model.trainable:
            log.info("the policy of %s is rounded to 4 bits: start and reference differ from it slightly", parent.id)
    else:
        model, tokenizer = plan.train.model.load()
    return InitialPolicy(plan, model, tokenizer, weights_digest(model))


def without_weights(plan: Plan) -> InitialPolicy:
    """The same start with its tokenizer and configs only."""
    if plan.parent is None:
        configs, tokenizer = plan.train.model.load_tokenizer()
    else:
        folder = str(RunDir.of(plan.train.output_root, plan.parent.id).policy.resolve())
        plan.parent.train.model.restore_base(folder)
        configs, tokenizer = plan.train.model.load_tokenizer_from(folder)
    return InitialPolicy(plan, configs, tokenizer, "")


def log_end_of_turn(start: InitialPolicy) -> None:
    """Log which token ends an answer, if the model's own `generate` does not stop at it."""
    named, template = stop_ids(start.model), template_of(start.model, start.tokenizer, start.plan.train.data.template)
    if template.end_id in named:
        return
    end, *others = (f"{start.tokenizer.convert_ids_to_tokens(token)} ({token})" for token in (template.end_id, *named))
    rewards = start.plan.train.objective.requires.data == "rankings"  # reward models do not sample
    log.info(
        "answers end in %s, which %s names; the model's generation config names %s%s",
        end,
        template.end_of,
        " and ".join(others) or "none",
        "" if rewards else "; sampling stops at each of them, and the saved generation_config.json names them all",
    )


def save_adapter_base(start: InitialPolicy) -> None:
    """Save the start as the base of an adapter, if it was not loaded from a folder or a hub name.

    Such a start was built from a config, or merged from an adapter and its base. It is saved once for all runs that
    start from the same weights: as `bases/<digest of the weights>` below the output root.
    """
    if not start.plan.train.peft.can_switch_off or start.model.name_or_path:
        return
    folder = Path(start.plan.train.output_root).resolve() / "bases" / start.weights
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(f"{folder}.lock"):
        if not is_whole(folder, "it is made anew"):
            log.info("the start is saved once, as the base of adapters: %s", folder)
            _save_whole(start.model, start.tokenizer, folder)
    start.model.name_or_path = str(folder)


def device_of(accelerator: str) -> torch.device:
    """The device on this machine for an accelerator of the config (auto, cpu, gpu or mps)."""
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps", 0)
    return torch.device("cpu")


def policy_and_start(start: InitialPolicy) -> tuple[Any, LiveReference]:
    """(policy to train, reference). The reference is the start as a model, at the temperature of the rollouts."""
    train, model, temperature = start.plan.train, start.model, start.plan.train.rollout.temperature
    if train.reference_kind == "adapter_off":
        log.info("reference: the start, which is the policy with its adapter switched off")
        policy = train.peft.wrap(model)
        return policy, adapter_off(policy, temperature)
    log.info("reference: the start, a frozen copy beside the policy")
    reference = frozen_copy(model, temperature)
    return train.peft.wrap(model), reference


def policy_and_reference(
    start: InitialPolicy, answers: Callable[[], Iterable[PromptAndAnswer]], layout: Layout, device: torch.device
) -> tuple[Any, Reference | None]:
    """(policy to train, reference of the kind that the config names; None without a reference).

    answers: returns all answers whose reference log-probabilities the run needs. Only a cached reference calls it.
    """
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
    start: InitialPolicy, answers: Iterable[PromptAndAnswer], layout: Layout, device: torch.device, *, by_token: bool
) -> CachedReference:
    """Log-probabilities (nats) of `answers` under the start. They are read from the store, or computed and stored.

    by_token: whether each token's log-probability is needed, besides the sum of each answer.
    """
    trainer = start.plan.train.trainer
    how = ScoringOptions(
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
    """Folder of the parent's policy as a full model, in the dtype that it was trained in.

    source: the model source of the parent.

    If the parent trained an adapter, the adapter is merged into its base and saved once. A new adapter then has the
    trained parent as its base, and switching the new adapter off gives the parent, not the parent's base.
    """
    if not (parent.policy / "adapter_config.json").is_file():
        return str(parent.policy.resolve())
    with parent.lock():
        if not is_whole(parent.merged, "it is made anew"):
            log.info("merging the adapter of %s into its base once", parent.id)
            model, tokenizer = source.load_from(str(parent.policy))
            _save_whole(model, tokenizer, parent.merged)
    return str(parent.merged.resolve())


def _save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a full model with its tokenizer and checksums, whole or not at all."""
    with new_folder(folder) as scratch:
        save_model(model, tokenizer, scratch)
        seal_folder(scratch)
