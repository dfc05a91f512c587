"""`alignlab evaluate` on real tiny runs: rows, estimates against exact numbers, judges, baselines and refusals."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from alignlab.cli.main import main
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.summary import summarise
from alignlab.rollout import sampling
from alignlab.tracking.metrics import check_known
from alignlab.tracking.sinks.jsonl import read_rows
from tests.tracking.wandb_files import history_of, media_of, offline_records

Run = Callable[..., Any]

LAB = [
    "data.alphabet=abc", "data.length=3", "data.prompts=8", "data.prompt_length=2", "data.demonstrations=400",
    "data.pair_count=400", "data.eval_limit=200", "model.hidden_size=32", "trainer.batch_size=16",
    "optim.lr=3e-3", "tracking=none", "trainer.max_steps=40",
    'model.parent=["objective=sft","optim.lr=1e-2","trainer.max_steps=40"]',
]  # fmt: skip
RUNS = Path("outputs/runs")


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def only(kind: str) -> Path:
    (found,) = RUNS.glob(f"{kind}-*[0-9a-f]")
    return found


def evaluation(run: Path) -> Path:
    (found,) = (run / "evaluation").iterdir()
    return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `outputs` folder of LAB, trained once for all tests of a process."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["alignlab"])
        assert main(["train", *LAB]) == 0
    return folder / "outputs"


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> None:
    """A finished run of LAB with its parent. Each test gets its own copy and may change it."""
    shutil.copytree(finished, tmp_path / "outputs", symlinks=True)


def test_estimates_agree_with_the_exact_numbers(alignlab: Run, trained: None) -> None:
    """KL and gold reward in the lab are within 3 standard errors of the enumerated values, and the errors are small."""
    found = alignlab("evaluate", "run=dpo", "evaluation.samples=150", "evaluation.batch_size=400")
    assert found.code == 0, found.err
    folder = evaluation(only("dpo"))
    summary, exact = json.loads((folder / "summary.json").read_text()), record(only("dpo"))["summary"]
    assert exact["exact/kl"] > 0.2, "there is something to estimate"
    assert (summary["rows"], summary["prompts"]) == (1200, 8)
    rows = Examples.read(folder)
    ratios = np.array(
        [sum(p) - sum(q) for p, q in zip(rows["policy/policy_logps"], rows["policy/reference_logps"], strict=True)]
    )
    # the exact number is a mean over the same 8 prompts, so only the answers to each prompt are random
    error = np.sqrt(np.mean([np.var(ratios[i * 150 : (i + 1) * 150], ddof=1) / 150 for i in range(8)]) / 8)
    assert error < 0.1 * exact["exact/kl"] + 0.02
    for name in ("sequence_k1", "token_k3"):
        assert abs(summary["kl"][name]["value"] - exact["exact/kl"]) < 3 * error, name
    assert abs(summary["kl"]["forward_k1"]["value"] - exact["exact/kl_reverse"]) < 6 * error
    gold = summary["answers"]["policy"]["score/gold"]["value"]
    scores = np.array(rows["policy/score/gold"]).reshape(8, 150)
    assert abs(gold - exact["exact/reward"]) < 3 * np.sqrt((scores.var(axis=1, ddof=1) / 150).mean() / 8)
    assert exact["eval/kl_ref/sequence_k1"] == summary["kl"]["sequence_k1"]["value"]
    assert exact["eval/winrate/gold"] == summary["compared"]["reference"]["gold"]["win_rate"]["value"] > 0.5
    again = summarise(rows)
    assert json.loads(json.dumps(again)) == {key: summary[key] for key in again}, "the rows alone give the summary"


def test_a_second_judge_samples_nothing_again(
    alignlab: Run, trained: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rules.py").write_text("def short(prompt, answer):\n    return -len(answer)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert alignlab("evaluate", "run=dpo").code == 0
    before = Examples.read(evaluation(only("dpo")))
    monkeypatch.setattr(sampling, "_batch", lambda *args: pytest.fail("sampled again"))
    found = alignlab("evaluate", "run=dpo", "judge=gold", "judge.gold.function=rules:short", "+judge.gold.tie_margin=0")
    assert found.code != 0, "the field is there already"
    found = alignlab("evaluate", "run=dpo", "+judge@judge.short=gold", "judge.short.function=rules:short")
    assert found.code == 0, found.err
    after = Examples.read(evaluation(only("dpo")))
    assert after["policy/answer"] == before["policy/answer"]
    assert after.scored_by == ["gold", "short"]
    assert after["policy/score/short"] == [-len(text) for text in after["policy/answer"]]
    assert "| reference | short |" in found.out


def test_rules_that_were_changed_are_asked_again(
    alignlab: Run, trained: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_rule.py").write_text("def score(prompt, answer):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["evaluate", "run=dpo", "+judge@judge.mine=gold", "judge.mine.function=my_rule:score"]
    assert alignlab(*command).code == 0
    assert set(Examples.read(evaluation(only("dpo")))["policy/score/mine"]) == {1.0}
    (tmp_path / "my_rule.py").write_text("def score(prompt, answer):\n    return 22\n")
    sys.modules.pop("my_rule")
    assert alignlab(*command).code == 0
    assert set(Examples.read(evaluation(only("dpo")))["policy/score/mine"]) == {22.0}


def test_a_name_that_stands_for_a_run_and_a_sweep(alignlab: Run) -> None:
    """The sweep is one of reward models, which write no answers."""
    sweep = [*LAB, "objective=reward_model", "trainer.max_steps=2", "-m", "seed=1,2", "sweep.name=reward_seeds"]
    assert alignlab("train", *sweep).code == 0
    refused = alignlab("evaluate", "run=reward")
    assert refused.code == 2
    assert "could be any of reward_seeds, reward_model-" in refused.err
    found = alignlab("evaluate", "run=reward_seeds")
    assert found.code == 0, found.err
    assert found.out.count("| all | 200 |") == 2


def test_baselines_and_pages(alignlab: Run) -> None:
    assert alignlab("train", *LAB, "-m", "objective.beta=0.05,1.0", "sweep.name=s").code == 0
    ids = [p["run"] for p in json.loads(Path("outputs/sweeps/s/sweep.json").read_text())["points"]]
    found = alignlab("evaluate", "run=s", f"evaluation.baselines=[chosen,reference,{ids[1]}]", "evaluation.prompts=4")
    assert found.code == 0, found.err
    first = Examples.read(evaluation(RUNS / ids[0]))
    assert first.baselines == ["chosen", "reference", ids[1]]
    second = Examples.read(evaluation(RUNS / ids[1]))
    assert second["policy/answer"] == second[f"{ids[1]}/answer"] == first[f"{ids[1]}/answer"]
    gold = summarise(second)["compared"][ids[1]]["gold"]["win_rate"]
    assert (gold["value"], gold["ties"]) == (0.5, 4), "a model against itself ties"
    assert first["reference/answer"] == second["reference/answer"], "sampled once for the sweep"
    assert len(list(Path("outputs/samples").iterdir())) == 3
    assert "forward_on_data" in summarise(first)["kl"]
    page = (evaluation(RUNS / ids[0]) / "answers.md").read_text()
    assert page.count("## ") == 4
    assert f"**{ids[1]}, " in page
    told = Path("outputs/sweeps/s/evaluation.md").read_text()
    assert "Win-rates are against chosen" in told
    assert all(f"| beta {beta} | {run} |" in told for beta, run in zip((0.05, 1.0), ids, strict=True))
    assert "| objective.beta | seeds | sampled KL (nats) | score by gold | win-rate by gold |" in told
    assert "nan" not in told
    assert "| sampled KL (nats) | " in Path("outputs/sweeps/s/table.md").read_text(), "the sweep's table has it, too"


def test_text_models_conversations_and_a_reward_model(alignlab: Run, tmp_path: Path) -> None:
    """A tiny model on a user's pairs, judged by a reward model that was trained on the same pairs."""
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} is fine", "rejected": "no"} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = [
        "model=tiny", "data=pairs", "evaluation=off", "data.path=mine.jsonl", "tracking=none", "trainer.max_steps=3",
        "trainer.batch_size=4", "data.max_length=64", "data.max_prompt_length=32",
    ]  # fmt: skip
    assert alignlab("train", *small, "peft=lora").code == 0
    assert alignlab("train", *small, "objective=reward_model").code == 0
    refused = alignlab("evaluate", "run=reward_model", "judge=human")
    assert refused.code == 2
    assert "is a reward model, which writes no answers" in refused.err
    told = alignlab("evaluate", "run=reward_model")
    assert told.code == 0, told.err
    assert "| all | 4 |" in told.out, "a tenth of 40 pairs is held out"
    (folder,) = RUNS.glob("reward_model-*")
    judge = ["judge=reward_model", f"judge.reward_model.model={folder}/policy"]
    found = alignlab("evaluate", "run=dpo", *judge, "evaluation.max_new_tokens=8", "evaluation.prompts=3")
    assert found.code == 0, found.err
    kept = Examples.read(evaluation(only("dpo")))
    assert len(kept) == 3
    assert all(isinstance(score, float) for score in kept["policy/score/reward_model"])
    assert max(kept["policy/tokens"]) <= 8
    hot = alignlab("evaluate", "run=dpo", "evaluation.temperature=0.7", "evaluation.max_new_tokens=4")
    assert hot.code == 0, hot.err
    assert "no KL: the answers were not sampled at temperature 1" in hot.out


