"""Bytes that leave each device in an update of several devices: an arithmetic model of the collective operations.

Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, section 7. In a ring of n devices, each sends
(n - 1) / n of a tensor's bytes when parts are gathered, as many when sums are shared out, and twice as many when each
device gets the whole sum (Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002). As many bytes leave
each node.
"""

from __future__ import annotations

from alignlab.resources.memory import gathered_at_a_time, weights_of
from alignlab.resources.setup import Setup

# Gradients are added up in float32 (alignlab/models/sharding.py).
_SUM = 4


def traffic_of(setup: Setup, *, devices: int, strategy: str) -> float:
    """Bytes that each device sends in an update.

    strategy: ddp and zero2 send each gradient once an update, and get the sum, or the updated weight. fsdp gathers
              the weights of a layer for its forward pass and for its backward pass, and those around the layers once,
              for each micro-batch, after which it sends the gradients. A pass of the reference gathers once more, and
              so does the sampling of answers.
    """
    share = (devices - 1) / devices
    if strategy != "fsdp":
        return share * 2 * setup.trained * setup.trained_item
    layer, around = gathered_at_a_time(setup)
    layers = layer * setup.shape.layers
    passes = 2 + (setup.reference in ("adapter_off", "copy"))
    each = passes * layers + around + _SUM * setup.trained
    sampling = weights_of(setup) if setup.sampled else 0.0
    return share * (setup.micro_batches * each + sampling)
