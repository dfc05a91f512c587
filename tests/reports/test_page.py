"""The page of a sweep: its numbers, what it says, and that no text of a model or of data runs or hides in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alignlab.integrity import write_sealed
from alignlab.reports.collect import read_runs, read_sweep
from alignlab.reports.page.write import write_page, write_sweep_page
from alignlab.reports.tables import COLUMNS
from alignlab.runs.directory import RunDir
from alignlab.tracking.metrics import definition
from tests.reports.made_sweep import PROMPTS, SEEDS, run_id, write

OLD = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1"
UNSAFE = (
    "<script>window.hacked=1</script></textarea></script><img src=x onerror='window.hacked=2'>\x1b[31m\x00\u202eevil"
    " {{ 7 * 7 }} ``` `x` | a | <!-- &lt; [x](javascript:window.hacked=3) sk-abcdefghijklmnopqrstuv\n```\n# heading\n"
)


class Page(HTMLParser):
    """Tables by caption, scripts, ids, and names of controls."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, dict[str, str | None]]]]] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._caption: str | None = None
        self._open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append((given, ""))
        if tag == "caption":
            self._caption = ""
        if tag == "tr" and self._caption is not None:
            self.tables.setdefault(self._caption, []).append([])
        if tag in ("td", "th") and self._caption is not None:
            self.tables[self._caption][-1].append(("", given))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._caption = None

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        if tag == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif tag == "caption" and not self._caption:
            self._caption = data
        elif tag in ("td", "th") and self._caption is not None and self.tables.get(self._caption):
            text, attrs = self.tables[self._caption][-1][-1]
            self.tables[self._caption][-1][-1] = (text + data.strip(), attrs)
        if tag != "script":
            self.words += data

    @property
    def figures(self) -> dict[str, Any]:
        (text,) = (text for attrs, text in self.scripts if attrs.get("id") == "figures")
        return dict(json.loads(text))

    def column(self, table: str, name: str) -> list[tuple[str, dict[str, str | None]]]:
        head, *rows = self.tables[table]
        at = [text for text, _ in head].index(name)
        return [row[at] for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("made"))
    write_sweep_page(folder)
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "report.html").read_text())


def stored(made: Path, run: str) -> dict[str, float]:
    return dict(json.loads((made.parents[1] / "runs" / run / "run.json").read_text())["summary"])


def test_the_table_of_settings_holds_means_and_intervals_of_the_files(made: Path, page: Page) -> None:
    for heading, metric in (("gap", "exact/frontier_gap"), ("exact KL (nats)", "exact/kl"), ("eval loss", "eval/loss")):
        cells = page.column("settings", heading)
        settings = [(o, s) for o in ("dpo", "ipo") for s in ("0.1", "1.0")]
        for (text, attrs), (objective, strength) in zip(cells, settings, strict=True):
            values = [stored(made, run_id(objective, strength, seed))[metric] for seed in SEEDS]
            mean, error = statistics.mean(values), statistics.stdev(values) / 3**0.5
            half = stats.t.ppf(0.975, 2) * error
            assert float(attrs["data-value"] or "") == pytest.approx(mean)
            assert float(attrs["data-low"] or "") == pytest.approx(mean - half)
            assert float(attrs["data-high"] or "") == pytest.approx(mean + half)
            shown, _, spread = text.partition(" ± ")
            assert (float(shown), float(spread)) == pytest.approx((mean, half), abs=5.1e-4)


def influences(summaries: dict[str, list[dict[str, float]]], kl: float) -> list[float]:
    """[seeds] reward of a method at a KL: its mean curve at `kl`, plus the influence of each seed on it.

    summaries: setting -> the summary of each seed. The curve begins at the start (KL 0, reward 0) and is linear between
    the means of settings. The influence is the derivative by the seed's values times their distance from the mean,
    found by numerical differentiation.
    """
    names = ("exact/kl", "exact/reward")
    table = np.array([[[one[name] for one in seeds] for name in names] for seeds in summaries.values()])

    order = np.argsort(table[:, 0].mean(axis=1))
    reached = [0.0, *table[order, 0].mean(axis=1)]
    after = next(place for place, end in enumerate(reached) if end >= kl * (1 - 1e-6))

    def curve(values: Any) -> float:
        """The line through the two settings next to `kl`."""
        means = np.concatenate([[[0.0, 0.0]], values.mean(axis=2)[order]])
        return float(np.polyval(np.polyfit(*means[after - 1 : after + 1].T, 1), kl))

    centred = table - table.mean(axis=2, keepdims=True)
    found = []
    for seed in range(table.shape[2]):
        moved = table.copy()
        moved[:, :, seed] += 1e-5 * centred[:, :, seed]
        lowered = table.copy()
        lowered[:, :, seed] -= 1e-5 * centred[:, :, seed]
        found.append(curve(table) + table.shape[2] * (curve(moved) - curve(lowered)) / 2e-5)
    return found


