"""A run's memory, time and devices, put together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from alignlab.config.plan import Plan
from alignlab.resources.advice import Advice, advice_for, devices_for
from alignlab.resources.gpus import GPU, USABLE
from alignlab.resources.memory import Memory, memory_of, offloaded_of
from alignlab.resources.setup import Setup, setup_of
from alignlab.resources.traffic import traffic_of
from alignlab.resources.work import Range, Work, seconds_of, work_of

GIB = 2**30

# Below this number of parameters, seconds are a lower bound: the time to start kernels is not counted (docs/scale.md).
SMALL = 10**9


@dataclass(frozen=True)
class Machine:
    """The devices that a run is planned for.

    gpu:      kind of device.
    devices:  number of devices.
    strategy: ddp, zero2, zero3 or fsdp; how several devices share the run.
    """

    gpu: GPU
    devices: int = 1
    strategy: str = "ddp"

    @property
    def limit(self) -> float:
        """Bytes of a device that tensors can use."""
        return USABLE * self.gpu.gib * GIB


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    id:      of the run.
    model:   name of its model.
    memory:  of a device.
    work:    of an update, on one device.
    seconds: of an update.
    traffic: bytes that each device sends in an update; 0 if there is only one.
    updates: of the run; 0 if the number of rows decides it.
    advice:  what to change if it does not fit.
    needed:  devices that hold the run as it is, sharing the weights; None if even very many do not.
    offloaded: bytes in the memory of the machine for each device.
    """

    id: str
    model: str
    setup: Setup
    machine: Machine
    memory: Memory
    work: Work
    seconds: Range
    traffic: float
    updates: int
    advice: list[Advice]
    needed: int | None
    offloaded: float

    @property
    def sharing(self) -> str:
        """The strategy by which `needed` devices share the weights: zero3 if the run has DeepSpeed, else fsdp."""
        return _sharing(self.machine)

    @property
    def fits(self) -> bool:
        """Whether the run fits into the memory of the device."""
        return self.memory.total <= self.machine.limit

    @property
    def only_at_least(self) -> bool:
        """Whether the time is known from below only, because the model is small."""
        return self.setup.shape.weights < SMALL

    @property
    def tokens_per_second(self) -> Range:
        """Tokens of prompts and answers a second, over all devices."""
        tokens = self.work.tokens * self.machine.devices
        return Range(tokens / self.seconds.high, tokens / self.seconds.low)

    @property
    def bytes_per_second(self) -> Range:
        """Speed of the network at which the traffic of an update takes as long as its computation."""
        return Range(self.traffic / self.seconds.high, self.traffic / self.seconds.low)

    @property
    def gpu_hours(self) -> Range:
        """Hours of all devices together; of 1,000 updates if the number of updates is not known."""
        return self.seconds.times(self.machine.devices * (self.updates or 1000) / 3600)

    def record(self) -> dict[str, Any]:
        """The estimate in plain containers, for JSON: bytes, seconds, hours, operations.

        Memory, micro-batch, work and traffic are of one device; tokens per second and hours of all devices together.
        """
        setup = self.setup
        return {
            "id": self.id,
            "model": self.model,
            "parameters": setup.shape.weights,
            "trained": setup.trained,
            "micro_batch": {"rows": setup.micro, "sequences": setup.sequences, "length": setup.length},
            "gpu": self.machine.gpu.name,
            "devices": self.machine.devices,
            "strategy": self.machine.strategy,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "limit": self.machine.limit,
            "offloaded": self.offloaded,
            "fits": self.fits,
            "devices_needed": self.needed,
            "advice": [
                {"overrides": list(one.words), "total": one.memory.total, "changes_results": one.changes}
                for one in self.advice
            ],
            "work": asdict(self.work),
            "time_is_lower_bound": self.only_at_least,
            "seconds_per_update": asdict(self.seconds),
            "tokens_per_second": asdict(self.tokens_per_second),
            "traffic": self.traffic,
            "updates": self.updates,
            "gpu_hours": asdict(self.gpu_hours),
        }


def estimate(plan: Plan, machine: Machine, *, prompt: int | None = None, answer: int | None = None) -> Estimate:
    """The estimate of a run.

    prompt, answer: lengths in tokens; None: the longest that the config allows.
    Raises ConfigError if the rows do not fit into the model's positions, and ModelError if its config can't be read.
    """
    config = plan.train.model.load_config()
    setup = setup_of(plan, config, prompt=prompt, answer=answer, devices=machine.devices)
    whole = setup if machine.devices == 1 else setup_of(plan, config, prompt=prompt, answer=answer)
    memory = memory_of(setup, devices=machine.devices, strategy=machine.strategy)
    work = work_of(setup)
    fits = memory.total <= machine.limit
    advice = [] if fits else advice_for(setup, machine.limit, devices=machine.devices, strategy=machine.strategy)
    return Estimate(
        id=plan.id,
        model=plan.train.model.name,
        setup=setup,
        machine=machine,
        memory=memory,
        work=work,
        seconds=seconds_of(work, memory_of(setup), machine.gpu),
        traffic=traffic_of(setup, devices=machine.devices, strategy=machine.strategy),
        updates=plan.train.trainer.known_steps,
        advice=advice,
        needed=devices_for(whole, machine.limit, _sharing(machine)),
        offloaded=offloaded_of(setup, devices=machine.devices, strategy=machine.strategy),
    )


def _sharing(machine: Machine) -> str:
    return "zero3" if machine.strategy in ("zero2", "zero3") else "fsdp"