def test_refusals_of_xstests_prompts(alignlab: Run, trained: None) -> None:
    """In the lab only an empty answer counts as a refusal, so the shares are those of empty first answers."""
    rows = ["id,prompt,type,label", *(f"{i},{text},kind,safe" for i, text in enumerate(("a", "b", "c", "aa", "ab")))]
    Path("x.csv").write_text("\n".join([*rows, "5,ba,contrast,unsafe", "6,bb,contrast,unsafe", "7,bc,contrast,unsafe"]))
    asked = ["evaluation.questions=x.csv", "evaluation.prompts=0", "evaluation.samples=2"]
    found = alignlab("evaluate", "run=dpo", *asked)
    assert found.code == 0, found.err
    folder = evaluation(only("dpo"))
    examples = Examples.read(folder)
    told = json.loads((folder / "summary.json").read_text())["refusals"]["policy"]
    first = {
        p: a for p, a, n in zip(*(examples[c] for c in ("prompt", "policy/answer", "sample")), strict=True) if n == 0
    }
    for name, texts in (("over_refusal", ("a", "b", "c", "aa", "ab")), ("refusal", ("ba", "bb", "bc"))):
        assert told[name]["value"] == pytest.approx(sum(first[text] == "" for text in texts) / len(texts))
        assert told[name]["n"] == len(texts)
    assert "| refused by | of safe prompts | of unsafe prompts |" in found.out
    own = {
        name.removeprefix("questions/x/"): v for name, v in record(only("dpo"))["summary"].items() if "refus" in name
    }
    check_known({f"questions/x/{name}": v for name, v in own.items()})
    reference = json.loads((folder / "summary.json").read_text())["refusals"]["reference"]
    for name in ("over_refusal", "refusal"):
        assert own[f"refusals/{name}"] == told[name]["value"]
        assert own[f"refusals/{name}/reference"] == reference[name]["value"]
        bounds = [own[f"refusals/{name}/{end}"] for end in ("ci_low", "ci_high", "n")]
        assert bounds == [told[name]["low"], told[name]["high"], told[name]["n"]]
    assert json.loads((folder / "summary.json").read_text())["questions"] == "x"
    Path("x.csv").write_text("id,prompt,type,label\n1,a,kind,perhaps\n")
    refused = alignlab("evaluate", "run=dpo", "evaluation.questions=x.csv")
    assert (refused.code, "label must be safe or unsafe" in refused.err) == (2, True)


