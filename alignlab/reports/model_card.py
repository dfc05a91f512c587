"""The model card of an exported run: what it is, how to use it, how it was trained, what was measured, its limits.

Everything comes from the run's directory, which may be somebody else's: it is shown as text without markup.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.errors import AlignlabError
from alignlab.inert import fenced, markdown, one_line
from alignlab.integrity import read_record
from alignlab.redaction import redacted, redacted_override
from alignlab.reports.answer import answers_of
from alignlab.reports.collect import read_sweep
from alignlab.reports.evaluation import SUMMARY, health_line, summary_text
from alignlab.reports.tables import columns_of, objectives, table
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Record
from alignlab.runs.record import is_count, is_name, is_number
from alignlab.spelling import counted
from alignlab.statistics.intervals import share_interval

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
# Words of a command line that belong to the place of a run.
_PLACE = ("output_root=", "++sweep.name=", "hydra.", "launcher", "tracking")


@dataclass(frozen=True)
class Export:
    """What was exported.

    form:       merged, adapter or gguf.
    name:       name of the folder, or of the repository on the hub.
    base:       model that training started from, as the config or the user names it.
    recorded_base: its name in the config, if the user gave another one (--base); empty otherwise.
    parameters: number of parameters of the whole model.
    dtype:      type of the weights.
    ends:       texts of the tokens that end an answer.
    is_reward_model: whether it scores answers and writes none.
    gguf:       name of the GGUF file; empty for other forms.
    """

    form: str
    name: str
    base: str
    parameters: int
    dtype: str
    ends: tuple[str, ...] = ()
    is_reward_model: bool = False
    gguf: str = ""
    recorded_base: str = ""


def model_card(record: Record, run: RunDir, export: Export) -> str:
    """The content of README.md: metadata for the hub (YAML), then Markdown."""
    from huggingface_hub import ModelCardData

    config = _mapping(record.get("config"))
    kind = _text(_mapping(record.get("objective")).get("name"))
    data = ModelCardData(
        base_model=export.base if _is_hub_name(export.base) else None,
        base_model_relation="adapter"
        if export.form == "adapter"
        else "finetune"
        if _is_hub_name(export.base)
        else None,
        datasets=sorted(set(_hub_datasets(_mapping(config.get("data"))))) or None,
        library_name={"adapter": "peft", "gguf": "gguf"}.get(export.form, "transformers"),
        pipeline_tag="text-classification" if export.is_reward_model else "text-generation",
        tags=["alignlab", *([f"alignlab-{kind}"] if re.fullmatch(r"\w+", kind) else [])],
    )
    parts = [
        f"# {markdown(export.name)}",
        _what(record, export, kind),
        "## Use",
        *_use(export),
        "## Training",
        table(["", ""], _training(record, config, export)),
        "## Measured",
        *_measured(record, run),
        *_verdicts(record, run),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(record, run, export)),
        "## Command",
        fenced(command(record)),
        "Its paths are shortened. alignlab trains the same run again with this command and the same data.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def command(record: Record) -> str:
    """The command that trains the run, without keys, its place, and folders of the machine."""
    words = [redacted_override(str(word)) for word in record.get("overrides") or []]
    return shlex.join(["alignlab", "train", *(_without_folders(w) for w in words if not w.startswith(_PLACE))])


def _what(record: Record, export: Export, kind: str) -> str:
    what = "A reward model" if export.is_reward_model else "A policy"
    form = {"adapter": ", as a peft adapter", "gguf": ", as a GGUF file"}.get(export.form, "")
    base = f"`{_code(_without_folders(export.base))}`{_given(export, '`')}"
    version = _text(_mapping(record.get("versions")).get("alignlab")) or "of an unknown version"
    return (
        f"{what} that alignlab {markdown(version)} trained from {base} with the objective `{_code(kind)}`{form}. "
        f"Run `{_code(str(record['id']))}`, {export.parameters:,} parameters, {export.dtype}."
    )


def _given(export: Export, quote: str = "") -> str:
    """That the name of the base is the user's word for it; empty if the config of the run has it."""
    if not export.recorded_base:
        return ""
    recorded = f"{quote}{_code(_without_folders(export.recorded_base))}{quote}"
    return f" (as given by {quote}--base{quote} and not checked; the run's config names {recorded})"


