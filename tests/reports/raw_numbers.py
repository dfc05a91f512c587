"""The numbers of a sweep, computed again from the files of its runs: numpy, pandas, scipy and statsmodels alone.

Nothing of alignlab is imported here, so that no mistake of its code is repeated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

NAN = math.nan
KL = "eval/kl_ref/sequence_k1"
LEAST_DIFFERENCE = 5e-4  # means that differ by less are tied

# Heading of a column -> metric of the record.
HEADINGS = {
    "loss at start": "start/loss", "eval loss": "eval/loss", "eval margin": "eval/rewards/margins",
    "eval accuracy": "eval/rewards/accuracies", "held-out pair accuracy": "eval/pairs/accuracy",
    "held-out pair margin (nats)": "eval/pairs/margin", "eval KTO KL": "eval/kl",
    "eval chosen log-ratio": "eval/logratios/chosen", "train margin at end": "tail/rewards/margins",
    "sampled KL (nats)": KL, "exact KL (nats)": "exact/kl", "exact reward": "exact/reward",
    "frontier at that KL": "exact/frontier_reward", "gap": "exact/frontier_gap", "seconds": "time/train_seconds",
    "exact win-rate": "exact/winrate",
}  # fmt: skip
SHARES = ("eval/pairs/accuracy",)
NOT_DRAWN = ("start/loss", "exact/frontier_reward", "time/train_seconds")


def metric_of(heading: str) -> str:
    """The metric of a column. Raises KeyError for a column that has no oracle."""
    if heading in HEADINGS:
        return HEADINGS[heading]
    found = re.fullmatch(r"(?P<what>score by|win-rate by|sampled KL) ?(?P<judge>\w*)(?: \((?P<file>\w+)\))?", heading)
    nats = re.fullmatch(r"sampled KL \(nats\) \((?P<file>\w+)\)", heading)
    if nats:
        return f"questions/{nats['file']}/kl_ref/sequence_k1"
    if found is None or not found["judge"]:
        raise KeyError(f"no oracle for the column {heading!r}")
    start = f"questions/{found['file']}" if found["file"] else "eval"
    return f"{start}/score/{found['judge']}/mean" if "score" in found["what"] else f"{start}/winrate/{found['judge']}"


@dataclass(frozen=True)
class Number:
    """A mean over `n` seeds with its interval (NaN if there is none), and what the interval is over."""

    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0
    over: str = "nothing"
    prompts: int = 0

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def t_mean(values: Sequence[float], level: float = 0.95) -> Number:
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Number(mean, n=n)
    if np.ptp(values) == 0:
        return Number(mean, mean, mean, n, "seeds")
    low, high = stats.t.interval(level, n - 1, loc=mean, scale=stats.sem(values))
    return Number(mean, float(low), float(high), n, "seeds")


def cut(metric: str, number: Number) -> Number:
    """The number as it is shown: the interval of a rate is within [0, 1]."""
    if not re.search(r"accurac|/auc$|/winrate(/|$)", metric):
        return number
    return replace(number, low=float(np.clip(number.low, 0, 1)), high=float(np.clip(number.high, 0, 1)))


def crossed(table: Any, level: float = 0.95, *, rate: bool = False, all_prompts: bool = False) -> Number:
    """Mean of [seeds][prompts] values. Its interval comes from the mean squares of a two-way analysis of variance."""
    values = np.asarray(table, dtype=float)
    seeds, prompts = values.shape
    if all_prompts or prompts == 1:
        half, over = t_mean(values.mean(axis=1).tolist(), level).half, "seeds"
    else:
        between_seeds, between_prompts, rest = mean_squares(values)
        of_seeds = stats.t.ppf((1 + level) / 2, seeds - 1) ** 2 * between_seeds
        of_prompts = stats.t.ppf((1 + level) / 2, prompts - 1) ** 2 * max(0.0, between_prompts - rest)
        half, over = math.sqrt((of_seeds + of_prompts) / values.size), "seeds and prompts"
    mean = float(values.mean())
    low, high = mean - half, mean + half
    if rate:
        if half < 1e-9:
            rows = values.size if all_prompts else prompts
            low, high = proportion_confint(mean * rows, rows, method="wilson")
        low, high = max(0.0, low), min(1.0, high)
    return Number(mean, low, high, seeds, over, prompts)


def mean_squares(values: Any) -> tuple[float, float, float]:
    """Mean squares of seeds, prompts and the rest, of [seeds][prompts] values."""
    seeds, prompts = values.shape
    of_seeds, of_prompts = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - of_seeds - of_prompts + values.mean()
    squares = prompts * np.var(of_seeds, ddof=1), seeds * np.var(of_prompts, ddof=1)
    return float(squares[0]), float(squares[1]), float((rest**2).sum() / ((seeds - 1) * (prompts - 1)))


def of_strata(groups: Sequence[Sequence[float]]) -> Number:
    """Mean of a sample of each stratum, with Satterthwaite's degrees of freedom."""
    sizes = np.array([len(group) for group in groups])
    spreads = np.array([np.var(group, ddof=1) for group in groups]) * sizes
    error2, freedom = spreads.sum() / sizes.sum() ** 2, spreads.sum() ** 2 / (spreads**2 / (sizes - 1)).sum()
    mean = float(np.concatenate([np.asarray(group) for group in groups]).mean())
    half = stats.t.ppf(0.975, freedom) * math.sqrt(error2)
    return Number(mean, mean - half, mean + half, 1, "prompts")


