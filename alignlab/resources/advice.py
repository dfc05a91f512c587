"""What to change if a run does not fit on a device, and how many devices would hold it as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from alignlab.models.adapters.lora import LoRA
from alignlab.optim.adamw_8bit import AdamW8bit
from alignlab.resources.memory import Memory, memory_of
from alignlab.resources.setup import Setup

# More devices than this are not tried.
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Advice:
    """Overrides of the command line, added one after another, and the memory with all of them so far.

    changes: whether the last override trains something else, so that the results of the run change.
    """

    words: tuple[str, ...]
    memory: Memory
    changes: bool


def advice_for(setup: Setup, limit: float, *, devices: int = 1, strategy: str = "ddp") -> list[Advice]:
    """Overrides with which memory fits into `limit` bytes, or all that help if it does not fit with them either.

    They are tried in this order: those that cost only time, then a smaller dtype, then those that train something else.
    Overrides that save less than 1 % are left out, and so are those that are not needed because of later ones.
    """

    def steps(chosen: Sequence[_Change]) -> list[Advice]:
        now, words = setup, list[str]()
        found: list[Advice] = []
        for option, change, changes in chosen:
            new = change(now)
            if new is not None:
                now = new
                words.append(option(new))
                found.append(Advice(tuple(words), memory_of(now, devices=devices, strategy=strategy), changes))
        return found

    chosen: list[_Change] = []
    total = memory_of(setup, devices=devices, strategy=strategy).total
    for one in _CHANGES:
        if total <= limit:
            break
        found = steps([*chosen, one])
        if len(found) > len(chosen) and found[-1].memory.total <= 0.99 * total:
            chosen, total = [*chosen, one], found[-1].memory.total
    for one in reversed(chosen) if total <= limit else ():
        rest = steps([other for other in chosen if other is not one])
        if rest and rest[-1].memory.total <= limit:
            chosen.remove(one)
    return steps(chosen)


def devices_for(setup: Setup, limit: float, strategy: str = "fsdp") -> int | None:
    """The smallest power of two of devices that hold the run.

    None if even very many do not, or if `strategy=fsdp` can't share the weights out (4 bits, or 8-bit AdamW).
    The rows of an update are shared out, at least one for each device.
    """
    rows = setup.rows
    if setup.quantized or not setup.optim.works_on_parts:
        return None
    for power in range(int(math.log2(MOST_DEVICES)) + 1):
        devices = 2**power
        shared = replace(setup, rows=max(1, -(-rows // devices)))
        if memory_of(shared, devices=devices, strategy=strategy).total <= limit:
            return devices
    return None


def _fewer_rows(setup: Setup) -> Setup | None:
    return replace(setup, micro_rows=1) if setup.micro > 1 else None


def _checkpointing(setup: Setup) -> Setup | None:
    return None if setup.checkpointing else replace(setup, checkpointing=True)


def _cached(setup: Setup) -> Setup | None:
    """Stored log-probabilities in place of a copy, where the objective does not need the reference to run."""
    return replace(setup, reference="cached") if setup.reference == "copy" and not setup.needs_live else None


def _half(setup: Setup) -> Setup | None:
    return None if setup.item == 2 else replace(setup, dtype="bfloat16")


def _eight_bit(setup: Setup) -> Setup | None:
    smaller = replace(setup, optim=AdamW8bit(lr=setup.optim.lr))
    return smaller if smaller.moments < setup.moments else None


def _lora(setup: Setup) -> Setup | None:
    """An adapter, and the reference without it, in place of a copy."""
    if setup.shape.added:
        return None
    reference = "adapter_off" if setup.reference == "copy" else setup.reference
    return replace(setup, adapter=LoRA(), reference=reference)


def _quantized(setup: Setup) -> Setup | None:
    if setup.quantized or not setup.quantizable:
        return None
    return replace(_lora(setup) or setup, quantized=True)


# (override for the changed setup, the change or None if it does not apply, whether results change), in this order.
_Change = tuple[Callable[[Setup], str], Callable[[Setup], Setup | None], bool]

_CHANGES: tuple[_Change, ...] = (
    (lambda new: f"trainer.micro_batch_size={new.micro_rows}", _fewer_rows, False),
    (lambda new: "trainer.gradient_checkpointing=true", _checkpointing, False),
    (lambda new: "reference=cached", _cached, False),
    (lambda new: "model.dtype=bfloat16", _half, True),
    (lambda new: "optim=adamw_8bit", _eight_bit, True),
    (lambda new: "peft=lora", _lora, True),
    (lambda new: "peft=qlora", _quantized, True),
)
