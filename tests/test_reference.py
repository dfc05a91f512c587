"""The pages of docs/reference/ are those that the code gives, and the site has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from alignlab.config.documentation import parts_of_a_run, settings_of, type_name
from alignlab.config.registry import schemas
from alignlab.config.schemas import Evaluate, Synthesize, Train
from alignlab.objectives.dpo import DPO
from alignlab.tracking import metrics
from scripts.reference import PAGES

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_current(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name](), "type: make reference"


def test_every_setting_has_a_comment() -> None:
    classes = [cls for group in schemas().values() for cls in group.values()]
    for cls in (Train, Evaluate, Synthesize, *(cls for _, cls in parts_of_a_run()), *classes):
        assert [s.name for s in settings_of(cls) if len(s.comment) < 5] == [], cls.__name__


def test_a_setting_is_that_of_the_dataclass() -> None:
    beta, *_, smoothing, dialect = settings_of(DPO)
    assert (beta.name, beta.type, beta.required) == ("beta", "float", True)
    assert (smoothing.name, smoothing.default, smoothing.required) == ("label_smoothing", 0.0, False)
    assert smoothing.comment.endswith("0 is plain DPO; a larger share is cDPO.")
    assert dialect.comment.startswith("the source whose convention is followed.")
    assert [type_name(hint) for hint in (float | None, list[list[str]], dict[str, int])] == [
        "float or null", "list of list of str", "mapping of int",
    ]  # fmt: skip


def test_pages_name_all_settings_objectives_metrics_and_verbs() -> None:
    pages = {name: (REFERENCE / name).read_text(encoding="utf-8") for name in PAGES}
    assert re.findall(r"^## (\w+)$", pages["objectives.md"], re.M) == sorted(schemas()["objective"])
    assert "| `objective.beta` | float | `0.1` | strength of the regularization" in pages["objectives.md"]
    assert "| `objective.beta` | float | `0.01` |" in pages["objectives.md"], "aot's own default"
    for key in ("`trainer.max_steps` | int | `100`", "`data.path` | str | `Anthropic/hh-rlhf`", "`judge.llm.model`"):
        assert key in pages["settings.md"]
    for name in (*metrics.BATCH, *metrics.EXACT, *metrics.SAMPLED):
        assert f"| `{name}` |" in pages["metrics.md"]
    assert "| 130 | stopped from the keyboard" in pages["commands.md"]
    assert "## alignlab runs" in pages["commands.md"]
    assert "| `learning_rate` | `optim.lr` |" in pages["names.md"]


def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/]+\.md", text.partition("\nnav:\n")[2]))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    config = yaml.load(text, Loader=yaml.BaseLoader)
    assert (config["theme"]["font"], config["strict"]) == ("false", "true"), "no fonts from a network, no broken link"
