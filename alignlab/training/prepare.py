"""Gets the loaded model ready for training: its layout, reference, held-out pairs and compiled layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from alignlab.data.layout import Layout
from alignlab.models.efficiency import checkpoint_layers, compile_layers, compiler_fault, compiling_pays
from alignlab.models.layout_check import rows_to_look_at
from alignlab.models.reference import Reference
from alignlab.training.dataset import RunRows, choose_layout_for, reference_requests
from alignlab.training.pairs import held_out_pairs
from alignlab.training.rollout_setup import online_policy
from alignlab.training.setup import InitialPolicy, policy_and_reference

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The policy on its device, and the other arguments of its module.

    reference: None for online objectives, because their rollouts have the reference.
    extras:    further arguments of the module: held-out pairs, and the rollout context if answers are sampled.
    """

    policy: Any
    layout: Layout
    reference: Reference | None
    extras: dict[str, Any]


def prepare(start: InitialPolicy, rows: RunRows, device: torch.device, *, shards: bool = False) -> Prepared:
    """Move the model to the device, choose its layout, compute the reference, and compile layers if that pays.

    shards: whether the weights will be sharded. As a whole they may not fit on the device, so they stay on the CPU
            until then. Only a cached reference is computed with whole weights on the device.
    """
    config = start.plan.train
    needs = config.objective.requires
    if shards and config.reference_kind != "cached":
        device = torch.device("cpu")
    for warning in config.objective.data_warnings(rows.counts):
        log.info("%s", warning)
    start.model.to(device)
    layout = choose_layout_for(start, rows.train)
    context = reference = None
    if needs.online:
        policy, context = online_policy(start, layout, rows_to_look_at(start.model, rows.train))
        layout = context.layout
    else:
        policy, reference = policy_and_reference(start, lambda: reference_requests(config, rows), layout, device)
    _save_memory_and_time(start, rows, policy, shards=shards)
    extras: dict[str, Any] = {"context": context} if context else {}
    extras["pairs"] = held_out_pairs(start, rows, layout, device, context.start if context else reference)
    return Prepared(policy, layout, reference, extras)


def _save_memory_and_time(start: InitialPolicy, rows: RunRows, policy: Any, *, shards: bool) -> None:
    """Apply gradient checkpointing if the config asks for it, and compile layers in runs that are long enough.

    Whether compiling pays with sharded weights is not known. So they are compiled only if the config asks for it.
    """
    settings = start.plan.train.trainer
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    tokens = settings.max_steps * settings.batch_size * rows.mean_tokens
    pays = settings.compile == "auto" and not shards and compiling_pays(policy, int(tokens))
    if settings.compile == "always" or pays:
        if fault := compiler_fault():
            log.warning("the model's layers are not compiled: %s", fault)
        else:
            log.info("the model's layers are compiled at the first update")
            compile_layers(policy)
