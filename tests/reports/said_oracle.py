"""What the page of a sweep must say in sentences, from the raw numbers of its runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tests.reports.raw_numbers import HEADINGS, KL, LEAST_DIFFERENCE, Number, Raw, cut, t_mean

Compared = tuple[str, Number | None, bool | None, int | None]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def configs_of(raw: Raw) -> dict[str, dict[str, str]]:
    found = {}
    for run, record in raw.records.items():
        if record.get("config"):
            versions = {f"version of {name}": v for name, v in record.get("versions", {}).items()}
            revision = {"alignlab's revision": record["git"]} if record.get("git") else {}
            found[run] = {
                k: " ".join(str(v).split()) for k, v in {**flat(record["config"]), **revision, **versions}.items()
            }
    return found


def runs_in_words(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"


def shortened(text: str) -> str:
    return text if len(text) <= 1500 else f"{text[:1500]} [... {len(text) - 1500:,} more characters]"


def first_answers(raw: Raw) -> dict[str, pd.DataFrame]:
    """Setting -> the first answers of the newest evaluation of its first run that has one."""
    found = {}
    for name, runs in raw.done.items():
        run = next((run for run in runs if raw.evaluations.get(run)), None)
        if run is not None:
            rows = raw.evaluations[run][0].rows
            found[name] = rows[rows["sample"] == 0].set_index("prompt_id")
    return found


def heading_of(raw: Raw, metric: str) -> str:
    named = [h for h, m in HEADINGS.items() if m == metric]
    if named:
        return named[0]
    _, kind, judge, *_ = metric.split("/")
    return f"{'score' if kind == 'score' else 'win-rate'} by {judge}"


def compared_by(raw: Raw) -> str:
    """The heading of the metric that settings are compared by."""
    return heading_of(raw, raw.plane[1]) if raw.plane else "held-out pair accuracy"


def gain_of(raw: Raw, method: str, of: Mapping[str, Any]) -> Number | None:
    assert raw.plane is not None
    starts = {raw.seed[r]: raw.of_run(r, raw.plane[2]) for n in raw.methods[method] for r in raw.done.get(n, [])}
    return raw.interval([value - starts[seed] for seed, value in of.items()])


def at_budget(
    raw: Raw, rewards: Mapping[str, Mapping[str, Any]]
) -> tuple[str | None, dict[str, tuple[Number, bool | None, int | None]]]:
    gains = {method: gain_of(raw, method, of) for method, of in rewards.items()}
    can = [m for m, g in gains.items() if g is not None and (g.low > 0 if g.n > 1 else g.value > 0)]
    count = sum(len(of) - 1 for _, of in raw.budgets)
    return raw.compare(rewards, can, count, lower=False)


def _accuracies(raw: Raw) -> dict[str, dict[str, float]]:
    return {n: {raw.seed[r]: raw.summary(r)["eval/pairs/accuracy"] for r in runs} for n, runs in raw.done.items()}


def _better_than_chance(raw: Raw, setting: str) -> bool | None:
    number = raw.number(setting, "eval/pairs/accuracy")
    assert number is not None
    over_seeds = t_mean(list(_accuracies(raw)[setting].values()))
    if number.n < 2:
        return None
    n = min(raw.summary(run)["eval/pairs/n"] for run in raw.done[setting])
    return over_seeds.low > 0.5 and number.value - 0.5 > 0.98 / math.sqrt(n)


def _hardly_moved(raw: Raw) -> dict[str, float]:
    far = {
        n: abs(float(np.mean([raw.summary(r)["eval/pairs/distance"] for r in runs]))) for n, runs in raw.done.items()
    }
    most = max(far.values())
    return far if most < 0.01 else {n: d for n, d in far.items() if d < most / 4}


def _by_accuracy(raw: Raw) -> tuple[str | None, dict[str, tuple[Number, bool | None, int | None]]]:
    can = [n for n in raw.done if n not in _hardly_moved(raw) and _better_than_chance(raw, n) is not False]
    rows = min(raw.summary(run)["eval/pairs/n"] for runs in raw.done.values() for run in runs)
    return raw.compare(_accuracies(raw), can, len(raw.done) - 1, lower=False, rows=rows)


def comparisons(raw: Raw) -> dict[str, Compared]:
    """Setting -> its comparison with the best of all settings; empty if methods are compared at common KLs."""
    if raw.plane:
        return {}
    best, found = _by_accuracy(raw)
    if best is None:
        return {}
    means = {n: np.mean(list(of.values())) for n, of in _accuracies(raw).items()}
    first = "best" if means[best] == max(means.values()) else "best that can be called best"
    return {n: (first, None, None, None) if n == best else ("", *found[n]) for n in raw.done}


def _e(number: Number, form: str = ".3f") -> str:
    return f"{number.value:{form}} [{number.low:{form}}, {number.high:{form}}]"


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def answers(raw: Raw) -> list[str]:
    """The sentences of the answer. Where nothing is told, there is nothing that something else may explain."""
    lead = "Nothing can be told about which is best"
    if not raw.plane:
        return [_without_rewards(raw, lead)]
    told = _at_kls(raw)
    return [*told, *_cautions(raw)] if told else [f"{lead}: {_why_nothing_at_kls(raw)}"]


def _cautions(raw: Raw) -> list[str]:
    """What else may explain an answer."""
    lost = {name: [p for p in points if raw.status(p["run"]) != "done"] for name, points in raw.settings.items()}
    shown = [f"{name} ({len(of)} of {len(raw.settings[name])})" for name, of in lost.items() if of]
    assert len(shown) <= 4, "oracle: many settings"
    lines = []
    if shown:
        lines.append(f"Runs that are not done do not count, which may favour their settings: {'; '.join(shown)}.")
    if next(budgets_of_training(raw)).startswith("Budgets differ"):
        lines.append("The runs had different budgets of training, which the report lists.")
    records = [record for record in raw.records.values() if record]
    if len({record.get("model", {}).get("reference_weights") for record in records} - {None}) > 1:
        lines.append("The runs start from different policies, so their KLs are not on one scale.")
    digests = {(r["config"].get("seed"), r["data"].get("pairs", {}).get("digest")) for r in records}
    if len({seed for seed, digest in digests if digest}) < len([1 for _, digest in digests if digest]):
        lines.append("The held-out pairs were not the same for all runs, which may explain a difference.")
    return lines


def _without_rewards(raw: Raw, lead: str) -> str:
    best, _ = _by_accuracy(raw)
    if best is None:
        moved = " that moved" if _hardly_moved(raw) else ""
        return f"{lead}: no setting{moved} is known to be better than the start (held-out pair accuracy)."
    kls = [float(np.mean([np.mean(raw.of_run(r, KL)) for r in runs])) for runs in raw.done.values()]
    assert max(kls) > 1.25 * min(kls), "oracle: settings of equal KL"
    number = raw.number(best, "eval/pairs/accuracy")
    assert number is not None
    most = max(np.mean(list(of.values())) for of in _accuracies(raw).values())
    which = "the highest" if number.value >= most else "the best that can be called so"
    pairs = int(min(raw.summary(run)["eval/pairs/n"] for run in raw.done[best]))
    return (
        f"{lead}: the settings are not known to have a KL in common (they reach {min(kls):.2f} to "
        f"{max(kls):.2f} nats). "
        f"One that moved further may only seem better. By held-out pair accuracy alone, {which} is that of "
        f"{best}: {_e(number)} over {_seeds(number.n)} and {pairs} pairs."
    )


def _at_kls(raw: Raw) -> list[str]:
    assert raw.plane is not None
    found, heading = [], heading_of(raw, raw.plane[1])
    for kl, rewards in raw.budgets:
        best, compared = at_budget(raw, rewards)
        if best is None or all(tied is None for _, tied, _ in compared.values()):
            continue
        numbers = {m: cut(raw.plane[1], raw.interval(list(of.values()))) for m, of in rewards.items()}
        ahead = [m for m in compared if numbers[m].value > numbers[best].value]
        worse = {m: d for m, (d, tied, _) in compared.items() if tied is False}
        unknown = [m for m, (_, tied, _) in compared.items() if tied is None]
        where = f"At a KL of {kl:.3g} nats, "
        if worse:
            what = f"has the best {heading} of those that can be called best" if ahead else f"has the highest {heading}"
            text = f"{where}{best} {what}: {_e(numbers[best])} over {_seeds(numbers[best].n)}."
            if behind := [m for m in worse if m not in ahead]:
                nearest = min(behind, key=lambda m: abs(worse[m].value))
                text += (
                    f" The closest method that is known to be lower is {nearest}: a difference of "
                    f"{_e(worse[nearest], '+.3f')}."
                )
            if tied := [m for m, (_, t, _) in compared.items() if t and m not in ahead]:
                text += f" Tied with it (not known to differ): {'; '.join(tied)}."
            if over := [f"{m} ({numbers[m].value:.3f})" for m in ahead if m not in unknown]:
                text += (
                    " Better, but not called best (fewer seeds, hardly moved, or not known to be "
                    f"better than the start): {'; '.join(over)}."
                )
        else:
            tied = [m for m, (_, t, _) in compared.items() if t]
            text = (
                f"{where}no method is known to be best. These are tied by {heading}: "
                f"{'; '.join(f'{m} ({_e(numbers[m])})' for m in [best, *tied])}."
            )
        if unknown:
            text += (
                " Not compared with it, because they share fewer than two seeds: "
                f"{'; '.join(f'{m} ({numbers[m].value:.3f})' for m in unknown)}."
            )
        sparse = "".join(f" {one[0].upper()}{one[1:]}." for one in _between(raw, kl))
        found.append(text + sparse)
    return found


def _why_nothing_at_kls(raw: Raw) -> str:
    if any(at_budget(raw, rewards)[0] for _, rewards in raw.budgets):
        return "no method has two seeds in common with another."
    if raw.budgets:
        return "no method is known to be better than the start at a KL that all of them reached."
    ranges = raw.kl_ranges
    if len(ranges) == 1:
        return f"only {next(iter(ranges))} has results."
    still = [method for method, (_, high) in ranges.items() if high < 0.01]
    if still:
        return f"KLs below 0.01 nats are not compared, and these methods went no further: {'; '.join(still)}."
    return f"the methods have no KL in common ({'; '.join(_ranges(raw))}). More reward at more KL is not better."


def _ranges(raw: Raw) -> list[str]:
    return [f"{method} {low:.2g} to {high:.2g} nats" for method, (low, high) in raw.kl_ranges.items()]


def _strengths_to_add(raw: Raw) -> str:
    """Where each method is expected at one KL: the geometric mean of two KLs.

    These are the largest KL that any method begins at, and the smallest that any method ends at.
    """
    lows, highs = zip(*raw.kl_ranges.values(), strict=True)
    target = float(stats.gmean([max(lows), min(highs)]))
    advice = []
    for method in raw.kl_ranges:
        names = [name for name in raw.methods[method] if name in raw.done]
        kls = pd.Series(raw.kls_of(method), index=[float(raw.settings[name][0]["strength"]) for name in names])
        too_weak, too_strong = kls[kls >= target].index, kls[kls < target].index
        if not len(too_weak):
            where = f"below {too_strong.min():g}"
        elif not len(too_strong):
            where = f"above {too_weak.max():g}"
        else:
            assert too_weak.max() < too_strong.min(), "oracle: a KL that rises with the strength"
            where = f"between {too_weak.max():g} and {too_strong.min():g}"
        advice.append(f"{method} {where}")
    return (
        f"To have settings of all methods near one KL, {target:.2g} nats, add values of strength: {'; '.join(advice)}."
    )


def _between(raw: Raw, kl: float) -> list[str]:
    """Sentences on methods without a setting near a KL, between settings whose KLs differ by a factor of over 4."""
    lines = []
    for method in raw.methods:
        kls = raw.kls_of(method)
        low, high = max((k for k in kls if k <= kl), default=kl), min((k for k in kls if k > kl), default=kl)
        near = any(max(k, kl) <= 1.25 * min(k, kl) for k in kls)
        if high > 4 * low and not near:
            lines.append(
                f"{method} has no setting between {low:.3g} and {high:.3g} nats, so its value is on the line between "
                "these two and may be too low"
            )
    return lines


def facts_line(raw: Raw) -> str:
    counts = Counter(raw.status(point["run"]) for point in raw.points)
    listed = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    seeds = ", ".join(dict.fromkeys(str(p["seed"]) for p in raw.points))
    return f"{raw.sweep['name']} · {runs_in_words(len(raw.points))}: {listed}; seeds: {seeds}"


def sentences(raw: Raw, older: Raw | None) -> Iterator[str]:
    """All sentences and other texts with numbers that may be on the page."""
    yield from answers(raw)
    yield from (raw.sweep["name"], raw.sweep["question"], f"{raw.sweep['name']}: report")
    yield from conclusions(raw)
    yield from budgets_of_training(raw)
    yield from different_code(raw)
    yield from _audits(raw)
    lost = [p["run"] for p in raw.points if raw.status(p["run"]) != "done"]
    yield f"Not done ({len(lost)})"
    for run in lost:
        yield f"End of the log of {run}"
        yield f"End of the log of {run}:"
        log = raw.root / "runs" / run / "train.log"
        if log.is_file():
            yield "\n".join(log.read_text().splitlines()[-15:])
    for name, rows in first_answers(raw).items():
        yield from (name, f"{name}:")
        for column in ("prompt", "policy/answer", "reference/answer"):
            yield from (" ".join(shortened(text).split()) for text in rows[column])
    if raw.is_sampled and raw.judged_prompts > len(raw.valid):
        yield (
            f"Comparisons leave out {raw.judged_prompts - len(raw.valid)} of {raw.judged_prompts} "
            "prompts, where a judge gave no valid verdict on some run's answer. Means of a setting leave out only "
            "those of its own runs."
        )
    if older is not None:
        yield from _against_notes(raw, older)
    prompts = len(next(iter(first_answers(raw).values()), ()))
    yield f"{prompts - 10} more prompts are on the HTML page."


def conclusions(raw: Raw) -> Iterator[str]:
    agree = any(
        n is not None and n.over == "held-out rows"
        for s in raw.done
        for m in ("eval/pairs/accuracy",)
        for n in [raw.number(s, m)]
    )
    rows = " If all seeds of an accuracy agree, the interval is over its held-out rows." if agree else ""
    yield f"± is half of a 95 % t interval of the mean over seeds.{rows}"
    for name, points in raw.settings.items():
        lost = [f"{p['seed']} ({raw.status(p['run'])})" for p in points if raw.status(p["run"]) != "done"]
        if lost:
            rest = "Its numbers are from the other seeds." if len(lost) < len(points) else "It has no numbers."
            yield f"Missing seeds of {name}: {', '.join(lost)}. {rest}"
    if raw.plane:
        yield from _conclusions_at_kls(raw)
    else:
        yield from _conclusions_of_settings(raw)


def _without_common_kls(raw: Raw) -> Iterator[str]:
    ranges = raw.kl_ranges
    if len(ranges) == 1:
        yield f"Nothing is compared, because only {next(iter(ranges))} has results."
        return
    hardly = all(high < 0.01 for _, high in ranges.values())
    why = " above 0.01 nats, because they hardly moved from the start" if hardly else ""
    yield (
        f"The methods have no common KL{why}. So none is called best. KLs of their settings: {'; '.join(_ranges(raw))}."
    )
    yield _strengths_to_add(raw)


def _conclusions_at_kls(raw: Raw) -> Iterator[str]:
    assert raw.plane is not None
    if not raw.budgets:
        yield from _without_common_kls(raw)
        return
    yield (
        f"Methods are compared by {heading_of(raw, raw.plane[1])} at KLs that all of them reached. Between the "
        f"settings of a method, values are interpolated linearly. {_how_compared('method')}"
    )
    yield f"KLs of the settings: {'; '.join(_ranges(raw))}."
    everything = []
    for kl, rewards in raw.budgets:
        where = f"At a KL of {kl:.3g} nats, "
        best, compared = at_budget(raw, rewards)
        everything += list(compared.values())
        gains = {m: g for m, of in rewards.items() if (g := gain_of(raw, m, of)) is not None}
        weak = [m for m, g in gains.items() if g.n > 1 and not g.low > 0]
        if weak:
            yield where + _weak(weak)
        yield from (f"{where}{line}." for line in _between(raw, kl))
        if best is None:
            yield f"{where}no method is known to be better than the start, so none is called best."
        else:
            yield from _best(best, compared, where, weak)
    highest = raw.budgets[-1][0]
    if highest < max(high for _, high in raw.kl_ranges.values()) / 4:
        yield f"Above {highest:.2g} nats nothing is compared, because not all methods got there."
        yield _strengths_to_add(raw)
    yield from _how_sure(everything)


def _how_compared(what: str) -> str:
    return (
        "Differences to the best are paired by seed. Their t intervals count all comparisons (Bonferroni). With 95 % "
        f"probability, the truly best {what} is among those that are tied with the best."
    )


def _weak(names: Sequence[str]) -> str:
    these, they = ("this one is", "it is") if len(names) == 1 else ("these are", "they are")
    return (
        f"{these} not known to be better than the start (95 % interval), so {they} not called best: {'; '.join(names)}."
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _best(
    best: str,
    compared: Mapping[str, tuple[Number, bool | None, int | None]],
    where: str,
    weak: Sequence[str],
    still: Sequence[str] = (),
) -> Iterator[str]:
    """weak: settings that can't be called best. still: those of them that hardly moved."""
    unknown = [m for m, (_, tied, _) in compared.items() if tied is None]
    if len(unknown) == len(compared):
        text = "no setting has two seeds in common with another, so nothing is known about which is best."
        yield _capital(f"{where}{text}")
        return
    if any(abs(d.value) < LEAST_DIFFERENCE for d, _, _ in compared.values()):
        yield f"Means that differ by less than {LEAST_DIFFERENCE} count as tied, however many seeds there are."
    known = " of those that can be compared" if unknown else ""
    tied = [m for m, (_, t, _) in compared.items() if t and m not in weak]
    named = _capital(f"{where}the best{known} is {best}")
    if tied:
        yield f"{named}, tied with {'; '.join(tied)}. With 95 % probability, the truly best is one of these."
    else:
        beside = [m for m, (_, t, _) in compared.items() if t and m in weak]
        moved = "moved and is" if any(m in still for m in beside) else "is"
        yield f"{named}. No other{f' that {moved} better than the start' if beside else ''} is tied with it."
    if unknown:
        text = f"not compared, because they have fewer than two seeds in common with the best: {'; '.join(unknown)}."
        yield _capital(f"{where}{text}")


