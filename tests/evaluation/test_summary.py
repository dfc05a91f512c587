"""Stored examples, and everything that is computed from them without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignlab.errors import DataError
from alignlab.evaluation.by_prompt import OfRun, by_prompt, of_run
from alignlab.evaluation.drift import drift
from alignlab.evaluation.examples import Examples, same_prompts
from alignlab.evaluation.health import Limits, health
from alignlab.evaluation.summary import flat, summarise, unjudged_by, win_rate_of
from alignlab.reports.evaluation import summary_text
from alignlab.tracking.metrics import check_known


def examples(prompts: int = 40, samples: int = 2, seed: int = 0, shift: float = 0.5, **columns: list[Any]) -> Examples:
    """Examples of a policy with a log-ratio of 2 nats per answer and a score that is `shift` above the reference's."""
    rng = np.random.default_rng(seed)
    rows = prompts * samples
    names = [f"p{i}" for i in range(prompts) for _ in range(samples)]
    tokens = rng.integers(4, 12, size=rows)
    level = np.repeat(rng.normal(size=prompts), samples)
    logps = [list(rng.normal(-1, 0.3, size=n)) for n in tokens]
    base = {
        "prompt_id": names,
        "prompt": [f"question {name}" for name in names],
        "conversation": [None] * rows,
        "sample": list(range(samples)) * prompts,
        "policy/answer": [" ".join(rng.choice(list("abcdefghij"), size=n)) for n in tokens],
        "policy/tokens": tokens.tolist(),
        "policy/ended": (rng.random(rows) < 0.9).tolist(),
        "policy/policy_logps": logps,
        "policy/reference_logps": [[x - 2 / len(row) for x in row] for row in logps],
        "policy/score/gold": (level + shift + rng.normal(0, 0.5, rows)).tolist(),
        "reference/answer": [" ".join(rng.choice(list("abcdefghij"), size=n)) for n in tokens],
        "reference/tokens": tokens.tolist(),
        "reference/ended": [True] * rows,
        "reference/score/gold": (level + rng.normal(0, 0.5, rows)).tolist(),
        "reference/first/gold": [1.0, 0.0, 0.5, 1.0] * (rows // 4),
    }
    return Examples(base | columns, {"judge/gold": "abc"})


def test_judges_that_could_not_be_asked_about_any_answer() -> None:
    some = examples(4, **{"reference/first/llm": [None, float("nan")] * 4, "reference/first/other": [None] * 8})
    assert unjudged_by(summarise(some)) == ["other"], "an answer without a verdict was judged"
    assert unjudged_by({}) == []


def test_written_and_read(tmp_path: Path) -> None:
    kept = examples(**{"reference/first/llm": [1.0, None, float("nan"), 0.5] * 20})
    kept.write(tmp_path / "e")
    for place in (tmp_path / "e", tmp_path / "e" / "rows.parquet"):
        found = Examples.read(place)
        assert found.facts == kept.facts
        assert found["policy/policy_logps"] == kept["policy/policy_logps"]
        assert found["reference/first/llm"][:2] == [1.0, None]
        assert math.isnan(found["reference/first/llm"][2])
        assert (found.sides, found.scored_by, found.compared_by("reference")) == (
            ["policy", "reference"], ["gold"], ["gold", "llm"],
        )  # fmt: skip
    assert [f.name for f in (tmp_path / "e").iterdir()] == ["rows.parquet"]
    (tmp_path / "broken.parquet").write_text("no table")
    for wrong in ("none", "broken.parquet"):
        with pytest.raises(DataError, match="holds no stored examples"):
            Examples.read(tmp_path / wrong)


def test_what_a_judge_said_is_left_out_as_a_whole() -> None:
    said = {f"reference/{kind}/llm": [1.0] * 80 for kind in ("first", "second", "said")}
    assert examples(**said).without("llm").keys() == examples().columns.keys()


def test_numbers() -> None:
    found = summarise(examples())
    assert (found["rows"], found["prompts"]) == (80, 40)
    assert found["kl"]["sequence_k1"]["value"] == pytest.approx(2.0)
    assert found["kl"]["per_token"]["value"] == pytest.approx(2.0 / found["answers"]["policy"]["tokens"]["value"])
    gold = found["compared"]["reference"]["gold"]
    assert gold["win_rate"]["value"] == pytest.approx(2.5 / 4)
    assert (gold["win_rate"]["wins"], gold["win_rate"]["ties"], gold["win_rate"]["losses"]) == (40, 20, 20)
    assert gold["win_rate"]["n"] == 40
    difference = gold["score_difference"]
    assert difference["low"] < 0.5 < difference["high"]
    assert difference["standard_error"] < 0.1, "paired by prompt: the prompts' own levels cancel"
    curve = found["best_of_n"]["gold"]
    assert curve["2"]["value"] > curve["1"]["value"] == pytest.approx(found["answers"]["policy"]["score/gold"]["value"])
    repeated = found["answers"]["policy"]["repetition"]
    assert (repeated["value"], repeated["low"]) == (0.0, 0.0)
    assert repeated["high"] == pytest.approx(3.841 / (40 + 3.841), abs=0.01), "Wilson's limit for 0 of 40 prompts"
    json.dumps(found)
    names = dict(flat(found, "reference"))
    assert names["kl_ref/sequence_k1"] == pytest.approx(2.0)
    assert names["winrate/gold"] == pytest.approx(0.625)
    assert "winrate/gold" not in dict(flat(found, "chosen"))


def test_invalid_and_unjudged_are_counted_apart() -> None:
    two = {
        "reference/first/llm": [1.0, float("nan"), None, 1.0] * 20,
        "reference/second/llm": [1.0, 1.0, 1.0, 0.0] * 20,
    }
    found = win_rate_of(examples(**two), "reference", "llm")
    assert (found.wins, found.ties, found.losses, found.invalid, found.unjudged) == (20, 20, 0, 20, 20)
    graded = {"reference/first/llm": [0.9] * 80, "reference/second/llm": [0.3] * 80}
    rows = examples(**graded)
    assert win_rate_of(rows, "reference", "llm").rate.value == 0.5
    graded_rows = Examples(rows.columns, {**rows.facts, "disagreement/llm": "mean"})
    assert win_rate_of(graded_rows, "reference", "llm").rate.value == pytest.approx(0.6)


def test_no_kl_where_there_are_no_log_probabilities() -> None:
    rows = examples()
    columns = {name: values for name, values in rows.columns.items() if "logps" not in name}
    assert summarise(Examples(columns))["kl"] == {}


def test_healthy_and_collapsed() -> None:
    good = summarise(examples())
    assert health(good).verdict == "healthy"
    broken = {
        "repetition": {"policy/answer": ["so so so so so so so so so"] * 80},
        "tokens": {"policy/tokens": [1] * 80},
        "ended": {"policy/ended": [False] * 80},
    }
    for name, columns in broken.items():
        found = health(summarise(examples(**columns)))
        assert found.verdict == "collapsed"
        assert name in [check.name for check in found.checks if check.hit]


def drifting(kl: float, **columns: list[Any]) -> Examples:
    """Examples in which every answer has this log-ratio, and policy and reference have the same scores."""
    level = {f"{side}/score/gold": [float(i % 7) for i in range(80)] for side in ("policy", "reference")}
    rows = examples(**level, **{"reference/first/gold": [0.5] * 80}, **columns)
    logps = rows["policy/policy_logps"]
    return Examples(
        rows.columns | {"policy/reference_logps": [[x - kl / len(r) for x in r] for r in logps]}, rows.facts
    )


def test_drifted() -> None:
    """The KL is above 10 nats, and no held-out number is better than at the start."""
    found = health(summarise(drifting(33.0)))
    (hit,) = [check for check in found.checks if check.hit]
    assert (found.verdict, hit.name, hit.limit) == ("drifted", "KL k1, nats per answer", 10.0)
    assert hit.value == pytest.approx(33.0)
    assert health(summarise(drifting(9.9))).verdict == "healthy"
    assert health(summarise(drifting(33.0)), limits=Limits(max_kl=40.0)).verdict == "healthy"
    assert health(summarise(drifting(33.0)), limits=Limits(max_kl=0.0)).verdict == "healthy"
    assert health(summarise(drifting(2.0)), limits=Limits(max_kl=1.5)).verdict == "drifted"


def test_a_proven_gain_is_no_drift() -> None:
    far = drifting(33.0)
    better = [score + 1.0 for score in far["policy/score/gold"]]
    scored = summarise(Examples(far.columns | {"policy/score/gold": better}, far.facts))
    assert health(scored).verdict == "healthy"
    assert health(scored, proxy="gold").verdict == "drifted", "what was trained on proves nothing"
    columns = {name: values for name, values in far.columns.items() if "score" not in name}
    for wins, verdict in (([1.0] * 60 + [0.0] * 20, "healthy"), ([1.0] * 44 + [0.0] * 36, "drifted")):
        assert health(summarise(Examples(columns | {"reference/first/gold": wins}))).verdict == verdict
    # 0.6 of 200 pairs is above 1/2 by more than the interval, [0.53, 0.67]; 0.6 of 20 pairs is not, [0.39, 0.78]
    accuracy = {"eval/pref/accuracy_ties_half": 0.6}
    assert health(summarise(far), held_out=accuracy, held_out_rows=200).verdict == "healthy"
    assert health(summarise(far), held_out=accuracy, held_out_rows=20).verdict == "drifted"
    assert health(summarise(far), held_out=accuracy).verdict == "drifted", "of how many is not known"
    # equal scores give 1/4 in RewardBench 2's best of 4, and 1/2 in pairs
    for start, verdict in (({"start": 0.25}, "healthy"), ({}, "drifted")):
        lists = {"pairs": {"rate": {"low": 0.3}, **start}}
        assert health(summarise(far) | lists).verdict == verdict


def test_in_the_lab_the_exact_kl_decides() -> None:
    lab = {"exact/kl": 12.0, "exact/reward": 1.0, "exact/reward_reference": 1.0}
    found = health(summarise(drifting(2.0)), held_out=lab)
    assert [check.name for check in found.checks if check.hit] == ["exact KL, nats per answer"]
    assert health(summarise(drifting(33.0)), held_out=lab | {"exact/kl": 9.0}).verdict == "healthy"
    assert health(summarise(drifting(2.0)), held_out=lab | {"exact/reward": 1.1}).verdict == "healthy"


NONE = float("nan")
# (examples, reason why there is no verdict)
GROUNDLESS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing sampled": ({name: [] for name in examples().columns}, "there are no answers"),
    "one prompt": (examples(prompts=1, samples=4).columns, "one prompt gives no intervals"),
    "no KL": (
        {name: v for name, v in examples().columns.items() if "logps" not in name},
        "KL to the reference is not known",
    ),
    "KL of NaN": (
        examples(**{"policy/reference_logps": [[NONE]] * 80, "policy/policy_logps": [[NONE]] * 80}).columns,
        "is not known",
    ),
    "no reference": (
        {n: v for n, v in examples().columns.items() if not n.startswith("reference/")},
        "not compared with the reference",
    ),
    "all cut off": (
        examples(**{f"{s}/ended": [False] * 80 for s in ("policy", "reference")}).columns,
        "every answer was cut off",
    ),
    "all alike": (
        examples(**{f"{s}/answer": ["yes"] * 80 for s in ("policy", "reference")}).columns,
        "each give the same answer",
    ),
}