def _use(export: Export) -> Iterator[str]:
    name = _code(export.name)
    if export.form == "gguf":
        yield f"```sh\nllama-server --model {shlex.quote(export.gguf)} --jinja\n```"
    elif export.is_reward_model:
        yield (
            "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
            f'model = AutoModelForSequenceClassification.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
        )
        yield (
            "The reward is the model's output on the last token of the answer. `reward.json` holds the mean reward of "
            "preferred answers, which alignlab subtracts."
        )
    elif export.form == "adapter":
        yield (
            "```python\nfrom peft import AutoPeftModelForCausalLM\n"
            "from transformers import AutoTokenizer, GenerationConfig\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")\n'
            f'model.generation_config = GenerationConfig.from_pretrained("{name}")  # where answers end\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
        )
    else:
        yield (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
        )
        yield f"```sh\nvllm serve {name}\ntext-generation-launcher --model-id {name}    # TGI\n```"
    if export.ends and not export.is_reward_model:
        yield f"Answers end at {' or '.join(f'`{_code(end)}`' for end in export.ends)}."


def _training(record: Record, config: Mapping[str, Any], export: Export) -> Iterator[list[str]]:
    def row(name: str, value: Any) -> list[str]:
        return [name, markdown(redacted(value), 1000)]

    for line in objectives([record], []) if _mapping(record.get("objective")).get("name") else ():
        yield row("objective and dialect", line)
    data, rows = _mapping(config.get("data")), _mapping(record.get("data"))
    kind = _text(_mapping(record.get("kinds")).get("data"))
    place = _without_folders(_listed(data.get("path")))
    yield row("data", f"{kind} {place}".strip())
    if revision := _text(data.get("revision")):
        yield row("revision of the data", revision)
    for split, name in (("train", "training rows"), ("eval", "held-out rows")):
        part = _mapping(rows.get(split))
        if is_number(part.get("rows")):
            dropped = "; ".join(f"{reason}: {count}" for reason, count in _mapping(part.get("dropped")).items())
            yield row(name, f"{part['rows']}" + (f" (left out: {dropped})" if dropped else ""))
    if digest := rows.get("fingerprint"):
        yield row("digest of the data", digest)
    yield row("started from", _without_folders(export.base) + _given(export))
    for name, value in (
        ("commit or digest of the base", _mapping(record.get("model")).get("fingerprint")),
        ("digest of the initial weights", _mapping(record.get("model")).get("reference_weights")),
        ("parent run", record.get("parent")),
        ("reward model", record.get("reward")),
        ("adapter", _mapping(record.get("kinds")).get("peft")),
    ):
        if value and value != "none":
            yield row(name, value)
    optim, trainer = _mapping(config.get("optim")), _mapping(config.get("trainer"))
    yield row("optimizer", f"{_text(_mapping(record.get('kinds')).get('optim'))}, learning rate {optim.get('lr')}")
    updates = _mapping(record.get("summary")).get("train/global_step", trainer.get("max_steps"))
    yield row("updates, rows per update", f"{updates}, {trainer.get('batch_size')}")
    yield row("seed", config.get("seed"))
    versions = _mapping(record.get("versions"))
    yield row("versions", ", ".join(f"{name} {versions[name]}" for name in versions))


def _measured(record: Record, run: RunDir) -> Iterator[str]:
    summary = {k: v for k, v in _mapping(record.get("summary")).items() if is_number(v)}
    columns = {name: column for name, column in columns_of(summary).items() if not name.startswith("time/")}
    rows = [
        [markdown(heading), format(float(summary[name]), form), _interval(summary, name, form)]
        for name, (heading, form) in columns.items()
    ]
    if rows:
        yield table(["metric", "value", "95 % interval"], rows)
        yield "Metrics without an interval are single numbers of this run."
    else:
        yield "Nothing was measured."
    for folder, found in _evaluations(record, run):
        yield f"Sampled answers (evaluation `{_code(folder.name)}`):"
        measured = {name: part for name, part in found.items() if name != "health"}  # its verdict has a section
        yield fenced(redacted(summary_text(measured)), 20_000)