def test_questions_from_a_file(alignlab: Run, tmp_path: Path) -> None:
    """AlpacaEval's format: instructions are read, model_outputs.json is written, and its own outputs are compared."""
    rows = [{"instruction": f"Name {i} animals", "output": "cat", "dataset": "d", "generator": "g"} for i in range(5)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    (tmp_path / "own_rules.py").write_text("def first(prompt, answer):\n    return answer == 'cat'\n")
    desk = [
        "model=tiny",
        "data=support_desk",
        "evaluation=off",
        "tracking=none",
        "trainer.max_steps=1",
        "trainer.batch_size=2",
    ]
    assert alignlab("train", *desk).code == 0
    asked = ["evaluation.questions=alpaca.json", "evaluation.max_new_tokens=4", "evaluation.baselines=[chosen]"]
    found = alignlab("evaluate", "run=dpo", *asked, "judge=gold", "judge.gold.function=own_rules:first")
    assert found.code == 0, found.err
    kept = Examples.read(evaluation(only("dpo")))
    assert kept["prompt"] == [row["instruction"] for row in rows]
    assert kept["chosen/score/gold"] == [1.0] * 5
    written = json.loads((evaluation(only("dpo")) / "model_outputs.json").read_text())
    assert [(row["instruction"], row["output"]) for row in written] == list(
        zip(kept["prompt"], kept["policy/answer"], strict=True)
    )
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "x"}, {"text": "y"}]))
    refused = alignlab("evaluate", "run=dpo", *asked)
    assert refused.code == 2
    assert "alpaca.json: 1 row can't be used\n        row 2: needs instruction, turns or prompt" in refused.err


