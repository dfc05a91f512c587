"""The papers and their claims are complete, and words choose among them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from alignlab.errors import ConfigError
from alignlab.papers.claim import FEWEST_SEEDS, PROVENANCES, Batched, Claim, Sampled, Trained
from alignlab.papers.library import chosen, library

CLAIMS = {f"{paper.name} {claim.name}": claim for paper in library().values() for claim in paper.claims}
MINI = {name: claim for name, claim in CLAIMS.items() if claim.scale == "mini"}


def test_there_are_claims() -> None:
    assert len(MINI) >= 30
    assert len({name.split()[0] for name in MINI}) >= 20


def test_papers_are_named_as_their_files_and_have_an_address() -> None:
    for name, paper in library().items():
        module = __import__(f"alignlab.papers.{name}", fromlist=["PAPER"])
        assert module.PAPER is paper
        assert paper.url.startswith("https://")
        assert len(set(paper.names)) == len(paper.names), f"{name} has two claims of one name"


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_says_what_it_needs_to(name: str) -> None:
    claim: Claim = CLAIMS[name]
    assert re.fullmatch("[a-z0-9-]+", claim.name)
    assert claim.words.endswith(".")
    assert claim.source
    assert claim.expected, "something must be expected"
    for band in (*claim.expected, *claim.premises):
        assert band.provenance in PROVENANCES
        assert band.low is not None or band.high is not None
        assert band.low is None or band.high is None or band.low <= band.high
    quantities = [band.quantity for band in (*claim.premises, *claim.expected)]
    assert len(set(quantities)) == len(quantities)
    assert (claim.measured_by is None) == (claim.scale == "full")
    if isinstance(claim.measured_by, Sampled | Batched):
        assert claim.measured_by.seeds >= FEWEST_SEEDS
    if isinstance(claim.measured_by, Trained):
        (seeds,) = (word for word in claim.measured_by.overrides if word.startswith("seed="))
        assert len(seeds.split(",")) >= FEWEST_SEEDS


@pytest.mark.slow
def test_the_scoreboard_needs_no_module_of_pages_and_models() -> None:
    """They take seconds to import."""
    code = "import sys; from alignlab.papers.library import library; library(); print(*sys.modules)"
    found = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "alignlab.papers.ipo_2023" in found
    assert not found & {"matplotlib", "transformers", "lightning", "peft", "pandas", "datasets", "scipy.sparse"}


def test_words_choose_papers_and_claims() -> None:
    def names(*words: str) -> list[str]:
        return [f"{paper.name} {claim.name}" for paper, claim in chosen(words)]

    assert names() == names("all") == list(CLAIMS)
    assert names("ipo_2023", "two-actions") == ["ipo_2023 two-actions"]
    assert names("ipo_2023", "optimum", "two-actions", "feng_2024") == [
        "ipo_2023 two-actions", "ipo_2023 optimum", "feng_2024 gradient-field",
    ]  # fmt: skip
    assert len(names("ipo_2023")) == len(library()["ipo_2023"].claims)


def test_all_wrong_words_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        chosen(["ipo_2032", "ipo_2023", "two-action", "hump"])
    text = str(error.value)
    assert text.startswith("3 problems in this command; nothing was done")
    assert "no such paper; papers: ahmadian_2024" in text
    assert "no such claim of ipo_2023; claims: two-actions" in text
    assert "type: two-actions" in text
    assert "is a claim of gao_2022; type the paper first\n      type: gao_2022 hump" in text
