"""DeepSpeed's ZeRO, with training states that any number of processes can resume from.

DeepSpeed's engine makes the passes, adds up and divides the gradients, clips them, and calls the optimizer of the run.
Lightning has a strategy for DeepSpeed as well. It is for GPUs only, and its training states fit one number of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from io import StringIO
from typing import Any, TypeVar

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from alignlab.strategies.place import variables_set

Made = TypeVar("Made")

# Numbers that are sent at a time. With DeepSpeed's own limits, buffers and gathered weights may take several GB.
_AT_ONCE = 50_000_000


class ZeROStrategy(DDPStrategy):
    """Training states have whole tensors, by the same names and places as in one process. The first one writes them.

    patience: how long a process waits for the others.
    stage:    2 divides gradients and the optimizer's state among the processes, 3 divides the weights too.
    offload:  what is in the memory of the machine instead of the device's: none, optimizer or all.
    """

    def __init__(self, patience: timedelta, stage: int, offload: str) -> None:
        super().__init__(timeout=patience)
        self._stage, self._offload = stage, offload
        self._engine: Any = None

    @property
    def divides_weights(self) -> bool:
        return self._stage == 3

    def divide(self, root: nn.Module, models: Sequence[Any]) -> None:
        """Do nothing yet: a training state is loaded before the weights are divided (`setup_optimizers`)."""

    def configure_ddp(self) -> None:
        """Do nothing: the engine does the work of DDP's wrapper."""

    def model_to_device(self) -> None:
        if not self.divides_weights:  # weights that will be divided may not fit before
            super().model_to_device()

    def setup_optimizers(self, trainer: Any) -> None:
        module: Any = self.lightning_module
        # Otherwise DeepSpeed would use the GPUs of the machine for a run on its CPU. It prints what it compiles.
        with variables_set({"DS_ACCELERATOR": self.root_device.type}), redirect_stdout(StringIO()):
            import deepspeed

            config = self._config(module)
            if self.divides_weights:
                deepspeed.zero.Init(module=module, config_dict_or_path=config)
                _number(module.parameters())
                super().model_to_device()
            super().setup_optimizers(trainer)
            (optimizer,) = self.optimizers
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=config, dist_init_required=False
            )
        if self.divides_weights:
            _number(module.modules())

    def _config(self, module: Any) -> dict[str, Any]:
        """DeepSpeed's config, https://www.deepspeed.ai/docs/config-json."""
        vectors = [weight.numel() for weight in module.parameters() if weight.dim() == 1]
        memory = {"device": "cpu", "pin_memory": self.root_device.type == "cuda"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # required, but of no effect here
            "managed_gradient_accumulation": False,  # an update has as many backward passes as it needs
            "gradient_clipping": module.clip,
            "communication_data_type": "fp32",
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": self._stage,
                "reduce_bucket_size": _AT_ONCE,
                "allgather_bucket_size": _AT_ONCE,
                "stage3_max_live_parameters": 2 * _AT_ONCE,
                "stage3_prefetch_bucket_size": 0,  # weights that are on their way can't be gathered for another use
                "stage3_param_persistence_threshold": max(vectors, default=0),  # these stay whole
                "stage3_max_reuse_distance": 2 * _AT_ONCE,
                **({"offload_optimizer": memory} if self._offload != "none" else {}),
                **({"offload_param": memory} if self._offload == "all" else {}),
            },
        }

    def run(self, compute: Callable[..., Made], *args: Any) -> Made:
        found: Made = self._engine(compute, *args)
        return found

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        self._engine.backward(closure_loss)
        return closure_loss

    @contextmanager
    def gathered(self, root: nn.Module) -> Iterator[None]:
        if not self.divides_weights:
            yield
            return
        from deepspeed.runtime.zero import unwrap_model_for_generation

        with unwrap_model_for_generation(self._engine):
            yield
        _number(root.modules())  # they have new numbers

    def update(self, optimizer: Any, limit: float) -> float:
        optimizer.step()  # calls optimizer_step; the engine knows the limit from its config
        return float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else math.nan

    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **kwargs: Any) -> None:
        self._engine.step()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Name -> tensor, of the weights that are trained, in float32. Only the process that writes them has any."""
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, weight in self._trained().items():
            tensor = safe_get_full_fp32_param(weight)
            if self.is_global_zero:
                found[name] = tensor.cpu()
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, with whole tensors on the CPU. Only the process that writes them has any."""
        from deepspeed.utils import safe_get_full_optimizer_state

        weights, (moments, common) = list(self._trained().values()), _kept(optimizer)
        of_weights: dict[int, dict[str, Any]] = {}
        for place, weight in enumerate(weights):
            for key in moments:
                tensor = safe_get_full_optimizer_state(weight, key)
                if self.is_global_zero:  # each weight has a counter of its own, which torch increases in place
                    of_weights.setdefault(place, copy.deepcopy(common))[key] = tensor.cpu()
        groups = [{**group, "params": list(range(len(weights)))} for group in optimizer.param_groups]
        return {"state": of_weights, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizer's state, and the weights once more, as the model may hold them in less than float32."""
        (optimizer,), (state,) = self.optimizers, checkpoint["optimizer_states"]
        self._make_states(optimizer)
        moments, common = _kept(optimizer)
        (group,), (saved,) = optimizer.param_groups, state["param_groups"]
        group.update({key: value for key, value in saved.items() if key != "params"})
        for place, (name, weight) in enumerate(self._trained().items()):
            self._fill(weight, checkpoint["state_dict"][name])
            own = state["state"].get(place, {})  # one process keeps none for weights that no update has used
            for key in moments:
                if key in own:
                    self._fill(weight, own[key], key)
        example = next(iter(state["state"].values()))
        for own in optimizer.state.values():
            for key, begun in common.items():
                value = example[key]
                own[key] = value.to(begun.device, copy=True) if isinstance(begun, Tensor) else value

    def _make_states(self, optimizer: Optimizer) -> None:
        """Make an update that changes nothing. The optimizer has no state that could be filled before its first one."""
        from deepspeed import zero

        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for weight in self._trained().values():
            with zero.GatheredParameters([weight], enabled=self.divides_weights):
                self._engine.backward(self._engine(lambda: 0 * weight.sum()))  # noqa: B023
        self._engine.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _fill(self, weight: nn.Parameter, value: Tensor, moment: str = "") -> None:
        """Give the processes their parts of a weight in float32, or of one of its moments."""
        from deepspeed import utils

        if not self.divides_weights:
            if moment:
                utils.safe_set_full_optimizer_state(weight, value, moment)
            else:
                utils.safe_set_full_fp32_param(weight, value)
            return
        # DeepSpeed's function for whole tensors fails if their length is not a multiple of the number of processes.
        size = utils.safe_get_local_fp32_param(weight).numel()
        parts = nn.functional.pad(value.flatten(), (0, size * self.world_size - value.numel())).chunk(self.world_size)
        if moment:
            utils.safe_set_local_optimizer_state(weight, parts[self.global_rank], moment)
        else:
            utils.safe_set_local_fp32_param(weight, parts[self.global_rank])

    def _trained(self) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        return {name: weight for name, weight in self.lightning_module.named_parameters() if weight.requires_grad}


def _number(parts: Iterable[Any]) -> None:
    """Give modules or weights the numbers that they would have in new processes.

    DeepSpeed numbers all that a process has ever had, and compares the numbers of processes. The leader of a run may
    have trained others, but its followers are new.
    """
    for number, part in enumerate(parts):
        part.ds_id = number


def _kept(optimizer: Optimizer) -> tuple[list[str], dict[str, Any]]:
    """(names of what an optimizer keeps for each number of its weights, what it keeps once, such as the step)."""
    own: dict[str, Any] = next(iter(optimizer.state.values()), {})
    moments = [key for key, value in own.items() if isinstance(value, Tensor) and value.dim()]
    return moments, {key: value for key, value in own.items() if key not in moments}