def _how_sure(compared: Sequence[tuple[Number, bool | None, int | None]]) -> Iterator[str]:
    if any(tied and more for _, tied, more in compared):
        yield (
            "Seeds to add: so many more seeds would tell the two apart with 80 % probability, if difference and spread "
            "stay as they are. A dash means more than 10,000 seeds, or that more held-out pairs are needed."
        )
    if fewest := min((d.n for d, _, _ in compared if d.n > 1), default=0):
        yield (
            f"Ties are judged from {_seeds(fewest)}, on the assumption that differences are normally distributed over "
            "seeds. If one seed in five is far off, a 95 % interval from 3 seeds contains the true value in only half "
            "of the cases (docs/evaluation.md)."
        )


def _conclusions_of_settings(raw: Raw) -> Iterator[str]:
    yield f"Settings are compared by held-out pair accuracy (higher is better). {_how_compared('setting')}"
    best, compared = _by_accuracy(raw)
    still = _hardly_moved(raw)
    if still:
        everyone = len(still) == len(raw.done)
        limit = "less than 0.01 nats per pair" if everyone else "less than a quarter of the largest distance"
        shown = "; ".join(f"{name} ({d:.2g} nats)" for name, d in still.items())
        yield f"Hardly moved from the start ({limit}), so not called best: {shown}."
    weak = [n for n in raw.done if _better_than_chance(raw, n) is False]
    if weak:
        yield _capital(_weak(weak))
    if best is None:
        which = "No setting that moved" if still else "No setting"
        yield f"{which} is known to be better than the start, so none is called best."
        return
    yield from _best(best, compared, "", [*weak, *still], list(still))
    tied = [best, *(n for n, (_, t, _) in compared.items() if t)]
    kls = {n: float(np.mean([np.mean(raw.of_run(r, KL)) for r in raw.done[n]])) for n in tied}
    shown = "; ".join(f"{name} {kl:.2g} nats" for name, kl in kls.items())
    yield f"The settings have different KLs, so this does not say which is best at equal KL: {shown}."
    yield from _how_sure(list(compared.values()))