@pytest.mark.parametrize("case", GROUNDLESS)
def test_nothing_is_called_healthy_without_grounds(case: str) -> None:
    columns, why = GROUNDLESS[case]
    summary = summarise(Examples(columns))
    found = health(summary)
    assert found.verdict == "no verdict"
    assert why in "; ".join(found.unknown)
    text = summary_text({**summary, "health": found.as_dict()})
    assert text.splitlines()[-1] == f"no verdict: {'; '.join(found.unknown)}"
    json.dumps(found.as_dict())


def test_a_fault_is_told_though_other_things_are_unknown() -> None:
    columns = {name: values for name, values in examples().columns.items() if "logps" not in name}
    found = health(summarise(Examples(columns | {"policy/tokens": [1] * 80})))
    assert (found.verdict, found.unknown) == ("collapsed", ["the KL to the reference is not known"])


@pytest.mark.parametrize("text", ["", " \n"])
def test_answers_without_a_word_have_collapsed_whatever_the_reference_says(text: str) -> None:
    for sides in (["policy"], ["policy", "reference"]):
        found = health(summarise(examples(**{f"{side}/answer": [text] * 80 for side in sides})))
        assert found.verdict == "collapsed"
    assert health(summarise(examples(**{"policy/answer": ["yes"] * 80}))).verdict == "collapsed", "one to everything"


