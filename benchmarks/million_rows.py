"""How long a million pairs take from their file to the first batch, and how much memory, at the first and second start.

    python -m benchmarks.million_rows --rows 1000000

Each start is a process of its own. It times the steps of `alignlab train` up to the first batch: plan, read, audit and
tokenize (or find the stored token rows), and iterate over all rows once. A tiny model with one token per byte is used
unless `--model` names a folder.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_WORDS = [f"w{i}" for i in range(2000)]


def write_pairs(file: Path, rows: int) -> None:
    """Write pairs of about 40 words. Every prompt is different."""
    source = random.Random(0)
    with file.open("w", encoding="utf-8") as out:
        for i in range(rows):
            prompt, chosen, rejected = (" ".join(source.choices(_WORDS, k=k)) for k in (10, 16, 14))
            out.write(json.dumps({"prompt": f"{i} {prompt}", "chosen": chosen, "rejected": rejected}) + "\n")


def start(folder: Path, model: str) -> dict[str, float]:
    """Seconds of the steps of one start, its CPU seconds up to the rows, and the most memory of this process in GB.

    Imports are not timed.
    """
    import hydra

    from alignlab.config.paths import conf_dir
    from alignlab.config.plan import plan
    from alignlab.config.registry import store_schemas
    from alignlab.training.dataset import load_rows
    from alignlab.training.setup import load_initial_policy

    store_schemas()
    words = [f"data.path={folder}/pairs.jsonl", f"output_root={folder}/outputs", "data=pairs", "tracking=none"]
    words += ["trainer.progress=false", *(["model=tiny"] if not model else ["model=hub", f"model.name={model}"])]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("train", words)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    planned = plan(config)
    at_plan = time.perf_counter()
    policy = load_initial_policy(planned)
    at_model = time.perf_counter()
    rows = load_rows(policy)
    at_rows, cpu = time.perf_counter(), time.process_time() - begin_cpu
    tokens = sum(len(prompt) + len(answer) for row in rows.train for prompt, answer in row.answers())
    at_end = time.perf_counter()
    return {
        "plan": at_plan - begin,
        "model": at_model - at_plan,
        "rows": at_rows - at_model,
        "cpu": cpu,
        "iterate": at_end - at_rows,
        "pairs": len(rows.train),
        "tokens": tokens,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    """Run both starts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default="", help="folder of a model; the tiny one unless given")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(start(options.folder, options.model)))
        return
    with tempfile.TemporaryDirectory() as made:
        write_pairs(Path(made) / "pairs.jsonl", options.rows)
        for name in ("first start", "second start"):
            command = [sys.executable, "-m", "benchmarks.million_rows", "--folder", made, "--model", options.model]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            before = sum(found[step] for step in ("plan", "model", "rows"))
            print(
                f"{name}: {before:.1f} s to the rows, {found['cpu']:.1f} s of CPU (plan {found['plan']:.1f}, model "
                f"{found['model']:.1f}, rows {found['rows']:.1f}, {found['pairs'] / found['rows']:,.0f} pairs/s), "
                f"all rows once in {found['iterate']:.1f} s ({found['pairs'] / found['iterate']:,.0f} pairs/s), "
                f"{found['gb']:.2f} GB"
            )


if __name__ == "__main__":
    main()