def found_by(n: int, effect: float, level: float) -> float:
    """Share of 20,000 simulated samples of n normal values in which a t test finds an effect."""
    samples = np.random.default_rng(1).normal(effect, 1, (20_000, n))
    return float((stats.ttest_1samp(samples, 0, axis=1).pvalue < 1 - level).mean())


def test_the_answer_and_the_methods_at_common_kls_are_computed_again(made: Path, page: Page) -> None:
    """Rewards, gains and differences with t intervals by scipy, seeds to add by simulation."""
    head, *rows = [[text for text, _ in row] for row in page.tables["methods at common KLs"]]
    attributes = [[attrs for _, attrs in row] for row in page.tables["methods at common KLs"][1:]]
    at = {name: place for place, name in enumerate(head)}
    of = {
        f"objective {objective}": {
            strength: [stored(made, run_id(objective, strength, seed)) for seed in SEEDS] for strength in ("0.1", "1.0")
        }
        for objective in ("dpo", "ipo")
    }
    most = min(max(statistics.mean(s["exact/kl"] for s in seeds) for seeds in m.values()) for m in of.values())
    kls = [float(attrs[0]["data-value"] or "") for attrs in attributes]
    assert kls == pytest.approx([most / 4, most / 4, most / 2, most / 2, most, most], rel=1e-6)
    level = 1 - 0.05 / 3  # three comparisons
    for row, attrs, kl in zip(rows, attributes, kls, strict=True):
        values = influences(of[row[at["method"]]], kl)
        for name in ("exact reward", "above the start"):  # the start has a reward of 0
            mean, low, high = (float(attrs[at[name]][f"data-{end}"] or "") for end in ("value", "low", "high"))
            bounds = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
            assert (mean, low, high) == pytest.approx((np.mean(values), *bounds), rel=1e-4)
        if row[at["method"]] == "objective ipo":
            differences = np.subtract(values, influences(of["objective dpo"], kl))
            low, high = stats.t.interval(level, 2, loc=differences.mean(), scale=stats.sem(differences))
            ends = [float(attrs[at["difference to the highest"]][f"data-{end}"] or "") for end in ("low", "high")]
            assert ends == pytest.approx([low, high], rel=1e-3)
            assert row[at["tied with it"]] == ("yes" if low <= 0 <= high else "no")
            if low <= 0 <= high:
                needed = 3 + int(row[at["seeds to add"]])
                chances = [
                    found_by(n, differences.mean() / differences.std(ddof=1), level) for n in (needed - 1, needed)
                ]
                assert chances[0] < 0.8 < chances[1]
        else:
            assert row[at["difference to the highest"]] == "highest"
    told = re.search(
        r"At a KL of ([\d.]+) nats, objective dpo has the highest exact reward: ([-\d. \[\],]+) over", page.words
    )
    assert told
    row = next(r for r in rows if r[at["method"]] == "objective dpo" and r[0] == told[1])
    value, half = map(float, row[at["exact reward"]].split(" ± "))
    assert [float(n) for n in re.findall(r"[-\d.]+", told[2])] == pytest.approx(
        [value, value - half, value + half], abs=2e-3
    )


