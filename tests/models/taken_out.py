"""Takes tensors out of files of weights."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

UP_PROJ = "model.layers.1.mlp.up_proj.weight"  # of each tiny model


def take_out(file: Path, part: str) -> None:
    """Take the first tensor whose name contains `part` out of a safetensors file."""
    tensors = load_file(file)
    name = min(name for name in tensors if part in name)
    kept = {other: tensor.clone() for other, tensor in tensors.items() if other != name}
    save_file(kept, file, metadata={"format": "pt"})
