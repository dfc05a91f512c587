"""Exports the trained model of a run to a folder, with a model card: merged, as an adapter, or as a GGUF file."""

from __future__ import annotations

import json
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignlab.checks import installed
from alignlab.config.plan import Plan
from alignlab.errors import ConfigError, DamagedError, OutputError, Problem, UnsavedError
from alignlab.integrity import read_record, readable_as_usual, sha256_of
from alignlab.models.export.gguf import DTYPES as GGUF_DTYPES
from alignlab.models.export.gguf import gguf_faults, write_gguf
from alignlab.models.export.hub import check_name, endpoint, upload
from alignlab.models.export.merge import write_adapter, write_merged
from alignlab.models.generation import all_ends
from alignlab.models.heads import load_scorer
from alignlab.models.lineage import is_adapter, lineage
from alignlab.models.sources.base import DTYPES
from alignlab.pipeline.named_policy import run_named
from alignlab.pipeline.requested_runs import is_reward_model
from alignlab.reports.model_card import Export, model_card
from alignlab.runs.directory import RunDir
from alignlab.runs.query import refuse_no_name
from alignlab.targets import run_around

FORMS = ("merged", "adapter", "gguf")

# File of every exported folder: what it is, and the SHA-256 of its files.
RECORD = "export.json"

CARD = "README.md"


@dataclass(frozen=True)
class Request:
    """What to export.

    run:       id of a run, its beginning, or its folder.
    form:      one of FORMS.
    folder:    where to; None takes `<output_root>/exports/<run>-<form>`.
    title:     name of the repository that it is written for, in the model card; empty takes the folder's name.
    base:      hub name that an adapter names as its base; empty keeps the recorded one.
    dtype:     type of the weights; empty keeps the run's.
    upload:    words that upload the folder afterwards; empty if it is not uploaded.
    overwrite: replace a folder that an earlier export wrote.
    """

    run: str
    form: str
    folder: Path | None = None
    title: str = ""
    base: str = ""
    dtype: str = ""
    upload: str = ""
    overwrite: bool = False
    output_root: str = "outputs"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and files of the run's policy that were left out."""

    folder: Path
    left_out: list[str]


def export(request: Request) -> Exported:
    """Write the trained model of a finished run, whole or not at all.

    Raises ConfigError with everything that is wrong with the request, before weights are loaded.
    """
    plan = run_named(request.run, request.output_root, trust_remote_code=request.trust_remote_code, with_policy=False)
    if plan is None:
        refuse_no_name(request.run)
        text = f"there is no such run below {request.output_root}"
        raise ConfigError([Problem("export", request.run, text, "alignlab runs")])
    plan.train.model.restore_base(str(plan.run.policy))
    folder = request.folder or Path(request.output_root) / "exports" / f"{plan.id}-{request.form}"
    if problems := [*_problems(request, plan), *_problems_of_folder(folder, request)]:
        raise ConfigError(problems)
    with _written(folder, request.overwrite) as scratch:
        left_out = _WRITERS[request.form](request, plan, scratch, request.title or folder.name)
        for file in scratch.iterdir():
            readable_as_usual(file)
        about = {"form": request.form, "run": plan.id, "alignlab": version("alignlab"), "files": _digests(scratch)}
        (scratch / RECORD).write_text(json.dumps(about, indent=2), encoding="utf-8")
    return Exported(folder, left_out)


def _named_by_user(about: Export, base: str) -> Export:
    """The export with the base that the user named, if that is another than the config of the run names."""
    return replace(about, base=base, recorded_base=about.base) if base not in ("", about.base) else about


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of the files of a folder."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}