def budgets_of_training(raw: Raw) -> Iterator[str]:
    records = [record for record in raw.records.values() if record]
    budgets: dict[str, dict[str, None]] = {}
    rates: dict[str, set[float]] = {}
    for record in records:
        trainer, train, name = record["config"]["trainer"], record["data"]["train"], record["objective"]["name"]
        unit = "answer" if "mean_completion_tokens" in train else "pair"
        budgets.setdefault(name, {})[
            f"{trainer['max_steps']} updates of {trainer['batch_size']} {unit}s, from {train['rows']} {unit}s"
        ] = None
        rates.setdefault(name, set()).add(record["config"]["optim"]["lr"])
    if len({b for of in budgets.values() for b in of}) == 1:
        yield f"Budget of every run: {next(iter(next(iter(budgets.values()))))}."
    else:
        yield f"Budgets differ. {'; '.join(f'{name}: ' + ' | '.join(of) for name, of in budgets.items())}."
    shown = ", ".join(f"{name} {next(iter(of)):g}" for name, of in rates.items() if len(of) == 1)
    yield (
        f"Learning rates were not tuned for each objective (optim.lr: {shown}), so another rate may change their "
        "order. sweep=objectives_lr tunes them."
    )


def different_code(raw: Raw) -> Iterator[str]:
    """A sentence for alignlab's revision and each package whose version differs between runs.

    A run counts for the code of its last attempt, and of those that it was resumed from.
    """
    made: dict[str, Counter[str]] = {}
    for record in (record for record in raw.records.values() if record):
        attempts = [*record.get("attempts", []), record]
        fresh = [i for i, attempt in enumerate(attempts) if not attempt.get("resumed_from")]
        versions = [
            {"alignlab's revision": a.get("git"), **a["versions"]} for a in attempts[max(fresh, default=0) :][::-1]
        ]
        for name in dict.fromkeys(name for of in versions for name in of):
            made.setdefault(name, Counter()).update(
                list(dict.fromkeys(str(of.get(name) or "unknown") for of in versions))
            )
    for name, counts in made.items():
        if len(counts) > 1:
            shown = ", ".join(f"{version} ({runs_in_words(n)})" for version, n in counts.items())
            yield f"Made by different code. {name}: {shown}."