def test_the_figures_hold_the_numbers_of_the_files(made: Path, page: Page) -> None:
    figures = page.figures
    assert [row["setting"] for row in figures["frontier"]["settings"]] == [
        f"objective {o}, strength {s}" for o in ("dpo", "ipo") for s in ("0.1", "1.0")
    ]
    for row in figures["frontier"]["points"]:
        summary = stored(made, row["run"])
        assert (row["kl"], row["reward"]) == pytest.approx((summary["exact/kl"], summary["exact/reward"]))
    assert figures["frontier"]["curves"] == [{"kl": [0, 1, 2, 4], "reward": [0, 1.6, 2.26, 3.2]}]
    assert figures["frontier"]["start"] == 0.0
    assert [row["setting"] for row in figures["forest"]] == [row["setting"] for row in figures["frontier"]["settings"]]
    assert [(row["n"], row["prompts"], row["over"]) for row in figures["forest"]] == [(3, 4, "seeds and prompts")] * 4
    assert [[text for text, _ in row][3:] for row in page.tables["win-rates"][1:]] == [
        ["held-out", f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", "3", "4", "seeds and prompts"]
        for row in figures["forest"]
    ]
    assert {metric["name"] for metric in figures["strength"]} >= {"exact/kl", "exact/frontier_gap", "eval/loss"}
    assert {m["name"]: m["apart"] for m in figures["strength"]}["eval/loss"], "losses of two objectives"
    assert figures["curves"]["axes"] == ["objective", "strength"]
    chosen = [stored(made, run_id("dpo", "0.1", seed))["eval/logratios/chosen"] for seed in SEEDS]
    assert figures["displacement"][0]["chosen"] == pytest.approx(statistics.mean(chosen))
    assert figures["displacement"][0]["length"] == 4.5, "mean of 3, 4, 5 and 6 tokens"


def test_answers_are_sorted_by_the_change_of_their_score(made: Path, page: Page) -> None:
    found = page.figures["completions"]
    assert [column["run"] for column in found["columns"]] == [
        run_id(o, s, "1") for o in ("dpo", "ipo") for s in ("0.1", "1.0")
    ]
    assert sorted(row["prompt"] for row in found["prompts"]) == sorted(f"{p} answer" for p in PROMPTS)
    changes = [row["change"] for row in found["prompts"]]
    assert changes == sorted(changes, reverse=True)
    row = found["prompts"][0]
    assert row["before"]["text"].startswith("before ")
    before = page.figures["completions"]["prompts"][0]["before"]["score"]
    own = [abs(answer["score"] - before) for answer in row["answers"][:1]]
    assert own[0] > 0
    scores = [answer["score"] for answer in row["answers"]]
    assert row["disagreement"] == pytest.approx(statistics.pstdev(scores))


def test_the_answer_says_no_more_than_the_runs_show(made: Path, page: Page, tmp_path: Path) -> None:
    assert re.search(r"At a KL of [\d.]+ nats, objective dpo has the highest exact reward: [\d.]+ \[", page.words)
    assert "The closest method that is known to be lower is objective ipo: a difference of -0." in page.words
    assert "methods at common KLs" in page.tables
    one_seed = write(tmp_path / "one")
    sweep = json.loads((one_seed / "sweep.json").read_text())
    sweep["points"] = [point for point in sweep["points"] if point["seed"] == "1"]
    write_sealed(one_seed / "sweep.json", {k: v for k, v in sweep.items() if k != "sha256"})
    text = Page(write_sweep_page(one_seed).read_text()).words
    assert "Nothing can be told about which is best: each setting has one seed" in text


def test_only_the_own_scripts_can_run(made: Path, page: Page) -> None:
    (policy,) = (a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    own = re.findall(r"<script>(.*?)</script>", (made / "report.html").read_text(), re.DOTALL)
    assert len(own) == 3
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own} == allowed
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert all(value and value.startswith("#") for value in addresses), "nothing is loaded"


def test_every_control_and_figure_has_a_name(page: Page) -> None:
    for tag, attrs in page.tags:
        if attrs.get("role") in ("img", "region") or tag == "nav":
            assert attrs.get("aria-label"), (tag, attrs)
    assert page.words.count("metric ") >= 2
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in page.tags if tag == "a" and str(a.get("href")).startswith("#")}
    assert targets <= set(ids)