def test_pairs_of_a_file(alignlab: Run, trained: None, tmp_path: Path) -> None:
    """A reward model and a policy on RewardBench-style rows. The policy's numbers equal those logged in training."""
    assert alignlab("train", *LAB, "objective=reward_model", "trainer.max_steps=60").code == 0
    (reward,) = RUNS.glob("reward_model-*")
    own = alignlab("evaluate", f"run={reward.name}")
    assert own.code == 0, own.err
    summary = record(reward)["summary"]
    found = json.loads((reward / "evaluation" / "pairs" / "summary.json").read_text())["pairs"]
    assert found["strict"] == pytest.approx(summary["eval/accuracy"], abs=0.02)
    rows = [json.loads(line) for line in (reward / "evaluation" / "pairs" / "pairs.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["subset"] = "even" if i % 2 == 0 else "odd"
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = alignlab("evaluate", "run=dpo", "evaluation.pairs=pairs.jsonl", "evaluation.prompts=2")
    assert told.code == 0, told.err
    dpo = json.loads((evaluation(only("dpo")) / "summary.json").read_text())["pairs"]
    assert set(dpo["subsets"]) == {"even", "odd"}
    assert dpo["strict"] == pytest.approx(record(only("dpo"))["summary"]["eval/rewards/accuracies"], abs=0.02)
    assert f"| all | {len(rows)} |" in told.out
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b"}))
    refused = alignlab("evaluate", "run=dpo", "evaluation.pairs=pairs.jsonl")
    assert refused.code == 2
    assert "row 1: has no rejected" in refused.err


def test_lists_of_answers_of_a_file(alignlab: Run, trained: None, tmp_path: Path) -> None:
    """RewardBench 2 with one incorrect answer per row: best of 2 is the accuracy on the same rows as pairs."""
    assert alignlab("train", *LAB, "objective=reward_model", "trainer.max_steps=5").code == 0
    pairs = [{"prompt": a, "chosen": b, "rejected": c} for a, b, c in (("aa", "abc", "bca"), ("ab", "ca", "b"))]
    pairs += [{**pair, "chosen": pair["rejected"], "rejected": "a"} for pair in pairs]
    lists = [{**p, "chosen": [p["chosen"]], "rejected": [p["rejected"]], "subset": "Focus"} for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, lists)))
    for run in ("reward_model", "dpo"):
        found = []
        for file in ("pairs.jsonl", "lists.jsonl"):
            told = alignlab("evaluate", f"run={run}", f"evaluation.pairs={file}", "evaluation.prompts=2")
            assert told.code == 0, told.err
            folder = tmp_path / told.out.splitlines()[0].split("  ")[1]
            rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
            rate = json.loads((folder / "summary.json").read_text())["pairs"]["rate"]
            found.append(([row.get("scores") or [row["chosen_score"], row["rejected_score"]] for row in rows], rate))
        np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
        assert found[0][1] == pytest.approx(found[1][1])
        assert "| Focus | 4 | 2 |" in told.out