def _audits(raw: Raw) -> Iterator[str]:
    runs: dict[str, int] = {}
    for record in raw.records.values():
        if not record:
            continue
        data = record["data"]
        key = json.dumps([data["fingerprint"], data["audit"]], sort_keys=True)
        runs[key] = runs.get(key, 0) + 1
        for kind in ("errors", "warnings"):
            for finding in data["audit"][kind]:
                cure = f"; type: {finding['cure']}" if finding.get("cure") else ""
                yield " ".join(f"{kind[:-1]}: {finding['text']}{cure}".split())
        for split_, what in (("train", "training rows"), ("eval", "held-out rows")):
            facts = data["audit"]["facts"][split_]
            parts = [
                f"{k}: {v}"
                for k, v in flat({k: v for k, v in facts.items() if k not in ("rows", "tokens")}).items()
                if v not in (None, {}, [])
            ]
            text = f"{facts['rows']}" + (f" ({'; '.join(parts)})" if parts else "")
            yield from (text, f"{what}: {text}")
    for number in runs.values():
        yield from (f"Rows of {runs_in_words(number)}", f"Rows of {runs_in_words(number)}:")


def _against_notes(raw: Raw, older: Raw) -> Iterator[str]:
    shared = [name for name in raw.done if name in older.done]
    yield (
        f"Compared with {older.sweep['name']}: {len(shared)} settings in common. Differences are now minus then, "
        "paired by seed. Their 95 % t intervals do not count that there are several comparisons."
    )
    for one, other in ((raw, older), (older, raw)):
        if only := [name for name in one.done if name not in other.done]:
            yield f"Only in {one.sweep['name']}: {'; '.join(only)}."
    runs = [run for of in raw.done.values() for run in of]
    same = [run for of in older.done.values() for run in of if run in runs]
    yield f"The same runs are in both sweeps: {len(same)} of {len(runs)}."
    for key in dict.fromkeys(k for c in configs_of(raw).values() for k in c):
        now, then = ({c.get(key) for c in configs_of(of).values()} for of in (raw, older))
        if len(now) == len(then) == 1 and now != then:
            yield f"Changed: {key}: {next(iter(then))} -> {next(iter(now))}"