def test_unsafe_text_is_text(tmp_path: Path) -> None:
    folder = write(tmp_path, text=UNSAFE + "z" * 5000)
    run = RunDir.of(tmp_path, run_id("ipo", "1.0", "3"))
    run.update(status="failed", reason=UNSAFE)
    page_file = write_sweep_page(folder)
    assert page_file.stat().st_size < 3_000_000
    text = page_file.read_text()
    found = Page(text)
    assert len(found.scripts) == 4
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
    assert not [tag for tag, _ in found.tags if tag in ("img", "textarea", "iframe", "object")]
    markdown = page_file.with_suffix(".md").read_text()
    for shown in (text, markdown):
        assert not re.search("[\x00\x1b\u202e]", shown)
        assert "supersecret" not in shown
        assert "sk-abcdefgh" not in shown
    assert "\\x1b[31m\\x00\\u202eevil" in text
    assert "{{ 7 * 7 }}" in text
    outside = re.sub(r"(`{3,})text\n.*?\n\1", "", markdown, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<|^# heading|^\| a \|", outside, re.MULTILINE)
    answers = [a for row in found.figures["completions"]["prompts"] for a in row["answers"]]
    assert all(len(answer["text"]) < 2000 and "more characters]" in answer["text"] for answer in answers)


def test_what_was_not_done_and_why(tmp_path: Path) -> None:
    folder = write(tmp_path)
    ends = (("failed", "out of luck"), ("diverged", "loss is nan"), ("running", None))
    for number, (status, reason) in enumerate(ends):
        RunDir.of(tmp_path, run_id("dpo", "0.1", SEEDS[number])).update(status=status, reason=reason, host="h")
    shutil.rmtree(RunDir.of(tmp_path, run_id("dpo", "1.0", "1")).path)
    log = RunDir.of(tmp_path, run_id("dpo", "0.1", SEEDS[0])).log
    log.write_text(f"a log\n{'x' * 9000}\nthe last line\n")
    page = Page(write_sweep_page(folder).read_text())
    rows = [[text for text, _ in row] for row in page.tables["runs that are not done"][1:]]
    assert [(status, reason) for _, status, reason, _ in rows] == [
        ("failed", "out of luck"), ("diverged", "loss is nan"),
        ("running", "no reason recorded") if rows[2][1] == "running" else ("interrupted", rows[2][2]),
        ("not run", "not begun"),
    ]  # fmt: skip
    assert "12 runs: 8 done, 1 failed, 1 diverged" in page.words
    assert f"a log\n{'x' * 500} [... 8,500 more characters]\nthe last line" in page.words, "of a run that failed"
    assert "run what is missing" in page.words


def test_the_page_of_an_old_sweep_and_of_nothing(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    page = Page(write_sweep_page(tmp_path / "old/sweeps/betas").read_text())
    assert [float(a["data-value"] or "") for _, a in page.column("settings", "exact KL (nats)")] == pytest.approx(
        [0.114936, 0.102524], abs=2e-6
    )
    assert "No run has recorded an audit" in page.words
    empty = tmp_path / "sweeps" / "empty"
    write_sealed(empty / "sweep.json", {"name": "empty", "axes": ["seed"], "points": [{"run": "dpo-x", "seed": "1"}]})
    page = Page(write_sweep_page(empty).read_text())
    assert "Nothing can be told: no run is done." in page.words
    assert "No run has both a KL and a reward" in page.words
    write_sealed(empty / "sweep.json", {"name": "none", "axes": [], "points": []})
    assert "0 runs" in Page(write_sweep_page(empty).read_text()).words


def test_against_an_older_sweep(tmp_path: Path) -> None:
    """Settings are matched by their values, and differences are paired by seed."""
    new, old = write(tmp_path / "new"), write(tmp_path / "old")
    for number, seed in enumerate(SEEDS):
        run = RunDir.of(tmp_path / "new", run_id("dpo", "0.1", seed))
        summary = run.record()["summary"]
        moved = {**summary, "exact/reward": summary["exact/reward"] + 0.1 + 0.01 * number}
        run.update(summary=moved, versions={"torch": "2.14"})
    file = write_page(read_sweep(new), tmp_path / "page.html", read_sweep(old))
    page = Page(file.read_text())
    rows = [[text for text, _ in row] for row in page.tables["against the older sweep"][1:]]
    (row,) = [r for r in rows if r[0] == "objective dpo, strength 0.1" and r[1] == "exact reward"]
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert row[4] == f"+0.110 [+{0.11 - half:.3f}, +{0.11 + half:.3f}]"
    assert row[5] == "3"
    assert "Compared with made: 4 settings in common." in page.words
    lone = write_page(read_runs(tmp_path / "new", [run_id("dpo", "0.1", "1")]), tmp_path / "lone.html")
    assert "There is one setting, so nothing is compared" in lone.read_text()


def test_words_and_columns_are_explained_on_both_pages(made: Path, page: Page) -> None:
    markdown = (made / "report.md").read_text()
    for text in (page.words, markdown.replace("\\", "")):
        assert "exact/kl: KL(policy || reference) by enumeration" in text
        assert "eval/loss: loss of the objective" in text
        assert "Not known to differ: the interval of the difference contains 0." in text
    assert all(definition(name) for name in COLUMNS)
    assert definition("eval/winrate/a").startswith("win-rate of the policy")
    assert definition("questions/f/score/a/mean") == "mean score of the policy's answers, on the prompts of f"
    assert definition("eval/score/a/se") == "standard error of: mean score of the policy's answers"
    assert definition("eval/nothing") == ""