def test_what_no_check_has_seen_is_said() -> None:
    columns = {name: values for name, values in examples().columns.items() if "gold" not in name}
    nothing = {"policy/score/gold": [NONE] * 80, "reference/first/gold": [NONE] * 80}
    for rows in (Examples(columns), examples(**nothing)):
        summary = summarise(rows)
        found = health(summary)
        assert (found.verdict, len(found.unseen)) == ("healthy", 1)
        assert not any(math.isnan(check.value) for check in found.checks), "a check of NaN is none"
        assert "not seen: over-optimisation" in summary_text({**summary, "health": found.as_dict()})
    assert health(summarise(examples())).unseen == []
    odd = health(summarise(examples()), held_out={"eval/logratios/chosen_per_token": NONE})
    assert "displaced" not in [check.means for check in odd.checks]


def test_displaced() -> None:
    good = summarise(examples())
    assert health(good, held_out={"eval/logratios/chosen_per_token": -0.05}).verdict == "healthy"
    found = health(good, held_out={"eval/logratios/chosen_per_token": -0.3})
    assert found.verdict == "displaced"
    (hit,) = [check for check in found.checks if check.hit]
    assert (hit.value, hit.limit) == (-0.3, -0.1)


def test_over_optimised() -> None:
    """The whole interval lies below the reference. If the proxy fell too or the interval holds 0, it is no fault."""
    low = examples(shift=-0.5)
    assert health(summarise(low)).verdict == "over-optimised"
    assert health(summarise(examples(shift=-0.05))).verdict == "healthy"

    def with_proxy(shift: float) -> dict[str, Any]:
        proxy = examples(shift=shift, seed=3)
        scores = {f"{s}/score/rm": proxy[f"{s}/score/gold"] for s in ("policy", "reference")}
        return summarise(examples(shift=-0.5, **scores))

    assert health(with_proxy(1.0), proxy="rm").verdict == "over-optimised"
    assert health(with_proxy(-1.0), proxy="rm").verdict == "healthy", "it got worse at everything: not for the proxy"


