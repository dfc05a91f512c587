"""`alignlab runs`: lists, compares, removes and packs runs, and writes tables of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.cli.refusal import print_error
from alignlab.errors import AlignlabError, OutputError
from alignlab.inert import visible
from alignlab.pipeline.garbage import delete, find_garbage
from alignlab.runs.archive import members_of, pack, unpack
from alignlab.runs.directory import RunDir, at_work_elsewhere
from alignlab.runs.query import Filter, children_of, find, listed_runs, runs_of, select
from alignlab.spelling import counted, size_in_words
from alignlab.targets import check_target
from alignlab.tracking.wandb_sync import check_login, offline_folder, upload

_HELP = """usage: alignlab runs [list] [condition ...]         list the newest 200 runs that meet all conditions
       alignlab runs --all [condition ...]          list all of them
       alignlab runs show <run>                     show a run on one screen; --full: config, all metrics, log
       alignlab runs compare <run> <run>            show where the configs and metrics of two runs differ
       alignlab runs remove <run or condition ...>  remove runs, after a question (--yes: without)
       alignlab runs gc                             delete what no run refers to, after a question (--yes: without)
       alignlab runs table <file> [condition ...]   write config and summary, one row per run (.csv or .parquet)
       alignlab runs pack <sweep or run> [file]     write it with all runs that it needs to one file; --no-weights
       alignlab runs unpack <file>                  unpack such a file; nothing is overwritten
       alignlab runs --watch [condition ...]        follow the runs until all have ended
       alignlab runs --sync [condition ...]         upload the offline W&B files of runs that are not uploaded yet

condition: status=failed  objective=dpo,ipo  'sweep=dpo_beta-*'  'seed!=1'  'objective.beta<=0.3'  'exact/kl>2'
           The key is any key of the config or any metric of the summary. A comma means "or". Texts may have * and ?.
           Quote a condition with < > ! * or ?, because the shell has other uses for them.