def score_rate(wins: int, ties: int, losses: int) -> tuple[float, float]:
    """Tango's score interval of a win-rate: values whose score test is not rejected, by numerical likelihood."""
    n, z = wins + ties + losses, stats.norm.ppf(0.975)

    def loss_rate(d: float) -> float:
        """The most likely P(loss) if P(win) - P(loss) = d."""

        def unlikely(q: float) -> float:
            parts = ((wins, q + d), (losses, q), (ties, 1 - 2 * q - d))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

        return float(
            optimize.minimize_scalar(
                unlikely, bounds=(max(0.0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}
            ).x
        )

    def outside(d: float) -> float:
        return abs(wins - losses - n * d) - z * math.sqrt(max(0.0, n * (2 * loss_rate(d) + d - d * d)))

    at = (wins - losses) / n
    low = -1.0 if losses == n else optimize.brentq(outside, -1 + 1e-9, at - 1e-7) if at > -1 else -1.0
    high = 1.0 if wins == n else optimize.brentq(outside, at + 1e-7, 1 - 1e-9) if at < 1 else 1.0
    return (1 + low) / 2, (1 + high) / 2


def seeds_to_add(differences: Sequence[float], level: float) -> int | None:
    """Seeds to add until a paired t test finds the mean with 80 % probability. None: over 10,000, or no difference."""
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if mean == 0:
        return None
    effect = abs(mean) / spread

    def chance(n: int) -> float:
        critical, shift = stats.t.ppf((1 + level) / 2, n - 1), effect * math.sqrt(n)
        tails = stats.nct.sf(critical, n - 1, shift), stats.nct.cdf(-critical, n - 1, shift)
        return float(np.nansum(tails))  # where scipy has no number, it is below 1e-11

    low, high = 1, 2
    while chance(high) < 0.8:
        low, high = high, 2 * high
        if low > 10_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= 0.8 else (middle, high)
    return max(1, high - len(differences)) if high <= 10_000 else None


@dataclass(frozen=True)
class Evaluation:
    """A stored evaluation. file: the name of a file of prompts, empty for held-out prompts. rows: rows.parquet."""

    file: str
    rows: pd.DataFrame
    facts: Mapping[str, str]

    @property
    def all_prompts(self) -> bool:
        return self.facts.get("prompts") == "all"

    @property
    def baselines(self) -> list[str]:
        return [name[: -len("/answer")] for name in self.rows if name.endswith("/answer") and name != "policy/answer"]

    @property
    def compared(self) -> list[tuple[str, str]]:
        """(judge, baseline)."""
        return [(name.split("/")[2], name.split("/")[0]) for name in self.rows if re.fullmatch(r"[^/]+/first/.+", name)]

    @property
    def judged(self) -> list[str]:
        """Its metrics that judges made."""
        scored = [name.split("/")[2] for name in self.rows if name.startswith("policy/score/")]
        return [*(f"winrate/{judge}" for judge, _ in self.compared), *(f"score/{judge}/mean" for judge in scored)]

    def values(self, name: str) -> pd.Series | None:
        """A metric of each row: kl_ref/sequence_k1, score/<judge>/mean, winrate/<judge>[/<baseline>]."""
        what, *rest = name.split("/")
        if what == "kl_ref":
            if "policy/reference_logps" not in self.rows:
                return None
            sums = (self.rows[f"policy/{side}_logps"].map(np.sum) for side in ("policy", "reference"))
            ours, theirs = sums
            return ours - theirs
        if what == "score":
            return self.rows.get(f"{'policy' if rest[1] == 'mean' else 'reference'}/score/{rest[0]}")
        if len(rest) == 1:
            rest.append(next((b for j, b in self.compared if j == rest[0]), ""))
        judge, baseline = rest
        first, second = (self.rows.get(f"{baseline}/{order}/{judge}") for order in ("first", "second"))
        if first is None or second is None:
            return first
        agree = (first > 0.5) & (second > 0.5) | (first < 0.5) & (second < 0.5) | (first == 0.5) & (second == 0.5)
        tied = self.facts.get(f"disagreement/{judge}", "tie") == "tie"
        mean = (first + second) / 2
        return mean.where(agree | mean.isna() | (not tied), 0.5)

    def by_prompt(self, name: str) -> pd.Series | None:
        """A metric of each prompt; NaN if an answer to it has no valid verdict."""
        values = self.values(name)
        if values is None:
            return None
        groups = self.rows["prompt_id"]
        return values.groupby(groups).mean().where(values.notna().groupby(groups).all())

    def of_one_seed(self, name: str) -> Number:
        """A metric of this run with an interval over prompts, or over answers if the prompts are all that there are."""
        values = self.values(name)
        assert values is not None
        values = values.astype(float)
        groups = self.rows["prompt_id"][values.notna()]
        values = values.dropna()
        if name.startswith("winrate"):
            assert self.all_prompts or groups.is_unique
            counts = [int((values == v).sum()) for v in (1.0, 0.5, 0.0)]
            low, high = score_rate(*counts)
            n = len(values)
            return Number(float(values.mean()), low, high, 1, "prompts", n)
        if self.all_prompts and groups.value_counts().min() > 1:
            return of_strata([list(of) for _, of in values.groupby(groups)])
        found = t_mean(list(values.groupby(groups).mean()))
        return Number(found.value, found.low, found.high, 1, "prompts")


class Raw:
    """The files of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.sweep = json.loads((folder / "sweep.json").read_text())
        self.root = folder.parents[1]
        self.points: list[dict[str, Any]] = self.sweep["points"]
        self.axes: list[str] = self.sweep["axes"]
        self.own = [axis for axis in self.axes if axis != "seed"]
        files = {p["run"]: self.root / "runs" / p["run"] / "run.json" for p in self.points}
        self._numbers: dict[tuple[str, str], Number | None] = {}
        self._curves: dict[tuple[str, str], pd.DataFrame] = {}
        self._of_runs: dict[tuple[str, str], Any] = {}
        self.records = {run: json.loads(f.read_text()) if f.is_file() else {} for run, f in files.items()}

    def status(self, run: str) -> str:
        return str(self.records[run].get("status", "not run"))

    def summary(self, run: str) -> dict[str, float]:
        return dict(self.records[run].get("summary", {}))

    def setting(self, point: Mapping[str, Any]) -> str:
        return ", ".join(f"{axis.split('.')[-1]} {point[axis]}" for axis in self.own)

    @cached_property
    def settings(self) -> dict[str, list[dict[str, Any]]]:
        """Setting -> its points, finished or not."""
        found: dict[str, list[dict[str, Any]]] = {}
        for point in self.points:
            found.setdefault(self.setting(point), []).append(point)
        return found

    @cached_property
    def done(self) -> dict[str, list[str]]:
        """Setting -> its finished runs, for settings with some."""
        runs = {name: [p["run"] for p in ps if self.status(p["run"]) == "done"] for name, ps in self.settings.items()}
        return {name: of for name, of in runs.items() if of}

    @cached_property
    def seed(self) -> dict[str, str]:
        return {p["run"]: str(p["seed"]) for p in self.points}

    @cached_property
    def metrics(self) -> set[str]:
        return {name for runs in self.done.values() for run in runs for name in self.summary(run)}

    @cached_property
    def evaluations(self) -> dict[str, list[Evaluation]]:
        """Run -> its evaluations, newest first."""
        from pyarrow import parquet

        found: dict[str, list[Evaluation]] = {}
        for run in (run for runs in self.done.values() for run in runs):
            files = list((self.root / "runs" / run / "evaluation").glob("*/summary.json"))
            for file in sorted(files, key=lambda f: (f.stat().st_mtime, f.parent), reverse=True):
                table = parquet.read_table(file.parent / "rows.parquet")
                facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k != b"pandas"}
                questions = json.loads(file.read_text()).get("questions", "")
                rows = table.replace_schema_metadata(None).to_pandas()
                found.setdefault(run, []).append(Evaluation(questions, rows, facts))
        return found

    def newest(self, run: str, metric: str) -> Evaluation | None:
        """The newest evaluation of a run that has a metric of sampled answers."""
        file, name = split(metric)
        known = (e for e in self.evaluations.get(run, []) if e.file == file and name and e.values(name) is not None)
        return next(known, None)

    def number(self, setting: str, metric: str) -> Number | None:
        """The mean of a metric with its interval; None if no finished run has it."""
        if (setting, metric) not in self._numbers:
            self._numbers[setting, metric] = self._number(setting, metric)
        return self._numbers[setting, metric]

    def _number(self, setting: str, metric: str) -> Number | None:
        runs = [run for run in self.done.get(setting, []) if metric in self.summary(run)]
        if not runs:
            return None
        evaluated = [e for run in runs if (e := self.newest(run, metric)) is not None]
        if evaluated:
            assert len(evaluated) == len(runs) == len(self.done[setting]), "oracle: some runs lack an evaluation"
            return self.sampled([*evaluated], split(metric)[1])
        values = [self.summary(run)[metric] for run in runs]
        found = t_mean(values)
        if metric in SHARES and len(values) > 1 and np.ptp(values) == 0:
            half = 0.98 / math.sqrt(min(self.summary(run)["eval/pairs/n"] for run in runs))
            return Number(found.value, max(0, found.value - half), min(1, found.value + half), found.n, "held-out rows")
        return cut(metric, found)

    @staticmethod
    def sampled(evaluated: Sequence[Evaluation], name: str) -> Number:
        """A metric of the answers of the seeds of a setting."""
        if len(evaluated) == 1:
            return evaluated[0].of_one_seed(name)
        table = pd.concat([e.by_prompt(name) for e in evaluated], axis=1)  # type: ignore[type-var]
        assert all(len(e.rows["prompt_id"].unique()) == len(table) for e in evaluated), "oracle: other prompts"
        rate = name.startswith("winrate")
        return crossed(table.dropna().to_numpy().T, rate=rate, all_prompts=evaluated[0].all_prompts)

    def curve(self, setting: str, metric: str) -> pd.DataFrame:
        """Columns step, value, low, high of a training curve: means over seeds, in at most 60 bins."""
        if (setting, metric) not in self._curves:
            self._curves[setting, metric] = self._curve(setting, metric)
        return self._curves[setting, metric]

    def _curve(self, setting: str, metric: str) -> pd.DataFrame:
        columns = []
        for run in self.done.get(setting, []):
            rows = self.logged[run]
            if metric == "train/rewards/accuracies":
                rows = [row for row in rows if abs(row.get("train/logratios/margins", 1.0)) >= 1e-5]
            named = {r["train/global_step"]: r[metric] for r in rows if r.get(metric) is not None}
            if named:
                columns.append(pd.Series(named))
        if not columns:
            return pd.DataFrame()
        table = pd.concat(columns, axis=1).sort_index()
        size = math.ceil(len(table) / 60)
        firsts = np.arange(0, len(table), size)
        values = np.array([table.iloc[at : at + size].mean().to_numpy() for at in firsts])
        n, mean = (~np.isnan(values)).sum(axis=1), np.nanmean(values, axis=1)
        half = np.full(len(values), NAN)
        several = n > 1
        spread = np.nanstd(values[several], axis=1, ddof=1)
        half[several] = stats.t.ppf(0.975, n[several] - 1) * spread / np.sqrt(n[several])
        steps = table.index.to_numpy()[np.minimum(firsts + size, len(table)) - 1]
        low, high = mean - half, mean + half
        if "accurac" in metric:
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        return pd.DataFrame({"step": steps, "value": mean, "low": low, "high": high})

    @cached_property
    def logged(self) -> dict[str, list[dict[str, Any]]]:
        """Finished run -> the rows of its metrics.jsonl."""
        files = {run: self.root / f"runs/{run}/metrics.jsonl" for runs in self.done.values() for run in runs}
        return {run: [json.loads(line) for line in file.read_text().splitlines()] for run, file in files.items()}

    # --- comparisons -------------------------------------------------------------------------------------------------
    @cached_property
    def plane(self) -> tuple[str, str, str] | None:
        """(KL, reward, reward of the start) that all settings have."""
        scores = sorted(m for m in self.metrics if re.fullmatch(r"eval/score/[^/]+/mean", m))
        rates = sorted(m for m in self.metrics if re.fullmatch(r"eval/winrate/[^/]+", m))
        known = [("exact/kl", "exact/reward", "exact/reward_reference")]
        known += [(KL, m, m.removesuffix("/mean") + "/reference") for m in [*scores, *rates]]
        return next((one for one in known if {one[0], one[1]} <= self.metrics), None)

    @cached_property
    def is_sampled(self) -> bool:
        """Whether comparisons count prompts: all runs answered the same held-out prompts, a sample of all prompts."""
        newest = [
            next((e for e in self.evaluations.get(r, []) if not e.file), None) for rs in self.done.values() for r in rs
        ]
        prompts = {frozenset(e.rows["prompt_id"]) for e in newest if e is not None}
        return all(e is not None and not e.all_prompts for e in newest) and len(prompts) == 1

    @property
    def judged_prompts(self) -> int:
        """The number of held-out prompts that every run answered."""
        return len(next(iter(self.evaluations.values()))[0].rows["prompt_id"].unique())

    @cached_property
    def valid(self) -> list[str]:
        """Held-out prompts with a valid verdict of every judge in every run."""
        newest = [self.evaluations[run][0] for runs in self.done.values() for run in runs]
        tables = [e.by_prompt(name) for e in newest for name in e.judged]
        if not tables:
            return sorted(self.evaluations[next(iter(self.evaluations))][0].rows["prompt_id"].unique())
        return list(pd.concat(tables, axis=1).dropna().index)  # type: ignore[type-var]

    def of_run(self, run: str, metric: str) -> Any:
        """The value of a run for comparisons: a number, or values by prompt."""
        if (run, metric) not in self._of_runs:
            self._of_runs[run, metric] = self._of_run(run, metric)
        return self._of_runs[run, metric]

    def _of_run(self, run: str, metric: str) -> Any:
        evaluated = self.newest(run, metric) if self.is_sampled else None
        if evaluated is None:
            if metric.startswith("eval/winrate") and metric.endswith("/reference") and self.is_sampled:
                return np.full(len(self.valid), 0.5)
            return self.summary(run)[metric]
        name = split(metric)[1]
        if name.startswith("winrate") and name.endswith("/reference"):
            return np.full(len(self.valid), 0.5)
        found = evaluated.by_prompt(name)
        assert found is not None
        return found.loc[self.valid].to_numpy(dtype=float)

    @staticmethod
    def interval(values: Sequence[Any], level: float = 0.95) -> Number:
        if len(values) > 1 and np.ndim(values[0]) == 1:
            return crossed(np.stack(values), level)
        return t_mean([float(np.mean(v)) for v in values], level)

    @cached_property
    def methods(self) -> dict[str, list[str]]:
        """Method -> its settings, if there are several methods with strengths and all have KL and reward."""
        if self.plane is None or "strength" not in self.axes or len(self.own) < 2:
            return {}
        found: dict[str, list[str]] = {}
        for name, points in self.settings.items():
            found.setdefault(", ".join(f"{a} {points[0][a]}" for a in self.own if a != "strength"), []).append(name)
        return found

    def at(self, method: str, kl: float) -> dict[str, Any]:
        """Seed -> reward of a method at a KL: the line through the means of settings, plus the seed's influence."""
        assert self.plane is not None
        kl_of, reward_of, start_of = self.plane
        settings = []
        for name in self.methods[method]:
            runs = self.done.get(name, [])
            if runs:
                settings.append({self.seed[r]: (self.of_run(r, kl_of), self.of_run(r, reward_of)) for r in runs})
        settings.sort(key=lambda s: np.mean([np.mean(v[0]) for v in s.values()]))
        starts = {self.seed[r]: self.of_run(r, start_of) for n in self.methods[method] for r in self.done.get(n, [])}
        first = {seed: (0 * starts[seed], starts[seed]) for seed in settings[0]}
        settings = [first, *settings]
        ends = [float(np.mean([np.mean(v[0]) for v in s.values()])) for s in settings]
        after = next(i for i, end in enumerate(ends) if end >= kl * (1 - 1e-9))
        lower, upper = settings[max(after - 1, 0)], settings[after]
        seeds = [seed for seed in upper if seed in lower]
        values = [[one[seed][part] for seed in seeds] for one in (lower, upper) for part in (0, 1)]
        means = np.array([np.mean([np.mean(v) for v in of]) for of in values])

        def line(of: Any) -> float:
            return float(of[1] + (kl - of[0]) * (of[3] - of[1]) / (of[2] - of[0]))

        slopes = optimize.approx_fprime(means, line, 1e-7)
        return {
            seed: line(means) + sum(slopes[i] * (values[i][k] - means[i]) for i in range(4))
            for k, seed in enumerate(seeds)
        }

    def kls_of(self, method: str) -> list[float]:
        """The mean KLs of the settings of a method."""
        assert self.plane is not None
        kl, names = self.plane[0], [name for name in self.methods[method] if name in self.done]
        return [float(np.mean([np.mean(self.of_run(run, kl)) for run in self.done[name]])) for name in names]

    def kl_range(self, method: str) -> tuple[float, float] | None:
        kls = self.kls_of(method)
        return (min(kls), max(kls)) if kls else None

    @property
    def kl_ranges(self) -> dict[str, tuple[float, float]]:
        """Method -> its smallest and largest KL, for methods with results."""
        return {m: found for m in self.methods if (found := self.kl_range(m))}

    @cached_property
    def budgets(self) -> list[tuple[float, dict[str, dict[str, Any]]]]:
        """(KL, method -> seed -> reward) at a quarter, half and all of the largest KL that all methods reached.

        Empty if fewer than two methods have results, or if they have no KL in common.
        """
        ranges = self.kl_ranges
        if len(ranges) < 2:
            return []
        most = min(high for _, high in ranges.values())
        lows = [low / 1.25 for low, _ in ranges.values()]
        kls = [share * most for share in (0.25, 0.5, 1.0) if share * most >= max(lows) and most >= 0.01]
        return [(kl, {method: self.at(method, kl) for method in ranges}) for kl in kls]

    def compare(
        self,
        values: Mapping[str, Mapping[str, Any]],
        may_be_best: Sequence[str],
        count: int,
        *,
        lower: bool,
        rows: float | None = None,
    ) -> tuple[str | None, dict[str, tuple[Number, bool | None, int | None]]]:
        """(best, other -> (difference, whether it is tied, seeds to add)), by paired differences (Bonferroni).

        rows: of the held-out pairs that an accuracy is a share of.
        """  # fmt: skip
        sign = -1 if lower else 1
        most = max((len(values[m]) for m in may_be_best), default=0)
        known = {
            m: sign * float(np.mean([np.mean(v) for v in values[m].values()]))
            for m in may_be_best
            if len(values[m]) == most
        }
        if not most:
            return None, {}
        best = max(known, key=lambda m: known[m])
        level, found = 1 - 0.05 / max(1, count), {}
        for method, of in values.items():
            if method == best:
                continue
            differences = [of[seed] - values[best][seed] for seed in of if seed in values[best]]
            if len(differences) < 2:
                found[method] = (
                    t_mean([float(np.mean(d)) for d in differences]) if differences else Number(NAN),
                    None,
                    None,
                )
                continue
            number = by_seed = self.interval(differences, level)
            if rows:
                share = min(1.0, abs(number.value))
                half = math.hypot(number.half, stats.norm.ppf((1 + level) / 2) * math.sqrt((share - share**2) / rows))
                number = Number(number.value, number.value - half, number.value + half, number.n)
            worse = number.low > 0 if lower else number.high < 0
            little = abs(number.value) < LEAST_DIFFERENCE
            tied, more = not worse or little, None
            if tied and not little and by_seed.low <= 0 <= by_seed.high:
                more = seeds_to_add([float(np.mean(d)) for d in differences], level)
            found[method] = (number, tied, more)
        return best, found


def split(metric: str) -> tuple[str, str]:
    """(file of prompts, name) of a metric of sampled answers; the name is empty for other metrics."""
    found = re.fullmatch(
        r"(?:eval|questions/([^/]+))/((?:kl_ref/sequence_k1|score/[^/]+/\w+|winrate/[^/]+(?:/reference)?))", metric
    )
    return (found[1] or "", found[2]) if found else ("", "")
