"""`alignlab synthesize` with a tiny model and a rule: what is written, loaded, stored, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.judges.base import Comparison, Judged, Judgement, JudgingCost, Verdict
from alignlab.judges.cache import Store
from alignlab.judges.human import Human
from alignlab.lab.support_desk import exchanges
from alignlab.rollout.engines import huggingface
from tests.judges.server import Served, serving

Run = Callable[..., Any]

DESK = ["model=tiny", "data=support_desk", "synthesis.max_new_tokens=6", "synthesis.samples=3", "synthesis.prompts=5"]
RULE = ["judge=gold", "judge.gold.function=own_rule:letters"]
FIRST = [exchange.message for exchange in exchanges(300, seed=0, held_out=False)][:5]


@pytest.fixture(autouse=True)
def rule(tmp_path: Path) -> None:
    """A rule with different scores for nearly all answers: the sum of the codes of the letters."""
    (tmp_path / "own_rule.py").write_text("def letters(prompt, answer):\n    return sum(map(ord, answer))\n")


def made(kind: str) -> tuple[Path, dict[str, Any]]:
    """The only file of rows of a form, and its provenance."""
    (file,) = Path("outputs/synthesis").glob(f"{kind}-*/{kind}.*[lt]")
    return file, json.loads(file.with_name(f"{kind}.provenance.json").read_text())


def letters(text: str) -> float:
    return float(sum(map(ord, text)))


def test_pairs(alignlab: Run) -> None:
    found = alignlab("synthesize", *DESK, *RULE)
    assert found.code == 0, found.err
    file, provenance = made("pairs")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == FIRST
    for row in rows:
        assert row["score_chosen"] == letters(row["chosen"]) > row["score_rejected"] == letters(row["rejected"])
        assert row["margin"] == row["score_chosen"] - row["score_rejected"]
        assert row["chosen_ended"] is row["rejected_ended"] is False
    assert (provenance["rows"], provenance["samples"], provenance["cut_off"]) == (5, 15, 15)
    assert (provenance["prompts"]["number"], provenance["prompts"]["of"]) == (5, 300)
    assert provenance["names"] == {"policy": "tiny", "judge": "gold", "data": "support_desk"}
    assert provenance["left_out"] == {}
    loaded = Pairs(path=str(file), eval_path=str(file)).pairs("train", None).rows
    assert [(row.prompt, row.chosen, row.margin) for row in loaded] == [
        (row["prompt"], row["chosen"], row["margin"]) for row in rows
    ]
    assert f"alignlab train model=... data=pairs data.path={file}" in found.out
    assert "5 rows from 15 samples of tiny for 5 prompts (the data has 300)" in found.out


def test_a_copy_of_the_rows(alignlab: Run) -> None:
    """`to=` names a file of one's own; the rows stay where they are found again."""
    found = alignlab("synthesize", *DESK, *RULE, "to=mine/rows.jsonl")
    assert found.code == 0, found.err
    file, provenance = made("pairs")
    assert Path("mine/rows.jsonl").read_bytes() == file.read_bytes()
    copied = json.loads(Path("mine/rows.provenance.json").read_text())
    assert copied["id"] == provenance["id"]
    assert copied["file"] == {"name": "rows.jsonl", "sha256": provenance["file"]["sha256"]}
    assert "train on it: alignlab train model=... data=pairs data.path=mine/rows.jsonl" in found.out
    assert alignlab("synthesize", *DESK, *RULE, "to=mine/rows.jsonl").code == 0
    Path("mine/own.jsonl").write_text("mine")
    refused = alignlab("synthesize", *DESK, *RULE, "to=mine/own.jsonl")
    assert (refused.code, "type: to=<another file.jsonl>" in refused.err) == (2, True), refused.err
    assert Path("mine/own.jsonl").read_text() == "mine"
    refused = alignlab("synthesize", *DESK, *RULE, "to=rows.csv")
    assert refused.code == 2
    assert "must end in .jsonl, the format of the rows" in refused.err


