"""The page in Chromium: no errors, no network; figures, sorting, filters and CSV work; unsafe text does not run."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignlab.papers.library import library
from alignlab.papers.report import write_report
from alignlab.reports.collect import read_sweep
from alignlab.reports.page.content import content
from alignlab.reports.page.html import html_page
from alignlab.reports.page.write import write_sweep_page
from alignlab.reports.series import metric_frame
from tests.reports.made_sweep import write
from tests.reports.test_page import UNSAFE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        there = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield there
        there.close()


def opened(browser: Any, file: Path, drawn: str = "#figure-displacement", **context: Any) -> tuple[Any, list[str]]:
    """(the page, what went wrong in it). drawn: the last figure of the page."""
    page = browser.new_context(**context).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    page.goto(f"file://{file.absolute()}")
    page.wait_for_selector(f"{drawn} .main-svg")
    return page, wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_figures_are_drawn_at_every_width(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    file = write_sweep_page(write(tmp_path))
    page, wrong = opened(browser, file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for name, marks in (("frontier", 4), ("strength", 4), ("forest", 4), ("displacement", 8)):
        assert page.locator(f"#figure-{name} .point").count() >= marks, name
    assert page.locator("#figure-curves .js-line").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    unnamed = """() => [...document.querySelectorAll('select, input, button')].filter(
        (e) => !(e.textContent.trim() && e.tagName === 'BUTTON') && !e.getAttribute('aria-label') && !e.labels.length)
        .map((e) => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("#settings th.minor").count() > 0
    assert not page.locator("#settings th.minor").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = "() => [...document.querySelectorAll('.figure .main-svg')].map((e) => e.getBoundingClientRect().width)"
    assert max(page.evaluate(widths)) <= 718, "figures fit a page of A4"
    assert wrong == []


def test_tables_are_sorted_filtered_and_saved(browser: Any, tmp_path: Path) -> None:
    folder = write(tmp_path)
    page, wrong = opened(browser, write_sweep_page(folder))
    table = page.locator("#settings table").first
    kl = metric_frame(read_sweep(folder), "exact/kl")
    header = table.locator("th", has_text="exact KL (nats)")

    def column() -> list[float]:
        at = header.evaluate("(cell) => cell.cellIndex")
        cells = f"(t) => [...t.tBodies[0].rows].filter((r) => !r.hidden).map((r) => +r.cells[{at}].dataset.value)"
        return list(table.evaluate(cells))

    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert column() == sorted(kl["value"])
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").click()
    assert column() == sorted(kl["value"], reverse=True)
    page.fill("#settings [data-tools=settings] input", "ipo 0.1")
    own = kl[(kl["line"] == "ipo") & (kl["strength"] == 0.1)]["value"]
    assert column() == own.tolist()
    with page.expect_download() as download:
        page.click("#settings [data-tools=settings] .tools button")
    (row,) = csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))
    assert float(row["exact KL (nats)"]) == own.iloc[0]
    assert float(row["exact KL (nats) low"]) < own.iloc[0] < float(row["exact KL (nats) high"])
    assert wrong == []


def test_answers_and_two_runs_are_chosen(browser: Any, tmp_path: Path) -> None:
    page, wrong = opened(browser, write_sweep_page(write(tmp_path)))
    assert page.locator("#completions-list article").count() == 4
    page.fill("#completions-filter", "colour")
    assert page.locator("#completions-list h3").all_inner_texts() == ["Name a colour. answer"]
    page.fill("#completions-filter", "")
    page.select_option("#completions-sort", "prompt")
    first = page.locator("#completions-list h3").first.inner_text()
    assert first == "Count to three. answer"
    assert "objective.beta" not in page.inner_text("#differences-table"), "the first two runs differ in their seed"
    page.select_option("#differences-other", index=3)
    assert "objective.beta" in page.inner_text("#differences-table")
    page.select_option("#curves-metric", "train/loss")
    assert page.locator("#figure-curves .xaxislayer-above, #figure-curves .subplot").count() >= 2
    page.select_option("#curves-axis", "strength")
    assert page.locator("#curves-legend span").all_inner_texts() == ["strength 0.1", "strength 1.0"]
    assert wrong == []


def test_unsafe_text_does_not_run(browser: Any, tmp_path: Path) -> None:
    file = write_sweep_page(write(tmp_path, text=UNSAFE + "w" * 500))
    page, wrong = opened(browser, file, viewport={"width": 390, "height": 844})
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "a word of 500 letters is broken"
    assert "<script>window.hacked=1</script>" in page.locator("#completions-list article").first.inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert wrong == []


def test_answers_are_shown_a_few_at_a_time(browser: Any, tmp_path: Path) -> None:
    found = content(read_sweep(write(tmp_path)), "now")
    found.completions["prompts"] *= 3
    (tmp_path / "page.html").write_text(html_page(found))
    page, wrong = opened(browser, tmp_path / "page.html")
    shown = page.locator("#completions-list article")
    for prompts, button in ((5, "Show 5 more"), (10, "Show 2 more")):
        assert shown.count() == prompts
        assert page.inner_text("#completions-count") == f"{prompts} of 12 prompts shown"
        assert page.inner_text("#completions-more") == button
        page.focus("#completions-more")
        page.keyboard.press("Enter")
    assert shown.count() == 12
    assert not page.locator("#completions-more").is_visible()
    page.fill("#completions-filter", "colour")
    assert shown.count() == 3
    assert wrong == []


def test_words_and_columns_are_explained(browser: Any, tmp_path: Path) -> None:
    page, wrong = opened(browser, write_sweep_page(write(tmp_path)))
    words, columns = page.locator("details.words").all()
    assert not words.locator("dl").is_visible()
    words.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "the mean log-ratio of its own answers" in words.locator("dl").inner_text()
    columns.locator("summary").click()
    headings = page.locator("#settings table").first.locator("th").all_inner_texts()
    explained = columns.locator("dt").all_inner_texts()
    assert [name for name in headings if name not in explained] == ["objective", "strength", "seeds"]
    assert wrong == []


@pytest.mark.parametrize("width", [1440, 390])
def test_both_sides_of_a_paper_are_drawn_on_the_same_axes(browser: Any, tmp_path: Path, width: int) -> None:
    records = Path(__file__).resolve().parents[2] / "docs" / "papers"
    write_report([library()["zheng_2023"]], [library()["zheng_2023"]], records, tmp_path / "runs", tmp_path)
    right = "#figure-consistency-0-right"
    page, wrong = opened(browser, tmp_path / "zheng_2023.html", right, viewport={"width": width, "height": 900})
    assert page.locator(f"{right} .point").count() == 7
    assert page.locator("#figure-consistency-0-left .js-line").count() == 3
    ticks = [page.locator(f"#figure-consistency-0-{side} .ytick text").all_inner_texts() for side in ("left", "right")]
    assert ticks[0] == ticks[1] != []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#legend-consistency span").count() == 5
    assert wrong == []
