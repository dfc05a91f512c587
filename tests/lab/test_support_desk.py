"""The support desk: held-out messages are separate, and the gold rule separates courteous from curt replies."""

from __future__ import annotations

import pytest

from alignlab.lab.support_desk import HELD_OUT, courtesy, exchanges


def test_held_out_messages_are_in_no_training_rows() -> None:
    held = {e.message for e in exchanges(HELD_OUT, seed=5, held_out=True)}
    for seed in (0, 1):
        train = [e.message for e in exchanges(340, seed=seed, held_out=False)]
        assert len(set(train)) == 340
        assert not held & set(train)
    assert held == {e.message for e in exchanges(HELD_OUT, seed=0, held_out=True)}
    assert exchanges(300, seed=0, held_out=False) != exchanges(300, seed=1, held_out=False)
    assert exchanges(300, seed=0, held_out=False) == exchanges(300, seed=0, held_out=False)
    with pytest.raises(ValueError, match="340 messages, not 341"):
        exchanges(341, seed=0, held_out=False)


def test_the_rule() -> None:
    for exchange in exchanges(340, seed=0, held_out=False):
        assert courtesy(exchange.message, exchange.courteous) == 4
        assert courtesy(exchange.message, exchange.curt) == -1
    message = "My kettle leaks."
    assert courtesy(message, "") == 0
    assert courtesy(message, "Sorry about the KETTLE.") == 2
    assert courtesy(message, "Sorry about the toaster.") == 1
    assert courtesy(message, "Sorry! Please send the kettle back, thank you. Not our problem.") == 3
    assert courtesy(message, "Not our problem. All sales are final. Read the manual.") == -2
