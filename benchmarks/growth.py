"""How time and memory of a DPO step grow with answer length, prompt length, batch and vocabulary.

`python -m benchmarks.growth --figure growth.png`. A small Llama with random weights trains on rows of random tokens.
Every point runs all of `alignlab train` in its own process; --with-trl also runs TRL on the same rows. The first step
of a run is a warm-up and is not counted.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    HELD_OUT,
    machine,
    machine_line,
    measure,
    options,
    random_llama,
    save,
    say,
    scratch,
    table,
    write_setting,
)

# axis -> its values; while one is varied, the others have the values of the options
AXES = {
    "answer": (32, 64, 128, 256, 512),
    "prompt": (32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16),
    "vocabulary": (1024, 8192, 32768, 131072),
}
NAMES = {"answer": "answer tokens", "prompt": "prompt tokens", "batch": "pairs per step", "vocabulary": "vocabulary"}

END = "</s>"


def number_tokenizer(vocabulary: int) -> Any:
    """A tokenizer whose tokens are numbers, separated by spaces, and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {**{str(i): i for i in range(vocabulary - 1)}, END: vocabulary - 1}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def random_rows(count: int, prompt: int, answer: int, vocabulary: int) -> list[dict[str, Any]]:
    """Pairs of random tokens, all with the same lengths; the end token counts as a token of the answer."""
    draw = np.random.default_rng(0)

    def words(length: int) -> str:
        # 0 is the padding token
        return " ".join(map(str, draw.integers(1, vocabulary - 1, length)))

    return [
        {
            "prompt": words(prompt) + " ",
            "chosen": words(answer - 1),
            "rejected": words(answer - 1),
            "lengths": [prompt, answer, answer],
        }
        for _ in range(count)
    ]


def point(args: Namespace, sides: list[str], **sizes: int) -> dict[str, Any]:
    """Median step time (s) and memory (GB) of every side at one point."""
    shape = {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": args.hidden_size,
        "intermediate_size": 4 * args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "max_position_embeddings": sizes["prompt"] + sizes["answer"],
    }
    rows = random_rows(args.steps * sizes["batch"] + HELD_OUT, sizes["prompt"], sizes["answer"], sizes["vocabulary"])
    tokenizer = number_tokenizer(sizes["vocabulary"])
    length = sizes["prompt"] + sizes["answer"]
    with scratch() as folder:
        model = random_llama(shape, tokenizer, args.dtype)
        setting = write_setting(args, "dpo", folder, model, tokenizer, rows, length, sizes["batch"])
        found = {side: [measure(side, setting) for _ in range(args.repeats)] for side in sides}
    return {
        "sizes": sizes,
        "runs": {side: [asdict(one) for one in runs] for side, runs in found.items()},
        "seconds": {
            side: statistics.median(s for one in runs for s in one.seconds[1:]) for side, runs in found.items()
        },
        "peak_gb": {side: statistics.median(one.peak_gb for one in runs) for side, runs in found.items()},
    }


def draw(file: Path, result: dict[str, Any]) -> None:
    """Draw time above memory, with one column for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, panels = plt.subplots(2, len(result["axes"]), figsize=(4 * len(result["axes"]), 6), squeeze=False)
    for column, (axis, points) in enumerate(result["axes"].items()):
        values = [one["sizes"][axis] for one in points]
        for row, (name, label) in enumerate((("seconds", "s/step"), ("peak_gb", "peak GB"))):
            panel = panels[row][column]
            for side in points[0][name]:
                panel.plot(values, [one[name][side] for one in points], marker="o", label=side)
            panel.set(xlabel=NAMES[axis], ylabel=label if column == 0 else "")
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.set_ylim(bottom=0, top=1.05 * max(max(one[name].values()) for one in points))
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    sides = list(next(iter(result["axes"].values()))[0]["seconds"])
    head = ["varied", "value", *(f"{side}, {unit}" for side in sides for unit in ("s/step", "peak GB"))]
    rows = [
        [NAMES[axis], one["sizes"][axis]]
        + [number for side in sides for number in (f"{one['seconds'][side]:.3g}", f"{one['peak_gb'][side]:.2f}")]
        for axis, points in result["axes"].items()
        for one in points
    ]
    return "\n".join([table(head, rows), "", machine_line(result["machine"])])


def main() -> None:
    """Measure, print the table, draw the figure."""
    parser = options(__doc__, steps=4, repeats=3)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens while another axis is varied")
    parser.add_argument("--answer", type=int, default=128, help="answer tokens while another axis is varied")
    parser.add_argument("--vocabulary", type=int, default=8192, help="vocabulary while another axis is varied")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=tuple(AXES), help="axes to vary")
    parser.add_argument("--largest", type=int, help="leave out larger values")
    parser.add_argument("--with-trl", action="store_true", help="run TRL too")
    parser.add_argument("--figure", type=Path, help="PNG file for the figure")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps: at least 2, because the first is not counted")
    sides = ["alignlab", *(["trl"] if args.with_trl else [])]
    start = {"answer": args.answer, "prompt": args.prompt, "batch": args.batch_size, "vocabulary": args.vocabulary}
    values = {axis: [v for v in AXES[axis] if args.largest is None or v <= args.largest] for axis in args.axes}
    if bare := [axis for axis, left in values.items() if not left]:
        parser.error(f"--largest: leaves no value of {', '.join(bare)}")
    axes: dict[str, list[dict[str, Any]]] = {}
    for axis, left in values.items():
        axes[axis] = []
        for value in left:
            say(f"{NAMES[axis]}: {value}")
            axes[axis].append(point(args, sides, **{**start, axis: value}))
    result = {"options": {name: str(value) for name, value in vars(args).items()}, "machine": machine(), "axes": axes}
    print(report(result))
    save(args.json, result)
    if args.figure:
        draw(args.figure, result)


if __name__ == "__main__":
    main()
