"""Claims are measured once, their records say how, and trained ones go through the ledger of runs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.cli.train import main as train
from alignlab.errors import DataError
from alignlab.papers.claim import Claim, Commands, Exact, Measured, Paper, Sampled, Trained, Workspace, near
from alignlab.papers.ipo_2023 import final_policies
from alignlab.papers.library import library
from alignlab.papers.measuring import STOPPED, Bench
from alignlab.papers.record import ClaimFile


def claim_of(measured_by: Exact | Sampled | Trained, quantity: str = "p") -> Claim:
    return Claim("half", "p is a half.", "equation 1", (near(quantity, 0.5, 0.1, "derived"),), measured_by)


def paper_of(claim: Claim) -> Paper:
    return Paper("paper_2023", "Title", "Author et al. 2023", "https://example.org", (claim,))


def never(words: Sequence[str]) -> int:
    raise AssertionError("nothing is to be trained")


def test_a_claim_is_measured_once(tmp_path: Path) -> None:
    calls = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"p": 0.5}

    bench, claim = Bench(tmp_path, tmp_path, never), claim_of(Exact(measure))
    assert bench.measure(paper_of(claim), claim).decision.verdict == "reproduced"
    assert bench.measure(paper_of(claim), claim).decision.verdict == "reproduced"
    assert len(calls) == 1
    bench.measure(paper_of(claim), claim, again=True)
    assert len(calls) == 2


def test_the_expectation_is_on_the_disk_while_it_is_measured(tmp_path: Path) -> None:
    seen = []

    def measure() -> dict[str, float]:
        seen.append(ClaimFile(tmp_path, "paper_2023", "half").read()["status"])
        return {"p": 0.5}

    claim = claim_of(Exact(measure))
    Bench(tmp_path, tmp_path, never).measure(paper_of(claim), claim)
    assert seen == ["running"]


def test_values_of_all_seeds_are_kept(tmp_path: Path) -> None:
    claim = claim_of(Sampled(lambda seed: {"p": 0.5 + seed / 1000}, seeds=6))
    row = Bench(tmp_path, tmp_path, never).measure(paper_of(claim), claim)
    assert row.record["measured"] == {"p": [0.5, 0.501, 0.502, 0.503, 0.504, 0.505]}
    assert row.decision.verdict == "reproduced"


def test_a_measurement_that_fails_has_a_reason_and_is_tried_again(tmp_path: Path) -> None:
    broken = [True]

    def measure() -> dict[str, float]:
        if broken:
            raise DataError("no such file")
        return {"p": 0.5}

    bench, claim = Bench(tmp_path, tmp_path, never), claim_of(Exact(measure))
    row = bench.measure(paper_of(claim), claim)
    assert (row.decision.verdict, row.decision.why) == ("not-run", "failed: no such file")
    broken.clear()
    assert bench.measure(paper_of(claim), claim).decision.verdict == "reproduced"


def test_training_that_fails_or_is_stopped(tmp_path: Path) -> None:
    claim = claim_of(Trained(("experiment=bandit_ipo", "seed=1,2,3,4,5"), final_policies))
    row = Bench(tmp_path, tmp_path, lambda words: 3).measure(paper_of(claim), claim)
    assert row.decision.why == "failed: alignlab train ended with exit code 3; its message is above"
    with pytest.raises(KeyboardInterrupt):
        Bench(tmp_path, tmp_path, lambda words: STOPPED).measure(paper_of(claim), claim)


def chain(place: Workspace) -> Iterator[tuple[str, ...]]:
    """Two commands. The second depends on what the first has written."""
    yield "synthesize", f"data.path={place.data}", f"to={place.folder / 'rows'}"
    yield "train", f"data.path={(place.folder / 'rows').read_text()}"


def middle(measured_by: Commands) -> Claim:
    return replace(claim_of(Exact(dict)), measured_by=measured_by, scale="middle")


def test_a_claim_of_several_commands(tmp_path: Path) -> None:
    """They run one after another, and the verdict stays open whatever is measured."""
    given: list[Sequence[str]] = []

    def write(words: Sequence[str]) -> int:
        given.append(words)
        (tmp_path / "paper_2023/half").mkdir(parents=True)
        (tmp_path / "paper_2023/half/rows").write_text("written")
        return 0

    def note(words: Sequence[str]) -> int:
        given.append(words)
        return 0

    claim = middle(Commands(chain, lambda place: Measured({"p": [0.9]}, [{"id": "dpo-1"}]), "hub/reviews"))
    bench = Bench(tmp_path, Path("out"), never, ("launcher=local",), {"synthesize": write, "train": note}, "own.jsonl")
    row = bench.measure(paper_of(claim), claim)
    assert given == [
        ["data.path=own.jsonl", f"to={tmp_path}/paper_2023/half/rows", "output_root=out"],
        ["data.path=written", "launcher=local", "output_root=out"],
    ]
    assert row.record["commands"] == [
        "alignlab synthesize data.path=<data> to=<folder>/rows", "alignlab train data.path=written launcher=local",
    ]  # fmt: skip
    assert row.record["measured"] == {"p": [0.9]}
    assert row.decision.verdict == "needs-scale", "0.9 is not near 0.5"
    assert row.decision.results[0].value == 0.9
    bench.measure(paper_of(claim), claim)
    assert len(given) == 2, "it has a record"


def test_a_command_that_fails_ends_the_chain(tmp_path: Path) -> None:
    claim = middle(Commands(chain, lambda place: Measured({}), "hub/reviews"))
    failing = Bench(tmp_path, tmp_path, never, (), {"synthesize": lambda words: 2, "train": never})
    row = failing.measure(paper_of(claim), claim)
    reason = "failed: alignlab synthesize ended with exit code 2; its message is above"
    assert (row.decision.verdict, row.decision.why) == ("not-run", reason)
    assert row.record["commands"][0].startswith("alignlab synthesize data.path=<data>")
    with pytest.raises(KeyboardInterrupt):
        Bench(tmp_path, tmp_path, never, (), {"synthesize": lambda words: STOPPED}).measure(paper_of(claim), claim)


def test_the_launcher_may_be_chosen(tmp_path: Path) -> None:
    seen: list[Sequence[str]] = []

    def noted(words: Sequence[str]) -> int:
        seen.append(words)
        return 3

    claim = claim_of(Trained(("experiment=bandit_ipo", "seed=1,2,3,4,5"), final_policies))
    for typed in ((), ("launcher=local", "launcher.processes=2"), ("hydra/launcher=local",)):
        Bench(tmp_path, tmp_path / "out", noted, typed).measure(paper_of(claim), claim)
    assert seen[0] == ["-m", "experiment=bandit_ipo", "seed=1,2,3,4,5", "trainer.keep=record", "launcher=vectorized",
                       "sweep.name=paper-paper_2023-half-v1", f"output_root={tmp_path / 'out'}"]  # fmt: skip
    assert seen[1][4:6] == ["launcher=local", "launcher.processes=2"]
    assert "launcher=vectorized" not in [*seen[1], *seen[2]]
    online = claim_of(Trained(("experiment=bandit_ipo", "seed=1,2,3,4,5"), final_policies, launcher="auto"))
    Bench(tmp_path, tmp_path / "out", noted).measure(paper_of(online), online)
    Bench(tmp_path, tmp_path / "out", noted, at_once=0).measure(paper_of(online), online)
    assert seen[3][4:6] == seen[4][4:6] == ["launcher=auto", "sweep.name=paper-paper_2023-half-v1"]
    Bench(tmp_path, tmp_path / "out", noted, at_once=0).measure(paper_of(claim), claim)
    assert seen[5][4:6] == ["launcher=vectorized", "launcher.at_once=0"]


def test_trained_claims_go_through_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A circle of comparisons leaves the policy near 1/3 each. A second measurement finds the runs done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["alignlab"])
    quantity = "objective.tau=0.5: pi(a)"
    words = ("experiment=bandit_ipo", "tracking=none", "trainer.progress=false", "data.comparisons=[ab,bc,ca]",
             "trainer.max_steps=20", "objective.tau=0.5,1.0", "seed=0,1,2,3,4")  # fmt: skip
    claim = claim_of(Trained(words, final_policies), quantity)
    bench = Bench(tmp_path / "records", Path("outputs"), train)
    row = bench.measure(paper_of(claim), claim)
    values = row.record["measured"][quantity]
    assert len(values) == 5
    assert all(0.25 < value < 0.42 for value in values)
    assert [run["seed"] for run in row.record["runs"]] == list("0123401234")
    assert "output_root" not in " ".join(row.record["command"]), "the record may be shown elsewhere"
    runs = {run["id"]: (tmp_path / "outputs/runs" / run["id"] / "run.json") for run in row.record["runs"]}
    assert not list((tmp_path / "outputs/runs").glob("*/policy")), "runs of papers keep records, not policies"
    before = {id: file.stat().st_mtime_ns for id, file in runs.items()}
    assert bench.measure(paper_of(claim), claim, again=True).record["measured"][quantity] == values
    assert {id: file.stat().st_mtime_ns for id, file in runs.items()} == before


def rejected_thrice(right: Callable[..., Any]) -> Callable[..., Any]:
    """The rejected answer counts three times, so that the loss depends on the normaliser."""
    return lambda chosen, rejected, **k: right(chosen, 3 * rejected, **k)


def all_bad(right: Callable[..., Any]) -> Callable[..., Any]:
    """The labels are lost: every answer is bad."""
    return lambda logratio, desirable, kl, **k: right(logratio, torch.zeros_like(desirable), kl, **k)


def logistic(right: Callable[..., Any]) -> Callable[..., Any]:
    """DPO's loss in place of IPO's, with IPO's value at the reference, which is checked before training."""
    return lambda w, l, *, tau: 1 / (4 * tau**2) - math.log(2) - torch.nn.functional.logsigmoid(w - l)


