"""One real module per objective, on a tiny model and with suitable rows. The equivalence tests use them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.config.registry import schemas
from alignlab.data.datamodule import AlignmentData, MicroBatches
from alignlab.data.layout import PLAIN, Layout
from alignlab.data.tokenize import CompletionTokens, LabelledTokens, PairTokens, RankingTokens, mismatched
from alignlab.models.heads import with_scalar_head
from alignlab.models.reference import frozen_copy
from alignlab.models.sources.tiny import Tiny
from alignlab.modules.base import AlignmentModule
from alignlab.objectives.base import Objective
from alignlab.objectives.online import Online
from alignlab.optim.adamw import AdamW
from alignlab.training.data_shapes import SHAPES

GENERATOR = torch.Generator().manual_seed(0)
END = 6


def ids(low: int, high: int) -> list[int]:
    size = int(torch.randint(low, high, (), generator=GENERATOR))
    return torch.randint(0, END, (size,), generator=GENERATOR).tolist()


PAIRS = [PairTokens(i, ids(1, 5), [*ids(1, 7), END], [*ids(1, 7), END]) for i in range(16)]
ANSWERS = [CompletionTokens(i, ids(1, 5), [*ids(1, 9), END]) for i in range(16)]
LABELLED = [LabelledTokens(i, ids(1, 5), [*ids(1, 9), END], i % 3 == 0) for i in range(16)]
RANKINGS = [
    RankingTokens(i, ids(1, 5), [[*ids(1, 7), END] for _ in range(k)], [float(g // 2) for g in range(k)], 0.1 * i)
    for i, k in enumerate([2, 3, 4, 3] * 4)
]
for _ranking in RANKINGS[::4]:
    _ranking.grades[:] = [1.0, 0.0]
ROWS: dict[str, Any] = {"completions": ANSWERS, "pairs": PAIRS, "labelled": LABELLED, "rankings": RANKINGS}

# Required fields of objectives, and variants that take another path through the code.
FIELDS: dict[str, dict[str, Any]] = {
    "ipo": {"tau": 0.5},
    "orpo": {"odds_weight": 0.5},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "mix": {
        "parts": [
            {"name": "ipo", "tau": 1.0},
            {"name": "sft", "weight": 0.3},
            {"name": "aot", "beta": 0.5},
            {"name": "bco", "beta": 0.5, "shift": "none"},
            {"name": "tdpo", "beta": 0.2},
        ]
    },
    "reward_model": {"centring": 0.1},
    "sft": {},
    "slic": {},
    "unlikelihood": {"alpha": 0.5},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ipo of means": ("ipo", {"tau": 0.5, "dialect": "trl1"}),
    "cpo over tokens": ("cpo", {"beta": 0.5, "dialect": "trl1"}),
    "orpo over tokens": ("orpo", {"odds_weight": 0.5, "nll": "tokens"}),
    "unpaired aot": ("aot", {"beta": 0.5, "pairing": "unpaired", "label_smoothing": 0.1}),
    "unshifted bco": ("bco", {"beta": 0.5, "shift": "none"}),
    "tdpo1": ("tdpo", {"beta": 0.5, "alpha": 1.0, "stop_gradient": False}),
    "reward model with margins": ("reward_model", {"margins": True}),
    "weighted kto": ("kto", {"beta": 0.5, "desirable_weight": 2.0}),
}


def objectives() -> dict[str, Objective]:
    """Every objective on given answers, and the variants, by name."""
    known = schemas()["objective"]
    given = {name: cls for name, cls in known.items() if not issubclass(cls, Online)}
    found = {name: cls(**FIELDS.get(name, {"beta": 0.5})) for name, cls in given.items()}
    return found | {label: known[name](**fields) for label, (name, fields) in VARIANTS.items()}


def in_one_dtype(model: Any) -> Any:
    """The model with its norms in its own dtype. transformers computes Llama's norms in float32, even for float64."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = torch.nn.RMSNorm(len(module.weight), module.variance_epsilon, dtype=module.weight.dtype)
            model.set_submodule(name, norm)
    return model


SHARED = Layout(shared=True, split=True, width=32)


def build(
    objective: Objective,
    *,
    drift: float = 0.0,
    dtype: torch.dtype = torch.float64,
    micro: int = 8,
    layout: Layout = PLAIN,
) -> AlignmentModule:
    """A module with the tiny model as policy. Its reference is the same model, or one that differs by `drift`.

    micro: number of rows per forward pass.
    """
    torch.manual_seed(0)
    model, _ = Tiny(name="t", alphabet="abcdef", hidden_size=32).load()
    model = in_one_dtype(model.to(dtype))
    needs = objective.requires
    reference = frozen_copy(model) if needs.data in ("pairs", "labelled") else None
    if needs.data == "rankings":
        model = with_scalar_head(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += drift * torch.randn_like(parameter)
    shape = SHAPES[needs.data]
    micro_batches = MicroBatches(lambda rows: shape.collate(rows, layout), micro, 10_000)
    return shape.module(
        model, objective, AdamW(lr=1e-2), micro_batches, max_steps=3, clip=0.0, seed=0, reference=reference
    )


def data_for(objective: Objective, steps: int) -> AlignmentData:
    """16 rows in global batches of 8."""
    needs = objective.requires
    rows = ROWS[needs.data]
    return AlignmentData(
        rows, rows, batch_size=8, steps=steps, seed=1, batch_transform=mismatched if needs.mismatched else None
    )


class Keep(pl.Callback):
    """Records metrics and gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        found = {name: p.grad.clone() for name, p in pl_module.policy.named_parameters() if p.grad is not None}
        self.gradients.append(found)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(comparable(pl_module.last_metrics))


@dataclass
class Trained:
    """The results of a short training."""

    steps: list[dict[str, float]]
    held_out: dict[str, float]
    gradients: list[dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]


def train(
    module: AlignmentModule, folder: Path, steps: int = 3, data: AlignmentData | None = None, **trainer_options: Any
) -> Trained:
    """`steps` updates, then an evaluation of all rows."""
    data, keep = data or data_for(module.objective, steps), Keep()
    options = {"accelerator": "cpu", "devices": 1, **trainer_options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=steps, callbacks=[keep], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False,
            default_root_dir=folder, **options,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    held_out = module.validate(data.held_out_rows())
    weights = {name: value.clone() for name, value in module.policy.state_dict().items()}
    return Trained(keep.steps, held_out, keep.gradients, weights)


def comparable(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if "second" not in name}
