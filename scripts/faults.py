"""Writes docs/reference/faults.md from the outcomes of `make fuzz` and from the list of faults below."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.cli.main import EXIT_CODES
from alignlab.integrity import write_text

MADE = "<!-- written by `make fuzz` -->"

# (what is wrong, what happens, the test that does it), by kind. A test of tests/fuzz checks that each test exists.
FAULTS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "Processes": [
        ("a run is stopped by a signal, at several places", "it resumes, and ends with the same numbers",
         "training/test_training.py::test_stopped_by_a_signal_and_resumed_is_uninterrupted"),
        ("a run is killed", "it resumes from its last whole training state",
         "training/test_training.py::test_a_crash_resumes_from_the_last_whole_checkpoint"),
        ("a run is stopped between the saved policy and its final status", "it ends without training again",
         "training/test_training.py::test_stopped_between_the_saved_policy_and_the_final_status"),
        ("a worker of a sweep is killed", "its own point is tried again; the others go on",
         "sweep/launchers/test_local_pool.py::test_a_killed_worker_hurts_its_own_point_only"),
        ("a worker of Ray is killed", "its own point is tried again",
         "sweep/launchers/test_ray_pool.py::test_a_killed_worker_costs_its_own_point_only"),
        ("a job of SLURM is preempted, another is killed", "both go on",
         "sweep/launchers/test_slurm_pool.py::test_a_dry_run_in_which_a_job_is_preempted_and_another_killed"),
        ("a file stands in place of a run's folder", "its point fails with a message; the others go on",
         "sweep/launchers/test_local_pool.py::test_a_file_in_the_way_stops_its_own_point_only"),
        ("the disk is full during a sweep", "what is finished stays; the same command goes on",
         "sweep/launchers/test_local_pool.py::test_a_sweep_through_everything_that_can_happen"),
        ("two processes have the same run", "one waits for the other",
         "runs/test_directory.py::test_one_process_only_has_a_run"),
    ],
    "Damaged files": [
        ("any bit of a training state is changed", "it is renamed, and the state before it is used",
         "training/test_state.py::test_a_flipped_bit_is_seen_wherever_it_is"),
        ("both training states are damaged", "the run starts anew, and its log and record say so",
         "training/test_state.py::test_two_states_are_kept_and_both_may_be_damaged"),
        ("`metrics.jsonl` lost rows that a training state counts on", "the state before it is used",
         "training/test_state.py::test_metrics_that_lost_rows_fit_the_state_before"),
        ("any bit of a record is changed", "it is noticed; a record that can't be read is listed as damaged",
         "test_integrity.py::test_every_flipped_bit_of_a_record_is_seen_or_changes_nothing"),
        ("a field of a record has a wrong type", "it is left out and named; all commands read the others",
         "cli/test_bad_records.py::test_every_reader_of_records"),
        ("an essential field of a record has a wrong type", "the run is listed as damaged",
         "runs/test_record.py::test_an_essential_field_of_a_wrong_type_makes_the_record_damaged"),
        ("a value in the config of a record has a wrong type", "commands that need it name it",
         "cli/test_bad_records.py::test_a_value_of_a_wrong_type_in_a_config_is_named"),
        ("any bit of stored reference log-probabilities is changed", "they are computed again",
         "models/test_reference.py::test_a_flipped_bit_anywhere_in_a_shard_is_never_used"),
        ("a stored log-probability is one that no model gives", "it is computed again, and the file is named",
         "models/test_reference.py::test_a_value_that_no_model_gives_is_computed_again"),
        ("any bit of a judge's stored reply is changed", "the judge is asked again",
         "judges/test_cache.py::test_every_flipped_bit_is_seen_or_changes_nothing"),
        ("stored token rows are damaged", "they are made again",
         "training/test_token_store.py::test_damaged_rows_are_made_again"),
        ("a packed archive was changed", "nothing is unpacked",
         "runs/test_archive.py::test_a_changed_archive_moves_nothing"),
        ("directories of a sweep are half-written", "the report is written, and names them",
         "reports/test_series.py::test_a_page_says_which_directories_are_incomplete"),
    ],
    "Weights": [
        ("a file lacks a layer or has another one", "the model is refused",
         "models/test_weights_check.py::test_a_layer_that_the_file_lacks_or_has_besides"),
        ("a reward model lacks tensors", "it is refused", "models/test_weights_check.py::test_a_reward_model_is_whole"),
        ("a reward model has no head", "it is refused",
         "models/test_heads.py::test_an_adapter_without_a_head_is_no_reward_model"),
        ("an adapter does not fit its base", "it is refused",
         "models/test_weights_check.py::test_an_adapter_that_does_not_fit"),
        ("weights are not finite", "the model is refused",
         "models/test_weights_check.py::test_weights_that_are_no_numbers"),
        ("weights of 4 bits lack tensors", "the model is refused",
         "models/test_weights_check.py::test_rounded_to_4_bits"),
        ("a parent's policy was damaged since", "nothing is trained from it",
         "models/test_weights_check.py::test_a_parents_policy_that_was_damaged_since"),
        ("a saved policy loads as another one", "the run fails",
         "training/test_saved.py::test_a_policy_that_loads_as_another_one_fails"),
        ("the base of an adapter was overwritten", "the run is another run",
         "training/test_saved.py::test_the_base_of_an_adapter_decides_the_run"),
        ("the mean reward of a reward model can't be read", "it is refused",
         "models/test_heads.py::test_a_trained_reward_model_counts_from_the_answers_that_are_worth_0"),
    ],
    "Files of somebody else": [
        ("a run names or holds code, in 13 places", "no verb runs it",
         "cli/test_runs_of_others.py::test_nothing_that_a_run_names_or_holds_is_run"),
        ("rewards of a record come from a function", "the run goes on only if the function is typed",
         "cli/test_runs_of_others.py::test_a_function_of_a_record_runs_only_if_it_is_typed"),
        ("a record says that a model's code was allowed", "the command line has to allow it",
         "config/test_remote_code.py::test_a_record_allows_nothing"),
        ("a sweep file allows a model's code", "it is refused",
         "config/test_remote_code.py::test_a_sweep_file_allows_nothing"),
        ("an archive has paths outside its place", "nothing is unpacked",
         "runs/test_archive.py::test_a_changed_archive_moves_nothing"),
        ("texts have escapes of terminals, or marks that reorder", "they are shown as visible escapes",
         "test_inert.py::test_unsafe_characters_become_visible_and_others_stay"),
        ("texts have Markdown or HTML", "they are shown as text",
         "test_inert.py::test_markdown_has_no_markup_left"),
        ("a page of another origin sends requests to the page of the human judge", "they are refused",
         "judges/test_human.py::test_only_with_the_word_and_only_from_here"),
        ("a key or a password is among the settings", "it is refused before anything starts, and not repeated",
         "config/test_credentials.py::test_values_that_are_secrets"),
    ],
}  # fmt: skip


def page(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of docs/reference/faults.md."""
    return "\n".join([*_head(), *_counts(outcomes), *_faults(), *_codes()]) + "\n"


