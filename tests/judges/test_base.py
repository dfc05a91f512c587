"""How judgements are combined, and judges that score each answer by itself."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from alignlab.errors import ConfigError
from alignlab.judges.base import Answer, Comparison, Judged, Judgement, JudgingCost, Verdict
from alignlab.judges.gold import Gold

NAN = math.nan


def count_letters(prompt: str, answer: str) -> float:
    return float(answer.count("e")) if answer != "broken" else NAN


NOT_A_FUNCTION = 3
ROWS = [
    Comparison("1", ("q",), ("eee",), ("e",)),
    Comparison("2", ("q",), ("e",), ("ee",)),
    Comparison("3", ("q",), ("xe",), ("ex",)),
    Comparison("4", ("q",), ("broken",), ("e",)),
]


def test_a_gold_function(tmp_path: Path) -> None:
    gold = Gold(function=f"{__name__}:count_letters")
    assert list(gold.missing()) == []
    found = gold.compare(ROWS, tmp_path)
    assert [j.verdict for j in found.judgements] == [Verdict.A, Verdict.B, Verdict.TIE, Verdict.INVALID]
    wins = found.win_rate({"1": "p", "2": "p", "3": "r", "4": "r"})
    assert (wins.wins, wins.ties, wins.losses, wins.invalid, wins.rate.n) == (1, 1, 1, 1, 2)
    assert Gold(function=gold.function, tie_margin=1).compare(ROWS, tmp_path).judgements[1].verdict is Verdict.TIE
    ratings, _ = gold.rate([Answer("1", ("q", "r"), ("none", "eee"))], tmp_path)
    assert ratings[0].score == 3.0, "of the last turn"


def test_functions_that_are_not_there() -> None:
    for name, text in (
        ("no.such:thing", "No module"),
        (f"{__name__}:nothing", "nothing"),
        (f"{__name__}:NOT_A_FUNCTION", "not a"),
    ):
        (problem,) = Gold(function=name).missing()
        assert text in problem.allowed
    with pytest.raises(ConfigError) as caught:
        Gold(function="just_a_name", tie_margin=-1)
    assert [p.key for p in caught.value.problems] == ["tie_margin", "function"]


def test_a_function_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may import its neighbours, an edit counts, and nothing else finds files of that directory afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within the same second counts too
    before = list(sys.path)
    Path("neighbour_o.py").write_text("FACTOR = 2.0")
    rule = "def polite(prompt, answer):\n    from neighbour_o import FACTOR\n    return FACTOR * len(answer)"
    Path("rules_o.py").write_text(rule)
    gold = Gold(function="rules_o:polite")
    assert list(gold.missing()) == []
    assert gold.score([Answer("1", ("q",), ("abc",))]) == [6.0]
    digest = gold.content()
    Path("rules_o.py").write_text(rule + " + 0.5")
    assert gold.content() != digest
    assert gold.score([Answer("1", ("q",), ("abc",))]) == [6.5]
    assert sys.path == before


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x = (", "broken_o fails when it is imported: SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "broken_o fails when it is imported: SystemExit: 3"),
        ("x = 1\ny = nothing", "NameError: name 'nothing' is not defined"),
    ],
)
def test_a_module_that_can_not_be_imported(
    code: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken_o.py").write_text(code)
    (problem,) = Gold(function="broken_o:polite").missing()
    assert text in problem.allowed
    assert f"broken_o.py, line {len(code.splitlines())}" in problem.allowed


def test_rows_are_put_together_from_their_orders() -> None:
    judgements = [
        Judgement("x", True, Verdict.B, 0.0, ""),
        Judgement("x", False, Verdict.A, 1.0, ""),
        Judgement("y", False, Verdict.A, 1.0, ""),
        Judgement("y", True, Verdict.UNJUDGED, NAN, ""),
        Judgement("z", False, Verdict.INVALID, NAN, ""),
        Judgement("z", True, Verdict.A, 1.0, ""),
    ]
    found = Judged(judgements, JudgingCost())
    ids, first, second = found.scores()
    assert ids == ["x", "z"]
    assert second is not None
    assert (first[0], second[0]) == (1.0, 0.0)
    wins = found.win_rate()
    assert (wins.ties, wins.invalid, wins.unjudged) == (1, 1, 1)
    assert Judged([], JudgingCost()).win_rate().rate.n == 0
    with pytest.raises(ValueError, match="two rows share an id"):
        Judged([*judgements, judgements[0]], JudgingCost()).scores()


def test_a_judge_that_only_compares(tmp_path: Path) -> None:
    from alignlab.judges.human import Human

    with pytest.raises(NotImplementedError, match="human compares answers"):
        Human().rate([], tmp_path)


@pytest.mark.parametrize(("score", "verdict"), [(0.51, "a"), (0.5, "tie"), (0.0, "b"), (NAN, "invalid")])
def test_verdicts_of_scores(score: float, verdict: str) -> None:
    assert Verdict.of(score).value == verdict