def exported_files(folder: Path) -> tuple[list[str], list[str]]:
    """(names of the files in a folder that an export wrote, names of everything else in it).

    Raises ConfigError if no export wrote the folder, or if one of the files is a link or no file at all, and
    DamagedError if the record of the export is damaged.
    """
    if not is_exported(folder):
        text = f"is neither a run nor a folder that `alignlab export` wrote (it has no {RECORD})"
        raise ConfigError([Problem("export", str(folder), text, "alignlab runs")])
    written = {*_digests_of_record(folder), RECORD, CARD}
    found = sorted(folder.iterdir())
    ours = [file for file in found if file.name in written]
    text = "is not the file that was exported, but a link or a folder; nothing was uploaded"
    if wrong := [Problem("export", str(file), text) for file in ours if file.is_symlink() or not file.is_file()]:
        raise ConfigError(wrong)
    others = [f"{file.name}/" if file.is_dir() else file.name for file in found if file.name not in written]
    return [file.name for file in ours], others


def check_exported(folder: Path) -> None:
    """Raise DamagedError if weights in an exported folder are not those that were exported, or its record is damaged.

    Model card, configs and tokenizer may be edited.
    """
    written = _digests_of_record(folder)
    for name in (name for name in written if name.endswith((".safetensors", ".gguf"))):
        if not (folder / name).is_file() or sha256_of(folder / name) != written[name]:
            raise DamagedError(
                folder / name,
                f"is not the file that was exported (its checksum is not the one in {RECORD}); nothing was uploaded\n"
                f"  type: alignlab export <run> --to merged {folder} --overwrite",
            )