def test_refusals_name_everything(alignlab: Run) -> None:
    assert alignlab("train", *LAB, "trainer.max_steps=2").code == 0
    for words, said in (
        ([], ["run", "needs the id of a run"]),
        (["run=nope"], ["there is no such run"]),
        (["run=dpo", "evaluation.prompts=-1", "judge=llm", "judge.llm.base_url=http://x"], ["= -1", "judge.llm.model"]),
        (["run=dpo", "evaluation.smaples=3"], ["evaluation.smaples = 3", "type: evaluation.samples=3"]),
        (["run=dpo", "judge=gold", "judge.gold.function=nowhere:f"], ["can't be imported", "nowhere"]),
        (["run=dpo", "evaluation.proxy=rm"], ["evaluation.proxy = rm", "is none of the judges"]),
        (["run=dpo", "evaluation.baselines=[referenz]"], ["is neither a run below output_root"]),
        (["run=dpo", "evaluation.baselines=[reference,reference]"], ["must be different sides"]),
        (["run=dpo", "evaluation.max_new_tokens=3", "evaluation.temperature=0"], ["temperature"]),
    ):  # fmt: skip
        found = alignlab("evaluate", *words)
        assert found.code == 2, words
        assert all(part in found.err for part in said), found.err
        assert "Traceback" not in found.err
    assert not list(RUNS.glob("*/evaluation"))


def test_drift_of_two_evaluations(alignlab: Run) -> None:
    """A run against itself with other sampling seeds, then against the SFT policy that it started from."""
    assert alignlab("train", *LAB, "objective.beta=0.01").code == 0
    for seed in (1, 2):
        assert alignlab("evaluate", "run=dpo", f"evaluation.seed={seed}", "evaluation.samples=40").code == 0
    one, two = sorted((only("dpo") / "evaluation").iterdir())
    same = alignlab("evaluate", "--drift", str(one), str(two))
    assert same.code == 0, same.out
    assert "0 of 6 measures drifted" in same.out
    assert alignlab("evaluate", "run=sft", "evaluation.samples=40").code == 0
    other = alignlab("evaluate", "--drift", str(evaluation(only("sft"))), str(one))
    assert other.code == 3
    assert "score: gold" in other.out
    assert alignlab("evaluate", "--drift", str(one)).code == 2
    assert alignlab("evaluate", "--drift", str(one), "nowhere").code == 2


def test_bandits_too(alignlab: Run) -> None:
    bandit = ["experiment=bandit_ipo", "tracking=none", "trainer.max_steps=200", "trainer.log_every=50"]
    assert alignlab("train", *bandit).code == 0
    weights = load_file(only("ipo") / "policy" / "model.safetensors")
    assert weights
    found = alignlab("evaluate", "run=ipo", "evaluation.samples=50", "evaluation.max_new_tokens=1")
    assert found.code == 0, found.err


def test_while_it_trains_and_at_its_end(alignlab: Run, trained: None) -> None:
    """The last of the evaluations every 20 updates agrees with the evaluation at the end."""
    before = record(only("dpo"))
    watched = [*LAB, "evaluation.every=20", "evaluation.at_end=true", "evaluation.samples=5", "rerun=true"]
    found = alignlab("train", *watched)
    assert found.code == 0, found.err
    run = only("dpo")
    after = record(run)
    assert after["id"] == before["id"], "settings of evaluations do not change the id of a run"
    for name in ("exact/kl", "eval/loss", "train/loss"):
        assert after["summary"][name] == before["summary"][name], name
    rows = [row for row in read_rows(run / "metrics.jsonl") if "eval/kl_ref/sequence_k1" in row]
    assert [row["train/global_step"] for row in rows] == [20, 40]
    names = sorted(folder.name for folder in (run / "evaluation").iterdir())
    assert names[1:] == ["step-000020", "step-000040"]
    end, last = (Examples.read(run / "evaluation" / name) for name in (names[0], "step-000040"))
    assert end["policy/answer"] == last["policy/answer"], "the saved policy is the one that was trained"
    np.testing.assert_allclose(
        [sum(row) for row in end["policy/policy_logps"]], [sum(row) for row in last["policy/policy_logps"]], atol=1e-4
    )
    assert rows[1]["eval/kl_ref/sequence_k1"] == pytest.approx(after["summary"]["eval/kl_ref/sequence_k1"], abs=1e-4)
    assert "verdict: " in found.out
    health = json.loads((run / "evaluation" / names[0] / "summary.json").read_text())["health"]
    fall = [check for check in health["checks"] if check["name"] == "gold: fall from its best"]
    best = max(
        summarise(Examples.read(run / "evaluation" / name))["answers"]["policy"]["score/gold"]["value"]
        for name in names[1:]
    )
    assert fall[0]["value"] == pytest.approx(best - rows[1]["eval/score/gold/mean"], abs=1e-6)
    proxied = alignlab("evaluate", f"run={run.name}", "evaluation.samples=5", "evaluation.proxy=gold")
    assert proxied.code == 0
    health = json.loads((run / "evaluation" / names[0] / "summary.json").read_text())["health"]
    assert not any(check["name"].startswith("gold") for check in health["checks"]), (
        "as the proxy, gold is not a held-out judge"
    )
    assert "| reference | gold |" in found.out
    again = alignlab("train", *watched[:-1])
    assert again.code == 0
    assert "| reference | gold |" in again.out, "a finished run prints its evaluation again"


