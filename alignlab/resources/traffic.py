"""Bytes that leave each device in an update of several devices: an arithmetic model of the collective operations.

Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, section 7. In a ring of n devices, each sends
(n - 1) / n of a tensor's bytes when parts are gathered, as many when sums are shared out, and twice as many when each
device gets the whole sum (Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002). As many bytes leave
each node.
"""

from __future__ import annotations

from alignlab.resources.memory import gathered_at_a_time, weights_of
from alignlab.resources.setup import Setup

# Gradients are added up in float32 (alignlab/models/sharding.py, alignlab/strategies/lightning/deepspeed.py).
_SUM = 4


def traffic_of(setup: Setup, *, devices: int, strategy: str) -> float:
    """Bytes that each device sends in an update.

    strategy: ddp sends each gradient once an update, and gets the sum. zero2 sends the gradients after each
              micro-batch, and gets the updated weights. fsdp and zero3 gather the weights of a layer for its forward
              pass and for its backward pass, and those around the layers once, for each micro-batch, after which they
              send the gradients. A pass of the reference gathers once more, and so does the sampling of answers.
    """
    share = (devices - 1) / devices
    if strategy == "ddp":
        return share * 2 * setup.trained * setup.trained_item
    if strategy == "zero2":
        return share * setup.trained * (setup.micro_batches * _SUM + setup.trained_item)
    layer, around = gathered_at_a_time(setup)
    layers = layer * setup.shape.layers
    passes = 2 + (setup.reference in ("adapter_off", "copy"))
    each = passes * layers + around + _SUM * setup.trained
    sampling = weights_of(setup) if setup.sampled else 0.0
    return share * (setup.micro_batches * each + sampling)