def test_labels_of_the_data_against_the_samples(alignlab: Run) -> None:
    """The cure for one-sided KTO and BCO: good answers of the data, and the policy's own samples as bad ones."""
    good = [{"prompt": f"Say {i}", "completion": f"{i} is fine", "label": True} for i in range(20)]
    Path("good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    data = ["data=unpaired", "data.path=good.jsonl", "data.max_length=64", "data.max_prompt_length=32"]
    how = ["synthesis.preferred=data", "synthesis.form=labels", "synthesis.samples=1", "synthesis.max_new_tokens=5"]
    found = alignlab("synthesize", "model=tiny", *data, *how)
    assert found.code == 0, found.err
    file, provenance = made("labels")
    rows = Unpaired(path=str(file), eval_path=str(file)).labelled("train", None).rows
    assert provenance["rows"] == len(rows) == 36, "two of the 20 rows are held out"
    assert [(row.prompt, row.completion) for row in rows if row.desirable] == [
        (row["prompt"], row["completion"]) for row in good if row["prompt"] in {found.prompt for found in rows}
    ]
    assert sum(row.desirable for row in rows) == 18
    balanced = alignlab("check", "model=tiny", "data=unpaired", f"data.path={file}", "objective=kto")
    assert (balanced.code, "none is bad" in balanced.out) == (0, False)
    refused = alignlab("synthesize", "model=tiny", *data, *how, *RULE)
    assert (refused.code, "is not asked if the data's own answers are preferred" in refused.err) == (2, True)


def test_rankings_in_parquet_from_a_file_of_conversations(alignlab: Run) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    Path("mine.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("a", turns, "b")))
    asked = ["synthesis.questions=mine.jsonl", "synthesis.form=rankings", "synthesis.format=parquet"]
    found = alignlab("synthesize", "model=tiny", *DESK[2:4], *asked, *RULE)
    assert found.code == 0, found.err
    file, _ = made("rankings")
    rows = Rankings(path=str(file), eval_path=str(file)).rankings("train", None).rows
    assert [row.prompt for row in rows] == [
        [{"role": "user", "content": "a"}],
        turns,
        [{"role": "user", "content": "b"}],
    ]
    for row in rows:
        assert row.ended == [False] * 3, "the marks of cut answers are read"
        assert row.grades == [letters(text) for text in row.completions]
        assert len(row.grades) == 3


def test_a_stopped_command_goes_on_where_it_was(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped between two stored prompts. Then only the other prompts are sampled, and nothing is done twice."""
    drawn: list[int] = []
    put, draw = Store.put, huggingface.draw

    def counting(model: Any, prompts: Sequence[Any], *rest: Any) -> Any:
        drawn.append(len(prompts))
        return draw(model, prompts, *rest)

    def stopping(store: Store, request: dict[str, Any], reply: dict[str, Any]) -> None:
        if len(list(Path("outputs/samples").rglob("*.json"))) == 2:
            raise KeyboardInterrupt
        put(store, request, reply)

    monkeypatch.setattr(huggingface, "draw", counting)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", stopping)
        stopped = alignlab("synthesize", *DESK, *RULE, "synthesis.batch_size=3")
        assert (stopped.code, "the same command resumes" in stopped.err) == (130, True)
    assert drawn == [3, 3, 3], "one prompt at a time; the third one's answers are lost"
    assert not list(Path("outputs/synthesis").rglob("*.jsonl"))
    drawn.clear()
    assert alignlab("synthesize", *DESK, *RULE, "synthesis.batch_size=3").code == 0
    assert drawn == [3, 3, 3]
    file, provenance = made("pairs")
    whole = file.read_text()
    drawn.clear()
    again = alignlab("synthesize", *DESK, *RULE)
    assert (again.code, drawn) == (0, []), "the size of a batch changes nothing"
    assert made("pairs") == (file, provenance)
    assert alignlab("synthesize", *DESK[:-1], "synthesis.prompts=7", *RULE).code == 0
    assert drawn == [6], "two more prompts"
    file.write_text(whole.replace("Say", "say") + "\n")
    assert alignlab("synthesize", *DESK, *RULE).code == 0
    assert (file.read_text(), len(list(file.parent.glob("*.damaged"))), drawn) == (whole, 1, [6])


def test_a_persons_comparisons(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts whose comparisons are not all judged are left out, and shown again by the same command."""
    asked: list[str] = []

    def compare(self: Human, rows: Sequence[Comparison], store: Path) -> Judged:
        asked.extend(row.id for row in rows)
        done = len(rows) if len(asked) > len(rows) else len(rows) - 1
        found = [Judgement(row.id, False, Verdict.A, 1.0, "") for row in rows[:done]]
        left = [Judgement(row.id, False, Verdict.UNJUDGED, float("nan"), "") for row in rows[done:]]
        return Judged([*found, *left], JudgingCost())

    monkeypatch.setattr(Human, "compare", compare)
    human = [*DESK[:3], "judge=human", "synthesis.prompts=3"]
    refused = alignlab("synthesize", *human)
    assert refused.code == 2
    assert "type: synthesis.judging=compare" in refused.err
    found = alignlab("synthesize", *human, "synthesis.judging=compare")
    assert found.code == 0, found.err
    assert "not judged: 1; the same command asks the judge for them again" in found.out
    assert len(asked) == 3
    assert made("pairs")[1]["rows"] == 2
    assert made("pairs")[1]["left_out"] == {
        "samples without a score": 2, "prompts with too few different answers": 1,
    }  # fmt: skip
    found = alignlab("synthesize", *human, "synthesis.judging=compare")
    assert (made("pairs")[1]["rows"], made("pairs")[1]["unjudged"], len(asked)) == (3, 0, 6)
    assert alignlab("synthesize", *human, "synthesis.judging=compare").code == 0
    assert len(asked) == 6, "all is judged"


def test_a_language_model_is_not_asked_twice(alignlab: Run) -> None:
    """A cap stops the judge after the first prompt. The same command goes on with the other two."""
    with serving(Served()) as served:
        llm = ["judge=llm", "judge.llm.model=rule", f"judge.llm.base_url={served.url}", "judge.llm.concurrency=1"]
        words = [*DESK[:3], *llm, "synthesis.prompts=3", "synthesis.samples=2", "synthesis.judging=compare"]
        found = alignlab("synthesize", *words, "judge.llm.max_calls=2")
        assert found.code == 0, found.err
        assert (len(served.bodies), made("pairs")[1]["unjudged"]) == (2, 2)
        assert "4 unjudged: max_calls=2 reached" in found.out
        found = alignlab("synthesize", *words)
        assert found.code == 0, found.err
        assert len(served.bodies) == len({json.dumps(body) for body in served.bodies}) == 6
        assert "judging: 4 calls, 2 verdicts stored before" in found.out
        file, provenance = made("pairs")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(rows) + provenance["left_out"].get("tied pairs", 0) == 3
        assert provenance["unjudged"] == 0
        assert all((row["score_chosen"], row["score_rejected"]) == (1.0, 0.0) for row in rows)
        assert all(len(row["chosen"]) > len(row["rejected"]) for row in rows)
        assert alignlab("synthesize", *words).code == 0
        assert len(served.bodies) == 6


def test_the_policy_of_a_run(alignlab: Run, sft_parent: None) -> None:
    """In the lab, all answers have a gold reward, and prompts are those of the run's data."""
    found = alignlab("synthesize", "run=sft", "synthesis.samples=4", "synthesis.prompts=0", "synthesis.pairs=all")
    assert found.code == 0, found.err
    file, provenance = made("pairs")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["prompt"] for row in rows} == {"a", "c"}
    assert all(len(row["chosen"]) <= 3 for row in rows), "answers end at the lab's horizon"
    assert provenance["names"]["policy"].startswith("sft-")
    assert provenance["settings"]["max_new_tokens"] == 3
    assert all(row["margin"] > 0 for row in rows)


def test_refusals_name_everything(alignlab: Run, sft_parent: None) -> None:
    for words, texts in (
        ([], ["needs the policy to sample", "type: run=dpo-3c90"]),
        (["run=sft", "model=tiny"], ["not both"]),
        (["run=nope"], ["there is no such run"]),
        (["model=tiny"], ["needs prompts", "needs a judge that scores the samples"]),
        (["model=tiny", "data=lab"], ["lab data needs a model whose tokens are the letters"]),
        (["model=tiny", "data=support_desk", "judge=[gold,human]", RULE[1]], ["type: synthesis.judge=gold"]),
        (["model=tiny", "data=support_desk", "judge=human", "synthesis.judge=gold"], ["is none of the judges (human)"]),
        ([*DESK, *RULE, "synthesis.judging=compare"], ["there is nothing to compare"]),
        ([*DESK, *RULE, "synthesis.smaples=3"], ["synthesis.smaples = 3", "type: synthesis.samples=3"]),
        ([*DESK, *RULE, "objective.beta=3"], ["objective.beta"]),
        ([*DESK, *RULE, "synthesis.prompts=-1", "synthesis.form=pair"], ["2 problems", "must be one of: pairs, "]),
        (["model=tiny", "synthesis.questions=no.jsonl", *RULE], ["no.jsonl: there is no such file"]),
    ):  # fmt: skip
        found = alignlab("synthesize", *words)
        assert found.code == 2, words
        assert all(text in found.err for text in texts), found.err
        assert "Traceback" not in found.err
    assert not Path("outputs/synthesis").exists()


def test_no_row_is_an_error_with_the_reasons(alignlab: Run) -> None:
    Path("own_rule.py").write_text("def letters(prompt, answer):\n    return 1\n")
    found = alignlab("synthesize", *DESK, *RULE)
    assert found.code == 2
    assert "no row could be made (tied pairs: 5)\n  type: synthesis.samples=6" in found.err


ROUNDS = [
    *DESK[:4], *RULE, "synthesis.prompts=12", "rounds=2",
    "tracking=none", "evaluation=off", "trainer.max_steps=2", "trainer.batch_size=4",
]  # fmt: skip


def records() -> dict[str, dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in Path("outputs/runs").glob("*/run.json")]
    return {record["id"]: record for record in found}


def test_rounds(alignlab: Run) -> None:
    """Each round samples the policy of the round before and starts from it. A third round keeps the first two."""
    found = alignlab("train", *ROUNDS)
    assert found.code == 0, found.err
    before = records()
    first, second = sorted(before, key=lambda run: before[run]["parent"] or "")  # only the second has a parent
    assert (before[first]["parent"], before[second]["parent"]) == (None, first)
    assert before[second]["config"]["model"]["parent"] == [first]
    assert before[first]["config"]["rounds"] == 0
    for record in before.values():
        assert record["summary"]["start/loss"] == pytest.approx(0.6931, abs=1e-4), "the start is the reference"
    sources = [json.loads(file.read_text()) for file in Path("outputs/synthesis").glob("*/pairs.provenance.json")]
    assert {made["names"]["policy"]: made["settings"]["seed"] for made in sources} == {"tiny": 1, first: 2}
    for made in sources:
        used = next(r for r in before.values() if made["id"] in r["config"]["data"]["path"])
        assert used["data"]["train"]["rows"] + used["data"]["eval"]["rows"] == made["rows"]
    assert found.out.index("round 1: ") < found.out.index(first) < found.out.index("round 2: ")
    third = alignlab("train", *ROUNDS, "rounds=3")
    assert third.code == 0, third.err
    after = records()
    (last,) = after.keys() - before.keys()
    assert after[last]["parent"] == second
    assert {run: after[run] for run in before} == before, "finished rounds are not run again"
    evaluated = alignlab("evaluate", f"run={second}", "evaluation.prompts=1", "evaluation.max_new_tokens=4")
    assert evaluated.code == 0, evaluated.err


def test_refusals_of_rounds(alignlab: Run) -> None:
    for words, texts in (
        ([*ROUNDS, "objective=kto", "synthesis.form=rankings"], []),
        ([*ROUNDS, "synthesis.form=labels"], ["but this objective works on pairs", "type: synthesis.form=pairs"]),
        ([*ROUNDS, "objective=reward_model"], ["needs a policy that writes answers"]),
        (
            [*ROUNDS, "objective=best_of_n", "reward=gold", "reward.function=math:dist"],
            ["works only with objectives on given"],
        ),
        (["rounds=2"], ["needs text: the lab's model reads the lab's own rows only"]),
        (["model=tiny", "data=support_desk", "rounds=2"], ["needs a judge that scores the samples"]),
        (["synthesis.samples=3"], ["the settings synthesis.* are used in rounds only", "type: rounds=3"]),
        ([*ROUNDS, "-m", "seed=1,2"], ["is for a single run"]),
        ([*ROUNDS, "rounds=-1"], ["rounds = -1"]),
    ):
        found = alignlab("check", *words)
        assert found.code == (2 if texts else 0), (words, found.err)
        assert all(text in found.err for text in texts), found.err
        assert "Traceback" not in found.err
    assert "rounds: 2 runs on samples take the place of this run" in alignlab("check", *ROUNDS).out
    assert not Path("outputs").exists()