def test_a_judge_whose_reward_model_is_a_run(alignlab: Run) -> None:
    """The reward model is trained once, by the first point that needs it. Contradicting settings are refused."""
    desk = [
        "model=tiny", "data=support_desk", "tracking=none", "trainer.max_steps=2", "trainer.batch_size=4",
        "evaluation=off",
        "evaluation.at_end=true", "evaluation.prompts=3", "evaluation.max_new_tokens=6", "evaluation.samples=1",
        "judge=[gold,reward_model]", "judge.gold.function=alignlab.lab.support_desk:courtesy",
        'judge.reward_model.run=["objective=reward_model","model=tiny","data=support_desk","data.seed=1",'
        '"trainer.max_steps=2","trainer.batch_size=4"]',
    ]  # fmt: skip
    found = alignlab("train", *desk, "-m", "objective.beta=0.1,0.5", "sweep.name=s")
    assert found.code == 0, found.err
    assert len(list(RUNS.glob("reward_model-*"))) == 1
    for run in RUNS.glob("dpo-*"):
        kept = Examples.read(evaluation(run))
        assert kept.scored_by == ["gold", "reward_model"]
    wrong = alignlab(
        "train", *desk, "judge.reward_model.model=x/y", "evaluation.baselines=[nope]", "evaluation.every=1"
    )
    assert wrong.code == 2
    assert "set exactly one of model and run" in wrong.err
    assert "during training only reference and chosen are possible, not no" in wrong.err
    bad = [word.replace("data.seed=1", "data.sede=1") for word in desk]
    refused = alignlab("train", *bad)
    assert refused.code == 2
    assert "judge.reward_model.run" in refused.err


def test_a_reward_model_samples_no_answers(alignlab: Run) -> None:
    refused = alignlab("train", *LAB, "objective=reward_model", "evaluation.every=5")
    assert refused.code == 2
    assert "a reward model writes no answers" in refused.err
    assert not RUNS.exists()
    told = alignlab("train", *LAB, "objective=reward_model", "trainer.max_steps=5", "evaluation.at_end=true")
    assert told.code == 0, told.err
    assert "| all | 200 |" in told.out


