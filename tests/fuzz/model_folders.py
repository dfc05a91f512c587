"""Folders of models with files that are damaged, missing or wrong. Each case has a name that makes it again."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Keys of config.json with values that fit no tiny model.
CONFIG: tuple[tuple[str, Any], ...] = (
    ("model_type", "no_such"),
    ("model_type", None),
    ("model_type", "t5"),
    ("hidden_size", "x"),
    ("hidden_size", -1),
    ("hidden_size", 0),
    ("hidden_size", 10**9),
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", 0),
    ("vocab_size", 2),
    ("vocab_size", 10**12),
    ("num_attention_heads", 7),
    ("num_key_value_heads", 0),
    ("max_position_embeddings", 1),
    ("rms_norm_eps", float("nan")),
    ("tie_word_embeddings", "yes"),
    ("rope_parameters", {"rope_type": "x"}),
    ("dtype", "x"),
    ("quantization_config", {"quant_method": "x"}),
    ("auto_map", {"AutoModelForCausalLM": "x.Y"}),
    ("eos_token_id", 10**6),
    ("architectures", ["../../x"]),
    ("num_labels", -1),
)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """A changed folder of a model. change: changes a folder with a good one."""

    kind: str
    name: str
    change: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def _config(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return change


def _damage(name: str, number: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file, draw = folder / name, random.Random(f"{name}/{number}")
        content = bytearray(file.read_bytes())
        place = draw.randrange(min(len(content), 4000))
        if number % 2:
            del content[place:]
        else:
            content[place] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(content))

    return change


def _replace(name: str, content: bytes | None) -> Callable[[Path], None]:
    """The file with other content; None: the file is a folder."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)

    return change


def _without_tensor(number: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / WEIGHTS)
        del tensors[sorted(tensors)[number * 5 % len(tensors)]]
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def _pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def model_folders() -> Iterator[ModelFolder]:
    """All cases, in an order that stays the same."""
    for key, value in CONFIG:
        yield ModelFolder("config.json", f"{key}={str(value)[:20]}", _config(key, value))
    for name in ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"):
        for number in range(3):
            yield ModelFolder("damaged files", f"{name}-{number}", _damage(name, number))
        for shown, content in (("empty", b""), ("list", b"[]"), ("folder", None)):
            yield ModelFolder("other content", f"{name}-{shown}", _replace(name, content))
        yield ModelFolder("missing files", name, lambda folder, name=name: (folder / name).unlink())
    for number in range(4):
        yield ModelFolder("missing tensors", f"tensor-{number}", _without_tensor(number))
    header = b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"
    yield ModelFolder("damaged files", "a header of 9 exabytes", _replace(WEIGHTS, header))
    yield ModelFolder("no files", "a pipe of weights", _pipe)
    yield ModelFolder(
        "no files", "an empty folder", lambda folder: [file.unlink() for file in folder.iterdir()] and None
    )