run:       the id of a run, or the beginning of its id
folder:    output_root=<folder> (default: outputs)"""

_NEWEST = 200  # runs of a list without --all


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    args = list(argv)
    if {"-h", "--help"} & set(args):
        print(_HELP)
        return 0
    try:
        verb = args.pop(0) if args and args[0] in _VERBS else "list"
        return _VERBS[verb](*_parsed(args))
    except AlignlabError as error:
        return print_error(error, argv)
    except KeyboardInterrupt:
        return 130


def _parsed(args: Sequence[str]) -> tuple[Path, list[str], argparse.Namespace]:
    parser = argparse.ArgumentParser("alignlab runs", usage=_HELP.removeprefix("usage: "), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--no-weights", action="store_true")
    flags = parser.parse_intermixed_args(args)
    roots = [word.partition("=")[2] for word in flags.words if word.startswith("output_root=")]
    return Path(roots[-1] if roots else "outputs"), [w for w in flags.words if not w.startswith("output_root=")], flags


def _list(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    from alignlab.reports.runs import show_table

    filters = [Filter.parse(word) for word in words]
    found = select(listed_runs(root), filters, root)
    if flags.sync:
        return _sync(root, [record for record in found if record.get("status") != "running"])
    if found and flags.watch:
        return _watch(root, filters, " ".join(words) or str(root))
    if not found:
        print(visible(f"no runs below {root}{' that meet ' + ' '.join(words) if words else ''}"))
        return 0
    shown = found if flags.all else found[-_NEWEST:]
    show_table(shown, root)
    if older := len(found) - len(shown):
        print(f"{counted(older, 'older run')} {'is' if older == 1 else 'are'} not listed; --all lists all")
    return 0


def _sync(root: Path, records: Sequence[Mapping[str, Any]]) -> int:
    """Upload the offline W&B files of runs, and of the sweeps that they belong to."""
    places = [RunDir.of(root, record["id"]).path for record in records]
    sweeps = dict.fromkeys(str(record["sweep"]) for record in records if record.get("sweep"))
    places += [root / "sweeps" / name for name in sweeps if Path(name).name == name]  # a record may be anybody's
    folders = [folder for place in places if (folder := offline_folder(place))]
    if not folders:
        print(f"nothing to upload: none of {counted(len(records), 'run')} has W&B files that are not uploaded yet")
        return 0
    check_login()
    print(
        f"uploading {counted(len(folders), 'run')} to W&B: config, metrics, installed packages, and tables of prompts "
        "and answers (runs with tracking.wandb.samples=false have none)",
        flush=True,
    )
    return upload(folders)


def _watch(root: Path, filters: Sequence[Filter], title: str) -> int:
    from alignlab.reports.live import RunStatus, run_status, watch
    from alignlab.reports.runs import labels

    def runs() -> list[RunStatus]:
        found = select(listed_runs(root), filters, root)
        return [run_status(RunDir.of(root, r["id"]), label) for r, label in zip(found, labels(found), strict=True)]

    watch(runs, title)
    return 0


def _show(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    from alignlab.reports.runs import show_run, show_screen

    records = runs_of(root)
    for word in words:
        record = find(records, word)
        show = show_run if flags.full else show_screen
        show(record, RunDir.of(root, record["id"]), children_of(record, records))
    return _some(words, "which run? alignlab runs show <id>")


def _compare(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    from alignlab.reports.runs import show_comparison

    if len(words) != 2:
        return _some([], "compare needs two runs: alignlab runs compare <id> <id>")
    records = runs_of(root)
    show_comparison(find(records, words[0]), find(records, words[1]))
    return 0


def _remove(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    records = runs_of(root)
    conditions = [Filter.parse(word) for word in words if any(sign in word for sign in "=<>")]
    named = [find(records, word) for word in words if not any(sign in word for sign in "=<>")]
    doomed = {r["id"]: r for r in [*named, *(select(records, conditions, root) if conditions else [])]}
    if conditions and not doomed:
        print("nothing to remove: no run meets these conditions")
        return 0
    if not doomed:
        return _some([], "nothing to remove: name runs or conditions")
    for record in doomed.values():
        left = [child for child in children_of(record, records) if child not in doomed]
        note = f"  (parent of {', '.join(left)})" if left else ""
        print(visible(f"{record['id']}  {record.get('status')}{note}"))
    if not flags.yes and not _agreed(f"remove {counted(len(doomed), 'run')} for good? [y/N] "):
        print("nothing removed; --yes removes without a question")
        return 1
    runs = {id: RunDir.of(root, id) for id in doomed}
    elsewhere = at_work_elsewhere(runs.values())
    kept = [id for id, run in runs.items() if elsewhere.get(run) or not run.remove(watched=run in elsewhere)]
    for id in kept:
        print(visible(f"{id}: not removed, because a process works on it"), file=sys.stderr)
    return 1 if kept else 0


def _gc(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    """Show what no run refers to, with sizes, and delete it after a question."""
    if words:
        return _some([], "gc takes no runs: it deletes what no run refers to; `alignlab runs remove` removes runs")
    found = find_garbage(root)
    if found.at_work:
        print(visible(f"a process works on {', '.join(found.at_work[:5])}: stored samples and similar files are kept"))
    for kind, number in found.unknown.items():
        print(f"{kind}: {number} stay, because it is not known which runs they belong to")
    kinds = dict.fromkeys(piece.kind for piece in found.pieces)
    for kind in kinds:
        sizes = [piece.size for piece in found.pieces if piece.kind == kind]
        print(f"{kind}: {len(sizes)}, {size_in_words(sum(sizes))}")
    if not found.pieces:
        print(f"nothing to delete below {root}")
        return 0
    total = f"{len(found.pieces)} of these, {size_in_words(sum(piece.size for piece in found.pieces))},"
    if not flags.yes and not _agreed(f"delete {total} for good? [y/N] "):
        print("nothing deleted; --yes deletes without a question")
        return 1
    number, size, kept = delete(found.pieces)
    print(f"deleted {number}, {size_in_words(size)}")
    for path in kept:
        print(visible(f"{path}: not deleted, because a process uses it"), file=sys.stderr)
    return 1 if kept else 0


def _agreed(question: str) -> bool:
    """Whether the user answers yes. False if there is no terminal to answer on."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _table(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    from alignlab.reports.runs import write_table

    if not words or Path(words[0]).suffix not in (".csv", ".parquet"):
        return _some([], "table needs a file: alignlab runs table runs.csv (or .parquet)")
    check_target("table", words[0])
    found = select(runs_of(root, listed=True), [Filter.parse(word) for word in words[1:]], root)
    try:
        write_table(found, Path(words[0]))
    except OSError as error:
        raise OutputError(f"{words[0]} can't be written: {error}") from error
    print(f"{counted(len(found), 'run')} written to {words[0]}")
    return 0


def _export(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    """The old name of `table`."""
    from alignlab.config.renamed import REMOVED_IN

    text = f"`alignlab runs export` is now `alignlab runs table`; the old name works until version {REMOVED_IN}"
    print(f"alignlab: {text}; `alignlab export` exports the policy of a run", file=sys.stderr)
    return _table(root, words, flags)


def _pack(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    if len(words) not in (1, 2):
        return _some([], "pack needs a sweep or a run: alignlab runs pack <sweep> [file]")
    sweep, runs = members_of(root, words[0])
    file = Path(words[1] if len(words) == 2 else f"{sweep or runs[0]}.tar")
    number = pack(root, sweep, runs, file, weights=not flags.no_weights)
    without = ", without weights" if flags.no_weights else ""
    size = size_in_words(file.stat().st_size)
    print(visible(f"{counted(len(runs), 'run')} ({counted(number, 'file')}, {size}{without}) packed into {file}"))
    return 0


def _unpack(root: Path, words: list[str], flags: argparse.Namespace) -> int:
    if len(words) != 1:
        return _some([], "unpack needs a file: alignlab runs unpack <file>")
    found = unpack(Path(words[0]), root)
    for folder in found.added:
        print(visible(f"{root / folder}"))
    for folder in found.kept:
        print(visible(f"{root / folder} was there already and stays as it is"))
    return 0


def _some(words: Sequence[str], text: str) -> int:
    if words:
        return 0
    print(f"alignlab: {text}", file=sys.stderr)
    return 2


_VERBS: dict[str, Callable[[Path, list[str], argparse.Namespace], int]] = {
    "list": _list, "show": _show, "compare": _compare, "remove": _remove, "table": _table,
    "export": _export, "gc": _gc, "pack": _pack, "unpack": _unpack,
}  # fmt: skip