def _digests_of_record(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the exported files, from the record of the export. Raises DamagedError if it has none."""
    written = read_record(folder / RECORD).get("files")
    if not isinstance(written, dict):
        raise DamagedError(folder / RECORD, "is damaged (it names no files)")
    return written


def destination(repo: str) -> str:
    """Address of a repository on the hub. Raises ConfigError if its name is not allowed."""
    check_name(repo)
    return f"{endpoint()}/{repo}"


def upload_exported(folder: Path, repo: str, *, public: bool) -> str:
    """Upload the files that an export wrote as one commit, and return the commit's address.

    Raises OutputError if that fails.
    """
    names, _ = exported_files(folder)
    return upload(folder, names, repo, public=public, message=f"Upload {folder.name} (alignlab)")


def is_exported(folder: Path) -> bool:
    """Whether an export wrote a folder."""
    return (folder / RECORD).is_file()


def _problems(request: Request, plan: Plan) -> Iterator[Problem]:
    policy = str(plan.run.policy)
    adapter = is_adapter(policy)
    known = GGUF_DTYPES if request.form == "gguf" else DTYPES
    if request.dtype and request.form == "adapter":
        yield Problem("--dtype", request.dtype, "an adapter keeps the type of its weights; leave --dtype out")
    elif request.dtype and request.dtype not in known:
        yield Problem("--dtype", request.dtype, f"must be one of: {', '.join(known)}", f"--dtype {known[0]}")
    if request.form == "gguf":
        yield from _problems_of_gguf(plan)
    if request.base and request.form != "adapter":
        yield Problem("--base", request.base, "works only with --to adapter; other forms hold the base's weights")
    if request.form != "adapter":
        return
    if not adapter:
        text = f"{plan.id} trained all weights (peft=none), so it has no adapter"
        yield Problem("--to", "adapter", text, "--to merged")
        return
    found = lineage(policy)
    if len(found.adapters) > 1:
        text = f"{plan.id} trained an adapter on another adapter ({found.adapters[-2]})"
        yield Problem("--to", "adapter", text, "--to merged")
    elif Path(found.base).is_dir() and not request.base:
        text = f"the adapter belongs to the folder {found.base}, which others do not have"
        yield Problem("--to", "adapter", text, "--to merged   or   --base <hub name of exactly these weights>")


def _problems_of_gguf(plan: Plan) -> Iterator[Problem]:
    if is_reward_model(plan):
        yield Problem("--to", "gguf", f"{plan.id} is a reward model, and GGUF files are for policies", "--to merged")
        return
    if lacking := list(installed("--to", "gguf", "gguf", extra="gguf")):
        yield from lacking
        return
    configs, tokenizer = plan.train.model.load_tokenizer_from(str(plan.run.policy))
    for fault in gguf_faults(configs.config, tokenizer):
        yield Problem("--to", "gguf", f"{plan.id}: {fault}", "--to merged")


def _problems_of_folder(folder: Path, request: Request) -> Iterator[Problem]:
    """The problem of a folder that exists, unless it is empty or an earlier export that may be replaced."""
    if run := run_around(folder):
        yield Problem("folder", str(folder), f"lies in the folder of a run ({run}); name another folder")
        return
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        yield Problem("folder", str(folder), "is a file; name a folder")
    elif not is_exported(folder):
        yield Problem("folder", str(folder), "exists, and no export wrote it; name another folder")
    elif not request.overwrite:
        upload = f"alignlab export {shlex.quote(str(folder))} {request.upload}   or   "
        hint = f"{upload if request.upload else ''}--overwrite, or another folder"
        yield Problem("folder", str(folder), "exists already", hint)


@contextmanager
def _written(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write in, which becomes `folder` when the block ends. Raises OutputError if that is impossible."""
    mark = uuid.uuid4().hex
    scratch, before = (folder.with_name(f".{folder.name}.{mark}{end}") for end in (".tmp", ".old"))
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if overwrite and folder.exists():
            folder.rename(before)
        scratch.rename(folder)  # fails if another process has filled the folder meanwhile
    except OSError as error:
        begun = scratch.is_dir()
        raise (UnsavedError if begun else OutputError)(f"{folder} can't be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _merged(request: Request, plan: Plan, folder: Path, title: str) -> list[str]:
    model, tokenizer = _loaded(request, plan)
    write_merged(model, tokenizer, folder, plan.run.policy, dtype=request.dtype)
    _write_card(folder, plan, _about(plan, "merged", title, model, tokenizer))
    return []


def _gguf(request: Request, plan: Plan, folder: Path, title: str) -> list[str]:
    model, tokenizer = _loaded(request, plan)
    name = f"{title.rpartition('/')[2]}.gguf"
    write_gguf(model, tokenizer, folder / name, dtype=request.dtype)
    about = _about(plan, "gguf", title, model, tokenizer)
    _write_card(folder, plan, replace(about, gguf=name, dtype=request.dtype or about.dtype))
    return []


def _adapter(request: Request, plan: Plan, folder: Path, title: str) -> list[str]:
    model, tokenizer = _loaded(request, plan)
    left_out = write_adapter(plan.run.policy, tokenizer, folder, base=request.base)
    about = _about(plan, "adapter", title, model, tokenizer)
    _write_card(folder, plan, _named_by_user(about, request.base))
    return left_out


_WRITERS: dict[str, Callable[[Request, Plan, Path, str], list[str]]] = {
    "merged": _merged,
    "adapter": _adapter,
    "gguf": _gguf,
}


def _loaded(request: Request, plan: Plan) -> tuple[Any, Any]:
    """(model with its adapters merged, tokenizer)."""
    if is_reward_model(plan):
        return load_scorer(str(plan.run.policy), trust_remote_code=request.trust_remote_code)
    return plan.train.model.load_from(str(plan.run.policy))


def _about(plan: Plan, form: str, title: str, model: Any, tokenizer: Any) -> Export:
    first = plan
    while first.parent is not None:
        first = first.parent
    scores = is_reward_model(plan)
    ends = [] if scores else all_ends(model, tokenizer)
    return Export(
        form=form,
        name=title,
        base=first.train.model.name,
        parameters=sum(weight.numel() for weight in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        ends=tuple(tokenizer.convert_ids_to_tokens(ends)),
        is_reward_model=scores,
    )


def _write_card(folder: Path, plan: Plan, about: Export) -> None:
    run = RunDir.of(plan.train.output_root, plan.id)
    (folder / CARD).write_text(model_card(run.record(), run, about), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
