"""Verdicts on claims: a pure function of the expectation and the measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alignlab.papers.claim import FEWEST_SEEDS, Band, Kind
from alignlab.statistics.intervals import mean_interval

Verdict = Literal["reproduced", "contradicted", "underdetermined", "needs-scale", "not-run"]

# Confidence of intervals over seeds.
LEVEL = 0.95


@dataclass(frozen=True)
class BandResult:
    """One expectation and what was measured.

    value, low, high: the mean over seeds with its 95 % interval; a closed form has the same number three times.
    verdict:          reproduced, contradicted or underdetermined.
    why:              the reason in words; empty if the verdict is reproduced.
    """

    band: Band
    value: float
    low: float
    high: float
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        shown = f"{self.value:.6g} ± {half:.2g}" if half > 0 else f"{self.value:.6g}"
        return f"{self.band.quantity}: {shown}, expected {self.band} ({self.band.provenance})"


@dataclass(frozen=True)
class Decision:
    """The verdict on a claim, the reason, and the results that it follows from."""

    verdict: Verdict
    why: str = ""
    results: tuple[BandResult, ...] = ()


def decide(
    expected: Sequence[Band], measured: Mapping[str, Sequence[float]], *, kind: Kind, premises: Sequence[Band] = ()
) -> Decision:
    """The verdict on a claim.

    measured: name -> values: one for a closed form, otherwise one for each seed.

    Each quantity has an interval: the value itself for a closed form, otherwise the 95 % t interval over seeds.

    - A premise that is not inside its band makes the claim underdetermined: this set-up can't decide it.
    - If all intervals are inside their bands, the claim is reproduced.
    - If an interval is outside its band, the claim is contradicted. The intervals for this are wider and hold for all
      quantities at once (Bonferroni), so that a claim with many quantities is not contradicted by chance.
    - Otherwise it is underdetermined: an interval crosses a bound, there are too few seeds, or a value is missing or
      not finite.
    """
    conditions = [find(band, measured.get(band.quantity, ()), kind=kind) for band in premises]
    results = tuple(find(band, measured.get(band.quantity, ()), kind=kind, among=len(expected)) for band in expected)
    everything = (*conditions, *results)
    failed = [result for result in conditions if result.verdict != "reproduced"]
    if failed:
        return Decision("underdetermined", f"this set-up can't decide the claim: {_reasons(failed)}", everything)
    verdicts: tuple[Verdict, ...] = ("contradicted", "underdetermined")
    for verdict in verdicts:
        if found := [result for result in results if result.verdict == verdict]:
            return Decision(verdict, _reasons(found), everything)
    if not results:
        return Decision("underdetermined", "the claim expects nothing")
    return Decision("reproduced", "", everything)


def find(band: Band, values: Sequence[float], *, kind: Kind, among: int = 1) -> BandResult:
    """Compare the values of one quantity with its band. `among`: the number of quantities of the claim."""
    mean = math.fsum(values) / len(values) if values else math.nan
    if not values:
        return BandResult(band, mean, math.nan, math.nan, "underdetermined", f"{band.quantity} was not measured")
    if bad := sum(not math.isfinite(value) for value in values):
        text = f"{bad} of {len(values)} values of {band.quantity} are not finite"
        return BandResult(band, mean, math.nan, math.nan, "underdetermined", text)
    if kind == "closed form":
        inside = _is_inside(band, mean, mean) and len(values) == 1
        return _result(band, mean, (mean, mean), "reproduced" if inside else "contradicted")
    if len(values) < FEWEST_SEEDS:
        text = f"{band.quantity} was measured with {len(values)} seeds; {FEWEST_SEEDS} are needed"
        return BandResult(band, mean, math.nan, math.nan, "underdetermined", text)
    interval = mean_interval(values, level=LEVEL)
    wide = mean_interval(values, level=1 - (1 - LEVEL) / among)
    if _is_inside(band, interval.low, interval.high):
        verdict: Verdict = "reproduced"
    else:
        verdict = "contradicted" if _is_outside(band, wide.low, wide.high) else "underdetermined"
    return _result(band, mean, (interval.low, interval.high), verdict)


def _result(band: Band, value: float, interval: tuple[float, float], verdict: Verdict) -> BandResult:
    result = BandResult(band, value, *interval, verdict, "")
    return result if verdict == "reproduced" else BandResult(band, value, *interval, verdict, str(result))


def _is_inside(band: Band, low: float, high: float) -> bool:
    if band.low is None or band.high is None:  # an order is strict: equality does not meet it
        return (band.low is None or low > band.low) and (band.high is None or high < band.high)
    return band.low <= low and high <= band.high


def _is_outside(band: Band, low: float, high: float) -> bool:
    if band.low is None or band.high is None:
        return (band.low is not None and high <= band.low) or (band.high is not None and low >= band.high)
    return high < band.low or low > band.high


def _reasons(results: Sequence[BandResult]) -> str:
    return "; ".join(result.why for result in results)