def test_a_fall_from_its_best_is_told() -> None:
    best, now = summarise(examples(shift=2.0)), summarise(examples(shift=0.5, seed=1))
    assert health(now, earlier=[best]).verdict == "over-optimised"
    assert health(best, earlier=[now]).verdict == "healthy"
    assert health(now, earlier=[summarise(examples(shift=0.6, seed=2))]).verdict == "healthy"


def test_no_drift_between_two_draws_of_one_model() -> None:
    """Of 100 pairs of sets, only a few show a drift in any of the five measures."""
    false = 0
    for seed in range(100):
        earlier, later = examples(samples=1, seed=2 * seed), examples(samples=1, seed=2 * seed + 1)
        later = Examples(later.columns | {"prompt_id": [f"q{i}" for i in range(40)]}, later.facts)
        assert not same_prompts(earlier, later)
        false += any(change.drifted for change in drift(earlier, later))
    assert false <= 11


def test_drift_is_found_and_named() -> None:
    earlier = examples(samples=1, seed=0)
    scores = [score - 1.0 for score in earlier["policy/score/gold"]]
    later = Examples(earlier.columns | {"policy/score/gold": scores}, earlier.facts)
    found = {change.measure: change for change in drift(earlier, later)}
    assert [name for name, change in found.items() if change.drifted] == ["score: gold"]
    assert found["score: gold"].difference.value == pytest.approx(-1.0)
    assert found["tokens"].p == 1.0, "nothing differs"
    other = Examples(later.columns, {"judge/gold": "another"})
    with pytest.raises(DataError, match="gold can't be compared"):
        drift(earlier, other)


def test_shares_of_refusals_are_metrics_if_there_are_such_prompts() -> None:
    rate = {"value": 0.25, "low": 0.1, "high": 0.5, "n": 8}
    none = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    side = {"over_refusal": rate, "refusal": none}
    summary = {**summarise(examples()), "refusals": {"policy": side, "reference": {**side, "over_refusal": rate}}}
    found = {name: value for name, value in flat(summary, "reference") if name.startswith("refusals/")}
    assert found == {
        "refusals/over_refusal": 0.25, "refusals/over_refusal/ci_low": 0.1, "refusals/over_refusal/ci_high": 0.5,
        "refusals/over_refusal/n": 8, "refusals/over_refusal/reference": 0.25,
    }  # fmt: skip
    check_known([f"questions/xstest/{name}" for name in found])