def chosen_only(right: Callable[..., Any]) -> Callable[..., Any]:
    """The dispreferred answer is ignored."""
    return lambda chosen, rejected, **k: right(chosen, torch.zeros_like(rejected), **k)


def exchanged(right: Callable[..., Any]) -> Callable[..., Any]:
    """The preferred and the dispreferred answer change places."""
    return lambda chosen, rejected, *a, **k: right(rejected, chosen, *a, **k)


def beta_twice(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda chosen, rejected, **k: right(chosen, rejected, **{**k, "beta": 2 * k["beta"]})


def without_penalty(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda chosen, rejected, **k: right(chosen, rejected, **{**k, "penalty": 0.0})


def worst_preferred(right: Callable[..., Any]) -> Callable[..., Any]:
    """The worst sampled answer is preferred to the best."""
    return lambda loss, batch: right(loss, replace(batch, chosen=batch.rejected, rejected=batch.chosen))


def exchanged_offline(right: Callable[..., Any]) -> Callable[..., Any]:
    """The answers change places in DPO, and change back in online DPO, which uses DPO's loss."""
    return worst_preferred(right) if right.__name__ == "online_dpo_loss" else exchanged(right)


def for_clean_labels(right: Callable[..., Any]) -> Callable[..., Any]:
    """Robust DPO believes that no label is flipped."""
    return lambda *a, **k: right(*a, **{**k, "label_smoothing": 0.0})


def longer_preferred(right: Callable[..., Any]) -> Callable[..., Any]:
    """A token earns alpha instead of costing it."""
    return lambda chosen, rejected, longer, **k: right(chosen, rejected, -longer, **k)


SHORT = ["trainer.max_steps=6000", "seed=0,1,2,3,4"]
# Without noise in the data's order, IPO and DPO stay where they begin, and after 3,000 updates they are still near it.
CYCLE = ["trainer.max_steps=3000"]
FEW = ["seed=0,1,2,3,4"]
IPO, DPO = (("alignlab.objectives.ipo", "ipo_loss"), ("alignlab.objectives.dpo", "dpo_loss"))
ROBUST, LENGTH = (("alignlab.objectives.robust_dpo", "robust_dpo_loss"), ("alignlab.objectives.r_dpo", "r_dpo_loss"))
KTO, SIMPO = (("alignlab.objectives.kto", "kto_loss"), ("alignlab.objectives.simpo", "simpo_loss"))
# Claims that are wrong in the world in which they are measured.
CONTRADICTED = {"tang_2024 equal-kl": "contradicted"}
ONLINE = ("alignlab.objectives.online_dpo", "online_dpo_loss")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "places", "wrong"),
    [
        ("ipo_2023 bandit-d1", SHORT, (IPO, DPO), rejected_thrice),
        ("ipo_2023 bandit-d2", CYCLE, (IPO, DPO), rejected_thrice),
        ("ipo_2023 bandit-d3-amended", SHORT, (IPO, DPO), rejected_thrice),
        ("ipo_2023 regularisation", [], (IPO,), logistic),
        ("kto_2024 imbalance-trained", FEW, (KTO,), all_bad),
        ("kto_2024 imbalance-worlds", FEW, (KTO,), all_bad),
        ("xu_2024 unseen-answers", [*FEW, "trainer.max_steps=300"], (DPO,), chosen_only),
        ("dpo_2023 theorem-1-trained", ["trainer.max_steps=1500"], (DPO,), beta_twice),
        (
            "orpo_2024 sft-raises-both",
            [*FEW, "trainer.max_steps=150"],
            (("alignlab.objectives.orpo", "orpo_loss"),),
            exchanged,
        ),
        ("pal_2024 chosen-falls-in-training", FEW, (("alignlab.objectives.dpop", "dpop_loss"),), without_penalty),
        ("chowdhury_2024 noise-trained", ["trainer.max_steps=500"], (ROBUST,), for_clean_labels),
        ("park_2024 trained-length", ["trainer.max_steps=60"], (LENGTH,), longer_preferred),
        ("simpo_2024 likelihoods", ["trainer.max_steps=100"], (SIMPO,), exchanged),
        ("tang_2024 equal-kl", FEW, (DPO, ONLINE), exchanged_offline),
        ("tajwar_2024 unlikely-optimum", FEW, (ONLINE,), worst_preferred),
        ("tajwar_2024 likely-optimum", FEW, (ONLINE,), worst_preferred),
    ],
)
def test_a_wrong_loss_changes_the_verdict_of_trained_claims(
    name: str, steps: list[str], places: Sequence[tuple[str, str]], wrong: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Most claims are shortened to 5 seeds, and those on bandits to 6,000 updates, with which none is contradicted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["alignlab"])
    paper = library()[name.split()[0]]
    (claim,) = (claim for claim in paper.claims if claim.name == name.split()[1])
    assert isinstance(claim.measured_by, Trained)
    replaced = [word.partition("=")[0] for word in steps]
    words = [word for word in claim.measured_by.overrides if word.partition("=")[0] not in replaced]
    short = replace(claim, measured_by=replace(claim.measured_by, overrides=(*words, *steps)))
    right = Bench(tmp_path / "right", tmp_path / "a", train).measure(paper, short).decision
    expected = CONTRADICTED.get(name, "reproduced")
    assert right.verdict == expected or (steps and right.verdict == "underdetermined"), right.why
    for module, loss in places:
        found = importlib.import_module(module)
        monkeypatch.setattr(found, loss, wrong(getattr(found, loss)))
    planted = Bench(tmp_path / "wrong", tmp_path / "b", train).measure(paper, short).decision
    assert planted.verdict not in (right.verdict, expected), planted.why