def test_numbers_and_answers_go_where_the_runs_metrics_went(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go to W&B, under the run's own name, at its last step."""
    from alignlab.tracking.sinks import wandb

    sent: list[tuple[str, Any]] = []

    class Watched(wandb.WandbSink):
        def log(self, row: Any) -> None:
            sent.append(("row", dict(row)))
            super().log(row)

        def table(self, name: str, rows: Any, **how: Any) -> None:
            sent.append((name, list(rows)))
            super().table(name, rows, **how)

    assert alignlab("train", *LAB, "trainer.max_steps=3", "tracking=wandb", "tracking.wandb.mode=offline").code == 0
    monkeypatch.setattr(wandb, "WandbSink", Watched)
    assert alignlab("evaluate", "run=dpo", "evaluation.prompts=4", "evaluation.shown=2").code == 0
    ((_, row), (name, answers)) = sent[-2:]  # before them, the rows of training are logged again
    stored = record(only("dpo"))["summary"]
    assert row["train/global_step"] == 3
    assert row["eval/score/gold/mean"] == stored["eval/score/gold/mean"]
    assert name == "answers"
    assert len(answers) == 4, "every row"
    assert {"prompt", "policy/answer", "reference/answer", "policy/score/gold"} <= set(answers[0])
    assert len(list(only("dpo").glob("wandb/offline-run-*"))) == 1, "one file with the whole curve"
    assert alignlab("evaluate", "run=dpo", "evaluation.prompts=3", "evaluation.shown=2").code == 0
    history = history_of(offline_records(only("dpo")))
    tables = [json.loads(file.read_text()) for file in media_of(only("dpo"), history)["answers"]]
    assert [len(table["data"]) for table in tables] == [4, 3], "those of the first evaluation are not lost"
    steps = [row["train/global_step"] for row in history if "train/loss" in row]
    assert steps == [1, 2, 3], "every step once"


def test_a_second_turn_is_asked_after_each_sides_own_first_answer(alignlab: Run, tmp_path: Path) -> None:
    """MT-Bench's format: two questions of two turns, one of one. Rows, judges and FastChat's file have both turns."""
    from alignlab.data.template import Template
    from alignlab.evaluation import judging
    from alignlab.evaluation.benchmarks.mt_bench import read_answers
    from alignlab.evaluation.questions import Question

    turns = [["Name 0", "And 0?"], ["Name 1", "And 1?"], ["Name 2"]]
    rows = [{"question_id": 81 + i, "category": "c", "turns": asked} for i, asked in enumerate(turns)]
    (tmp_path / "question.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "two_rules.py").write_text("def asked(prompt, answer):\n    return prompt.startswith('And')\n")
    desk = [
        "model=tiny",
        "data=support_desk",
        "evaluation=off",
        "tracking=none",
        "trainer.max_steps=1",
        "trainer.batch_size=2",
    ]
    assert alignlab("train", *desk).code == 0
    asked = ["evaluation.questions=question.jsonl", "evaluation.max_new_tokens=4", "evaluation.samples=2"]
    found = alignlab("evaluate", "run=dpo", *asked, "judge=gold", "judge.gold.function=two_rules:asked")
    assert found.code == 0, found.err
    folder = evaluation(only("dpo"))
    kept = Examples.read(folder)
    assert kept["turn"] == [1, 2, 1, 2, 1, 2, 1, 2, 1, 1]
    assert kept["prompt"][:2] == ["Name 0", "And 0?"]
    assert kept["policy/score/gold"] == [0.0, 1.0] * 4 + [0.0, 0.0]
    (comparison,) = [row for row in judging._comparisons(kept, "reference") if row.id.endswith("-1-2")][:1]
    assert (comparison.prompt, len(comparison.a), len(comparison.b)) == (("Name 0", "And 0?"), 2, 2)
    answer = judging._answers(kept, "reference")[3]
    assert isinstance(answer.conversation, list)
    assert [turn["content"] for turn in answer.conversation] == ["Name 0", kept["reference/answer"][2], "And 0?"]
    written = read_answers(folder / "model_answer.jsonl")
    assert {name: len(turns) for name, turns in written.items()} == {"81": 2, "82": 2, "83": 1}
    assert written["81"] == tuple(kept["policy/answer"][:2])
    assert not (folder / "model_outputs.json").exists()
    shown = (folder / "answers.md").read_text()
    assert shown.count("## ") == 5
    model, tokenizer = suite_model(only("dpo"))
    conversation = Question("Name 0", "", True, "And 0?").after(kept["policy/answer"][0])
    prompt = Template(tokenizer).prompt_ids(conversation)
    drawn = sampling.draw(
        model, [prompt], [sampling.uniforms(1, "Name 0\nAnd 0?", 0, 4)], sampling.Sampling(max_new_tokens=4),
        Template(tokenizer).ends,
    )  # fmt: skip
    assert len(drawn[0].ids) == kept["policy/tokens"][1]
    assert len(kept["policy/policy_logps"][1]) == kept["policy/tokens"][1]


def suite_model(run: Path) -> Any:
    from alignlab.models.sources.base import load_pretrained

    return load_pretrained(str(run / "policy"), dtype="float32")


def test_other_questions_enter_the_record_under_names_of_their_own(
    alignlab: Run, trained: None, tmp_path: Path
) -> None:
    """The run's own numbers stay. This also holds in the lab, whose gold reward does not cover other prompts."""
    for folder, prompt in (("one", "ca"), ("other", "cb")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my q.jsonl").write_text('{"turns": ["ab", "bb"]}\n' + json.dumps({"prompt": prompt}))
    before = record(only("dpo"))["summary"]
    for folder in ("one", "other", "one"):
        found = alignlab("evaluate", "run=dpo", f"'evaluation.questions={folder}/my q.jsonl'".strip("'"))
        assert found.code == 0, found.err
    after = record(only("dpo"))
    added = {name: value for name, value in after["summary"].items() if name not in before}
    assert {name: after["summary"][name] for name in before} == before
    first, second = after["questions"]
    assert (first, second[:5]) == ("my_q", "my_q-")
    check_known(added)
    assert {name.split("/")[1] for name in added} == {first, second}
    summaries = [json.loads(f.read_text()) for f in (only("dpo") / "evaluation").glob("*/summary.json")]
    assert {added[f"questions/{name}/kl_ref/sequence_k1"] for name in (first, second)} == {
        summary["kl"]["sequence_k1"]["value"] for summary in summaries
    }
    assert "dpo-" in alignlab("runs", "questions/my_q/samples/mean_length>0").out


def test_a_judge_may_see_each_pair_in_one_order_only() -> None:
    """Half of the rows are shown in the other order. Every verdict counts, and no row stays unjudged."""
    from alignlab.evaluation.judging import _verdicts
    from alignlab.judges.base import Judged, Judgement, JudgingCost, Verdict

    verdicts = [(False, 1.0), (True, 0.0), (True, 1.0), (False, 0.5)]
    said = [Judgement(f"{i}-0", swapped, Verdict.of(score), score, "") for i, (swapped, score) in enumerate(verdicts)]
    columns = _verdicts([row.id for row in said], "reference", "llm", Judged(said, JudgingCost()))
    assert columns["reference/first/llm"] == [1.0, 0.0, 1.0, 0.5]
    assert "reference/second/llm" not in columns


def test_a_baseline_whose_weights_have_changed_is_asked_again(alignlab: Run, trained: None) -> None:
    """A baseline's folder is identified by its content, not by its name."""
    asked = ["evaluate", "run=dpo", f"evaluation.baselines=[{only('sft')}/policy]", "evaluation.prompts=2"]
    assert alignlab(*asked).code == 0
    weights = only("sft") / "policy/model.safetensors"
    state = {name: value * 1.5 for name, value in load_file(weights).items()}
    save_file(state, weights, metadata={"format": "pt"})
    again = alignlab(*asked)
    assert again.code == 0
    assert "model.safetensors is damaged (its checksum is not the one in SHA256SUMS); if nobody edited it" in again.err
    assert len(list((only("dpo") / "evaluation").iterdir())) == 2


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def test_damaged_files_are_made_again_or_reported(alignlab: Run) -> None:
    assert alignlab("train", *LAB, "trainer.max_steps=5").code == 0
    assert alignlab("evaluate", "run=dpo").code == 0
    folder = evaluation(only("dpo"))
    before = Examples.read(folder)
    kept = sorted(Path("outputs/samples").glob("*.json"))
    assert len(kept) == 2
    flip(folder / "rows.parquet")
    for file in kept:
        flip(file)
    again = alignlab("evaluate", "run=dpo")
    assert again.code == 0, again.err
    assert repr(Examples.read(folder)) == repr(before)
    assert "rows.parquet" in again.err
    assert "its answers are sampled again; it is kept as rows.parquet.damaged" in again.err
    assert again.err.count("and the answers are sampled again; it is kept as") == 2

    flip(only("dpo") / "policy/model.safetensors")
    warned = alignlab("evaluate", "run=dpo", "evaluation.samples=2")
    assert "policy/model.safetensors is damaged (its checksum is not the one in SHA256SUMS)" in warned.err
    assert "Traceback" not in warned.err
    (only("dpo") / "run.json").write_text("{")
    assert f"{only('dpo').name}  damaged" in alignlab("runs").out
    unread = alignlab("evaluate", "run=dpo")
    assert unread.code == 2
    assert "run.json is damaged" in unread.err
    (only("sft") / "run.json").write_text("{")  # the record of its parent
    mended = alignlab("train", *LAB, "trainer.max_steps=5", "rerun=true")
    assert mended.code == 0, mended.err
    assert alignlab("evaluate", "run=dpo").code == 0