def _head() -> Iterator[str]:
    yield f"# Faults and wrong inputs\n\n{MADE}\n"
    yield (
        "What goes wrong, what happens then, and the tests that make it go wrong. A command ends with a message and "
        "one of the exit codes below. It shows no traceback, leaves nothing half-written, and does not hang.\n"
    )


def _counts(outcomes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "## Wrong inputs\n"
    yield "`make fuzz` makes these inputs from seeds (`tests/fuzz/`) and runs a command with each of them.\n"
    for name, corpus in sorted(outcomes.items()):
        if (run := sum(row["count"] for row in corpus["rows"])) < corpus["cases"]:
            yield f"Of the {corpus['cases']} {name}, {run} were run, evenly spread.\n"
    kinds = sorted({row["outcome"] for corpus in outcomes.values() for row in corpus["rows"]})
    total: Counter[str] = Counter()
    yield f"| corpus | input | number | {' | '.join(kinds)} |"
    yield "|---|---|---" + "|---" * len(kinds) + "|"
    for name, corpus in sorted(outcomes.items()):
        rows = corpus["rows"]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            counts = Counter({row["outcome"]: row["count"] for row in rows if row["kind"] == kind})
            total += counts
            yield f"| {name} | {kind} | {counts.total()} | {' | '.join(str(counts[one]) for one in kinds)} |"
    yield f"| all | | {total.total()} | {' | '.join(str(total[name]) for name in kinds)} |\n"


def _faults() -> Iterator[str]:
    yield "## Faults\n"
    for kind, faults in FAULTS.items():
        yield f"### {kind}\n"
        yield "| fault | what happens | test |\n|---|---|---|"
        yield from (f"| {what} | {then} | `tests/{test}` |" for what, then, test in faults)
        yield ""


def _codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "| code | meaning |\n|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    write_text(target, page(json.loads(source.read_text())))