def test_all_numbers_of_one_run_by_prompt() -> None:
    """Two answers to each prompt, two judges, two baselines; a prompt without a verdict has no number."""
    more = {"llm/answer": ["x"] * 80, "llm/ended": [True] * 80, "llm/tokens": [1] * 80}
    verdicts = {"reference/first/llm": [None, 1.0] + [0.5] * 78, "llm/first/gold": [1.0] * 80}
    made = examples(**more, **verdicts)
    found = of_run(made)
    assert (found.samples, len(found.prompts), found.all_prompts) == (80, 40, False)
    order = [found.prompts.index(f"p{i}") for i in range(40)]
    scores = np.array(made["policy/score/gold"]).reshape(40, 2).mean(axis=1)
    assert found.values["score/gold/mean"][order] == pytest.approx(scores)
    assert found.values["kl_ref/sequence_k1"] == pytest.approx(np.full(40, 2.0))
    assert found.winrates.keys() == {("gold", "reference"), ("llm", "reference"), ("gold", "llm")}
    assert found.winrates["gold", "reference"][order[:2]].tolist() == [0.5, 0.75]
    assert np.isnan(found.winrates["llm", "reference"][order]).tolist() == [True] + [False] * 39
    assert found.values["winrate/gold"] == pytest.approx(found.winrates["gold", "reference"]), "the first baseline"
    again = OfRun.from_dict(json.loads(json.dumps(summarise(made)["by_prompt"])))
    assert again.prompts == found.prompts
    assert again.values.keys() == found.values.keys()
    np.testing.assert_array_equal(again.winrates["llm", "reference"], found.winrates["llm", "reference"])
    with pytest.raises(ValueError, match="1 values of 40 prompts"):
        OfRun.from_dict({**found.as_dict(), "values": {"x": [1.0]}})
    assert found.same_prompts(of_run(examples(seed=9)))
    assert not found.same_prompts(of_run(examples(prompts=39 + 1, samples=1)))


def test_runs_by_prompt() -> None:
    """Means over the two answers to each prompt. A prompt without a valid score in one run is left out for all."""
    one, other = examples(), examples(seed=1)
    scores = [*other["policy/score/gold"]]
    scores[3] = math.nan  # an answer to the second prompt
    other = Examples(other.columns | {"policy/score/gold": scores}, {})
    found = by_prompt({"one": one, "other": other}, "gold")
    assert found is not None
    assert (found.prompts, found.left_out) == (39, 1)
    assert list(found.metrics["one"]) == [
        "eval/kl_ref/sequence_k1", "eval/score/gold/mean", "eval/score/gold/reference", "eval/winrate/gold",
        "eval/winrate/gold/reference",
    ]  # fmt: skip
    names = sorted({name for name in one["prompt_id"] if name != "p1"})
    by_hand = [np.mean([s for s, n in zip(one["policy/score/gold"], one["prompt_id"], strict=True) if n == name])
               for name in names]  # fmt: skip
    np.testing.assert_allclose(found.metrics["one"]["eval/score/gold/mean"], by_hand)
    np.testing.assert_allclose(found.metrics["one"]["eval/kl_ref/sequence_k1"], 2.0)
    elsewhere = Examples(other.columns | {"prompt_id": [f"q{i}" for i in range(80)]}, {})
    assert by_prompt({"one": one, "elsewhere": elsewhere}, "gold") is None
    unjudged = by_prompt({"one": one}, "nobody")
    assert unjudged is not None
    assert list(unjudged.metrics["one"]) == ["eval/kl_ref/sequence_k1"]


def test_if_the_prompts_are_all_that_there_are_intervals_are_over_their_answers() -> None:
    """The level of a prompt has a standard deviation of 1, its answers one of 0.5."""
    sample = examples(samples=8, prompts=10)
    everything = Examples(sample.columns, sample.facts | {"prompts": "all"})
    of_sample, of_all = summarise(sample), summarise(everything)
    wide, narrow = (found["answers"]["policy"]["score/gold"]["standard_error"] for found in (of_sample, of_all))
    assert wide > 0.2
    assert narrow == pytest.approx(0.5 / math.sqrt(80), rel=0.25)
    assert of_all["all_prompts"] is True
    assert "95 % intervals over the answers" in summary_text(of_all)
    assert "95 % intervals over prompts" in summary_text(of_sample)
    once = examples(samples=1)
    alone = summarise(Examples(once.columns, {"prompts": "all"}))
    assert alone["answers"]["policy"]["score/gold"]["standard_error"] == pytest.approx(
        summarise(once)["answers"]["policy"]["score/gold"]["standard_error"]
    ), "one answer to each prompt does not show how answers vary"