def _interval(summary: Mapping[str, Any], name: str, form: str) -> str:
    """The 95 % interval of a metric, as recorded or of a share of held-out pairs; else its standard error, if known."""
    low, high = summary.get(f"{name}/ci_low"), summary.get(f"{name}/ci_high")
    stem = name.rpartition("/")[0] if name.endswith(("/mean", "/sequence_k1")) else name
    if (error := summary.get(f"{name}/se", summary.get(f"{stem}/se"))) is not None:
        return f"standard error {error:{form}}"
    if low is None and name == "eval/pairs/accuracy" and summary.get("eval/pairs/n"):
        n = summary["eval/pairs/n"]
        found = share_interval(summary[name] * n, 0.0, (1 - summary[name]) * n)
        low, high = found.low, found.high
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _evaluations(record: Record, run: RunDir) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """(folder, summary) of the evaluations of the finished run. Those that can't be read are left out."""
    for file in sorted(run.path.glob(f"evaluation/*/{SUMMARY}")):
        if file.parent.name.startswith("step-"):
            continue
        try:
            found = read_record(file)
            summary_text(found)
        except (AlignlabError, OSError, LookupError, TypeError, ValueError, AttributeError):
            continue
        yield file.parent, found


def _verdicts(record: Record, run: RunDir) -> Iterator[str]:
    """Verdicts on the run's health, and the answer of its sweep. Nothing if there are none."""
    lines = [
        f"- {markdown(health_line(found['health']), 2000)}"
        for _, found in _evaluations(record, run)
        if "health" in found
    ]
    lines += [f"- {markdown(sentence, 2000)}" for sentence in _answer_of_sweep(record, run)]
    if lines:
        yield "## Verdicts"
        yield "\n".join(lines)


def _answer_of_sweep(record: Record, run: RunDir) -> list[str]:
    sweep = record.get("sweep")
    if not is_name(sweep):
        return []
    folder = run.path.parents[1] / "sweeps" / str(sweep)
    if not (folder / "sweep.json").is_file():
        return []
    try:
        told = answers_of(read_sweep(folder))
    except (AlignlabError, OSError, LookupError, TypeError, ValueError):
        return []
    return [f"Sweep {sweep}{f', {name}' if name else ''}: {' '.join(sentences)}" for name, sentences in told]


def _limits(record: Record, run: RunDir, export: Export) -> Iterator[str]:
    seed = _mapping(record.get("config")).get("seed")
    yield f"This is one run with seed {markdown(seed)}. It does not show how much results vary between seeds."
    rows: Any = _mapping(_mapping(record.get("data")).get("eval")).get("rows")
    if is_count(rows):
        yield f"It was measured on {counted(rows, 'held-out row')} of its own data, and on nothing else unless stated."
    if not any(True for _ in _evaluations(record, run)):
        yield "No answers were sampled or judged."
    audit = _mapping(_mapping(record.get("data")).get("audit"))
    for kind in ("errors", "warnings"):
        for finding in audit.get(kind) or ():
            if isinstance(finding, Mapping):
                yield f"Data: {markdown(finding.get('text'))}."
    if _is_hub_name(export.base) and "@" not in _text(_mapping(record.get("model")).get("fingerprint")):
        yield "The weights of its base did not come from the hub, and may differ from those there."
    elif not _is_hub_name(export.base):
        yield "Its base is not on the hub, so the card can't link to the limits of the base."
    yield "It was not tested for safety, bias or truth. The licence and the limits of its base and its data apply."


def _hub_datasets(data: Mapping[str, Any]) -> Iterator[str]:
    """Hub names of the data sets that a config names. What exists as a path here is not one."""
    for part in _mapping(data.get("parts")).values():
        yield from _hub_datasets(_mapping(part))
    paths = data.get("path")
    for path in paths if isinstance(paths, list) else [paths]:
        if isinstance(path, str) and _is_hub_name(path):
            yield path


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists() and Path(name).suffix not in _FILES


def _without_folders(text: str) -> str:
    """The text with `.../<name>` in place of paths that begin at the root or in a home folder."""
    return re.sub(r"(?<![\w.:/])(?:~|\.{1,2})?(?:/[^/\s,\]\"'=]+)*/([^/\s,\]\"'=]+)", r".../\1", text)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else _text(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _code(text: str) -> str:
    """The text for Markdown's backticks and for a string of Python."""
    return re.sub(r"[`\"\\]", "'", one_line(text))
